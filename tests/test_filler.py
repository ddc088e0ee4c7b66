"""Filler: many short sentences that answer no question."""

import re

import pytest

from tests.support.official import FILES
from tinylm2.data import TASKS, BadInput, BookFiller, GrammarFiller, Rng, bpe_tokenizer, word_tokenizer
from tinylm2.data.filler import FILLER_WORDS, sentences
from tinylm2.data.tokenizer import TASK_WORDS


def words(text):
    return set(re.findall("[a-z]+", text.lower()))


def told_words():
    """Every word that the tasks tell, ask or answer."""
    told = set(TASK_WORDS.split())
    for task in TASKS.values():
        for i in range(50):
            for line in task.story(Rng(5, task.number, i)):
                told |= words(line.text) | words(getattr(line, "answer", ""))
    for path in FILES.glob("*.txt"):
        told |= words(path.read_text())
    return told


def test_there_are_at_least_ten_thousand_distinct_sentences():
    filler = GrammarFiller().sentences
    assert len(set(filler)) == len(filler) >= 10_000


def test_sentences_are_three_to_eight_words_long():
    assert {len(sentence.split()) for sentence in GrammarFiller().sentences} <= set(range(3, 9))


def test_the_grammar_uses_exactly_its_words():
    said = set().union(*map(words, GrammarFiller().sentences))
    assert said == set(FILLER_WORDS)
    assert len(said) <= 50


def test_no_word_but_the_article_is_a_tasks_word():
    assert told_words() & set(FILLER_WORDS) == {"the"}


BOOK = """It was late. "Who goes
there?" he cried!  Nobody

CHAPTER TWO
* * *

The end... or not.
"""


def test_a_book_is_cut_at_sentence_ends_and_empty_lines(tmp_path):
    (tmp_path / "book.txt").write_text(BOOK)
    assert BookFiller(tmp_path / "book.txt").sentences == (
        "It was late.", '"Who goes there?" he cried!', "Nobody", "CHAPTER TWO * * *", "The end...", "or not.")


def test_pieces_without_a_word_are_left_out():
    assert list(sentences("* * *\n\n... Yes. ---\n\n")) == ["Yes."]


@pytest.mark.parametrize("text", ["", "  \n\n", "* * *\n"])
def test_a_book_without_a_sentence_is_bad_input(tmp_path, text):
    (tmp_path / "book.txt").write_text(text)
    with pytest.raises(BadInput, match="book.txt:1: found "):
        BookFiller(tmp_path / "book.txt")


def test_words_outside_a_word_vocabulary_are_named_with_their_line(tmp_path):
    (tmp_path / "book.txt").write_text("The moon glows.\nThe pirate sings of rum.\n")
    with pytest.raises(BadInput, match=r"book\.txt:2: found pirate, rum, expected words of the vocabulary"):
        BookFiller(tmp_path / "book.txt", word_tokenizer())


def test_byte_level_pairs_read_any_book(tmp_path):
    (tmp_path / "book.txt").write_text("Zoë sang.")
    assert BookFiller(tmp_path / "book.txt", bpe_tokenizer(300)).sentences == ("Zoë sang.",)
