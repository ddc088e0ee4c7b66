"""Haystacks: exact lengths, whole facts in order, and the spans of the supporting facts."""

import hashlib

import pytest

from tinylm2.data import (
    TASKS,
    BadInput,
    Example,
    GrammarFiller,
    Rng,
    examples,
    generated_examples,
    insert_in_haystack,
    without_filler,
    word_tokenizer,
)

WORDS, FILLER = word_tokenizer(), GrammarFiller()
TOLD = generated_examples(TASKS["qa1"], 200, seed=1)
KNOWN = {tuple(WORDS.encode(sentence)) for sentence in FILLER.sentences}


def in_filler(example, *key, segments=4, segment_len=32, **knobs):
    return insert_in_haystack(example, Rng(9, *key), tokenizer=WORDS, filler=FILLER, segments=segments,
                              segment_len=segment_len, **knobs)


def short(example, **knobs):
    return without_filler(example, tokenizer=WORDS, **knobs)


def ids(*texts):
    return [token for text in texts for token in WORDS.encode(text)]


EXAMPLE = Example("qa1", ("Mary moved to the garden.", "John went back to the office.", "Mary moved to the kitchen."),
                  "Where is Mary?", "kitchen", (2,))


@pytest.mark.parametrize("segments", [2, 3, 8])
@pytest.mark.parametrize("answer_len", [None, 1, 3])
def test_the_length_is_exact(segments, answer_len):
    for i, example in enumerate(TOLD):
        row = in_filler(example, i, segments=segments, answer_len=answer_len)
        if row is not None:
            assert len(row.prompt) == segments * 32 - (answer_len or len(row.answer))
            assert row.pad == 0


def all_spans(example):
    """The example with every fact called a supporting one, so that a row remembers them all."""
    return Example(example.task, example.facts, example.question, example.answer, tuple(range(len(example.facts))))


def whole_sentences(tokens):
    """Whether tokens can be cut into whole sentences of the filler."""
    return not tokens or any(tuple(tokens[:n]) in KNOWN and whole_sentences(tokens[n:]) for n in range(3, 9))


def test_facts_stand_whole_and_in_order():
    for i, example in enumerate(TOLD):
        row = in_filler(all_spans(example), i)
        assert [row.prompt[start:end] for start, end in row.support] == [WORDS.encode(fact) for fact in example.facts]
        assert list(row.support) == sorted(row.support)
        assert row.prompt[row.asked:] == WORDS.encode(example.question)


def test_between_facts_stand_whole_sentences_and_only_the_first_is_cut_at_its_head():
    tails = {sentence[n:] for sentence in KNOWN for n in range(len(sentence))}
    cut = 0
    for i, example in enumerate(TOLD):
        row = in_filler(all_spans(example), i)
        starts, ends = [*(start for start, _ in row.support), row.asked], [0, *(end for _, end in row.support)]
        first, *others = (row.prompt[end:start] for end, start in zip(ends, starts, strict=True))
        assert all(map(whole_sentences, others))
        assert any(tuple(first[:n]) in tails and whole_sentences(first[n:]) for n in range(1, 9))
        cut += not whole_sentences(first)
    assert cut > 50


def test_the_remembered_places_are_those_of_the_supporting_facts():
    for i, example in enumerate(TOLD):
        row = in_filler(example, i)
        assert len(row.support) == len(example.support) == 1
        (start, end), (fact,) = row.support[0], example.support
        assert row.prompt[start:end] == WORDS.encode(example.facts[fact])
        assert row.answer == WORDS.encode(example.answer)


def places(count=400, **knobs):
    """Where the one fact of a story stands: 0 at the head of its text, 1 just before the question."""
    found = []
    for i in range(count):
        row = in_filler(Example("qa1", EXAMPLE.facts[:1], "Where is Mary?", "garden", (0,)), i, segments=8, **knobs)
        start, end = row.support[0]
        found.append(start / (row.asked - (end - start)))
    return found


def test_facts_are_spread_evenly_over_the_text():
    counts = [0] * 4
    for place in places():
        counts[min(int(place * 4), 3)] += 1
    assert all(70 <= count <= 130 for count in counts)


def test_a_gap_moves_facts_away_from_the_question():
    spread, gapped = sum(places()) / 400, sum(places(gap=1.0)) / 400
    assert abs(spread - 0.5) < 0.05
    assert abs(gapped - 0.25) < 0.05                     # evenly within an even share: a half of a half


def test_what_does_not_fit_is_none_and_what_just_fits_has_no_filler():
    length = len(ids(*EXAMPLE.facts, EXAMPLE.question)) + 1
    row = in_filler(EXAMPLE, segments=1, segment_len=length)
    assert row.prompt == ids(*EXAMPLE.facts, EXAMPLE.question)
    assert in_filler(EXAMPLE, segments=1, segment_len=length - 1) is None
    assert len(in_filler(EXAMPLE, segments=1, segment_len=length + 1).prompt) == length


def test_a_question_longer_than_a_segment_is_bad_input():
    assert in_filler(EXAMPLE, segments=10, segment_len=4)
    with pytest.raises(BadInput, match=r"'Where is Mary\?' .* found 4 tokens, expected at most 3"):
        in_filler(EXAMPLE, segments=10, segment_len=3)
    with pytest.raises(BadInput, match="found 6 tokens, expected at most 5"):
        short(EXAMPLE, segment_len=5, answer_len=3)


def test_less_room_than_the_answer_needs_is_refused():
    with pytest.raises(ValueError, match="2 tokens long, expected at most 1"):
        in_filler(Example("qa8", (), "What is Mary carrying?", "milk,football"), answer_len=1)


@pytest.mark.parametrize("segment_len", [8, 16, 32, 64])
def test_a_story_without_filler_is_padded_on_the_left_by_less_than_a_segment(segment_len):
    for example in TOLD:
        row = short(example, segment_len=segment_len)
        assert 0 <= row.pad < segment_len
        assert len(row.prompt) + len(row.answer) == row.segments * segment_len
        assert row.prompt == [WORDS.pad] * row.pad + ids(*example.facts, example.question)
        (start, end), (fact,) = row.support[0], example.support
        assert row.prompt[start:end] == WORDS.encode(example.facts[fact])


def test_distance_counts_the_borders_behind_the_farthest_supporting_fact():
    row = short(EXAMPLE, segment_len=8)       # 4 of padding, then 5 + 6 + 5 + 3 + 1 tokens
    assert (row.segments, row.pad, row.support) == (3, 4, ((15, 20),))
    assert row.distance == 0
    both = Example("qa2", EXAMPLE.facts, EXAMPLE.question, EXAMPLE.answer, (2, 0))
    assert short(both, segment_len=8).support == ((15, 20), (4, 9))
    assert short(both, segment_len=8).distance == 1
    assert short(both, segment_len=32).distance == 0


def test_a_fact_lies_where_its_last_token_does():
    one = Example("qa1", EXAMPLE.facts[:1] + ("The moon glows.",), EXAMPLE.question, "garden", (0,))
    assert short(one, segment_len=4).support == ((0, 5),)             # tokens 0..4, segments 0 and 1 of 3
    assert short(one, segment_len=4).distance == 1
    shifted = Example("qa1", EXAMPLE.facts[:1] + ("The old moon glows.",), EXAMPLE.question, "garden", (0,))
    assert short(shifted, segment_len=4).support == ((3, 8),)         # its last token ends segment 1 of 4
    assert short(shifted, segment_len=4).distance == 2


def test_depth_runs_from_the_head_of_the_text_to_the_question():
    first = Example("qa1", EXAMPLE.facts, EXAMPLE.question, "garden", (0,))
    last = Example("qa1", EXAMPLE.facts, EXAMPLE.question, "kitchen", (2,))
    assert short(first, segment_len=32).depth == 0
    assert short(last, segment_len=32).depth == 11 / 16
    assert short(all_spans(last), segment_len=32).depth == 0          # the farthest of them counts
    assert all(0 <= in_filler(example, i).depth < 1 for i, example in enumerate(TOLD))


def test_without_known_support_there_is_no_distance_and_no_depth():
    row = in_filler(Example("qa1", EXAMPLE.facts, EXAMPLE.question, EXAMPLE.answer))
    assert (row.distance, row.depth, row.support) == (None, None, ())


def test_filling_leaves_the_cached_sentences_unchanged():
    before = {sentence: list(WORDS.encode(sentence)) for sentence in FILLER.sentences[::50]}
    for i, example in enumerate(TOLD):
        in_filler(example, i)
    assert all(WORDS.encode(sentence) == tokens for sentence, tokens in before.items())


def test_the_same_key_gives_the_same_row_for_ever():
    digest = hashlib.sha256()
    for i in range(20):
        digest.update(WORDS.decode(in_filler(EXAMPLE, i, segments=1 + i % 4, gap=0.7).prompt).encode())
    assert digest.hexdigest()[:16] == "3daa7a303aac3e4f"


def test_every_task_fits_in_filler():
    for task in TASKS.values():
        for example in examples(task.story(Rng(2, task.number), questions=1, facts=2), task.name):
            row = in_filler(example, task.number, segments=8)
            assert len(row.prompt) + len(row.answer) == 256
