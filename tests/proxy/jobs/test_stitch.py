"""Transcripts of parts become one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.types import Segment, Speaker, Task, TokenLogprob, Transcript, Voice, Word
from proxy.jobs.model import JobOptions, PartPlan
from proxy.jobs.ports import Stitcher
from proxy.jobs.stitch import PartStitcher

STITCHER: Stitcher = PartStitcher()


def heard(text: str, *segments: Segment, language: str = "en", task: Task = Task.TRANSCRIBE) -> Transcript:
    return Transcript(task, language, 10.0, text, segments, 7, 500, 20, (TokenLogprob("a", -1.0),))


def stitched(*transcripts: Transcript, options: JobOptions | None = None, task: Task = Task.TRANSCRIBE) -> Transcript:
    plans = [PartPlan(index, index * 10_000, (index + 1) * 10_000) for index in range(len(transcripts))]
    asked = options or JobOptions(task=task)
    return STITCHER.stitch(list(zip(plans, transcripts, strict=True)), asked).transcript


def test_one_part_without_an_end_is_the_recording() -> None:
    alone = heard(" Hello. ", Segment(0.0, 2.0, "Hello.", words=(Word("Hello.", 0.1, 1.9),)))
    made = STITCHER.stitch([(PartPlan(0), alone)], JobOptions()).transcript
    assert made == replace(alone, text="Hello.")


def test_times_count_from_the_beginning_of_the_recording() -> None:
    segment = Segment(1.0, 2.5, "So", words=(Word("So", 1.25, 2.0),))
    made = stitched(heard("So", segment), heard("So", segment))
    assert [(each.start_s, each.end_s) for each in made.segments] == [(1.0, 2.5), (11.0, 12.5)]
    assert [(each.start_s, each.end_s) for part in made.segments for each in part.words] == [(1.25, 2.0), (11.25, 12.0)]
    assert made.duration_s == 20.0


def test_times_stay_in_their_part_and_never_run_backwards() -> None:
    late = Segment(9.5, 12.0, "late", words=(Word("late", 9.5, 12.0),))
    early = Segment(-1.0, 0.5, "early", words=(Word("early", -1.0, 0.5),))
    made = stitched(heard("late", late), heard("early", early))
    assert [(each.start_s, each.end_s) for each in made.segments] == [(9.5, 10.0), (10.0, 10.5)]


@pytest.mark.parametrize(
    ("languages", "task", "text"),
    [
        (("en", "en"), Task.TRANSCRIBE, "one two"),
        (("ja", "ja"), Task.TRANSCRIBE, "onetwo"),
        (("en", "yue"), Task.TRANSCRIBE, "onetwo"),
        (("zh", "en"), Task.TRANSCRIBE, "one two"),
        (("ja", "ja"), Task.TRANSLATE, "one two"),
    ],
)
def test_texts_are_joined_as_their_language_is_written(languages: tuple[str, str], task: Task, text: str) -> None:
    parts = [
        heard(f" {word} ", language=language, task=task)
        for word, language in zip(("one", "two"), languages, strict=True)
    ]
    assert stitched(*parts, task=task).text == text


def test_silent_parts_leave_no_spaces() -> None:
    assert stitched(heard(""), heard("one"), heard("  "), heard("two"), heard("")).text == "one two"


def test_the_language_is_the_one_that_most_is_said_in() -> None:
    assert (
        stitched(heard("", language="de"), heard("short", language="fr"), heard("a longer one", language="en")).language
        == "en"
    )
    assert stitched(heard("", language="de"), heard("", language="en")).language == "de"


def test_what_it_cost_is_added_and_the_prompt_counted_once() -> None:
    made = stitched(heard("a"), heard("b"), heard("c"))
    assert (made.input_text_tokens, made.input_audio_tokens, made.output_tokens) == (7, 1_500, 60)
    assert len(made.logprobs) == 3


TIMES = st.floats(-2, 14, allow_nan=False)


@given(st.lists(st.lists(st.tuples(TIMES, TIMES), max_size=4), min_size=1, max_size=5))
def test_whatever_an_engine_says_times_are_in_order(parts: list[list[tuple[float, float]]]) -> None:
    made = stitched(*(heard("x", *(Segment(a, b, "x", words=(Word("x", a, b),)) for a, b in part)) for part in parts))
    words = [word for segment in made.segments for word in segment.words]
    for times in ([(each.start_s, each.end_s) for each in timed] for timed in (made.segments, words)):
        assert all(start_s <= end_s <= made.duration_s for start_s, end_s in times)
        assert all(before[1] <= after[0] for before, after in pairwise(times))


def said_by(*speakers: Speaker) -> Transcript:
    """A part in which each of them has a word."""
    segments = [
        Segment(
            float(index), index + 1.0, "x", words=(Word("x", float(index), index + 1.0, speaker=index),), speaker=index
        )
        for index in range(len(speakers))
    ]
    return replace(heard("x", *segments), speakers=speakers)


ADA, BO = Voice((1.0, 0.0), 0.7, "m:00"), Voice((0.0, 1.0), 0.7, "m:00")


def test_speakers_whose_voices_are_alike_are_one_and_their_voices_are_forgotten() -> None:
    made = stitched(
        said_by(Speaker(None, 3.0, BO), Speaker("Ada", 1.0, ADA)),
        said_by(Speaker(None, 2.0, ADA), Speaker(None, 1.0, BO)),
    )
    assert made.speakers == (Speaker(None, 4.0), Speaker("Ada", 3.0))
    assert [segment.speaker for segment in made.segments] == [0, 1, 1, 0]
    assert [word.speaker for segment in made.segments for word in segment.words] == [0, 1, 1, 0]


def test_how_many_speakers_there_are_is_kept_to() -> None:
    parts = (said_by(Speaker(None, 1.0, ADA)), said_by(Speaker(None, 1.0, BO)), said_by(Speaker(None, 1.0, ADA)))
    assert len(stitched(*parts).speakers) == 2
    for options, count in (
        (JobOptions(diarize=True, speaker_count=1), 1),
        (JobOptions(diarize=True, speaker_count=3), 2),
        (JobOptions(diarize=True, max_speakers=1), 1),
        (JobOptions(diarize=True, min_speakers=3), 3),
    ):
        assert len(stitched(*parts, options=options).speakers) == count


def test_speakers_with_a_name_are_one_and_strangers_are_not() -> None:
    made = stitched(
        said_by(Speaker("Anna", 3.0), Speaker(None, 1.0)),
        said_by(Speaker(None, 2.0), Speaker("Bert", 1.0), Speaker("Anna", 4.0)),
    )
    assert made.speakers == (
        Speaker("Anna", 7.0),
        Speaker(None, 1.0),
        Speaker(None, 2.0),
        Speaker("Bert", 1.0),
    )
    assert [segment.speaker for segment in made.segments] == [0, 1, 2, 3, 0]
    assert [word.speaker for segment in made.segments for word in segment.words] == [0, 1, 2, 3, 0]


def test_where_nobody_was_told_apart_nobody_is() -> None:
    made = stitched(heard("x", Segment(0.0, 1.0, "x")), heard("y", Segment(0.0, 1.0, "y")))
    assert made.speakers == ()
    assert [segment.speaker for segment in made.segments] == [None, None]
