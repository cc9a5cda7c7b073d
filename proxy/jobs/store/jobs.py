"""What may be asked of jobs? `proxy.jobs.ports.Jobs`, over a database."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from itertools import takewhile
from typing import Any, Final

import structlog
from sqlalchemy import Row, delete, func, insert, select, text, tuple_, update

from core.transcript.types import Transcript
from proxy.jobs.contents import DETAILS, KNOWN_SPEAKERS, RESULT, TRANSCRIPT, Details
from proxy.jobs.errors import ConflictError, CrowdedError, LedgerError, MissingError
from proxy.jobs.ledger import to_micro
from proxy.jobs.limits import check_length, check_size
from proxy.jobs.model import (
    AccountId,
    BlobSource,
    Failure,
    FailureKind,
    Job,
    JobId,
    JobResult,
    JobStatus,
    KnownSpeaker,
    ListQuery,
    NewJob,
    Page,
    PartPlan,
    Priority,
    SourceKind,
)
from proxy.jobs.ports import Once
from proxy.jobs.sealing import seal, unseal
from proxy.jobs.store import funds, outbox
from proxy.jobs.store.answers import StoredAnswers
from proxy.jobs.store.database import Database, Tx
from proxy.jobs.store.funds import Funds
from proxy.jobs.store.ids import new_id
from proxy.jobs.store.notices import QUEUE, job_topic
from proxy.jobs.store.records import Records
from proxy.jobs.store.rows import (
    blob_of,
    details_place,
    failure_values,
    job_of,
    job_record,
    jobs_of,
    part_place,
    result_place,
    speakers_place,
)
from proxy.jobs.store.schema import ACTIVE, blob, delivery, job, known_speakers, part, result
from proxy.jobs.vault import Pepper

_log = structlog.get_logger(__name__)

MAX_LIMIT: Final = 200
_RANKS: Final = {Priority.HIGH: -1, Priority.NORMAL: 0, Priority.LOW: 1}
_SEAL_BYTES: Final = 16


class StoredJobs:
    """Jobs in `database`, sealed under their `records`' keys."""

    def __init__(
        self, database: Database, records: Records, pepper: Pepper, answers: StoredAnswers, funds_: Funds
    ) -> None:
        self._database = database
        self._records = records
        self._pepper = pepper
        self._answers = answers
        self._funds = funds_

    async def submit(self, new: NewJob, *, once: Once | None = None) -> Job:
        async with self._database.begin() as tx:
            owner = await funds.payer(tx, new.account)
            if new.at_most is not None:
                await _check_room(tx, new, new.at_most)
            check_size(new.size_bytes, owner.plan.max_upload_bytes)
            check_length(new.audio_ms, owner.plan.max_audio_ms)
            await self._funds.check_some(tx, owner)
            job_id = JobId(new_id(tx.now_ms))
            source = blob_of(new.source)
            if source is not None:
                await _check_blob(tx, source)
            key = await self._records.make(tx, job_record(new.account, job_id))
            known = new.options.known_speakers
            names = tuple(KnownSpeaker(speaker.name) for speaker in known)
            details = DETAILS.dump_json(Details(new.source, replace(new.options, known_speakers=names)))
            is_here = isinstance(new.source, BlobSource)
            row = {
                "id": job_id,
                "account": new.account,
                "key": new.key,
                "dialect": new.dialect,
                "source": SourceKind.BLOB if is_here else SourceKind.LINK,
                "status": JobStatus.PENDING if is_here else JobStatus.CREATED,
                "state_ms": tx.now_ms,
                "blob": source,
                "created_ms": tx.now_ms,
                "audio_ms": new.audio_ms,
                "size_bytes": new.size_bytes,
                "notify": new.options.webhook_url is not None,
                "rank": _RANKS[new.options.priority],
                "keep_ms": new.options.delete_after_ms,
                "sealed_details": seal(key, details_place(job_id), details),
            }
            await tx.run(insert(job).values(**row))
            if known:
                sealed = seal(key, speakers_place(job_id), KNOWN_SPEAKERS.dump_json(known))
                await tx.run(insert(known_speakers).values(job=job_id, sealed_speakers=sealed))
            if new.audio_ms is not None:
                await self._funds.hold(tx, owner, job_id, new.audio_ms)
            tx.tell(QUEUE)
            made = job_of(await _row(tx, new.account, job_id), key)
            if once is not None:
                await self._answers.keep_in(tx, new.account, once.route, once.key, once.render(made))
            return made

    async def get(self, account: AccountId, job_id: JobId) -> Job:
        async with self._database.begin() as tx:
            row = await _row(tx, account, job_id)
            return job_of(row, await self._records.key(tx, job_record(account, job_id)))

    async def result(self, account: AccountId, job_id: JobId) -> JobResult:
        async with self._database.begin() as tx:
            row = await _row(tx, account, job_id)
            if row.status != JobStatus.COMPLETED:
                raise ConflictError("the job has not completed")
            sealed = (await tx.run(select(result.c.sealed_result).where(result.c.job == job_id))).scalar_one()
            key = await self._records.key(tx, job_record(account, job_id))
        return RESULT.validate_json(unseal(key, result_place(job_id), sealed))

    async def heard(
        self, account: AccountId, job_id: JobId, *, after: int = 0
    ) -> Sequence[tuple[PartPlan, Transcript]]:
        async with self._database.begin() as tx:
            await _row(tx, account, job_id)
            query = select(part).where(part.c.job == job_id, part.c.number >= after).order_by(part.c.number)
            rows = list(takewhile(lambda row: row.sealed_transcript is not None, await tx.run(query)))
            key = await self._records.key(tx, job_record(account, job_id))
        return [
            (PartPlan(row.number, row.start_ms, row.end_ms), TRANSCRIPT.validate_json(unseal(key, place, sealed)))
            for row in rows
            for place, sealed in [(part_place(job_id, row.number), row.sealed_transcript)]
        ]

    async def list(self, account: AccountId, query: ListQuery) -> Page:
        query, after = self._opened(account, query)
        if not 1 <= query.limit <= MAX_LIMIT:
            raise ValueError(f"limit is 1 to {MAX_LIMIT}")
        place = tuple_(job.c.created_ms, job.c.id)
        wanted = [job.c.account == account, job.c.deleted_ms.is_(None)]
        wanted += [job.c.status == query.status] if query.status else []
        wanted += [job.c.created_ms >= query.from_ms] if query.from_ms is not None else []
        wanted += [job.c.created_ms < query.to_ms] if query.to_ms is not None else []
        wanted += [place > after if query.ascending else place < after] if after else []
        order = [job.c.created_ms, job.c.id] if query.ascending else [job.c.created_ms.desc(), job.c.id.desc()]
        async with self._database.begin() as tx:
            rows = (await tx.run(select(job).where(*wanted).order_by(*order).limit(query.limit + 1))).all()
            shown = rows[: query.limit]
            keys = await self._records.keys(tx, [job_record(row.account, row.id) for row in shown])
        more = len(rows) > query.limit
        return Page(jobs_of(shown, keys), self._cursor(account, query, shown[-1]) if more else None)

    def _cursor(self, account: AccountId, query: ListQuery, last: Row[Any]) -> str:
        state = asdict(query) | {"cursor": None, "after": [last.created_ms, last.id]}
        data = json.dumps(state, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._cursor_seal(account, data) + data).decode().rstrip("=")

    def _opened(self, account: AccountId, query: ListQuery) -> tuple[ListQuery, tuple[int, str] | None]:
        """The query that a cursor repeats, and the place after which it goes on. Raises ValueError."""
        if query.cursor is None:
            return query, None
        try:
            raw = base64.urlsafe_b64decode(query.cursor + "=" * (-len(query.cursor) % 4))
        except ValueError:
            raw = b""
        seal_of, data = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
        if not hmac.compare_digest(seal_of, self._cursor_seal(account, data)):
            raise ValueError("not a cursor of this list")
        state = json.loads(data)
        created_ms, last = state.pop("after")
        status = state.pop("status")
        again = ListQuery(**state | {"limit": query.limit}, status=JobStatus(status) if status else None)
        if replace(query, cursor=None) not in (again, ListQuery(limit=query.limit)):
            raise ValueError("a cursor goes with the query that it came from")
        return again, (created_ms, last)

    def _cursor_seal(self, account: AccountId, data: bytes) -> bytes:
        return self._pepper.digest("cursor", account.encode(), data)[:_SEAL_BYTES]

    async def cancel(self, account: AccountId, job_id: JobId) -> Job:
        async with self._database.begin() as tx:
            row = await _row(tx, account, job_id, locked=True)
            if not JobStatus(row.status).is_final:
                await fail(tx, row, Failure(FailureKind.CANCELLED), self._funds)
                tx.tell(job_topic(job_id))
                row = await _row(tx, account, job_id)
            elif row.failure != FailureKind.CANCELLED:
                raise ConflictError("the job is over")
            return job_of(row, await self._records.key(tx, job_record(account, job_id)))

    async def delete(self, account: AccountId, job_id: JobId) -> None:
        async with self._database.begin() as tx:
            row = await _row(tx, account, job_id, locked=True, deleted=True)
            if not JobStatus(row.status).is_final:
                raise ConflictError("the job is not over: cancel it first")
            if row.deleted_ms is None:
                await forget(tx, self._records, row)


async def _check_room(tx: Tx, new: NewJob, at_most: int) -> None:
    """Raises CrowdedError."""
    await funds.locked_account(tx, new.account)
    mine = (text(ACTIVE), job.c.account == new.account, job.c.dialect == new.dialect)
    if (await tx.run(select(func.count()).select_from(job).where(*mine))).scalar_one() >= at_most:
        raise CrowdedError


async def _check_blob(tx: Tx, blob_id: str) -> None:
    """Raises MissingError."""
    if (await tx.run(select(blob.c.id).where(blob.c.id == blob_id, blob.c.state == "kept"))).one_or_none() is None:
        raise MissingError


async def _row(tx: Tx, account: AccountId, job_id: JobId, *, locked: bool = False, deleted: bool = False) -> Row[Any]:
    """Raises MissingError."""
    query = select(job).where(job.c.id == job_id, job.c.account == account)
    query = query if deleted else query.where(job.c.deleted_ms.is_(None))
    row = (await tx.run(query.with_for_update(key_share=True) if locked else query)).one_or_none()
    if row is None:
        raise MissingError
    return row


async def fail(tx: Tx, row: Row[Any], failure: Failure, money: Funds) -> None:
    """End a job, whose row is locked and not final: nobody works on it any more, and what was held is given back.

    Where the account's lines were altered none is added, and what was held stays so.
    """
    try:
        released = await money.release(tx, row.account, JobId(row.id))
    except LedgerError as exc:
        _log.error("ledger_altered", error=str(exc))
        released = Decimal(0)
    values = {
        "status": JobStatus.FAILED,
        "state_ms": tx.now_ms,
        "completed_ms": tx.now_ms,
        "fence": job.c.fence + 1,
        "worker": None,
        "lease_ms": 0,
        "amount_micro": 0,
        "released_micro": to_micro(released),
        **failure_values(failure),
    }
    await tx.run(update(job).where(job.c.id == row.id).values(**values))
    await forget_work(tx, row.id)
    if row.notify:
        await outbox.add(tx, row.id, row.account, JobStatus.FAILED)


async def forget_work(tx: Tx, job_id: str) -> None:
    """What only work on a job needs, voices among it; in the transaction that ends it."""
    for table in (part, known_speakers):
        await tx.run(delete(table).where(table.c.job == job_id))


async def forget(tx: Tx, records: Records, row: Row[Any]) -> None:
    """Delete the content of a final job: its key first of all, in the same transaction as the rest."""
    await records.forget(tx, job_record(row.account, row.id))
    for table in (result, delivery):
        await tx.run(delete(table).where(table.c.job == row.id))
    if row.blob is not None:
        await forget_blob(tx, records, row.blob)
    values = {"deleted_ms": tx.now_ms, "sealed_details": b"", "sealed_blob": None, "blob": None, "notify": False}
    await tx.run(update(job).where(job.c.id == row.id).values(**values))


async def forget_blob(tx: Tx, records: Records, blob_id: str) -> None:
    """Forget its key; the sweep removes what is then unreadable."""
    await records.forget(tx, f"blob:{blob_id}")
    await tx.run(update(blob).where(blob.c.id == blob_id).values(state="forgotten"))
