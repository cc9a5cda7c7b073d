"""How are jobs and results told? AudioToTextAI's JSON.

All that is not over is `processing`. Speakers are `SPEAKER_00`, `SPEAKER_01` as they begin to speak, and are called
"Speaker 1" where nobody has given them a name: what they are, host or guest, nobody here can know. A summary says how
it was made: `model` with the model's name, or `extractive`, out of sentences that were said (`proxy.jobs.extracts`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from core.transcript.types import Segment, Transcript, Word
from proxy.dialects import extensions
from proxy.dialects.audiototext.errors import message
from proxy.dialects.audiototext.requests import ASKED_LANGUAGE, UNTIMED
from proxy.dialects.languages import NAMES
from proxy.jobs.model import Failure, FailureKind, Job, JobResult, JobStatus, Meter, PlanTerms

Json = Mapping[str, Any]

AUTO_DETECT = {"code": "", "name": "Auto-detect"}
_FIRST = ("en", "es", "fr")
_MS_PER_HOUR = 3_600_000


def languages() -> Json:
    """Auto-detect, those that the document shows, then all others by name."""
    others = sorted((code for code in NAMES if code not in _FIRST), key=NAMES.__getitem__)
    return {"languages": [AUTO_DETECT, *({"code": code, "name": NAMES[code]} for code in (*_FIRST, *others))]}


_UNKNOWN = Failure(FailureKind.INTERNAL)


def submitted(job: Job, estimated: Decimal | None) -> Json:
    return {"id": job.id, "status": "processing", "estimated_credits": None if estimated is None else tenths(estimated)}


def job(told: Job, result: JobResult | None, *, segments: bool) -> Json:
    """A job as it stands; with its result, once it has one. segments: whether to list them."""
    again = extensions.told(told.options)
    if told.status is JobStatus.FAILED:
        return {"id": told.id, "status": "failed", "error_message": message(told.failure or _UNKNOWN), **again}
    if result is None:
        return {"id": told.id, "status": "processing", "progress": told.progress_pct, **again}
    listed = {"segments": _segments(told, result.transcript)} if segments else {}
    return {**_completed(told, result), **listed, **extensions.found(result), **again}


def _completed(told: Job, result: JobResult) -> dict[str, Any]:
    transcript, options = result.transcript, told.options
    duration_s = transcript.duration_s if told.audio_ms is None else told.audio_ms / 1000
    return {
        "id": told.id,
        "status": "completed",
        "transcript": transcript.text,
        "duration_seconds": round(duration_s, 3),
        "language": options.extra.get(ASKED_LANGUAGE) or options.language or transcript.language,
        "credits_used": tenths(told.amount or Decimal(0)),
        "speakers": _speakers(transcript) if options.diarize else [],
        "summary": result.summary,
        "topics": list(result.topics),
        **_method(result),
    }


def _method(result: JobResult) -> Json:
    if result.summary_method is None:
        return {}
    named = {} if result.summary_model is None else {"summary_model": result.summary_model}
    return {"summary_method": result.summary_method, **named}


def _speakers(transcript: Transcript) -> list[Json]:
    spoken_s: dict[int, float] = {}
    for segment in transcript.segments:
        if segment.speaker is not None:
            spoken_s[segment.speaker] = spoken_s.get(segment.speaker, 0.0) + segment.end_s - segment.start_s
    return [
        {"id": f"SPEAKER_{speaker:02}", "label": _label(transcript, speaker), "speaking_time": round(seconds, 3)}
        for speaker, seconds in sorted(spoken_s.items())
    ]


def _label(transcript: Transcript, speaker: int) -> str:
    known = transcript.speakers[speaker].name if speaker < len(transcript.speakers) else None
    return known or f"Speaker {speaker + 1}"


def _segments(told: Job, transcript: Transcript) -> list[Json]:
    return [_segment(told, transcript, segment) for segment in transcript.segments]


def _segment(told: Job, transcript: Transcript, segment: Segment) -> Json:
    is_timed = UNTIMED not in told.options.extra
    is_known = told.options.diarize and segment.speaker is not None
    times = {"start": round(segment.start_s, 3), "end": round(segment.end_s, 3)} if is_timed else {}
    words = {"words": [_word(word) for word in segment.words]} if told.options.words else {}
    return {
        **times,
        "text": segment.text.strip(),
        "speaker": _label(transcript, segment.speaker) if is_known and segment.speaker is not None else None,
        "confidence": _confidence(segment),
        **words,
    }


def _word(word: Word) -> Json:
    return {
        "word": word.text.strip(),
        "start": round(word.start_s, 3),
        "end": round(word.end_s, 3),
        "confidence": None if word.probability is None else round(word.probability, 4),
    }


def _confidence(segment: Segment) -> float | None:
    """The mean of those of its words, or what its text's tokens are worth; null where nobody has judged it."""
    given = [word.probability for word in segment.words if word.probability is not None]
    if given:
        return round(sum(given) / len(given), 4)
    return round(math.exp(min(segment.avg_logprob, 0.0)), 4) if segment.avg_logprob else None


def credits_of(plan: PlanTerms, audio_ms: int) -> Decimal:
    """What a recording of this length costs; nothing where nobody pays."""
    paid = plan.meter in (Meter.CREDITS, Meter.CENTS)
    return Decimal(audio_ms) / _MS_PER_HOUR * plan.price_per_hour if paid else Decimal(0)


def tenths(amount: Decimal) -> float:
    return float(round(amount, 1))


def plain(amount: Decimal) -> str:
    """As the sentence about missing credits has them: `10`, `5.5`."""
    return f"{round(amount, 1).normalize():f}"
