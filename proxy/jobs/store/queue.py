"""Whose turn is it, and does a worker still have the job that it works on?

A job is claimed for the length of a lease, which its worker renews. Each claim has a fence, one more than the last, and
what a worker writes holds only under its own fence: of two who both think that they have a job one writes nothing.

A clock that was stepped back leaves times behind that are too far away to be meant: such a lease is none, and such a
wait is over. So a part may be heard twice, and no job waits until the clock is there again.

The next job is the oldest of the highest priority, of the account that was served longest ago, among those with fewer
jobs under way than their plan allows. In PostgreSQL whoever claims holds the account's row meanwhile: so the jobs under
way are counted right, and claims for different accounts do not wait for each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, delete, exists, func, insert, or_, select, text, update

from core.transcript.types import Transcript
from proxy.jobs.contents import KNOWN_SPEAKERS, RECEIPT, RESULT, TRANSCRIPT
from proxy.jobs.errors import KeysAwayError, LostError, MissingError, VaultError
from proxy.jobs.ledger import to_micro
from proxy.jobs.limits import check_length, check_shortest
from proxy.jobs.model import (
    AccountId,
    Failure,
    FailureKind,
    Job,
    JobId,
    JobOptions,
    JobResult,
    JobStatus,
    PartPlan,
    Plan,
    PlanTerms,
    Receipt,
)
from proxy.jobs.sealing import seal, unseal
from proxy.jobs.store import funds, outbox
from proxy.jobs.store.database import Database, Tx
from proxy.jobs.store.funds import Funds
from proxy.jobs.store.jobs import fail, forget_blob, forget_work
from proxy.jobs.store.notices import QUEUE
from proxy.jobs.store.records import Records
from proxy.jobs.store.rows import (
    blob_place,
    job_of,
    job_record,
    part_place,
    receipt_place,
    result_place,
    speakers_place,
)
from proxy.jobs.store.schema import ACTIVE, account, job, known_speakers, part, plan, result

MAX_ATTEMPTS: Final = 3
"""How often an engine may fail over one job."""
MAX_CLAIMS: Final = 5
"""How many workers may die over one job."""

_LEASE_SLACK_MS: Final = 60_000
"""A lease is no longer than two of ours and this: other workers' may be longer than ours."""
_LONGEST_WAIT_MS: Final = 600_000
"""Nobody puts a job off for so long."""

_CANDIDATES: Final = 8
_TRIES: Final = 5
_BREATH_S: Final = 0.02
_WORKED_ON: Final = (JobStatus.DOWNLOADING, JobStatus.PROCESSING)


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that one worker has. job: as it was claimed, DOWNLOADING or PROCESSING. terms: of its account."""

    job: Job
    fence: int
    terms: PlanTerms


@dataclass(frozen=True, slots=True)
class PartState:
    """transcript: None until it was heard."""

    plan: PartPlan
    transcript: Transcript | None
    receipt: Receipt | None = None


class Queue:
    """Claims for one worker. lease_ms: how long it has a job without saying so again."""

    def __init__(self, database: Database, records: Records, funds_: Funds, worker: str, *, lease_ms: int) -> None:
        self._database = database
        self._records = records
        self._funds = funds_
        self._worker = worker
        self._lease_ms = lease_ms

    async def recover(self) -> int:
        """Give up the leases of whoever ran before, where only one process can; how many there were."""
        if self._database.is_postgres:
            return 0
        async with self._database.begin() as tx:
            return (await tx.run(update(job).where(job.c.lease_ms > 0).values(lease_ms=0))).rowcount

    async def claim(self, *, besides: Collection[JobId] = ()) -> Claim | None:
        """The next job, if one may be begun. One that was begun too often fails instead.

        besides: what its worker still works on, and would take from itself where it could not renew a lease in time.
        """
        for _ in range(_TRIES):
            try:
                async with self._database.begin() as tx:
                    return await self._claim(tx, besides)
            except _ContendedError:
                await asyncio.sleep(_BREATH_S)
        return None

    async def _claim(self, tx: Tx, besides: Collection[JobId]) -> Claim | None:
        row = await _next(tx, self._is_leased(tx), besides)
        if row is None:
            return None
        if row.attempts >= MAX_CLAIMS:
            await fail(tx, row, Failure(FailureKind.ENGINE_FAILED), self._funds)
            tx.tell(QUEUE)
            return None
        try:
            return await self._claimed(tx, row)
        except KeysAwayError:
            raise
        except (MissingError, VaultError):
            # What of it cannot be opened is the end of this job alone.
            await fail(tx, row, Failure(FailureKind.SOURCE_LOST), self._funds)
            tx.tell(QUEUE)
            return None

    def _is_leased(self, tx: Tx) -> ColumnElement[bool]:
        """Somebody has the job, or would by a clock that nobody stepped."""
        longest_ms = 2 * self._lease_ms + _LEASE_SLACK_MS
        return job.c.lease_ms.between(tx.lease_now_ms, tx.lease_now_ms + longest_ms)

    async def _claimed(self, tx: Tx, row: Row[Any]) -> Claim:
        needs_download = row.source == "link" and row.blob is None
        status = JobStatus.DOWNLOADING if needs_download else JobStatus.PROCESSING
        values = {
            "status": status,
            "started_ms": func.coalesce(job.c.started_ms, tx.now_ms),
            "attempts": row.attempts + 1,
            "worker": self._worker,
            "fence": row.fence + 1,
            "lease_ms": tx.lease_now_ms + self._lease_ms,
        }
        await tx.run(update(job).where(job.c.id == row.id).values(**values))
        await tx.run(update(account).where(account.c.id == row.account).values(served_ms=tx.now_ms))
        claimed = (await tx.run(select(job).where(job.c.id == row.id))).one()
        owner = await funds.found_account(tx, AccountId(row.account))
        key = await self._records.key(tx, job_record(row.account, row.id))
        return Claim(job_of(claimed, key), claimed.fence, owner.plan)

    async def renew(self, claim: Claim, progress_pct: int) -> None:
        """Keep the job for another lease. Raises LostError."""
        async with self._database.begin() as tx:
            await self._change(tx, claim, lease_ms=tx.lease_now_ms + self._lease_ms, progress_pct=progress_pct)

    async def release(self, claim: Claim, *, delay_ms: int = 0, counted: bool = False) -> None:
        """Give a job back to the queue, not to be begun again before `delay_ms`. Raises LostError.

        counted: this was one of its attempts.
        """
        back = JobStatus.CREATED if claim.job.status is JobStatus.DOWNLOADING else JobStatus.PENDING
        async with self._database.begin() as tx:
            values: dict[str, Any] = {"status": back, "worker": None, "lease_ms": 0, "due_ms": tx.now_ms + delay_ms}
            values |= {} if counted else {"attempts": job.c.attempts - 1}
            await self._change(tx, claim, **values)
            tx.tell(QUEUE)

    async def downloaded(self, claim: Claim, blob: str, size_bytes: int) -> None:
        """Its recording is here; it waits for its turn again. Raises LostError."""
        async with self._database.begin() as tx:
            values = {"status": JobStatus.PENDING, "state_ms": tx.now_ms, "worker": None, "lease_ms": 0, "attempts": 0}
            await self._change(tx, claim, **values, **await self._blob(tx, claim, blob), size_bytes=size_bytes)
            tx.tell(QUEUE)

    async def keep_plan(self, claim: Claim, made: Plan) -> None:
        """Keep how it is cut, and hold what it costs where its length is known.

        Raises LostError, FundsError, and FailedError: MEDIA_TOO_LONG for more than its account's plan allows,
        MEDIA_TOO_SHORT for less than its submission wants.

        A recording that was made ready for cutting takes the place of the one that came, which is forgotten.
        """
        check_length(made.audio_ms, claim.terms.max_audio_ms)
        check_shortest(made.audio_ms, claim.job.options.min_audio_ms)
        async with self._database.begin() as tx:
            await self._change(tx, claim, audio_ms=made.audio_ms, state_ms=tx.now_ms)
            if made.blob is not None:
                await self._change(tx, claim, **await self._blob(tx, claim, made.blob))
                if claim.job.blob is not None:
                    await forget_blob(tx, self._records, claim.job.blob)
            if made.audio_ms is not None:
                owner = await funds.payer(tx, claim.job.account)
                await self._funds.hold(tx, owner, claim.job.id, made.audio_ms)
            rows = [
                {"job": claim.job.id, "number": each.index, "start_ms": each.start_ms, "end_ms": each.end_ms}
                for each in made.parts
            ]
            await tx.run(delete(part).where(part.c.job == claim.job.id))  # of a try whose end nobody heard of
            await tx.connection.execute(insert(part), rows)

    async def parts(self, claim: Claim) -> Sequence[PartState]:
        """How it is cut, and what of it was heard; none before it was planned. Raises VaultError, MissingError."""
        async with self._database.begin() as tx:
            rows = (await tx.run(select(part).where(part.c.job == claim.job.id).order_by(part.c.number))).all()
            key = await self._records.key(tx, job_record(claim.job.account, claim.job.id))
        states = []
        for row in rows:
            place, sealed = part_place(claim.job.id, row.number), row.sealed_transcript
            heard = None if sealed is None else TRANSCRIPT.validate_json(unseal(key, place, sealed))
            place, sealed = receipt_place(claim.job.id, row.number), row.sealed_receipt
            receipt = None if sealed is None else RECEIPT.validate_json(unseal(key, place, sealed))
            states.append(PartState(PartPlan(row.number, row.start_ms, row.end_ms), heard, receipt))
        return states

    async def options(self, claim: Claim) -> JobOptions:
        """What shall be heard, with the voices of those who are known. Raises LostError, VaultError, MissingError."""
        if not claim.job.options.known_speakers:
            return claim.job.options
        async with self._database.begin() as tx:
            query = select(known_speakers.c.sealed_speakers).where(known_speakers.c.job == claim.job.id)
            sealed = (await tx.run(query)).scalar_one_or_none()
            if sealed is None:  # it is over
                raise LostError
            key = await self._records.key(tx, job_record(claim.job.account, claim.job.id))
        known = KNOWN_SPEAKERS.validate_json(unseal(key, speakers_place(claim.job.id), sealed))
        return replace(claim.job.options, known_speakers=known)

    async def keep_part(self, claim: Claim, index: int, heard: Transcript, receipt: Receipt | None = None) -> None:
        """Raises LostError, MissingError."""
        async with self._database.begin() as tx:
            # A job that gets on is none over which workers die.
            await self._change(tx, claim, lease_ms=tx.lease_now_ms + self._lease_ms, attempts=1, state_ms=tx.now_ms)
            key = await self._records.key(tx, job_record(claim.job.account, claim.job.id))
            sealed = seal(key, part_place(claim.job.id, index), TRANSCRIPT.dump_json(heard))
            signed = None if receipt is None else RECEIPT.dump_json(receipt)
            sealed_receipt = None if signed is None else seal(key, receipt_place(claim.job.id, index), signed)
            this = (part.c.job == claim.job.id, part.c.number == index)
            await tx.run(update(part).where(*this).values(sealed_transcript=sealed, sealed_receipt=sealed_receipt))

    async def complete(self, claim: Claim, made: JobResult, audio_ms: int) -> float:
        """End a job well: its result, its price and its message in one transaction; the seconds since its submission.

        Raises LostError, FundsError, and FailedError as `keep_plan`, where its length was not known before.
        """
        job_id = claim.job.id
        check_length(audio_ms, claim.terms.max_audio_ms)
        check_shortest(audio_ms, claim.job.options.min_audio_ms)
        async with self._database.begin() as tx:
            await self._change(tx, claim, progress_pct=100)  # whoever changes a job and its money has the job first
            owner = await funds.payer(tx, claim.job.account)
            amount = await self._funds.capture(tx, owner, job_id, audio_ms)
            values = {
                "status": JobStatus.COMPLETED,
                "state_ms": tx.now_ms,
                "completed_ms": tx.now_ms,
                "audio_ms": audio_ms,
                "amount_micro": to_micro(amount),
                "worker": None,
                "lease_ms": 0,
            }
            await self._change(tx, claim, **values)
            key = await self._records.key(tx, job_record(claim.job.account, job_id))
            sealed = seal(key, result_place(job_id), RESULT.dump_json(made))
            await tx.run(insert(result).values(job=job_id, sealed_result=sealed))
            await forget_work(tx, job_id)
            if claim.job.options.webhook_url is not None:
                await outbox.add(tx, job_id, claim.job.account, JobStatus.COMPLETED)
            tx.tell(QUEUE)  # its account may have another one begun
            return (tx.now_ms - claim.job.created_ms) / 1000

    async def fail(self, claim: Claim, failure: Failure) -> None:
        """Raises LostError."""
        async with self._database.begin() as tx:
            row = (await tx.run(select(job).where(*_mine(claim)).with_for_update(key_share=True))).one_or_none()
            if row is None:
                raise LostError
            await fail(tx, row, failure, self._funds)
            tx.tell(QUEUE)

    async def _blob(self, tx: Tx, claim: Claim, blob: str) -> dict[str, Any]:
        """Its recording from now on. Raises MissingError, VaultError."""
        key = await self._records.key(tx, job_record(claim.job.account, claim.job.id))
        return {"blob": blob, "sealed_blob": seal(key, blob_place(claim.job.id), blob.encode())}

    async def _change(self, tx: Tx, claim: Claim, **values: Any) -> None:
        """Raises LostError."""
        if (await tx.run(update(job).where(*_mine(claim)).values(**values))).rowcount != 1:
            raise LostError


def _mine(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return job.c.id == claim.job.id, job.c.fence == claim.fence, job.c.status.in_(_WORKED_ON)


def _claimable(tx: Tx, is_leased: ColumnElement[bool], besides: Collection[JobId]) -> ColumnElement[bool]:
    is_put_off = job.c.due_ms.between(tx.now_ms + 1, tx.now_ms + _LONGEST_WAIT_MS)
    waits = and_(job.c.status.in_((JobStatus.CREATED, JobStatus.PENDING)), ~is_put_off)
    abandoned = and_(job.c.status.in_(_WORKED_ON), ~is_leased, job.c.id.not_in(besides))
    return and_(text(ACTIVE), or_(waits, abandoned))


class _ContendedError(Exception):
    """Somebody else claims for the only accounts that have work, at this moment."""


async def _next(tx: Tx, is_leased: ColumnElement[bool], besides: Collection[JobId]) -> Row[Any] | None:
    """The next job, locked as its account is. Raises _ContendedError."""
    claimable = _claimable(tx, is_leased, besides)
    waits = exists().where(job.c.account == account.c.id, claimable)
    query = (
        select(account.c.id, plan.c.concurrency)
        .join(plan, plan.c.name == account.c.plan)
        .where(waits)
        .order_by(account.c.served_ms, account.c.id)
        .limit(_CANDIDATES)
    )
    contended = False
    for candidate in (await tx.run(query)).all():
        mine = select(account.c.id).where(account.c.id == candidate.id)
        locked = (await tx.run(mine.with_for_update(skip_locked=True, key_share=True))).one_or_none()
        if locked is None:
            contended = True
        elif (row := await _oldest(tx, claimable, is_leased, candidate)) is not None:
            return row
    if contended:
        raise _ContendedError
    return None


async def _oldest(
    tx: Tx, claimable: ColumnElement[bool], is_leased: ColumnElement[bool], owner: Row[Any]
) -> Row[Any] | None:
    """Of an account that is locked, unless it has as many under way as it may."""
    if owner.concurrency is not None:
        under_way = (job.c.account == owner.id, job.c.status.in_(_WORKED_ON), is_leased)
        if (await tx.run(select(func.count()).where(text(ACTIVE), *under_way))).scalar_one() >= owner.concurrency:
            return None
    order = (job.c.rank, job.c.created_ms, job.c.id)
    oldest = select(job).where(job.c.account == owner.id, claimable).order_by(*order).limit(1)
    return (await tx.run(oldest.with_for_update(skip_locked=True, key_share=True))).one_or_none()
