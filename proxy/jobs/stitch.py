"""How do the transcripts of parts become that of a recording?

Times count from its beginning, stay inside of their part, and never run backwards. Texts are joined by one space, but
where the language puts none between words. Each part says which language it heard; that of the recording is the one
that most of what was said is in.

Speakers of two parts are one where they have one name, or voices that are alike (`proxy.jobs.voices`). Of an engine
that tells no voices, strangers of two parts stay two: to guess would put words into somebody's mouth. What voices are
like is forgotten here: the transcript of a recording has none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from core.transcript.languages import SPACELESS
from core.transcript.types import Segment, Speaker, Task, Transcript, Word
from proxy.jobs.model import JobOptions, JobResult, PartPlan
from proxy.jobs.voices import join_voices

Parts = Sequence[tuple[PartPlan, Transcript]]


class PartStitcher:
    """A `proxy.jobs.ports.Stitcher`, of at least one part, in their order."""

    def stitch(self, parts: Parts, options: JobOptions) -> JobResult:
        transcripts = [transcript for _, transcript in parts]
        speakers, numbers = _speakers(transcripts, options)
        whole = Transcript(
            task=options.task,
            language=_language(transcripts),
            duration_s=max(_end_s(plan, transcript) for plan, transcript in parts),
            text=_text(transcripts),
            segments=tuple(_segments(parts, numbers)),
            # The prompt goes before every part but is one text.
            input_text_tokens=max(transcript.input_text_tokens for transcript in transcripts),
            input_audio_tokens=sum(transcript.input_audio_tokens for transcript in transcripts),
            output_tokens=sum(transcript.output_tokens for transcript in transcripts),
            logprobs=tuple(logprob for transcript in transcripts for logprob in transcript.logprobs),
            speakers=speakers,
        )
        return JobResult(whole)


def _language(transcripts: Sequence[Transcript]) -> str:
    said: defaultdict[str, int] = defaultdict(int)
    for transcript in transcripts:
        said[transcript.language] += len(transcript.text.strip())
    return max(said, key=lambda language: said[language])  # the first of those in which nothing was said


def _text(transcripts: Sequence[Transcript]) -> str:
    text = ""
    for transcript in transcripts:
        if spoken := transcript.text.strip():
            written = "en" if transcript.task is Task.TRANSLATE else transcript.language
            text += ("" if not text or written in SPACELESS else " ") + spoken
    return text


def _speakers(
    transcripts: Sequence[Transcript], options: JobOptions
) -> tuple[tuple[Speaker, ...], tuple[tuple[int, ...], ...]]:
    """Who speaks in all parts, and for each part which of them its speakers are."""
    parts = [transcript.speakers for transcript in transcripts]
    numbers = join_voices(parts, least=options.min_speakers or 1, most=options.most_speakers)
    known: dict[int, Speaker] = {}
    for who, number in zip(chain.from_iterable(parts), chain.from_iterable(numbers), strict=True):
        before = known.get(number, Speaker())
        known[number] = Speaker(before.name or who.name, before.speaking_s + who.speaking_s)
    return tuple(known.values()), numbers


def _segments(parts: Parts, numbers: Sequence[Sequence[int]]) -> Iterator[Segment]:
    """numbers: which speakers of the recording those of each part are."""
    segment_floor_s = word_floor_s = 0.0
    for (plan, transcript), here in zip(parts, numbers, strict=True):

        def renumbered(speaker: int | None, here: Sequence[int] = here) -> int | None:
            return None if speaker is None else here[speaker]

        for segment in transcript.segments:
            start_s, segment_floor_s = _place(segment, plan, transcript, segment_floor_s)
            words = []
            for word in segment.words:
                word_start_s, word_floor_s = _place(word, plan, transcript, word_floor_s)
                speaker = renumbered(word.speaker)
                words.append(replace(word, start_s=word_start_s, end_s=word_floor_s, speaker=speaker))
            speaker = renumbered(segment.speaker)
            yield replace(segment, start_s=start_s, end_s=segment_floor_s, words=tuple(words), speaker=speaker)


def _place(timed: Segment | Word, plan: PartPlan, transcript: Transcript, floor_s: float) -> tuple[float, float]:
    """Start and end in the recording, in whole milliseconds, not before `floor_s`."""
    part_start_s, part_end_s = plan.start_ms / 1000, _end_s(plan, transcript)
    start_s, end_s = (
        round(min(max(part_start_s + at_s, part_start_s), part_end_s), 3) for at_s in (timed.start_s, timed.end_s)
    )
    start_s = max(start_s, floor_s)
    return start_s, max(end_s, start_s)


def _end_s(plan: PartPlan, transcript: Transcript) -> float:
    return plan.start_ms / 1000 + transcript.duration_s if plan.end_ms is None else plan.end_ms / 1000
