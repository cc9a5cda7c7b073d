"""Channels that were heard one by one become one transcript, and stay two."""

from __future__ import annotations

from core.transcript.types import Segment, Speaker, Task, TokenLogprob, Transcript, Word
from proxy.jobs.channels import Channelwise
from proxy.jobs.model import JobOptions, JobResult, PartPlan
from proxy.jobs.ports import Stitcher
from proxy.jobs.stitch import PartStitcher

STITCHER: Stitcher = Channelwise(PartStitcher())
ASKED = JobOptions(channels=True)


def said(text: str, start_s: float, end_s: float) -> Transcript:
    words = (Word(text, start_s, end_s),)
    segments = (Segment(start_s, end_s, text, words=words),)
    return Transcript(Task.TRANSCRIBE, "en", 10.0, text, segments, 7, 500, 20, (TokenLogprob("a", -1.0),))


def stitched(*parts: tuple[int, Transcript], options: JobOptions = ASKED) -> JobResult:
    plans = [PartPlan(index, start_ms, start_ms + 10_000) for index, (start_ms, _) in enumerate(parts)]
    return STITCHER.stitch(list(zip(plans, (transcript for _, transcript in parts), strict=True)), options)


def test_the_parts_of_the_second_channel_follow_those_of_the_first() -> None:
    made = stitched(
        (5_000, said("Hello?", 1.0, 2.0)),
        (15_000, said("Fine.", 2.0, 3.0)),
        (5_000, said("Hi, how are you?", 3.0, 5.0)),
        (15_000, said("Good.", 6.0, 7.0)),
    )
    assert [channel.text for channel in made.channels] == ["Hello? Fine.", "Hi, how are you? Good."]
    whole = made.transcript
    assert whole.text == "Hello? Hi, how are you? Fine. Good."
    assert [(segment.start_s, segment.speaker) for segment in whole.segments] == [
        (6.0, 0),
        (8.0, 1),
        (17.0, 0),
        (21.0, 1),
    ]
    assert [word.speaker for segment in whole.segments for word in segment.words] == [0, 1, 0, 1]
    assert whole.speakers == (Speaker(speaking_s=2.0), Speaker(speaking_s=3.0))
    assert (whole.duration_s, whole.input_audio_tokens, whole.output_tokens) == (25.0, 2_000, 80)
    assert whole.logprobs == ()


def test_a_channel_in_which_nobody_spoke_is_there_and_empty() -> None:
    silent = Transcript(Task.TRANSCRIBE, "en", 10.0, "", ())
    made = stitched((0, said("Hello?", 1.0, 2.0)), (0, silent))
    assert [channel.text for channel in made.channels] == ["Hello?", ""]
    assert made.transcript.text == "Hello?"


def test_nothing_is_put_between_words_of_a_language_that_has_no_spaces() -> None:
    one, two = said("你好", 0.0, 1.0), said("早上好", 2.0, 3.0)
    chinese = [Transcript(each.task, "zh", 10.0, each.text, each.segments) for each in (one, two)]
    assert stitched((0, chinese[0]), (0, chinese[1])).transcript.text == "你好早上好"


def test_where_channels_were_not_asked_for_there_are_none() -> None:
    made = stitched((0, said("Hello?", 1.0, 2.0)), (10_000, said("Hi.", 0.0, 1.0)), options=JobOptions())
    assert (made.channels, made.transcript.text) == ((), "Hello? Hi.")
