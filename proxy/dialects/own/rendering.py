"""How is a job told, and what was heard in it? Times of jobs in ISO 8601, times of recordings in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from core.transcript import captions
from core.transcript.labels import speaker_labels
from core.transcript.types import Segment, Speaker, Transcript, Word
from proxy.dialects.export import Format, export
from proxy.dialects.modes import Mode, agent, cleaned
from proxy.dialects.own.parsing import ResultQuery
from proxy.jobs.model import BlobSource, FailureKind, Job, JobId, JobResult, Page, PartReceipt

SENTENCES: Final[Mapping[FailureKind, str]] = {
    FailureKind.BILLING: "The price could not be taken: nothing was, and the result is withheld.",
    FailureKind.CANCELLED: "The job was cancelled.",
    FailureKind.CREATED_TIMEOUT: "The job waited too long to be begun.",
    FailureKind.DOWNLOAD_TIMEOUT: "The download took too long.",
    FailureKind.ENGINE_FAILED: "The engine failed, or was not to be reached, each time that it was tried.",
    FailureKind.ENGINE_REFUSED: "The engine did not accept the request.",
    FailureKind.FUNDS: "The account cannot pay for a recording of this length.",
    FailureKind.INTERNAL: "The proxy had an error.",
    FailureKind.MEDIA_TOO_LARGE: "The recording is too large.",
    FailureKind.MEDIA_TOO_LONG: "The recording is too long.",
    FailureKind.MEDIA_TOO_SHORT: "The recording is too short.",
    FailureKind.MEDIA_ONE_CHANNEL: "The recording does not have two channels that differ.",
    FailureKind.MEDIA_UNREADABLE: "Nothing can be heard in the file.",
    FailureKind.PROCESSING_TIMEOUT: "The job took too long.",
    FailureKind.SOURCE_INTERRUPTED: "The download broke off.",
    FailureKind.SOURCE_LOST: "The recording is not here any more, or cannot be opened.",
    FailureKind.SOURCE_UNREACHABLE: "The link leads to nothing that can be fetched.",
}


def receipts_object(job: JobId, receipts: Sequence[PartReceipt]) -> dict[str, Any]:
    """As `proxy.sealed.receipts` reads it."""
    return {
        "object": "receipts",
        "version": 1,
        "job": job,
        "receipts": [
            {
                "part": part.index,
                "start_ms": part.start_ms,
                "end_ms": part.end_ms,
                "instance": part.receipt.instance,
                "statement_sha256": part.receipt.statement_sha256,
                "request_sha256": part.receipt.request_sha256,
                "answer_sha256": part.receipt.answer_sha256,
                "receipt": part.receipt.signed,
            }
            for part in receipts
        ],
    }


def job_object(job: Job) -> dict[str, Any]:
    failure = None
    if job.failure is not None:
        numbers = dict(job.failure.numbers)
        failure = {"code": job.failure.kind.value, "message": SENTENCES[job.failure.kind], "numbers": numbers}
    return {
        "object": "job",
        "id": job.id,
        "status": "cancelled" if job.is_cancelled else job.status.value,
        "progress": job.progress_pct,
        "created_at": _moment(job.created_ms),
        "started_at": _moment(job.started_ms),
        "completed_at": _moment(job.completed_ms),
        "source": "file" if isinstance(job.source, BlobSource) else "link",
        "name": job.source.name if isinstance(job.source, BlobSource) else None,
        "model": job.options.model,
        "language": job.options.language,
        "size_bytes": job.size_bytes,
        "duration_s": None if job.audio_ms is None else job.audio_ms / 1000,
        "priority": job.options.priority.value,
        "metadata": dict(job.options.metadata),
        "amount": None if job.amount is None else str(job.amount),
        "failure": failure,
    }


def page_object(page: Page) -> dict[str, Any]:
    return {"object": "list", "data": [job_object(job) for job in page.jobs], "next_cursor": page.next_cursor}


def _moment(ms: int | None) -> str | None:
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def result_body(result: JobResult, wanted: ResultQuery) -> tuple[bytes, str]:
    """A body and its media type."""
    media_type, write = _WRITERS[wanted.format]
    return _written(result, wanted, write).encode("utf-8", "replace"), media_type


def _written(result: JobResult, wanted: ResultQuery, write: Callable[[JobResult], str]) -> str:
    if wanted.export is not None:
        return export(result.transcript, wanted.export)
    if wanted.mode is Mode.AGENT:
        return json.dumps(agent(result.transcript), ensure_ascii=False, separators=(",", ":"))
    if wanted.mode is Mode.CLEAN:
        channels = tuple(cleaned(channel) for channel in result.channels)
        return write(replace(result, transcript=cleaned(result.transcript), channels=channels))
    return write(result)


def _json(result: JobResult) -> str:
    transcript = result.transcript
    body = {
        "object": "job.result",
        "text": transcript.text.strip(),
        "language": transcript.language,
        "duration_s": _seconds(transcript.duration_s),
        "segments": [_segment_object(segment) for segment in transcript.segments],
        "speakers": _speaker_objects(transcript.speakers),
        "channels": [_channel_object(number, said) for number, said in enumerate(result.channels, start=1)],
        "summary": result.summary,
        "topics": list(result.topics),
        "summary_method": result.summary_method,
        "summary_model": result.summary_model,
        "redacted": {kind.value: count for kind, count in result.redacted.items()},
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def _segment_object(segment: Segment) -> dict[str, Any]:
    return {
        "start_s": _seconds(segment.start_s),
        "end_s": _seconds(segment.end_s),
        "text": segment.text.strip(),
        "speaker": segment.speaker,
        "words": [_word_object(word) for word in segment.words],
    }


def _word_object(word: Word) -> dict[str, Any]:
    times = {"start_s": _seconds(word.start_s), "end_s": _seconds(word.end_s)}
    return {"word": word.text.strip(), **times, "speaker": word.speaker}


def _speaker_objects(speakers: Sequence[Speaker]) -> list[dict[str, Any]]:
    """As they begin to speak."""
    return [
        {"speaker": number, "label": label, "name": who.name, "speaking_s": _seconds(who.speaking_s)}
        for number, (label, who) in enumerate(zip(speaker_labels(speakers), speakers, strict=True))
    ]


def _channel_object(number: int, said: Transcript) -> dict[str, Any]:
    segments = [_segment_object(segment) for segment in said.segments]
    return {"channel": number, "text": said.text.strip(), "language": said.language, "segments": segments}


def _seconds(seconds: float) -> float:
    return captions.milliseconds(seconds) / 1000


_WRITERS: Final[Mapping[Format, tuple[str, Callable[[JobResult], str]]]] = {
    Format.JSON: ("application/json", _json),
    Format.TEXT: ("text/plain; charset=utf-8", lambda result: result.transcript.text.strip() + "\n"),
    Format.SRT: ("text/plain; charset=utf-8", lambda result: captions.srt(result.transcript.segments)),
    Format.VTT: ("text/vtt; charset=utf-8", lambda result: captions.vtt(result.transcript.segments)),
}
