"""Are the lines of the ledger those that were written? Each is bound to the one before it, and the last to the account.

::

    mac of a line = HMAC-SHA256(ledger key, "ledger line", mac of the line before (empty for the first), account,
                    number, id, job, kind, unit, amount, time)
    seal of a head = HMAC-SHA256(ledger key, "ledger head", mac of the last line, account, number, purses)

The ledger key is the database's pepper, which the key-encryption key wraps: whoever has the database alone cannot alter
a line, move, copy or drop one, cut off the last ones, or write another sum over them. Put back whole, an older state is
in order; against that only the number and the mac of the last line help, written down elsewhere.

A process reads all lines of an account before it adds the first, and then those that were added since.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import Row, insert, select, update

from proxy.jobs.errors import LedgerError
from proxy.jobs.ledger import from_micro, to_micro, window_start_ms
from proxy.jobs.model import Account, AccountId, EntryKind, JobId, LedgerEntry, Meter
from proxy.jobs.store.database import Tx
from proxy.jobs.store.ids import new_id
from proxy.jobs.store.schema import ledger, ledger_head
from proxy.jobs.vault import Pepper

_AT_ONCE: Final = 1_000
_LINE: Final = ("account", "number", "id", "job", "kind", "unit", "amount_micro", "at_ms")


@dataclass(frozen=True, slots=True)
class Purse:
    """What an account has in one unit, in millionths.

    total: paid in and not spent. since_ms: of hours, when the window began that `total_micro` is of; otherwise 0.
    """

    total_micro: int = 0
    held_micro: int = 0
    since_ms: int = 0

    def after(self, kind: EntryKind, amount_micro: int, since_ms: int) -> Purse:
        total = self.total_micro if since_ms <= self.since_ms else 0
        paid = {EntryKind.DEPOSIT: 1, EntryKind.ADJUST: 1, EntryKind.CAPTURE: -1}.get(kind, 0)
        held = {EntryKind.HOLD: 1, EntryKind.RELEASE: -1, EntryKind.CAPTURE: -1}.get(kind, 0)
        return Purse(total + paid * amount_micro, self.held_micro + held * amount_micro, max(since_ms, self.since_ms))


@dataclass(frozen=True, slots=True)
class Head:
    """The end of an account's lines. number: how many there are. mac: of the last."""

    number: int = 0
    mac: bytes = b""
    purses: Mapping[Meter, Purse] = field(default_factory=dict)

    def purse(self, owner: Account, now_ms: int) -> Purse:
        """In the unit of its plan, as it is now."""
        meter = owner.plan.meter
        purse, since_ms = self.purses.get(meter, Purse()), _since_ms(owner, meter, now_ms)
        return replace(purse, total_micro=0, since_ms=since_ms) if since_ms > purse.since_ms else purse

    def after(self, mac: bytes, owner: Account, entry: LedgerEntry) -> Head:
        before, since_ms = self.purses.get(entry.unit, Purse()), _since_ms(owner, entry.unit, entry.at_ms)
        purse = before.after(entry.kind, to_micro(entry.amount), since_ms)
        return Head(self.number + 1, mac, {**self.purses, entry.unit: purse})


def _since_ms(owner: Account, unit: Meter, at_ms: int) -> int:
    return window_start_ms(owner.created_ms, at_ms) if unit is Meter.HOURS_28D else 0


class Lines:
    """The lines of all accounts. Whoever adds to an account's holds its row."""

    def __init__(self, pepper: Pepper) -> None:
        self._pepper = pepper
        self._seen: dict[AccountId, Head] = {}

    async def begin(self, tx: Tx, account: AccountId) -> None:
        """Of a new account. One that has no head has lost it."""
        values = _head_values(Head())
        await tx.run(insert(ledger_head).values(account=account, **values, seal=self._seal(account, Head())))

    async def head(self, tx: Tx, account: AccountId) -> Head:
        """As its seal says. Raises LedgerError."""
        row = (await tx.run(select(ledger_head).where(ledger_head.c.account == account))).one_or_none()
        if row is None:
            raise LedgerError("the end of an account's lines is missing")
        told = json.loads(row.purses)
        head = Head(row.number, row.mac, {Meter(unit): Purse(*numbers) for unit, numbers in told.items()})
        if not hmac.compare_digest(row.seal, self._seal(account, head)):
            raise LedgerError("the end of an account's lines was altered")
        return head

    async def verified(self, tx: Tx, owner: Account) -> Head:
        """With every line that this process has not seen; the account is locked. Raises LedgerError."""
        head, seen = await self.head(tx, owner.id), self._seen.get(owner.id, Head())
        try:
            await self._followed(tx, owner, seen, head)
        except LedgerError:
            # What was seen may have been taken back with its transaction.
            await self._followed(tx, owner, Head(), head)
        self._seen[owner.id] = head
        return head

    async def checked(self, tx: Tx, owner: Account) -> Head:
        """With every line. Raises LedgerError."""
        head = await self.head(tx, owner.id)
        await self._followed(tx, owner, Head(), head)
        return head

    async def add(self, tx: Tx, owner: Account, head: Head, entry: LedgerEntry) -> Head:
        """One line more; `head` is `verified`. Raises ValueError for an amount with more than six decimals."""
        values = {
            "id": new_id(tx.now_ms),
            "account": owner.id,
            "number": head.number + 1,
            "job": entry.job,
            "kind": entry.kind,
            "unit": entry.unit,
            "amount_micro": to_micro(entry.amount),
            "at_ms": entry.at_ms,
        }
        made = head.after(self._mac(head.mac, values), owner, entry)
        await tx.run(insert(ledger).values(**values, mac=made.mac))
        changed = {**_head_values(made), "seal": self._seal(owner.id, made)}
        await tx.run(update(ledger_head).where(ledger_head.c.account == owner.id).values(**changed))
        return made

    async def hold_of(self, tx: Tx, account: AccountId, job: JobId) -> LedgerEntry | None:
        """What was put aside for a job. Raises LedgerError where that line is not as it was written."""
        query = select(ledger).where(ledger.c.account == account, ledger.c.job == job, ledger.c.kind == EntryKind.HOLD)
        row = (await tx.run(query)).one_or_none()
        if row is None:
            return None
        before = select(ledger.c.mac).where(ledger.c.account == account, ledger.c.number == row.number - 1)
        self._check(row, (await tx.run(before)).scalar_one_or_none() or b"")
        return _entry_of(row)

    async def _followed(self, tx: Tx, owner: Account, start: Head, end: Head) -> None:
        """From one end to another, line by line. Raises LedgerError."""
        head = start
        while rows := await self._after(tx, owner.id, head.number):
            for row in rows:
                if row.number != head.number + 1:
                    raise LedgerError(f"line {head.number + 1} is missing")
                self._check(row, head.mac)
                head = head.after(row.mac, owner, _entry_of(row))
        if head.number > end.number:
            raise LedgerError(f"line {end.number + 1} is behind the end")
        if head.number < end.number:
            raise LedgerError(f"line {head.number + 1} is missing")
        if head != end:
            raise LedgerError("the lines are another account's")

    async def _after(self, tx: Tx, account: AccountId, number: int) -> list[Row[Any]]:
        query = select(ledger).where(ledger.c.account == account, ledger.c.number > number)
        return list((await tx.run(query.order_by(ledger.c.number).limit(_AT_ONCE))).all())

    def _check(self, row: Row[Any], before: bytes) -> None:
        if not hmac.compare_digest(row.mac, self._mac(before, {name: getattr(row, name) for name in _LINE})):
            raise LedgerError(f"line {row.number} was altered")

    def _mac(self, before: bytes, values: Mapping[str, Any]) -> bytes:
        return self._pepper.digest("ledger line", before, json.dumps([values[name] for name in _LINE]).encode())

    def _seal(self, account: AccountId, head: Head) -> bytes:
        values = _head_values(head)
        line = json.dumps([account, values["number"], values["purses"]]).encode()
        return self._pepper.digest("ledger head", head.mac, line)


def _head_values(head: Head) -> dict[str, Any]:
    purses = {
        unit.value: [purse.total_micro, purse.held_micro, purse.since_ms] for unit, purse in sorted(head.purses.items())
    }
    return {"number": head.number, "mac": head.mac, "purses": json.dumps(purses)}


def _entry_of(row: Row[Any]) -> LedgerEntry:
    """Raises LedgerError for what no line is."""
    try:
        kind, unit = EntryKind(row.kind), Meter(row.unit)
    except ValueError:
        raise LedgerError(f"line {row.number} was altered") from None
    return LedgerEntry(AccountId(row.account), kind, unit, from_micro(row.amount_micro), row.at_ms, row.job)
