"""What the answers must look like, written anew from the formats' definitions and not with the engine's own code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

from openai.types.audio import TranscriptionStreamEvent, TranscriptionVerbose
from pydantic import TypeAdapter


class Segment(Protocol):
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def text(self) -> str: ...


def srt(segments: Sequence[Segment]) -> str:
    """The segments as a SubRip file, byte for byte."""
    return "".join(
        f"{number}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{segment.text.strip()}\n\n"
        for number, segment in enumerate(segments, start=1)
    )


def vtt(segments: Sequence[Segment]) -> str:
    """The segments as a WebVTT file, byte for byte."""
    cues = (f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{cue.text.strip()}\n\n" for cue in segments)
    return "WEBVTT\n\n" + "".join(cues)


def _clock(seconds: float, mark: str) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{mark}{thousandths:03}"


def check_verbose(body: TranscriptionVerbose, said: str, *, words: bool = False) -> None:
    """Check a verbose answer to an English recording: its members, and the order and bounds of its times."""
    assert body.text == said
    assert body.language == "english"
    assert 0 < body.duration < 60
    assert body.usage is not None
    assert body.usage.type == "duration"
    assert body.usage.seconds == int(body.duration) + (body.duration % 1 > 0)
    assert body.segments
    assert [segment.id for segment in body.segments] == list(range(len(body.segments)))
    assert "".join(segment.text for segment in body.segments).strip() == said
    check_times([(segment.start, segment.end) for segment in body.segments], body.duration)
    if not words:
        assert body.words is None
        return
    assert body.words
    assert [word.word for word in body.words] == said.split()
    check_times([(word.start, word.end) for word in body.words], body.duration)


def check_times(times: Sequence[tuple[float, float]], duration: float) -> None:
    flat = [moment for pair in times for moment in pair]
    assert flat == sorted(flat), "times must not run backwards or overlap"
    assert flat[0] >= 0
    assert flat[-1] <= duration


_EVENT: TypeAdapter[TranscriptionStreamEvent] = TypeAdapter(TranscriptionStreamEvent)


def events(stream: bytes) -> list[TranscriptionStreamEvent]:
    """The events of a whole server-sent stream, whose end must be `[DONE]`."""
    *blocks, done, rest = stream.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    kept = [block.removeprefix("data: ") for block in blocks if not block.startswith(":")]
    return [_EVENT.validate_python(json.loads(block), strict=True) for block in kept]


def check_events(heard: Sequence[TranscriptionStreamEvent], said: str) -> None:
    """Check that the pieces add up to the text, and the figures to their total."""
    *deltas, done = heard
    assert deltas
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == said
    assert done.type == "transcript.text.done"
    assert done.text == said
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens
