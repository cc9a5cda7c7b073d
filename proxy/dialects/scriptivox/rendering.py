"""How are jobs, results and balances told? Scriptivox's JSON.

Speakers are `SPEAKER 1`, `SPEAKER 2` as they begin to speak. Which members a result has follows from the options of its
job: `speakers` and each `speaker` are null without `diarize`, and a word has then no such member; `words` is empty
without `align`. A confidence is null where nobody gave one. Durations are whole seconds, cut off; amounts have six
decimals at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from core.transcript.types import Segment, Transcript, Word
from proxy.dialects import extensions
from proxy.dialects.export import label
from proxy.dialects.scriptivox.errors import failure
from proxy.dialects.scriptivox.requests import ASKED_LANGUAGE
from proxy.dialects.times import iso
from proxy.jobs.model import Account, Balance, Job, JobResult, JobStatus, LinkSource, Page, Upload

Json = Mapping[str, Any]

_PROGRESS: Final = {
    JobStatus.CREATED: "Transcription created.",
    JobStatus.DOWNLOADING: "Downloading the file.",
    JobStatus.PENDING: "Waiting to be processed.",
    JobStatus.COMPLETED: "Transcription completed successfully.",
    JobStatus.FAILED: "Transcription failed.",
}
_CREATED: Final = (
    "Transcription created. The file will be {} and processed. Poll GET /v1/transcribe/{{id}} for status updates."
)


def created(job: Job) -> Json:
    """The answer to a submission."""
    done = "downloaded" if isinstance(job.source, LinkSource) else "validated"
    return {"id": job.id, "status": JobStatus.CREATED.value, "message": _CREATED.format(done)}


def upload(made: Upload, url: str) -> Json:
    return {
        "upload_id": made.id,
        "upload_url": url,
        "expires_in": (made.expires_ms - made.created_ms) // 1000,
        "method": "PUT",
        "headers": {"Content-Type": made.content_type},
    }


def item(job: Job, language: str | None = None) -> dict[str, Any]:
    """A job without its result. language: that was detected."""
    told: dict[str, Any] = {
        "id": job.id,
        "status": job.status.value,
        "audio_duration_seconds": None if job.audio_ms is None else job.audio_ms // 1000,
        "file_size_bytes": job.size_bytes,
        "language": job.options.extra.get(ASKED_LANGUAGE) or job.options.language or language,
        "diarize": job.options.diarize,
        "speaker_count": job.options.speaker_count,
        "align": job.options.words,
        "cost_cents": None if job.amount is None else cents(job.amount),
        "progress": _PROGRESS.get(job.status) or f"Transcribing: {job.progress_pct}%",
        "created_at": iso(job.created_ms),
        "started_at": None if job.started_ms is None else iso(job.started_ms),
        "completed_at": None if job.completed_ms is None else iso(job.completed_ms),
    }
    if isinstance(job.source, LinkSource):
        told["source_url"] = job.source.url
    if job.failure is not None:
        told["error"] = failure(job.failure)
    return told | extensions.told(job.options)


def detail(job: Job, result: JobResult | None) -> Json:
    """A job with its result, once it has one."""
    if result is None:
        return item(job) | {"result": None}
    told = item(job, result.transcript.language)
    return told | {"result": {**_result(job, result.transcript, told["language"]), **extensions.found(result)}}


def page(jobs: Page) -> Json:
    return {"items": [item(job) for job in jobs.jobs], "next_cursor": jobs.next_cursor}


def cancelled(job: Job) -> Json:
    return {
        "id": job.id,
        "status": job.status.value,
        "error": None if job.failure is None else failure(job.failure),
        "released_cents": cents(job.released or Decimal(0)),
    }


def balance(account: Account, held: Balance, *, deposit_url: str, now_ms: int) -> Json:
    """Of an account that pays; where nothing is paid for, all is 0 and nobody can say for how many hours it lasts."""
    price = account.plan.price_per_hour
    return {
        "balance_cents": cents(held.total),
        "reserved_cents": cents(held.held),
        "available_cents": cents(held.available),
        "price_per_hour_cents": cents(price),
        "estimated_hours_available": round(float(held.available / price), 1) if price else None,
        "deposit_url": deposit_url,
        "updated_at": iso(now_ms),
    }


def cents(amount: Decimal) -> int | float:
    """An amount as a JSON number: whole where it is whole."""
    exact = round(amount, 6)
    return int(exact) if exact == exact.to_integral_value() else float(exact)


def _result(job: Job, transcript: Transcript, language: str) -> Json:
    options = job.options
    utterances = [_utterance(segment, words=options.words, diarize=options.diarize) for segment in transcript.segments]
    speakers = _speakers(transcript) if options.diarize else None
    duration_ms = job.audio_ms if job.audio_ms is not None else int(transcript.duration_s * 1000)
    return {
        "full_transcript": transcript.text,
        "language": language,
        "duration_seconds": duration_ms // 1000,
        "speakers": speakers,
        "utterances": utterances,
    }


def _speakers(transcript: Transcript) -> list[str]:
    """In the order in which they begin to speak."""
    heard = dict.fromkeys(
        speaker
        for segment in transcript.segments
        for speaker in (segment.speaker, *(word.speaker for word in segment.words))
        if speaker is not None
    )
    return [label(speaker) for speaker in heard]


def _utterance(segment: Segment, *, words: bool, diarize: bool) -> Json:
    return {
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text.strip(),
        "speaker": _label(segment.speaker) if diarize else None,
        "confidence": _confidence(segment.words),
        "words": [_word(word, segment.speaker, diarize=diarize) for word in segment.words] if words else [],
    }


def _word(word: Word, speaker: int | None, *, diarize: bool) -> Json:
    told: dict[str, Any] = {
        "word": word.text.strip(),
        "start": round(word.start_s, 3),
        "end": round(word.end_s, 3),
        "confidence": None if word.probability is None else round(word.probability, 4),
    }
    if diarize:
        told["speaker"] = _label(speaker if word.speaker is None else word.speaker)
    return told


def _label(speaker: int | None) -> str | None:
    return None if speaker is None else label(speaker)


def _confidence(words: tuple[Word, ...]) -> float | None:
    """The mean of those of its words."""
    given = [word.probability for word in words if word.probability is not None]
    return round(sum(given) / len(given), 4) if given else None
