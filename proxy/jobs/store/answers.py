"""Was this request answered before? `proxy.jobs.ports.Answers`, over a database."""

from __future__ import annotations

import hmac
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, delete, insert, select, update

from proxy.jobs.contents import answer_bytes, parse_answer
from proxy.jobs.errors import BusyError, LostError, ReusedKeyError
from proxy.jobs.model import AccountId, StoredAnswer
from proxy.jobs.sealing import Place, seal, unseal
from proxy.jobs.store.database import Database, Tx
from proxy.jobs.store.records import Records
from proxy.jobs.store.schema import answer
from proxy.jobs.vault import Pepper

KEEP_MS: Final = 24 * 3_600_000
LOCK_MS: Final = 60_000
"""How long a request keeps others with its key waiting, if its process dies."""

LOCKED: Final = "locked"
DONE: Final = "done"


class StoredAnswers:
    def __init__(self, database: Database, records: Records, pepper: Pepper) -> None:
        self._database = database
        self._records = records
        self._pepper = pepper

    async def begin(self, account: AccountId, route: str, key: str, body: bytes) -> StoredAnswer | None:
        digest, body_digest = self._digest(key), self._pepper.digest("idempotency body", body)
        async with self._database.begin() as tx:
            row = (await tx.run(select(answer).where(*_this(account, route, digest)).with_for_update())).one_or_none()
            if row is not None and row.until_ms <= tx.now_ms:
                await self.forget(tx, row)
                row = None
            if row is None:
                values = {"account": account, "route": route, "digest": digest, "body_digest": body_digest}
                await tx.run(insert(answer).values(**values, state=LOCKED, until_ms=tx.now_ms + LOCK_MS))
                return None
            if not hmac.compare_digest(row.body_digest, body_digest):
                raise ReusedKeyError
            if row.state == LOCKED:
                raise BusyError((row.until_ms - tx.now_ms) / 1000)
            return await self._kept(tx, row)

    async def _kept(self, tx: Tx, row: Row[Any]) -> StoredAnswer:
        record_key = await self._records.key(tx, _record(row.digest, row.account, row.route))
        return parse_answer(unseal(record_key, _place(row.digest, row.account, row.route), row.sealed_answer))

    async def keep(self, account: AccountId, route: str, key: str, given: StoredAnswer) -> None:
        async with self._database.begin() as tx:
            await self.keep_in(tx, account, route, key, given)

    async def keep_in(self, tx: Tx, account: AccountId, route: str, key: str, given: StoredAnswer) -> None:
        """Keep an answer in the transaction of what it tells of. Raises LostError when it took too long to come.

        Then another request may have been the first since.
        """
        digest = self._digest(key)
        record_key = await self._records.make(tx, _record(digest, account, route))
        sealed = seal(record_key, _place(digest, account, route), answer_bytes(given))
        values = {"state": DONE, "until_ms": tx.now_ms + KEEP_MS, "sealed_answer": sealed}
        mine = (*_this(account, route, digest), answer.c.state == LOCKED, answer.c.until_ms > tx.now_ms)
        if (await tx.run(update(answer).where(*mine).values(**values))).rowcount != 1:
            raise LostError

    async def drop(self, account: AccountId, route: str, key: str) -> None:
        async with self._database.begin() as tx:
            await tx.run(delete(answer).where(*_this(account, route, self._digest(key)), answer.c.state == LOCKED))

    async def forget(self, tx: Tx, row: Row[Any]) -> None:
        await self._records.forget(tx, _record(row.digest, row.account, row.route))
        await tx.run(delete(answer).where(*_this(row.account, row.route, row.digest)))

    def _digest(self, key: str) -> bytes:
        return self._pepper.digest("idempotency key", key.encode())


def _this(account: str, route: str, digest: bytes) -> tuple[ColumnElement[bool], ...]:
    return answer.c.account == account, answer.c.route == route, answer.c.digest == digest


def _record(digest: bytes, account: str, route: str) -> str:
    return f"answer:{account}:{route}:{digest.hex()}"


def _place(digest: bytes, account: str, route: str) -> Place:
    return Place("answer", _record(digest, account, route), "sealed_answer")
