"""How does a row become a job, and back?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Row

from proxy.jobs.contents import DETAILS
from proxy.jobs.errors import VaultError
from proxy.jobs.ledger import from_micro
from proxy.jobs.model import BlobSource, Failure, FailureKind, Job, JobId, JobStatus, Source
from proxy.jobs.sealing import Place, RecordKey, unseal


def job_record(account: str, job_id: str) -> str:
    """Its account is in the name of its key: put into another's, a job does not open."""
    return f"job:{account}/{job_id}"


def blob_place(job_id: str) -> Place:
    return Place("job", job_id, "sealed_blob")


def details_place(job_id: str) -> Place:
    return Place("job", job_id, "sealed_details")


def result_place(job_id: str) -> Place:
    return Place("result", job_id, "sealed_result")


def speakers_place(job_id: str) -> Place:
    return Place("known_speakers", job_id, "sealed_speakers")


def part_place(job_id: str, index: int) -> Place:
    return Place("part", f"{job_id}/{index}", "sealed_transcript")


def receipt_place(job_id: str, index: int) -> Place:
    return Place("part", f"{job_id}/{index}", "sealed_receipt")


def job_of(row: Row[Any], key: RecordKey) -> Job:
    """Raises VaultError."""
    details = DETAILS.validate_json(unseal(key, details_place(row.id), row.sealed_details))
    if row.blob not in (None, _blob_of(row, key, details.source)):
        raise VaultError("a job's recording is another's")
    return Job(
        id=JobId(row.id),
        account=row.account,
        key=row.key,
        dialect=row.dialect,
        source=details.source,
        options=details.options,
        status=JobStatus(row.status),
        created_ms=row.created_ms,
        started_ms=row.started_ms,
        completed_ms=row.completed_ms,
        progress_pct=row.progress_pct,
        audio_ms=row.audio_ms,
        size_bytes=row.size_bytes,
        amount=None if row.amount_micro is None else from_micro(row.amount_micro),
        released=None if row.released_micro is None else from_micro(row.released_micro),
        failure=failure_of(row),
        blob=row.blob,
        attempts=row.attempts,
    )


def failure_of(row: Row[Any]) -> Failure | None:
    return None if row.failure is None else Failure(FailureKind(row.failure), json.loads(row.failure_numbers or "{}"))


def failure_values(failure: Failure) -> Mapping[str, str]:
    return {"failure": failure.kind.value, "failure_numbers": json.dumps(dict(failure.numbers))}


def _blob_of(row: Row[Any], key: RecordKey, source: Source) -> str | None:
    """What was kept for it last: the database alone cannot give it another's recording. Raises VaultError."""
    if row.sealed_blob is None:
        return blob_of(source)
    return unseal(key, blob_place(row.id), row.sealed_blob).decode()


def blob_of(source: object) -> str | None:
    return source.blob if isinstance(source, BlobSource) else None


def jobs_of(rows: Iterable[Row[Any]], keys: Mapping[str, RecordKey]) -> tuple[Job, ...]:
    """Those whose keys were not forgotten."""
    return tuple(job_of(row, keys[name]) for row in rows if (name := job_record(row.account, row.id)) in keys)
