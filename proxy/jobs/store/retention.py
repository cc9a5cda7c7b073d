"""What is over, and what must go? Deadlines of jobs, and the end of recordings, deleted jobs, uploads and answers.

Each step is done in small transactions, and may be done by several replicas at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, delete, exists, func, or_, select, text, update

from proxy.jobs.blobs import FORGOTTEN, KEPT, WRITING, StoredBlobs
from proxy.jobs.model import Failure, FailureKind, JobStatus, QueueState, UploadState
from proxy.jobs.store.answers import StoredAnswers
from proxy.jobs.store.database import Database, Tx
from proxy.jobs.store.funds import Funds
from proxy.jobs.store.jobs import fail, forget, forget_blob
from proxy.jobs.store.notices import job_topic
from proxy.jobs.store.outbox import WAITING
from proxy.jobs.store.records import Records
from proxy.jobs.store.schema import (
    ACTIVE,
    TO_FORGET,
    answer,
    blob,
    delivery,
    job,
    known_speakers,
    part,
    rate_window,
    result,
    upload,
)
from proxy.jobs.store.uploads import upload_record

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

_AT_ONCE: Final = 200
_ORPHAN_MS: Final = HOUR_MS
"""Between the end of a recording's upload and the submission of its job there is less."""

_FAILURES: Final[Mapping[JobStatus, FailureKind]] = {
    JobStatus.CREATED: FailureKind.CREATED_TIMEOUT,
    JobStatus.PENDING: FailureKind.ENGINE_FAILED,
}


@dataclass(frozen=True, slots=True)
class Periods:
    """deadlines_ms: how long a job may wait in a state since it last got on, however often it was begun meanwhile; how
    long work on one may take is its worker's (`Pace`).

    audio_ms: how long a recording is kept after its job's end.
    results_ms: how long a result is kept, None until it is deleted. deleted_ms: how long of a deleted job is kept that
    it was there. uploads_ms: how long an upload waits for its job. writing_ms: longer than any upload takes.
    """

    deadlines_ms: Mapping[JobStatus, int] = field(
        default_factory=lambda: {
            JobStatus.CREATED: 30 * MINUTE_MS,
            JobStatus.PENDING: DAY_MS,
        }
    )
    audio_ms: int = DAY_MS
    results_ms: int | None = None
    deleted_ms: int = 7 * DAY_MS
    uploads_ms: int = DAY_MS
    writing_ms: int = DAY_MS


class Sweeper:
    """Sweeps a database and its recordings."""

    def __init__(
        self,
        database: Database,
        records: Records,
        blobs: StoredBlobs,
        answers: StoredAnswers,
        periods: Periods,
        *,
        funds: Funds,
    ) -> None:
        self._database = database
        self._records = records
        self._funds = funds
        self._blobs = blobs
        self._answers = answers
        self._periods = periods

    async def sweep(self) -> Mapping[str, int]:
        """How many things went, by what they were. Raises StoreError; then the next sweep does the rest."""
        steps: dict[str, Callable[[], Awaitable[int]]] = {
            "deadline": self._deadlines,
            "audio": self._recordings,
            "result": self._results,
            "job": self._deleted,
            "upload": self._uploads,
            "answer": self._old_answers,
            "rate": self._old_windows,
            "blob": self._blobs_nobody_has,
        }
        swept = {}
        for name, step in steps.items():
            swept[name] = 0
            while count := await step():
                swept[name] += count
        return swept

    async def state(self) -> QueueState:
        async with self._database.begin() as tx:
            counted = select(job.c.status, func.count().label("jobs")).where(text(ACTIVE)).group_by(job.c.status)
            counts = {JobStatus(row.status): int(row.jobs) for row in await tx.run(counted)}
            waits = job.c.status.in_((JobStatus.CREATED, JobStatus.PENDING))
            oldest = select(func.min(job.c.state_ms)).where(text(ACTIVE), waits, job.c.due_ms <= tx.now_ms)
            since_ms = (await tx.run(oldest)).scalar_one_or_none()
            messages = (await tx.run(select(func.count()).where(delivery.c.state == WAITING))).scalar_one()
            return QueueState(counts, 0 if since_ms is None else tx.now_ms - since_ms, int(messages))

    async def _deadlines(self) -> int:
        async with self._database.begin() as tx:
            late = [
                and_(job.c.status == status, job.c.state_ms < tx.now_ms - limit_ms)
                for status, limit_ms in self._periods.deadlines_ms.items()
            ]
            rows = await _some(tx, job, and_(text(ACTIVE), or_(*late)))
            # Accounts in one order, in every replica: each is held until the end.
            for row in sorted(rows, key=lambda row: str(row.account)):
                await fail(tx, row, Failure(_FAILURES[JobStatus(row.status)]), self._funds)
                tx.tell(job_topic(row.id))
        return len(rows)

    async def _recordings(self) -> int:
        async with self._database.begin() as tx:
            old = and_(job.c.completed_ms < tx.now_ms - self._periods.audio_ms, job.c.blob.is_not(None))
            rows = await _some(tx, job, old)
            for row in rows:
                await forget_blob(tx, self._records, row.blob)
                await tx.run(update(job).where(job.c.id == row.id).values(blob=None))
        return len(rows)

    async def _results(self) -> int:
        """Also those that whoever submitted them wanted forgotten by now."""
        count = 0
        async with self._database.begin() as tx:
            old = [and_(text(TO_FORGET), job.c.completed_ms + job.c.keep_ms < tx.now_ms)]
            if self._periods.results_ms is not None:
                before_ms = tx.now_ms - self._periods.results_ms
                old.append(and_(job.c.completed_ms < before_ms, job.c.deleted_ms.is_(None)))
            for which in old:
                for row in await _some(tx, job, which):
                    await forget(tx, self._records, row)
                    count += 1
        return count

    async def _deleted(self) -> int:
        async with self._database.begin() as tx:
            rows = await _some(tx, job, job.c.deleted_ms < tx.now_ms - self._periods.deleted_ms)
            ids = [row.id for row in rows]
            for table in (part, known_speakers, result, delivery):
                await tx.run(delete(table).where(table.c.job.in_(ids)))
            await tx.run(delete(job).where(job.c.id.in_(ids)))
        return len(rows)

    async def _uploads(self) -> int:
        async with self._database.begin() as tx:
            empty = and_(
                upload.c.state == UploadState.ISSUED, upload.c.expires_ms < tx.now_ms - self._periods.uploads_ms
            )
            old = and_(upload.c.state != UploadState.ISSUED, upload.c.created_ms < tx.now_ms - self._periods.uploads_ms)
            rows = await _some(tx, upload, or_(empty, old))
            for row in rows:
                await self._records.forget(tx, upload_record(row.account, row.id))
                if row.state == UploadState.RECEIVED:
                    await forget_blob(tx, self._records, row.blob)
                await tx.run(delete(upload).where(upload.c.id == row.id))
        return len(rows)

    async def _old_answers(self) -> int:
        async with self._database.begin() as tx:
            rows = await _some(tx, answer, answer.c.until_ms < tx.now_ms)
            for row in rows:
                await self._answers.forget(tx, row)
        return len(rows)

    async def _old_windows(self) -> int:
        async with self._database.begin() as tx:
            rows = await _some(tx, rate_window, rate_window.c.until_ms < tx.now_ms)
            await tx.run(delete(rate_window).where(rate_window.c.key.in_([row.key for row in rows])))
        return len(rows)

    async def _blobs_nobody_has(self) -> int:
        async with self._database.begin() as tx:
            for row in await _some(tx, blob, _left(tx, self._periods.writing_ms)):
                await forget_blob(tx, self._records, row.id)
            forgotten = await _some(tx, blob, blob.c.state == FORGOTTEN)
        for row in forgotten:
            await self._blobs.remove(row.id)
        return len(forgotten)


def _left(tx: Tx, writing_ms: int) -> ColumnElement[bool]:
    """Recordings whose process died while they arrived, or before a job was submitted for them."""
    has_job = exists().where(job.c.blob == blob.c.id)
    has_upload = exists().where(upload.c.blob == blob.c.id)
    dead = and_(blob.c.state == WRITING, blob.c.created_ms < tx.now_ms - writing_ms)
    orphan = and_(blob.c.state == KEPT, blob.c.created_ms < tx.now_ms - writing_ms - _ORPHAN_MS, ~has_job, ~has_upload)
    return or_(dead, orphan)


async def _some(tx: Tx, table: Any, which: ColumnElement[bool]) -> list[Row[Any]]:
    query = select(table).where(which).limit(_AT_ONCE).with_for_update(skip_locked=True, key_share=True)
    return list((await tx.run(query)).all())
