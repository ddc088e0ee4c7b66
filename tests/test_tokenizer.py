"""Tokenizers: closed words and byte-level pairs, the same through tokenizer.json."""

import re

import pytest
import tokenizers

from tests.support.official import FILES, needs_files
from tinylm2.data import TASKS, BadInput, GrammarFiller, Question, Rng, Tokenizer, bpe_tokenizer, word_tokenizer
from tinylm2.data.tokenizer import END, PAD, TASK_WORDS

WORDS, PAIRS = word_tokenizer(), bpe_tokenizer(400)
both = pytest.mark.parametrize("tokenizer", [WORDS, PAIRS], ids=["words", "pairs"])


@both
def test_every_text_of_every_task_comes_back(tokenizer):
    for task in TASKS.values():
        for line in task.story(Rng(7, task.number)):
            texts = [line.text] + ([line.answer] if isinstance(line, Question) else [])
            for text in texts:
                plain = " ".join(re.findall("[a-z]+", text.lower())) if tokenizer is WORDS else text.rstrip(".?")
                assert tokenizer.decode(tokenizer.encode(text)) == plain == tokenizer.plain(text)


def test_letter_case_and_punctuation_are_dropped_from_words():
    assert WORDS.encode("Where is Mary? ") == WORDS.encode("where is mary")
    assert WORDS.encode("football,milk") == WORDS.encode("football") + WORDS.encode("milk")
    assert WORDS.plain("S,E") == "s e"


def test_sentences_encoded_apart_are_the_text_encoded_whole():
    apart = PAIRS.encode("Mary moved.") + PAIRS.encode("Where is Mary?")
    assert apart == PAIRS.encode("Mary moved. Where is Mary?")
    assert PAIRS.decode(apart) == "Mary moved Where is Mary"


def test_marks_that_end_a_sentence_are_dropped_from_pairs_and_no_others():
    assert PAIRS.encode("Where is Mary?") == PAIRS.encode("Where is Mary")
    assert PAIRS.plain("It is 3.5 p.m. here! And,so:on") == "It is 3.5 p.m here And,so:on"


def test_unknown_words_are_refused_each_by_name():
    with pytest.raises(BadInput, match=r"^found bob, pub, expected words of the vocabulary$"):
        WORDS.encode("Bob moved to the pub. Where is Bob?")
    assert PAIRS.decode(PAIRS.encode("Zoë moved.")) == "Zoë moved"


@both
def test_special_tokens_cannot_be_typed(tokenizer):
    if tokenizer is WORDS:
        assert tokenizer.unknown(f"{PAD} mary {END}") == ["pad", "end"]
    else:
        assert not {tokenizer.pad, tokenizer.end} & set(tokenizer.encode(f"{PAD} mary {END}"))


@both
def test_special_tokens_are_found_by_name_and_not_printed(tokenizer):
    library = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    assert (library.token_to_id(PAD), library.token_to_id(END)) == (tokenizer.pad, tokenizer.end)
    assert tokenizer.decode([tokenizer.pad, *tokenizer.encode("milk"), tokenizer.end]) == "milk"


@both
def test_the_saved_file_is_loaded_by_the_library_and_by_us(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    text = "Mary moved to the garden."
    assert tokenizers.Tokenizer.from_file(str(path)).encode(text).ids == tokenizer.encode(text)
    again = Tokenizer.load(path)
    assert (again.encode(text), again.size, again.pad, again.end, again.to_json()) == (
        tokenizer.encode(text), tokenizer.size, tokenizer.pad, tokenizer.end, tokenizer.to_json())
    assert again.unknown("bob") == tokenizer.unknown("bob")


def test_the_vocabulary_of_words_is_fixed():
    listed = TASK_WORDS.split()
    assert listed == sorted(set(listed))
    assert (WORDS.size, WORDS.encode("mary"), WORDS.encode("you")) == (204, [108], [203])


@needs_files
def test_the_words_of_the_tasks_are_those_of_the_official_files():
    text = " ".join(re.sub(r"(?m)^\d+ |\t[\d ]*$", " ", path.read_text()) for path in FILES.glob("qa*.txt"))
    assert set(re.findall("[a-z]+", text.lower())) == set(TASK_WORDS.split())


def test_pairs_are_learned_alike_every_time():
    assert bpe_tokenizer(400).to_json() == PAIRS.to_json()
    assert PAIRS.size == 400
    assert all(len(PAIRS.encode(sentence)) < len(sentence) for sentence in GrammarFiller().sentences[::500])


def test_a_vocabulary_too_small_for_the_bytes_is_bad_input():
    assert bpe_tokenizer(258).size == 258
    with pytest.raises(BadInput, match="found 257 tokens, expected at least 258"):
        bpe_tokenizer(257)


@pytest.mark.parametrize("damage", [
    lambda text: "", lambda text: "{}", lambda text: "null", lambda text: text[: len(text) // 2],
    lambda text: text.replace(END, "[stop]"), lambda text: text.replace('"mary":108', '"mary":999'),
    lambda text: text.replace('"Lowercase"', '"Uppercase"'), lambda text: '{"model": {"type": "WordLevel"}}',
])
def test_a_damaged_file_is_bad_input(tmp_path, damage):
    path = tmp_path / "tokenizer.json"
    path.write_text(damage(WORDS.to_json()))
    with pytest.raises(BadInput, match=r"tokenizer\.json:") as error:
        Tokenizer.load(path)
    assert "\n" not in str(error.value)


def test_a_missing_or_binary_file_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        Tokenizer.load(tmp_path / "nothing.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="binary.json"):
        Tokenizer.load(tmp_path / "binary.json")
