"""How often did somebody ask in the last minute, of all replicas together? Moments of requests, in the database.

One row for each caller, whom a keyed hash tells from others: no address and no key stands there. A moment counts for
the length of the window on either side of now, so that a clock that is put back holds nobody up for longer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite

from proxy.jobs.store.database import Database, Tx
from proxy.jobs.store.schema import rate_window
from proxy.jobs.vault import Pepper


@dataclass(frozen=True, slots=True)
class Window:
    """hits_ms: of those that were let through, in their order. now_ms: by the database's clock."""

    hits_ms: tuple[int, ...]
    now_ms: int
    is_full: bool


class StoredWindows:
    """length_ms: of a window."""

    def __init__(self, database: Database, pepper: Pepper, length_ms: int) -> None:
        self._database = database
        self._pepper = pepper
        self._length_ms = length_ms

    async def hit(self, scope: str, caller: str, limit: int) -> Window:
        """Count one request, unless the window is full. Raises StoreError."""
        key = self._pepper.digest("rate window", scope.encode(), caller.encode())
        async with self._database.begin() as tx:
            row = await _locked(tx, key, is_postgres=self._database.is_postgres)
            hits_ms = counting(json.loads(row.hits_ms), tx.now_ms, self._length_ms)
            is_full = len(hits_ms) >= limit
            if not is_full:
                hits_ms = sorted([*hits_ms, tx.now_ms])
                kept = {"hits_ms": json.dumps(hits_ms), "until_ms": hits_ms[-1] + self._length_ms}
                await tx.run(update(rate_window).where(rate_window.c.key == key).values(**kept))
        # Another's request may have been let through while this one waited for the row.
        return Window(tuple(hits_ms), max(tx.now_ms, hits_ms[-1]), is_full)


def counting(hits_ms: list[int], now_ms: int, length_ms: int) -> list[int]:
    """Those that count now."""
    return [at_ms for at_ms in hits_ms if abs(now_ms - at_ms) < length_ms]


async def _locked(tx: Tx, key: bytes, *, is_postgres: bool) -> Any:
    insert = postgresql.insert if is_postgres else sqlite.insert
    await tx.run(insert(rate_window).values(key=key, hits_ms="[]", until_ms=tx.now_ms).on_conflict_do_nothing())
    return (await tx.run(select(rate_window).where(rate_window.c.key == key).with_for_update())).one()
