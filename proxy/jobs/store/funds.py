"""Where is the money? Lines of the ledger, read and added to inside the transaction of what they pay for.

A job is held for once, and then either captured or released. Whoever changes an account's money holds its row, and
takes it after the job's.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, select

from proxy.jobs.errors import FundsError, MissingError
from proxy.jobs.ledger import MS_PER_HOUR, from_micro, price
from proxy.jobs.model import Account, AccountId, Balance, EntryKind, JobId, LedgerEntry, Meter, PlanTerms
from proxy.jobs.store.database import Tx
from proxy.jobs.store.lines import Head, Lines
from proxy.jobs.store.schema import account, plan


def plan_columns() -> tuple[ColumnElement[Any], ...]:
    return tuple(plan.c)


def terms_of(row: Row[Any]) -> PlanTerms:
    return PlanTerms(
        name=row.name,
        meter=Meter(row.meter),
        max_active_keys=row.max_active_keys,
        requests_per_minute=row.requests_per_minute,
        concurrency=row.concurrency,
        max_audio_ms=row.max_audio_ms,
        max_upload_bytes=row.max_upload_bytes,
        quota_ms=row.quota_ms,
        price_per_hour=from_micro(row.price_per_hour_micro),
    )


def account_query() -> Select[Any]:
    """Accounts with their plans; for `account_of`."""
    columns = (account.c.id, account.c.name.label("account_name"), account.c.created_ms, *plan_columns())
    return select(*columns).join(plan, account.c.plan == plan.c.name)


def account_of(row: Row[Any]) -> Account:
    return Account(AccountId(row.id), row.account_name, terms_of(row), row.created_ms)


async def payer(tx: Tx, account_id: AccountId) -> Account:
    """An account, whose money nobody else changes in this transaction if it has any. Raises MissingError."""
    owner = await found_account(tx, account_id)
    return owner if owner.plan.meter is Meter.NONE else await locked_account(tx, account_id)


async def locked_account(tx: Tx, account_id: AccountId) -> Account:
    """An account that nobody else changes in this transaction. Raises MissingError."""
    return await found_account(tx, account_id, locked=True)


async def found_account(tx: Tx, account_id: AccountId, *, locked: bool = False) -> Account:
    """Raises MissingError."""
    query = account_query().where(account.c.id == account_id)
    row = (await tx.run(query.with_for_update(key_share=True, of=account) if locked else query)).one_or_none()
    if row is None:
        raise MissingError
    return account_of(row)


def is_limited(owner: Account) -> bool:
    terms = owner.plan
    return terms.meter in (Meter.CENTS, Meter.CREDITS) or (
        terms.meter is Meter.HOURS_28D and terms.quota_ms is not None
    )


class Funds:
    """The money of accounts. Every LedgerError says that their lines are not as they were written."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    async def begin(self, tx: Tx, account: AccountId) -> None:
        """Of a new account."""
        await self._lines.begin(tx, account)

    async def balance(self, tx: Tx, owner: Account) -> Balance:
        """What an account has: of its window, where it has hours, and otherwise of all its time. Raises LedgerError."""
        return _balance(owner, await self._lines.head(tx, owner.id), tx.now_ms)

    async def check(self, tx: Tx, owner: Account) -> Head:
        """Read every line of an account that is locked, and the end of them. Raises LedgerError."""
        return await self._lines.checked(tx, owner)

    async def check_some(self, tx: Tx, owner: Account) -> None:
        """Raises FundsError when there is nothing at all, LedgerError."""
        if is_limited(owner) and _balance(owner, await self._lines.verified(tx, owner), tx.now_ms).available <= 0:
            raise FundsError(is_empty=True)

    async def pay_in(self, tx: Tx, owner: Account, amount: Decimal, *, by_hand: bool) -> Balance:
        """Raises LedgerError, ValueError for an amount with more than six decimals."""
        kind = EntryKind.ADJUST if by_hand else EntryKind.DEPOSIT
        head = await self._lines.verified(tx, owner)
        entry = LedgerEntry(owner.id, kind, owner.plan.meter, amount, tx.now_ms)
        return _balance(owner, await self._lines.add(tx, owner, head, entry), tx.now_ms)

    async def hold(self, tx: Tx, owner: Account, job: JobId, audio_ms: int) -> None:
        """Put aside what hearing so much costs; `owner` is a `payer`. Once it was, it stays.

        Raises FundsError, LedgerError.
        """
        if owner.plan.meter is Meter.NONE or await self._lines.hold_of(tx, owner.id, job) is not None:
            return
        head, amount = await self._lines.verified(tx, owner), price(owner.plan, audio_ms)
        if is_limited(owner):
            available = _balance(owner, head, tx.now_ms).available
            if available <= 0 or amount > available:
                raise FundsError(is_empty=available <= 0)
        entry = LedgerEntry(owner.id, EntryKind.HOLD, owner.plan.meter, amount, tx.now_ms, job)
        await self._lines.add(tx, owner, head, entry)

    async def capture(self, tx: Tx, owner: Account, job: JobId, audio_ms: int) -> Decimal:
        """Spend what was held, in its unit, or what it costs when nothing was; `owner` is a `payer`.

        Raises FundsError, LedgerError.
        """
        await self.hold(tx, owner, job, audio_ms)
        return await self._end(tx, owner.id, job, EntryKind.CAPTURE)

    async def release(self, tx: Tx, owner: AccountId, job: JobId) -> Decimal:
        """Give back what was held and not yet spent or given back; how much that was. Raises LedgerError."""
        return await self._end(tx, owner, job, EntryKind.RELEASE)

    async def _end(self, tx: Tx, account: AccountId, job: JobId, kind: EntryKind) -> Decimal:
        held = await self._lines.hold_of(tx, account, job)
        if held is None:
            return Decimal(0)
        owner = await locked_account(tx, account)
        head = await self._lines.verified(tx, owner)
        await self._lines.add(tx, owner, head, replace(held, kind=kind, at_ms=tx.now_ms))
        return held.amount


def _balance(owner: Account, head: Head, now_ms: int) -> Balance:
    purse, meter = head.purse(owner, now_ms), owner.plan.meter
    quota = Decimal(owner.plan.quota_ms or 0) / MS_PER_HOUR if meter is Meter.HOURS_28D else Decimal(0)
    return Balance(meter, quota + from_micro(purse.total_micro), from_micro(purse.held_micro))
