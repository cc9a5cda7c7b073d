"""What was said in each channel of a recording, and what in both together?

Each channel was heard by itself. The parts of the second follow those of the first, so that one begins where the times
begin anew. Of both together the segments come in the order in which they begin, and who speaks is whose channel it is:
a finding about the recording's wires, and not about voices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.transcript.languages import SPACELESS
from core.transcript.types import Segment, Speaker, Transcript
from proxy.jobs.model import JobOptions, JobResult, PartPlan
from proxy.jobs.ports import Stitcher

Parts = Sequence[tuple[PartPlan, Transcript]]


@dataclass(frozen=True, slots=True)
class Channelwise:
    """A `Stitcher` that has each channel stitched by another, where each was heard by itself."""

    stitcher: Stitcher

    def stitch(self, parts: Parts, options: JobOptions) -> JobResult:
        if not options.channels:
            return self.stitcher.stitch(parts, options)
        channels = tuple(self.stitcher.stitch(of_one, options).transcript for of_one in _by_channel(parts))
        return JobResult(_together(channels), channels=channels)


def _by_channel(parts: Parts) -> list[list[tuple[PartPlan, Transcript]]]:
    channels: list[list[tuple[PartPlan, Transcript]]] = []
    for plan, transcript in parts:
        if not channels or plan.start_ms <= channels[-1][-1][0].start_ms:
            channels.append([])
        channels[-1].append((plan, transcript))
    return channels


def _together(channels: Sequence[Transcript]) -> Transcript:
    longest = max(channels, key=lambda channel: len(channel.text))
    segments = sorted(
        (_said_by(segment, number) for number, channel in enumerate(channels) for segment in channel.segments),
        key=lambda segment: segment.start_s,
    )
    between = "" if longest.language in SPACELESS else " "
    return replace(
        longest,
        duration_s=max(channel.duration_s for channel in channels),
        text=between.join(text for segment in segments if (text := segment.text.strip())),
        segments=tuple(segments),
        speakers=tuple(Speaker(speaking_s=_spoken_s(channel)) for channel in channels),
        logprobs=(),
        input_text_tokens=max(channel.input_text_tokens for channel in channels),
        input_audio_tokens=sum(channel.input_audio_tokens for channel in channels),
        output_tokens=sum(channel.output_tokens for channel in channels),
    )


def _said_by(segment: Segment, number: int) -> Segment:
    return replace(segment, speaker=number, words=tuple(replace(word, speaker=number) for word in segment.words))


def _spoken_s(channel: Transcript) -> float:
    return sum(segment.end_s - segment.start_s for segment in channel.segments)
