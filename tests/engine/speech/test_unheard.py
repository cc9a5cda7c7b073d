"""What is left to hear of a clip, as the test draws it: a character a tenth of a second, `#` for speech."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.media.frames import WINDOW_BYTES
from core.transcript.types import Segment
from engine.speech.unheard import (
    EDGE_S,
    LEAST_S,
    SEARCH_S,
    drop_unspoken,
    end_of,
    end_of_loop,
    part,
    rest_of,
    saying_s,
    speech_s,
    up_to_gap,
)
from engine.speech.words import WINDOW_S
from engine.types import Clip, ClipTranscript
from tests.engine.fakes import pcm_of, windows


def clip_of(picture: str, start_s: float = 0.0) -> Clip:
    speech = bytes(255 * (picture[int(window * WINDOW_S * 10)] == "#") for window in range(windows(len(picture) / 10)))
    return Clip(start_s, pcm_of(speech), speech)


def heard(*times: tuple[float, float]) -> ClipTranscript:
    segments = tuple(Segment(start, end, f" {start:g}") for start, end in times)
    return ClipTranscript("".join(segment.text for segment in segments), segments, output_tokens=9)


def starts(transcript: ClipTranscript) -> list[float]:
    assert transcript.text == "".join(segment.text for segment in transcript.segments)
    return [segment.start_s for segment in transcript.segments]


# --- behind the text


def test_speech_behind_what_was_heard_is_left_to_hear() -> None:
    rest = rest_of(clip_of("#" * 50, start_s=60.0), 3.0)
    assert rest is not None
    assert rest.start_s == pytest.approx(63.0, abs=WINDOW_S)
    assert rest.duration_s == pytest.approx(2.0, abs=2 * WINDOW_S)
    assert len(rest.pcm) == len(rest.speech) * WINDOW_BYTES


def test_a_word_or_silence_behind_what_was_heard_is_not() -> None:
    assert rest_of(clip_of("#" * 39), 3.0) is None
    assert rest_of(clip_of("#" * 30 + "." * 100), 3.0) is None


def test_hearing_gets_on_even_behind_a_text_of_no_time() -> None:
    clip = clip_of("#" * 50)
    rest = rest_of(clip, 0.0)
    assert rest is not None
    assert rest.duration_s == pytest.approx(clip.duration_s - SEARCH_S, abs=WINDOW_S)


def test_a_text_without_times_is_of_all_its_clip() -> None:
    clip = clip_of("#" * 50)
    assert end_of(ClipTranscript(" so", (), 1), clip) == clip.duration_s
    assert end_of(heard((0, 1), (1, 2.5)), clip) == 2.5


def test_silence_before_what_is_left_is_not_heard_but_for_a_second() -> None:
    rest = rest_of(clip_of("#" * 30 + "." * 80 + "#" * 30), 3.0)
    assert rest is not None
    assert rest.start_s == pytest.approx(11.0 - EDGE_S, abs=2 * WINDOW_S)


@given(st.text("#.", min_size=1, max_size=99), st.floats(0, 12))
def test_the_parts_of_a_clip_are_all_of_it(picture: str, at_s: float) -> None:
    clip = clip_of(picture)
    first, second = part(clip, 0.0, at_s), part(clip, at_s, clip.duration_s)
    assert first.pcm + second.pcm == clip.pcm
    assert first.speech + second.speech == clip.speech


# --- between segments


def test_what_stands_behind_speech_of_no_segment_is_heard_once_more() -> None:
    clip = clip_of("#" * 100)
    assert starts(up_to_gap(heard((0, 2), (2, 4), (7, 9), (9, 10)), clip)) == [0, 2]


def test_a_gap_in_which_nobody_speaks_is_none() -> None:
    transcript = heard((0, 2), (2, 4), (7, 9))
    assert up_to_gap(transcript, clip_of("#" * 40 + "." * 30 + "#" * 30)) is transcript


def test_nor_is_one_of_a_word() -> None:
    transcript = heard((0, 2), (2 + LEAST_S, 5))
    assert up_to_gap(transcript, clip_of("#" * 100)) is transcript


# --- behind a loop


def test_hearing_goes_on_where_the_kept_text_has_been_said() -> None:
    loop = ClipTranscript(" mayday" * 15, (), 15)
    assert 6.9 <= end_of_loop(loop, clip_of("#" * 150)) <= 7.0 + SEARCH_S
    assert end_of_loop(loop, clip_of("#" * 40 + "." * 30 + "#" * 100)) > 9.9  # nobody says anything in between


def test_what_was_said_before_a_loop_counts_by_its_times() -> None:
    segments = (Segment(0.0, 8.0, " so"), Segment(8.0, 30.0, " mayday" * 15))
    at_s = end_of_loop(ClipTranscript(" so" + " mayday" * 15, segments, 16), clip_of("#" * 300))
    assert 14.9 <= at_s <= 15.0 + SEARCH_S


def test_hearing_goes_on_in_a_pause_if_one_is_near() -> None:
    loop = ClipTranscript(" mayday" * 15, (), 15)
    assert end_of_loop(loop, clip_of("#" * 75 + "." * 2 + "#" * 100)) == pytest.approx(7.5, abs=2 * WINDOW_S)


def test_a_loop_that_fills_its_clip_leaves_nothing() -> None:
    clip = clip_of("#" * 50)
    assert rest_of(clip, end_of_loop(ClipTranscript(" mayday" * 15, (), 15), clip)) is None


def test_a_wide_character_takes_longer_to_say_than_a_letter() -> None:
    assert saying_s("谢谢") == saying_s("abcdef")


# --- where nobody speaks


@pytest.mark.parametrize("times", [(2.0, 2.0), (9.9, 10.2), (12.0, 14.0), (5.7, 6.5)])
def test_a_segment_of_no_length_or_without_speech_is_dropped(times: tuple[float, float]) -> None:
    clip = clip_of("#" * 50 + "." * 49)
    transcript = heard((0, 2), times)
    assert starts(drop_unspoken(transcript, clip)) == [0]


@pytest.mark.parametrize("text", [" . .", " ...", " ♪♪", " "])
def test_a_segment_without_a_letter_is_dropped(text: str) -> None:
    transcript = ClipTranscript(" so" + text, (Segment(0, 2, " so"), Segment(2, 4, text)), 2)
    assert starts(drop_unspoken(transcript, clip_of("#" * 50))) == [0]


def test_a_segment_with_a_window_of_speech_is_kept() -> None:
    transcript = heard((0, 2), (4.0, 9.0))
    assert drop_unspoken(transcript, clip_of("#" * 50 + "." * 50)) is transcript


def test_a_segment_that_begins_with_silence_begins_with_its_speech() -> None:
    transcript = drop_unspoken(heard((0, 4), (4, 6)), clip_of("." * 30 + "#" * 30))
    assert transcript.text == " 0 4"
    assert [segment.start_s for segment in transcript.segments] == [pytest.approx(3.0, abs=WINDOW_S), 4]


def test_where_it_is_not_known_who_speaks_nothing_is_dropped() -> None:
    transcript = heard((0, 2), (2, 2))
    assert drop_unspoken(transcript, Clip(0.0, bytes(96_000))) is transcript


def test_speech_is_counted_in_seconds() -> None:
    assert speech_s(clip_of("#" * 20 + "." * 30)) == pytest.approx(2.0, abs=WINDOW_S)
