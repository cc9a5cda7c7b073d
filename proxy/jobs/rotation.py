"""How does another key-encryption key come into force, while proxies run and whatever is interrupted?

1. The new key is put in front, and the database names it as the one that wraps. Whoever wraps holds that row, and looks
   for the key anew if they have it not: nothing is wrapped by another any more, and who cannot find it writes nothing.
2. Every record key is wrapped anew.
3. The others are taken out, unless some record still needs one.

Whoever rotates holds that row too, so that of two at once each sees the other's key. After an interruption it is done
again.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.jobs.errors import VaultError
from proxy.jobs.store.database import Database
from proxy.jobs.store.records import Records
from proxy.jobs.vault import KeyRing, Vault


async def rotate(database: Database, records: Records, vault: Vault, *, given: bool = False) -> int:
    """How many keys were wrapped anew. Raises StoreError, VaultError.

    given: the first key is new already, where only somebody else can write; the others are then theirs to take out.
    """
    async with database.begin() as tx:
        await records.lock(tx)
        if not given:
            _put(vault, KeyRing.rotated)
        vault.changed()
        await records.name(tx, vault.ring.current)
    count = await records.rewrap()
    async with database.begin() as tx:
        named = await records.lock(tx)
        vault.changed()
        if await records.wrapped_by_others(tx) or vault.ring.current.id != named:
            raise VaultError("some records still need another key, which is kept: run this again")
        if not given:
            _put(vault, KeyRing.retired)
    return count


def _put(vault: Vault, change: Callable[[KeyRing], KeyRing]) -> None:
    vault.changed()  # another may have put one in front since
    vault.put(change(vault.ring))
