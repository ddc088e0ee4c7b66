"""Everything between a story and an array of token ids. Imports nothing of the rest of tinylm2."""

from tinylm2.data.babi import find_file, read_examples, read_stories, story_text, write_stories
from tinylm2.data.babilong import read_babilong
from tinylm2.data.batches import (
    Batch,
    Shape,
    Stories,
    evaluation_rows,
    fresh_examples,
    longest_answer,
    make_batch,
    make_prompts,
)
from tinylm2.data.dice import DATA, EVALUATION, INIT, Dice
from tinylm2.data.errors import BadInput
from tinylm2.data.filler import BookFiller, GrammarFiller
from tinylm2.data.haystack import Row, alone, hide
from tinylm2.data.stories import Example, Fact, Question, Story, examples
from tinylm2.data.tasks import TASKS, Task
from tinylm2.data.tokenizer import Tokenizer, bpe_tokenizer, word_tokenizer

__all__ = [
    "DATA", "EVALUATION", "INIT", "TASKS",
    "BadInput", "Batch", "BookFiller", "Dice", "Example", "Fact", "GrammarFiller", "Question", "Row", "Shape",
    "Stories", "Story", "Task", "Tokenizer",
    "alone", "bpe_tokenizer", "evaluation_rows", "examples", "find_file", "fresh_examples", "hide", "longest_answer",
    "make_batch", "make_prompts", "read_babilong", "read_examples", "read_stories", "story_text", "word_tokenizer",
    "write_stories",
]
