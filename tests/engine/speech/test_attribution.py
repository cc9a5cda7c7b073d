"""Words go to whoever speaks most of them, and segments are cut between two speakers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.types import Segment, Speaker, Task, Transcript, Word
from engine.speech.attribution import Turn, attribute


def words(text: str, start_s: float = 0.0, each_s: float = 0.5) -> tuple[Word, ...]:
    return tuple(
        Word(word, start_s + each_s * number, start_s + each_s * (number + 1))
        for number, word in enumerate(text.split())
    )


def segment(text: str, start_s: float = 0.0, *, timed: bool = True) -> Segment:
    spoken = words(text, start_s)
    return Segment(start_s, spoken[-1].end_s, f" {text}", tokens=(1, 2), words=spoken if timed else ())


def transcript(*segments: Segment) -> Transcript:
    text = "".join(one.text for one in segments).strip()
    return Transcript(Task.TRANSCRIBE, "en", 60.0, text, segments)


def said(heard: Transcript) -> list[tuple[int | None, str]]:
    return [(one.speaker, one.text) for one in heard.segments]


def test_a_segment_is_cut_before_the_word_with_which_another_begins() -> None:
    heard = attribute(transcript(segment("Are you there? Yes, I am.")), [Turn(0.0, 1.4, 3), Turn(1.4, 3.0, 1)], {})
    assert said(heard) == [(0, " Are you there?"), (1, " Yes, I am.")]
    assert [(one.start_s, one.end_s) for one in heard.segments] == [(0.0, 1.5), (1.5, 3.0)]
    assert [word.speaker for one in heard.segments for word in one.words] == [0, 0, 0, 1, 1, 1]
    assert [one.tokens for one in heard.segments] == [(), ()]
    assert "".join(one.text for one in heard.segments).strip() == heard.text


def test_a_segment_of_one_speaker_stays_as_it_is() -> None:
    whole = segment("Good bye now")
    heard = attribute(transcript(whole), [Turn(0.0, 9.0, 0)], {})
    assert said(heard) == [(0, whole.text)]
    assert heard.segments[0].tokens == whole.tokens


def test_speakers_are_counted_as_they_begin_in_the_transcript() -> None:
    heard = attribute(
        transcript(segment("One two"), segment("three four", 10.0), segment("five", 20.0)),
        [Turn(0.0, 2.0, 7), Turn(10.0, 12.0, 2), Turn(15.0, 16.0, 9), Turn(20.0, 22.0, 7)],
        {2: "Ada"},
    )
    assert [speaker for speaker, _ in said(heard)] == [0, 1, 0]
    assert heard.speakers == (Speaker(None, 4.0), Speaker("Ada", 2.0))


def test_who_speaks_longer_gets_a_word_that_two_speak_at_once() -> None:
    long, short = Turn(0.0, 30.0, 0), Turn(1.0, 2.0, 1)
    for turns in ([long, short], [short, long]):
        assert said(attribute(transcript(segment("over", 1.0)), turns, {})) == [(0, " over")]


def test_most_of_a_word_decides() -> None:
    turns = [Turn(0.0, 0.2, 0), Turn(0.2, 0.5, 1)]
    heard = attribute(transcript(segment("word")), turns, {})
    assert heard.speakers == (Speaker(None, 0.3),)


def test_a_word_in_no_turn_is_the_nearest_speakers() -> None:
    turns = [Turn(0.0, 1.0, 0), Turn(9.0, 10.0, 1)]
    heard = attribute(transcript(segment("left", 2.0), segment("right", 7.0)), turns, {0: "L", 1: "R"})
    assert [speaker.name for speaker in heard.speakers] == ["L", "R"]


def test_a_segment_without_words_is_whoever_speaks_most_in_it() -> None:
    heard = attribute(transcript(segment("a b c d", timed=False)), [Turn(0.0, 0.9, 0), Turn(0.9, 2.0, 1)], {1: "Bo"})
    assert said(heard) == [(0, " a b c d")]
    assert heard.speakers == (Speaker("Bo", 1.1),)


def test_a_segment_whose_words_are_not_those_of_its_text_is_not_cut() -> None:
    odd = replace(segment("one two three four"), text=" eins zwei drei vier")
    heard = attribute(transcript(odd), [Turn(0.0, 0.9, 0), Turn(0.9, 2.0, 1)], {1: "Bo"})
    assert said(heard) == [(0, " eins zwei drei vier")]
    assert {word.speaker for word in heard.segments[0].words} == {0}


def test_a_language_without_spaces_is_cut_at_the_word() -> None:
    spoken = (Word("你好", 0.0, 0.5), Word("再见", 0.5, 1.0))
    heard = attribute(transcript(Segment(0.0, 1.0, "你好再见", words=spoken)), [Turn(0, 0.5, 0), Turn(0.5, 1, 1)], {})
    assert said(heard) == [(0, "你好"), (1, "再见")]


def test_without_turns_everything_is_one_speakers() -> None:
    heard = attribute(transcript(segment("One"), segment("two", 5.0)), [], {})
    assert [speaker for speaker, _ in said(heard)] == [0, 0]
    assert len(heard.speakers) == 1


def test_silence_has_no_speakers() -> None:
    assert attribute(transcript(), [Turn(0.0, 1.0, 0)], {}).speakers == ()


@given(
    st.lists(st.lists(st.sampled_from(["a", "bb", "a.", "c'", "bba"]), min_size=1, max_size=8), max_size=5),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 50), st.integers(0, 3)), max_size=8),
)
def test_no_text_is_lost_or_moved(texts: list[list[str]], raw: list[tuple[int, int, int]]) -> None:
    segments, at_s = [], 0.0
    for text in texts:
        segments.append(segment(" ".join(text), at_s))
        at_s = segments[-1].end_s
    turns = [Turn(start / 10, (start + length) / 10, speaker) for start, length, speaker in raw]
    heard = attribute(transcript(*segments), turns, {})
    assert "".join(one.text for one in heard.segments) == "".join(one.text for one in segments)
    spoken = [word.text for one in heard.segments for word in one.words]
    assert spoken == [word.text for one in segments for word in one.words]
    assert all(one.speaker == word.speaker for one in heard.segments for word in one.words)
    assert {one.speaker for one in heard.segments} == set(range(len(heard.speakers)))


@pytest.mark.parametrize("count", [5_000])
def test_an_hour_of_short_turns_is_joined(count: int) -> None:
    turns = [Turn(number * 0.8, number * 0.8 + 0.7, number % 2) for number in range(count)]
    segments = [segment("w " * 8, number * 4.0) for number in range(count // 5)]
    heard = attribute(transcript(*segments), turns, {})
    assert len(heard.speakers) == 2
