"""Text to token ids and back: a closed vocabulary of words, or byte-level BPE. Both are stored as tokenizer.json."""

import json
from typing import Any

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from tinylm2.data.filler import FILLER_WORDS, GrammarFiller
from tinylm2.data.rng import DATA, Rng
from tinylm2.data.stories import Question
from tinylm2.data.tasks import TASKS
from tinylm2.errors import BadInput, parse_json, read_lines
from tinylm2.files import replacing

PAD, END = "[pad]", "[end]"

# Every word of the twenty tasks, in lower case. They are listed here so that a change in a task changes no other id.
TASK_WORDS = """
    a above afraid after afternoon afterwards and antoine apple are back bathroom bedroom before below bernhard bigger
    bill blue bored box brian carrying cat cats chest chocolate chocolates cinema color container daniel did discarded
    do does down dropped e east either emily evening fit fits following football fred frog from garden gave gertrude get
    give go got grabbed gray green greg hallway handed he how hungry in inside is jason jeff jessica john journeyed
    julie julius kitchen left lily lion longer many mary maybe mice milk morning mouse moved n no none north not nothing
    objects of office one or pajamas park passed picked pink put received rectangle red rhino right s sandra school she
    sheep south sphere square suitcase sumit swan than that the then there they thirsty this three tired to took
    travelled triangle two up w was went west what where white who why will winona wolf wolves yann yellow yes yesterday
    you
"""


class Tokenizer:
    """A tokenizer of the `tokenizers` library: ids are lists, each text is encoded once, unknown words are refused by
    name, and `pad` and `end` are the ids of the two special tokens."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._library.encode_special_tokens = True       # "[end]" in a user's text is text, not the end of an answer
        self._seen = {}
        self.size = library.get_vocab_size()
        self.pad, self.end = library.token_to_id(PAD), library.token_to_id(END)
        if self.pad is None or self.end is None:
            raise BadInput(f"tokenizer: found no token {PAD} or no token {END}, expected both")
        if sorted(library.get_vocab().values()) != list(range(self.size)):
            raise BadInput(f"tokenizer: found ids with gaps, expected 0 to {self.size - 1}, each once")
        self._words = isinstance(library.model, models.WordLevel)
        if library.pre_tokenizer is None or self._words and library.normalizer is None:
            raise BadInput("tokenizer: found no rules that cut text into words, expected them")

    def encode(self, text: str) -> list[int]:
        """The ids of a text. The list is cached, so do not change it.  BadInput names every unknown word."""
        ids = self._seen.get(text)
        if ids is None:
            self.check(text)
            ids = self._seen[text] = self._library.encode(text).ids
        return ids

    def decode(self, ids: Any) -> str:
        """The text of ids, without special tokens."""
        return self._library.decode(list(ids)).strip()

    def plain(self, text: str) -> str:
        """A text as `decode` would print it. Answers are compared in this form."""
        return self.decode(self.encode(text))

    def unknown(self, text: str) -> list:
        """The words of a text that the vocabulary lacks, each once, in order; none for byte-level BPE.

        BadInput where the text has a lone surrogate: this is how bytes that are not UTF-8 come from a command line.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadInput(f"found the character {text[error.start]!r}, expected text in UTF-8") from None
        if not self._words:
            return []
        normal = self._library.normalizer.normalize_str(text)
        words = (word for word, _ in self._library.pre_tokenizer.pre_tokenize_str(normal))
        return [word for word in dict.fromkeys(words) if self._library.token_to_id(word) is None]

    def check(self, text: str, path: Any = None, line: Any = None) -> None:
        """BadInput where a text has unknown words; it names the line of the file, if given."""
        unknown = self.unknown(text)
        if unknown:
            message = f"found {', '.join(unknown)}, expected words of the vocabulary"
            raise BadInput(message if path is None else f"{path}:{line}: {message}")

    def save(self, path: Any) -> None:
        """Write tokenizer.json, the library's own format."""
        with replacing(path) as file:
            file.write(self.to_json().encode())

    def to_json(self) -> Any:
        return self._library.to_str()

    @classmethod
    def load(cls, path: Any) -> Any:
        text = "\n".join(read_lines(path))
        try:
            return cls.from_json(text)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> Any:
        """A tokenizer from the JSON of one that `word_tokenizer` or `bpe_tokenizer` made.  BadInput for any other.

        The library never reads the text itself: some of its parts can run for ever or abort the process. Vocabulary and
        merges are read here, made into a new tokenizer, and this one must equal what the text describes.
        """
        found = parse_json(text, "tokenizer")
        try:
            model = found["model"]
            vocabulary = {str(word): _checked_id(i) for word, i in model["vocab"].items()}
            if model["type"] == "WordLevel":
                library = _by_words(Library(models.WordLevel(vocabulary)))
            else:
                library = _by_pairs(Library(models.BPE(vocabulary, list(map(_checked_merge, model["merges"])))))
            if not {PAD, END} <= vocabulary.keys():
                raise ValueError(f"no token {PAD} or no token {END}")
            library.add_special_tokens(sorted((PAD, END), key=lambda word: vocabulary[word]))
            made = json.loads(library.to_str())
        except Exception as error:                       # the library raises no narrower class
            raise BadInput("found no tokenizer of this program, expected the tokenizers library's JSON with a "
                           f"vocabulary ({type(error).__name__}: {error!s:.80})") from None
        for tree, expected in (found, made), (made["model"] | model, made["model"]):     # its options differ by version
            for name in sorted(expected.keys() - {"model", "vocab", "merges", "version"}):
                if tree.get(name, "nothing") != expected[name]:
                    raise BadInput(f"tokenizer: found {name} {json.dumps(tree.get(name, 'nothing'))[:80]}, expected "
                                   f"{json.dumps(expected[name])[:80]}, as this program writes it")
        return cls(library)


def word_tokenizer(more: Any = ()) -> Tokenizer:
    """One token per word: all words of the twenty tasks and of the built-in filler, then `more` words.

    Letter case and punctuation are dropped, so a list such as "football,milk" is two words.
    """
    known = sorted({*TASK_WORDS.split(), *FILLER_WORDS})
    words = [PAD, END, *known, *sorted({word.lower() for word in more} - set(known))]
    library = _by_words(Library(models.WordLevel({word: i for i, word in enumerate(words)})))
    library.add_special_tokens([PAD, END])
    return Tokenizer(library)


def _by_words(library):
    library.normalizer = normalizers.Lowercase()
    library.pre_tokenizer = pre_tokenizers.Split(Regex(r"\W+"), "removed")
    return library


def _by_pairs(library):
    # the last token of a question is then the name that it asks about, as with words: behind a "?" as a token of its
    # own, the default model does not learn to bind names to places
    library.normalizer = normalizers.Replace(Regex(r"(?<![.?!])[.?!]++(?=\s|$)"), "")
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    library.decoder = decoders.ByteLevel()
    return library


def _checked_id(i):
    if type(i) is not int or not 0 <= i < 2**31:
        raise ValueError(f"the id {i!r:.40}")
    return i


def _checked_merge(merge):
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(left, str) or not isinstance(right, str):
        raise ValueError(f"the merge {merge!r:.40}")
    return left, right


def words_of(text: str) -> list:
    """The words of a text, split as `word_tokenizer` splits it."""
    return [word for word, _ in pre_tokenizers.Split(Regex(r"\W+"), "removed").pre_tokenize_str(text.lower())]


def bpe_tokenizer(size: int, texts: Any = None) -> Tokenizer:
    """Byte-level BPE (as in GPT-2) with `size` tokens, trained on `texts`: by default on stories of every task and on
    the built-in filler. Marks that end a sentence are dropped."""
    least = len(pre_tokenizers.ByteLevel.alphabet()) + 2
    if size < least:
        raise BadInput(f"vocabulary: found {size} tokens, expected at least {least}, the bytes and {PAD} {END}")
    library = _by_pairs(Library(models.BPE()))
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[PAD, END], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    library.train_from_iterator(_default_texts() if texts is None else texts, trainer)
    return Tokenizer(library)


def _default_texts(stories=50):
    """The default training text of `bpe_tokenizer`: some stories of each task, with their answers, and filler."""
    for task in list(TASKS.values())[:20]:
        for number in range(stories):
            for line in task.story(Rng(0, DATA, task.number, number)):
                yield line.text
                if isinstance(line, Question):
                    yield line.answer
    yield from GrammarFiller().sentences[::10]
