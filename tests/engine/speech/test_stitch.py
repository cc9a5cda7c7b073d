from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.types import Segment, Task, TokenLogprob, Transcript, Word
from engine.speech.stitch import HeardClip, TextJoiner, join_texts, stitch
from engine.types import ClipTranscript


def heard(start_s: float, *segments: Segment, duration_s: float = 10.0, text: str | None = None) -> HeardClip:
    text = "".join(segment.text for segment in segments) if text is None else text
    return HeardClip(start_s, duration_s, ClipTranscript(text, segments, output_tokens=3, prompt_tokens=5))


def stitched(*clips: HeardClip, language: str = "en", task: Task = Task.TRANSCRIBE) -> Transcript:
    return stitch(clips, task=task, language=language, duration_s=60.01)


def test_times_become_absolute() -> None:
    result = stitched(heard(0.0, Segment(0.5, 2.0, " one")), heard(20.0, Segment(1.0, 3.5, " two")))
    assert [(one.start_s, one.end_s) for one in result.segments] == [(0.5, 2.0), (21.0, 23.5)]
    assert result.text == "one two"


def test_a_segment_cannot_begin_before_the_one_before_it_ended() -> None:
    result = stitched(heard(0.0, Segment(0.0, 4.0, " a"), Segment(3.0, 5.0, " b"), Segment(1.0, 2.0, " c")))
    assert [(one.start_s, one.end_s) for one in result.segments] == [(0.0, 4.0), (4.0, 5.0), (5.0, 5.0)]


def test_a_segment_cannot_leave_its_clip() -> None:
    result = stitched(heard(10.0, Segment(-1.0, 30.0, " a"), duration_s=4.0))
    assert [(one.start_s, one.end_s) for one in result.segments] == [(10.0, 14.0)]


def test_words_are_placed_and_stripped_as_openai_does() -> None:
    words = (Word(" one", 0.0, 0.4, 0.9), Word(" two", 0.3, 0.8), Word(" ", 0.8, 0.8))
    (segment,) = stitched(heard(20.0, Segment(0.0, 1.0, " one two", words=words))).segments
    assert segment.words == (Word("one", 20.0, 20.4, 0.9), Word("two", 20.4, 20.8))


def test_text_without_times_becomes_one_segment() -> None:
    (segment,) = stitched(heard(20.0, text=" hello", duration_s=2.0)).segments
    assert (segment.start_s, segment.end_s, segment.text) == (20.0, 22.0, " hello")


def test_segments_without_text_are_left_out() -> None:
    assert stitched(heard(0.0, Segment(0, 1, " "), Segment(1, 2, " a"))).segments[0].text == " a"


def test_no_clip_gives_no_text() -> None:
    result = stitched()
    assert (result.text, result.segments, result.output_tokens, result.duration_s) == ("", (), 0, 60.01)


def test_tokens_are_summed_and_the_prompt_counts_once() -> None:
    result = stitched(heard(0.0, text="a"), heard(10.0, text="b"))
    assert (result.output_tokens, result.input_text_tokens, result.input_audio_tokens) == (6, 5, 3001)


def test_log_probabilities_stay_in_order() -> None:
    one, two = TokenLogprob(" a", -0.1), TokenLogprob(" b", -0.2)
    clips = [
        HeardClip(at, 1.0, ClipTranscript(each.token, (), 1, logprobs=(each,))) for at, each in ((0, one), (5, two))
    ]
    assert stitched(*clips).logprobs == (one, two)


@pytest.mark.parametrize(
    ("language", "task", "text"),
    [
        ("en", Task.TRANSCRIBE, "a b"),
        ("ko", Task.TRANSCRIBE, "a b"),
        ("zh", Task.TRANSCRIBE, "ab"),
        ("ja", Task.TRANSCRIBE, "ab"),
        ("th", Task.TRANSCRIBE, "ab"),
        ("yue", Task.TRANSCRIBE, "ab"),
        ("ja", Task.TRANSLATE, "a b"),
    ],
)
def test_clips_are_joined_by_a_space_where_the_written_language_has_spaces(
    language: str, task: Task, text: str
) -> None:
    assert join_texts([" a ", "", "  ", "b"], language=language, task=task) == text


texts = st.text(alphabet="ab \n", max_size=12)


@given(st.lists(st.lists(texts)), st.sampled_from(["en", "ja"]))
def test_pieces_joined_as_they_come_are_the_text_joined_at_once(clips: list[list[str]], language: str) -> None:
    joiner = TextJoiner(language, Task.TRANSCRIBE)
    deltas = []
    for pieces in clips:
        deltas += [joiner.add(piece) for piece in pieces]
        joiner.end_clip()
    text = "".join(deltas)
    assert text == join_texts(("".join(pieces) for pieces in clips), language=language, task=Task.TRANSCRIBE)
    assert text == text.strip()


times = st.floats(-5, 40)


@given(st.lists(st.lists(st.tuples(times, times), max_size=4), max_size=5))
def test_times_never_run_backwards(clips: list[list[tuple[float, float]]]) -> None:
    result = stitched(
        *(
            heard(index * 10.0, *(Segment(a, b, " x", words=(Word(" x", a, b),)) for a, b in pairs))
            for index, pairs in enumerate(clips)
        )
    )
    ends = 0.0
    for segment in result.segments:
        assert ends <= segment.start_s <= segment.end_s <= 10.0 * len(clips)
        ends = segment.end_s
    ends = 0.0
    for word in (word for segment in result.segments for word in segment.words):
        assert ends <= word.start_s <= word.end_s
        ends = word.end_s
