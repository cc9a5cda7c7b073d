"""Where are the keys of records, and how does a value get under one?

A record is a job, a blob, an upload, an answer: `kind:id`. Its key is made with it, in its transaction, and forgotten
in the transaction that deletes it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, func, insert, select, update

from proxy.jobs.errors import MissingError, StoreError
from proxy.jobs.sealing import RecordKey
from proxy.jobs.store.database import Database, Tx
from proxy.jobs.store.schema import kek_in_force, record_key
from proxy.jobs.vault import Kek, Pepper, Vault, Wrapped

_PEPPER: Final = "pepper"
_ONLY: Final = 1
_REWRAPPED_AT_ONCE: Final = 500


class Records:
    """The keys of records in `database`, wrapped by `vault`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    @staticmethod
    async def any_in(database: Database) -> bool:
        """Whether a database has any record, for which a key must be at hand."""
        async with database.begin() as tx:
            return (await tx.run(select(record_key.c.record).limit(1))).first() is not None

    async def make(self, tx: Tx, record: str) -> RecordKey:
        """A new record's key."""
        key = RecordKey.new()
        await self.put(tx, record, key)
        return key

    async def put(self, tx: Tx, record: str, key: RecordKey) -> None:
        """Raises VaultError where the key-encryption key that is in force is not at hand."""
        in_force = (await tx.run(select(kek_in_force.c.kek).with_for_update(read=True))).scalar_one()
        wrapped = self._vault.wrap(record, key, in_force)
        values = {"record": record, "kek": wrapped.kek, "wrapped": wrapped.data}
        await tx.run(insert(record_key).values(**values))

    async def key(self, tx: Tx, record: str) -> RecordKey:
        """Raises MissingError when it was forgotten, VaultError when it cannot be unwrapped."""
        found = await self.keys(tx, [record])
        if record not in found:
            raise MissingError
        return found[record]

    async def keys(self, tx: Tx, records: list[str]) -> dict[str, RecordKey]:
        """Of those that were not forgotten. Raises VaultError."""
        rows = await tx.run(select(record_key).where(record_key.c.record.in_(records)))
        return {row.record: self._vault.unwrap(row.record, Wrapped(row.kek, row.wrapped)) for row in rows}

    async def forget(self, tx: Tx, *records: str) -> None:
        await tx.run(delete(record_key).where(record_key.c.record.in_(records)))

    async def pepper(self) -> Pepper:
        """The secret of this database, made when it is first asked for.

        Raises VaultError when the keys at hand are not this database's.
        """
        try:
            async with self._database.begin() as tx:
                found = await self.keys(tx, [_PEPPER])
                if _PEPPER in found:
                    return Pepper(found[_PEPPER])
                await tx.run(insert(kek_in_force).values(id=_ONLY, kek=self._vault.ring.current.id))
                return Pepper(await self.make(tx, _PEPPER))
        except StoreError:  # another replica may have made it in the same moment
            async with self._database.begin() as tx:
                return Pepper(await self.key(tx, _PEPPER))

    async def rewrap(self) -> int:
        """Wrap every key anew that is wrapped by another than the one in force; how many were. Raises VaultError.

        Records may be made and forgotten meanwhile.
        """
        count = 0
        while batch := await self._rewrap_some():
            count += batch
        return count

    async def _rewrap_some(self) -> int:
        async with self._database.begin() as tx:
            in_force = (await tx.run(select(kek_in_force.c.kek).with_for_update(read=True))).scalar_one()
            stale = select(record_key).where(record_key.c.kek != in_force).order_by(record_key.c.record)
            rows = (await tx.run(stale.limit(_REWRAPPED_AT_ONCE).with_for_update())).all()
            for row in rows:
                key = self._vault.unwrap(row.record, Wrapped(row.kek, row.wrapped))
                wrapped = self._vault.wrap(row.record, key, in_force)
                await tx.run(
                    update(record_key)
                    .where(record_key.c.record == row.record)
                    .values(kek=wrapped.kek, wrapped=wrapped.data)
                )
        return len(rows)

    async def wrapped_by_others(self, tx: Tx) -> int:
        """How many keys are wrapped by another than the one in force."""
        query = select(func.count()).select_from(record_key.join(kek_in_force, record_key.c.kek != kek_in_force.c.kek))
        return int((await tx.run(query)).scalar_one())

    async def lock(self, tx: Tx) -> str:
        """Which key-encryption key is in force; nobody wraps a key until this transaction is over."""
        return str((await tx.run(select(kek_in_force.c.kek).with_for_update())).scalar_one())

    async def name(self, tx: Tx, kek: Kek) -> None:
        """Put another one in force; `lock` came before."""
        await tx.run(update(kek_in_force).values(kek=kek.id))
