"""Ask a trained run a question about a story of your own."""

from tinylm2 import runs
from tinylm2.backend import array_module
from tinylm2.data import BadInput, Example, alone, fresh_examples, longest_answer
from tinylm2.data.filler import sentences
from tinylm2.evaluate import ask_rows


def add_arguments(parser):
    parser.add_argument("run", help="a run's folder, such as runs/tiny")
    parser.add_argument("story", help='"Mary moved to the garden. John went to the office."')
    parser.add_argument("question", help='"Where is Mary?"')
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="cpu")


def main(args):
    loaded, _, _ = runs.load(args.run, xp=array_module(args.device))
    rows, places = rows_of(loaded, args.story, args.question)
    (said,) = ask_rows(loaded.params, rows, cfg=loaded.cfg, tokenizer=loaded.tokenizer, places=places)
    print(said)


def rows_of(loaded, story, question):
    """The row that asks, and how many places its answer may take.  BadInput names every word that is not known."""
    if unknown := loaded.tokenizer.unknown(f"{story} {question}"):
        raise BadInput(f"found {', '.join(unknown)}, expected words that the model knows (see tokenizer.json)")
    if not loaded.tokenizer.encode(question):
        raise BadInput(f"question: found {question!r}, expected words")
    known = [e for task in runs.tasks_of(loaded.settings.task) for e in fresh_examples(task, 100, seed=0)]
    places = longest_answer(known, loaded.tokenizer)
    example = Example("", tuple(sentences(story)), question, "")
    return [alone(example, tokenizer=loaded.tokenizer, width=loaded.cfg.T, room=places)], places
