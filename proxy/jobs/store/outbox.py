"""Which messages to webhooks are due? `proxy.jobs.ports.Outbox`, over a database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select, update

from proxy.jobs.errors import LostError
from proxy.jobs.model import AccountId, Delivery, JobId, JobStatus, WebhookEvent
from proxy.jobs.store.database import Database, Tx
from proxy.jobs.store.ids import new_id
from proxy.jobs.store.notices import OUTBOX
from proxy.jobs.store.schema import delivery

WAITING = "waiting"
DELIVERED = "delivered"
GIVEN_UP = "given_up"


async def add(tx: Tx, job_id: str, account: str, status: JobStatus) -> None:
    """A message that a job is final, in the transaction that makes it so."""
    event = WebhookEvent.COMPLETED if status is JobStatus.COMPLETED else WebhookEvent.FAILED
    values = {
        "id": new_id(tx.now_ms),
        "job": job_id,
        "account": account,
        "event": event,
        "state": WAITING,
        "due_ms": tx.now_ms,
    }
    await tx.run(insert(delivery).values(**values))
    tx.tell(OUTBOX)


class StoredOutbox:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, *, lease_ms: int) -> Delivery | None:
        async with self._database.begin() as tx:
            query = (
                select(delivery)
                .where(delivery.c.state == WAITING, delivery.c.due_ms <= tx.now_ms)
                .order_by(delivery.c.due_ms)
                .limit(1)
                .with_for_update(skip_locked=True, key_share=True)
            )
            row = (await tx.run(query)).one_or_none()
            if row is None:
                return None
            values = {
                "attempt": row.attempt + 1,
                "fence": row.fence + 1,
                "due_ms": tx.now_ms + lease_ms,  # then it is due again, unless this worker says how it went
            }
            await tx.run(update(delivery).where(delivery.c.id == row.id).values(**values))
            job, account = JobId(row.job), AccountId(row.account)
            return Delivery(row.id, job, account, WebhookEvent(row.event), row.attempt + 1, row.fence + 1)

    async def delivered(self, message: Delivery) -> None:
        await self._settle(message, state=DELIVERED)

    async def give_up(self, message: Delivery) -> None:
        await self._settle(message, state=GIVEN_UP)

    async def postpone(self, message: Delivery, *, delay_ms: int) -> None:
        async with self._database.begin() as tx:
            await _change(tx, message, due_ms=tx.now_ms + delay_ms)

    async def _settle(self, message: Delivery, *, state: str) -> None:
        async with self._database.begin() as tx:
            await _change(tx, message, state=state)


async def _change(tx: Tx, message: Delivery, **values: Any) -> None:
    """Raises LostError: another worker has it, or its job was deleted."""
    mine = (delivery.c.id == message.id, delivery.c.fence == message.fence, delivery.c.state == WAITING)
    if (await tx.run(update(delivery).where(*mine).values(**values))).rowcount != 1:
        raise LostError
