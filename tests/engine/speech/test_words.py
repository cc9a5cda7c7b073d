"""Where words come to stand, with speech that the test draws: one character a window of 32 ms, `#` for speech."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.types import Segment, Word
from engine.speech.stitch import HeardClip
from engine.speech.words import PAUSE_S, WINDOW_S, place_words, stretches
from engine.types import Clip, ClipTranscript

PAUSE = "." * 7


def drawn(picture: str) -> bytes:
    return bytes(255 * (window == "#") for window in picture)


def heard(*words: Word, end_s: float = 30.0) -> ClipTranscript:
    segment = Segment(0.0, end_s, "".join(word.text for word in words), words=words)
    return ClipTranscript(segment.text, (segment,), output_tokens=len(words))


def placed(picture: str, *times: tuple[int, int], end: int = 999) -> list[tuple[int, int]]:
    """Where words with these first and last windows come to stand. end: of the segment."""
    words = tuple(Word(" a", first * WINDOW_S, last * WINDOW_S) for first, last in times)
    (segment,) = place_words(heard(*words, end_s=end * WINDOW_S), drawn(picture)).segments
    return [(round(word.start_s / WINDOW_S), round(word.end_s / WINDOW_S)) for word in segment.words]


def test_speech_is_cut_at_pauses_alone() -> None:
    found = stretches(drawn("..##.##" + PAUSE + "#"))
    assert [(round(one.start_s / WINDOW_S), round(one.end_s / WINDOW_S)) for one in found] == [(2, 7), (14, 15)]
    assert len(PAUSE) * WINDOW_S > PAUSE_S


def test_speech_below_the_threshold_of_its_end_is_none() -> None:
    assert stretches(bytes((88, 89, 90))) == stretches(bytes((0, 255, 255)))


def test_silence_before_and_behind_a_word_is_no_part_of_it() -> None:
    assert placed("...####.....", (0, 11)) == [(3, 7)]


def test_a_word_that_covers_a_pause_is_on_its_longer_side() -> None:
    assert placed("##" + PAUSE + "#####", (0, 14)) == [(9, 14)]
    assert placed("#####" + PAUSE + "##", (0, 14), (14, 14)) == [(0, 5), (12, 14)]


def test_neighbours_inside_speech_keep_their_border() -> None:
    assert placed("..########..", (0, 5), (5, 12)) == [(2, 5), (5, 10)]


def test_the_last_word_of_a_segment_lasts_as_long_as_its_speech() -> None:
    assert placed("########....", (0, 4), (4, 6)) == [(0, 4), (4, 8)]


def test_speech_behind_the_end_of_a_segment_is_not_its_last_words() -> None:
    assert placed("########....", (0, 4), (4, 6), end=7) == [(0, 4), (4, 7)]
    assert placed("########....", (0, 4), (4, 6), end=5) == [(0, 4), (4, 6)]


def test_speech_behind_a_pause_is_not_the_last_words() -> None:
    assert placed("####" + PAUSE + "####", (0, 4)) == [(0, 4)]


def test_a_word_without_speech_stays_where_it_is() -> None:
    assert placed("....", (1, 2)) == [(1, 2)]
    assert placed("", (1, 2)) == [(1, 2)]


def test_text_without_words_is_left_as_it_is() -> None:
    transcript = ClipTranscript(" a", (Segment(0, 1, " a"),), output_tokens=1)
    assert place_words(transcript, drawn("##")) is transcript


def test_a_word_of_no_length_is_at_the_end_of_the_speech_before_it() -> None:
    assert placed("..####....", (2, 3), (9, 9)) == [(2, 3), (3, 6)]
    assert placed("..##########....", (2, 3), (15, 15)) == [(2, 3), (6, 12)]  # no longer than a word is


def test_a_word_of_no_length_shares_the_time_of_the_word_before_where_no_other_is_left() -> None:
    assert placed("..######....", (2, 8), (8, 8)) == [(2, 5), (5, 8)]
    assert placed("", (2, 8), (8, 8)) == [(2, 5), (5, 8)]


def test_a_word_that_begins_before_the_one_before_has_ended_follows_it() -> None:
    assert placed("##########", (0, 6), (4, 10)) == [(0, 6), (6, 10)]


def test_a_word_of_no_length_may_share_the_last_one_of_another_segment() -> None:
    words = Word(" one", 0.0, 1.0), Word(" two", 1.0, 1.0)
    segments = tuple(Segment(0.0, 1.0, word.text, words=(word,)) for word in words)
    placed_words = [
        segment.words[0] for segment in place_words(ClipTranscript(" one two", segments, 2), b"\xff" * 31).segments
    ]
    assert [word.text for word in placed_words] == [" one", " two"]
    assert placed_words[0].end_s == placed_words[1].start_s < placed_words[1].end_s


@given(
    st.text("#.", max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), max_size=9), st.integers()
)
def test_words_never_overlap_nor_turn_round_and_take_time(picture: str, times: list[tuple[int, int]], end: int) -> None:
    times.sort()
    given_words = tuple(Word(" a", first * WINDOW_S, (first + length % 7) * WINDOW_S) for first, length in times)
    opening = Word(" a", 0.0, 1.0)
    transcript = heard(opening, *given_words, end_s=(end % 99) * WINDOW_S)
    (segment,) = place_words(transcript, drawn("#" * 32 + picture)).segments
    for before, word in pairwise(segment.words):
        assert before.start_s < before.end_s <= word.start_s < word.end_s


@pytest.mark.parametrize("speech", [b"", drawn("..######")])
def test_every_clips_words_are_placed_when_it_is_stitched(speech: bytes) -> None:
    clip = Clip(0.0, bytes(32_000), speech)
    (word,) = HeardClip.of(clip, heard(Word(" a", 0.0, 0.2))).transcript.segments[0].words
    assert word.start_s == (2 * WINDOW_S if speech else 0.0)
