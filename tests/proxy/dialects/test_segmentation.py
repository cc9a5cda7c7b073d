"""Cues of the length that a caller wants, by Scriptivox's rules."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.captions import Cue
from core.transcript.types import Segment, Word
from proxy.dialects.segmentation import Segmentation, cues, joined, pieces

WIDE = Segmentation(max_words=50, max_chars=500, max_duration_s=60, sentence_aware=False)


def spoken(text: str, *, start_s: float = 0.0, word_s: float = 0.5, speaker: int | None = None) -> Segment:
    """A segment whose words follow one another, each as long."""
    words = tuple(
        Word(word, start_s + index * word_s, start_s + (index + 1) * word_s, speaker=speaker)
        for index, word in enumerate(text.split())
    )
    return Segment(start_s, words[-1].end_s, text, words=words, speaker=speaker)


def texts(segments: list[Segment], rules: Segmentation) -> list[str]:
    return [cue.text for cue in cues(segments, rules)]


def test_the_defaults_are_those_of_the_document() -> None:
    assert Segmentation() == Segmentation(4, 80, 10, sentence_aware=True, strip_chars="")


def test_a_cue_ends_before_the_word_that_is_one_too_many() -> None:
    assert texts([spoken("one two three four five")], Segmentation(max_words=2)) == ["one two", "three four", "five"]


def test_a_cue_ends_before_the_word_that_makes_it_too_long_in_characters() -> None:
    assert texts([spoken("12345 7890 2")], Segmentation(max_words=50, max_chars=10)) == ["12345 7890", "2"]


def test_a_cue_ends_before_the_word_that_makes_it_last_too_long() -> None:
    rules = Segmentation(max_words=50, max_duration_s=1)
    assert texts([spoken("a b c", word_s=0.5)], rules) == ["a b", "c"]


def test_a_word_that_is_over_a_cap_by_itself_stands_alone() -> None:
    rules = Segmentation(max_words=50, max_chars=10)
    assert texts([spoken("a abcdefghijklmno b")], rules) == ["a", "abcdefghijklmno", "b"]


@pytest.mark.parametrize("mark", [".", "!", "?", "。", "！", "？", '."', "!)", "?”", ".»"])  # noqa: RUF001
def test_a_cue_ends_with_its_sentence(mark: str) -> None:
    assert texts([spoken(f"one{mark} two")], Segmentation()) == [f"one{mark}", "two"]


@pytest.mark.parametrize("text", ["one, two", "3.5 two", "one; two", "one: two"])
def test_other_marks_end_no_cue(text: str) -> None:
    assert texts([spoken(text)], Segmentation()) == [text]


def test_sentences_are_left_alone_where_asked() -> None:
    assert texts([spoken("One. Two.")], WIDE) == ["One. Two."]


def test_a_sentence_ends_although_its_mark_is_stripped() -> None:
    assert texts([spoken("One. Two.")], Segmentation(strip_chars=".")) == ["One", "Two"]


def test_characters_are_counted_when_the_stripped_are_gone() -> None:
    rules = Segmentation(max_words=50, max_chars=10, strip_chars=",")
    assert texts([spoken("12,3,4,5 7890")], rules) == ["12345 7890"]


def test_a_cue_of_which_nothing_is_left_is_dropped() -> None:
    assert texts([spoken("- - -"), spoken("yes", start_s=3)], Segmentation(strip_chars="-")) == ["yes"]


def test_a_word_of_which_nothing_is_left_counts_as_none_and_leaves_its_space() -> None:
    quoted = Segment(
        0, 1, 'he said "hi', words=(Word("he", 0, 0.2), Word("said", 0.2, 0.4), Word('"', 0.4, 0.5), Word("hi", 0.5, 1))
    )
    assert texts([quoted], Segmentation(max_words=3, strip_chars='"')) == ["he said hi"]


def test_spaces_are_those_of_the_text_and_not_of_the_words() -> None:
    chinese = Segment(0, 2, "你好世界", words=(Word("你好", 0, 1), Word("世界", 1, 2)))
    assert texts([chinese], WIDE) == ["你好世界"]


def test_segments_of_a_script_without_spaces_are_joined_without() -> None:
    first, second = (
        Segment(0, 1, "你好", words=(Word("你好", 0, 1),)),
        Segment(1, 2, "世界", words=(Word("世界", 1, 2),)),
    )
    assert texts([first, second], WIDE) == ["你好世界"]
    assert texts([first, spoken("there", start_s=1)], WIDE) == ["你好 there"]


def test_words_with_spaces_around_them_are_found_all_the_same() -> None:
    segment = Segment(
        0, 1, " Hello, world", words=(Word(" Hello", 0, 0.4), Word(",", 0.4, 0.5), Word(" world", 0.5, 1))
    )
    assert texts([segment], WIDE) == ["Hello, world"]


def test_a_word_that_the_text_does_not_have_is_set_apart() -> None:
    segment = Segment(0, 1, "one two", words=(Word("one", 0, 0.3), Word("2", 0.3, 0.6), Word("two", 0.6, 1)))
    assert texts([segment], WIDE) == ["one 2 two"]


def test_cues_without_word_times_are_cut_at_segments_alone() -> None:
    segments = [Segment(0, 1, "one two"), Segment(1, 2, "three four"), Segment(2, 3, "five six seven eight nine ten")]
    assert texts(segments, Segmentation()) == ["one two three four", "five six seven eight nine ten"]


def test_segments_without_word_times_end_cues_with_their_sentences() -> None:
    assert texts([Segment(0, 1, "One."), Segment(1, 2, "Two.")], Segmentation()) == ["One.", "Two."]


def test_a_cue_ends_where_another_begins_to_speak() -> None:
    made = list(cues([spoken("yes", speaker=0), spoken("no", start_s=1, speaker=1)], WIDE))
    assert made == [Cue(0, 500, "yes", 0), Cue(1000, 1500, "no", 1)]


def test_the_speaker_of_a_word_is_its_own() -> None:
    segment = Segment(0, 2, "yes no", speaker=0, words=(Word("yes", 0, 1), Word("no", 1, 2, speaker=1)))
    assert [(cue.text, cue.speaker) for cue in cues([segment], WIDE)] == [("yes", 0), ("no", 1)]


def test_cues_do_not_overlap_and_each_lasts() -> None:
    overlapping = Segment(0, 2, "a b", words=(Word("a", 0, 5), Word("b", 0, 0)))
    assert list(cues([overlapping], Segmentation(max_words=1))) == [Cue(0, 1, "a"), Cue(1, 2, "b")]


def test_nothing_said_makes_no_cues() -> None:
    assert list(cues([], Segmentation())) == []
    assert list(cues([Segment(0, 1, "  ")], Segmentation())) == []


WORDS = st.text(alphabet="ab.,!?-", min_size=1, max_size=12)
SEGMENTS = st.lists(st.lists(WORDS, min_size=1, max_size=8).map(" ".join), max_size=5)
RULES = st.builds(
    Segmentation,
    st.integers(1, 50),
    st.integers(10, 500),
    st.integers(1, 60),
    sentence_aware=st.booleans(),
    strip_chars=st.text(alphabet="a.,", max_size=3),
)


@given(said=SEGMENTS, rules=RULES)
def test_every_cap_holds_for_every_cue_of_more_than_one_word_and_no_word_is_lost(
    said: list[str], rules: Segmentation
) -> None:
    segments = [spoken(text, start_s=index * 5.0) for index, text in enumerate(said)]
    made = list(cues(segments, rules))
    assert " ".join(cue.text for cue in made) == joined(list(pieces(segments, rules.strip_chars)))
    for cue in made:
        assert cue.start < cue.end
        if " " in cue.text:
            assert len(cue.text.split()) <= rules.max_words
            assert len(cue.text) <= rules.max_chars
            assert cue.end - cue.start <= rules.max_duration_s * 1000
    assert all(earlier.end <= later.start for earlier, later in pairwise(made))
