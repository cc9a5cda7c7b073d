"""Who has the database, and not its keys, cannot write money into it unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import text

from proxy.jobs.errors import FundsError, JobsError, LedgerError, StoreError
from proxy.jobs.ledger import WINDOW_MS
from proxy.jobs.model import (
    Account,
    AccountId,
    EntryKind,
    FailureKind,
    JobId,
    JobResult,
    LedgerEntry,
    Meter,
    NewJob,
    PlanTerms,
)
from proxy.jobs.service import Kept, Places, kept
from proxy.jobs.store import funds
from proxy.jobs.store.lines import Head, Purse
from tests.proxy.jobs.fakes import FakeEngine
from tests.proxy.jobs.made import HEARD, OPTIONS, claimed, queue, submitted
from tests.proxy.jobs.test_worker import means, working
from tests.waiting import until

HOUR_MS = 3_600_000
PREPAID = PlanTerms("prepaid", Meter.CENTS, price_per_hour=Decimal(20))

ATTACKS = {
    "an amount": "UPDATE ledger SET amount_micro = 9000000 WHERE number = 1 AND account = '{me}'",
    "a kind": "UPDATE ledger SET kind = 'adjust' WHERE number = 2 AND account = '{me}'",
    "a kind that is none": "UPDATE ledger SET kind = 'gift' WHERE number = 2 AND account = '{me}'",
    "a unit": "UPDATE ledger SET unit = 'credits' WHERE number = 1 AND account = '{me}'",
    "a time": "UPDATE ledger SET at_ms = at_ms + 1 WHERE number = 3 AND account = '{me}'",
    "a job": "UPDATE ledger SET job = 'another' WHERE number = 2 AND account = '{me}'",
    "a line of somebody else's": "UPDATE ledger SET account = '{me}', number = 4 WHERE account = '{other}'",
    "a line that is gone": "DELETE FROM ledger WHERE number = 2 AND account = '{me}'",
    "the last line gone": "DELETE FROM ledger WHERE number = 3 AND account = '{me}'",
    "the last line gone, and the end put before it": "DELETE FROM ledger WHERE number = 3 AND account = '{me}'; "
    "UPDATE ledger_head SET number = 2, mac = (SELECT mac FROM ledger WHERE number = 2 AND account = '{me}') "
    "WHERE account = '{me}'",
    "lines exchanged": "UPDATE ledger SET number = 9 WHERE number = 1 AND account = '{me}'; "
    "UPDATE ledger SET number = 1 WHERE number = 3 AND account = '{me}'; "
    "UPDATE ledger SET number = 3 WHERE number = 9 AND account = '{me}'",
    "a line twice": "INSERT INTO ledger (id, account, number, kind, unit, amount_micro, at_ms, mac) "
    "SELECT 'again', account, 4, kind, unit, amount_micro, at_ms, mac FROM ledger "
    "WHERE number = 1 AND account = '{me}'",
    "a sum": "UPDATE ledger_head SET purses = replace(purses, '[', '[9') WHERE account = '{me}'",
    "somebody else's end": "UPDATE ledger_head "
    "SET number = (SELECT number FROM ledger_head WHERE account = '{other}'), "
    "mac = (SELECT mac FROM ledger_head WHERE account = '{other}'), "
    "purses = (SELECT purses FROM ledger_head WHERE account = '{other}'), "
    "seal = (SELECT seal FROM ledger_head WHERE account = '{other}') WHERE account = '{me}'",
    "no end": "DELETE FROM ledger_head WHERE account = '{me}'",
    "a clean slate": "DELETE FROM ledger WHERE account = '{me}'; DELETE FROM ledger_head WHERE account = '{me}'",
}


@pytest.fixture
async def account(store: Kept) -> AccountId:
    """With three lines: paid in, held, paid in."""
    await store.accounts.put_plan(PREPAID)
    made = (await store.accounts.add("acme", "prepaid")).id
    await store.accounts.pay_in(made, Decimal(20))
    await an_hour(store, made, HOUR_MS // 2)
    await store.accounts.pay_in(made, Decimal(5))
    return made


@pytest.fixture
async def other(store: Kept, account: AccountId) -> AccountId:
    made = (await store.accounts.add("other", "prepaid")).id
    await store.accounts.pay_in(made, Decimal(10_000))
    return made


@pytest.fixture
async def replica(places: Places, store: Kept) -> AsyncIterator[Kept]:
    """Another process, which has seen nothing yet."""
    async with kept(places, alone=False) as opened:
        yield opened


async def an_hour(store: Kept, account: AccountId, audio_ms: int = HOUR_MS) -> None:
    source = (await submitted(store)).source
    await store.jobs.submit(NewJob(account, "test", source, OPTIONS, audio_ms=audio_ms))


async def by_hand(store: Kept, *statements: str) -> None:
    """As whoever owns the database can: without the triggers."""
    on = " ON ledger" if store.database.is_postgres else ""
    async with store.database.begin() as tx:
        for statement in (*(f"DROP TRIGGER ledger_{verb}{on}" for verb in ("update", "delete")), *statements):
            await tx.run(text(statement))


async def held_job(store: Kept) -> JobId:
    async with store.database.begin() as tx:
        return JobId((await tx.run(text("SELECT job FROM ledger WHERE kind = 'hold'"))).scalar_one())


async def lines(store: Kept) -> int:
    async with store.database.begin() as tx:
        return int((await tx.run(text("SELECT count(*) FROM ledger"))).scalar_one())


async def test_what_was_written_is_in_order(store: Kept, account: AccountId, other: AccountId) -> None:
    assert (await store.accounts.check(account)).number == 3
    assert (await store.accounts.check(other)).number == 1
    balance = await store.accounts.balance(account)
    assert (balance.total, balance.held) == (Decimal(25), Decimal(10))


@pytest.mark.parametrize("attack", ATTACKS)
async def test_what_was_changed_by_hand_is_found_and_pays_for_nothing(
    store: Kept, replica: Kept, account: AccountId, other: AccountId, attack: str
) -> None:
    statements = ATTACKS[attack].format(me=account, other=other).split("; ")
    await by_hand(store, *statements)
    before = await lines(store)
    with pytest.raises(LedgerError):
        await store.accounts.check(account)
    for debit in (an_hour(replica, account, 1000), replica.accounts.pay_in(account, Decimal(1))):
        with pytest.raises(LedgerError):
            await debit
    assert await lines(store) == before


async def test_what_was_held_and_is_changed_under_a_running_proxy_is_neither_spent_nor_given_back(
    store: Kept, account: AccountId
) -> None:
    await store.accounts.pay_in(account, Decimal(1))  # it has seen all lines by now
    await by_hand(store, "UPDATE ledger SET amount_micro = 0 WHERE kind = 'hold'")
    job, before = await held_job(store), await lines(store)
    async with store.database.begin() as tx:
        with pytest.raises(LedgerError):
            await store.funds.capture(tx, await funds.locked_account(tx, account), job, HOUR_MS)
    assert (await store.jobs.cancel(account, job)).released == 0
    assert await lines(store) == before
    assert (await store.accounts.balance(account)).held == 10


async def test_a_job_of_an_account_whose_lines_were_changed_is_withheld(
    store: Kept, replica: Kept, account: AccountId
) -> None:
    job = await submitted(store, account=account)
    await by_hand(store, "UPDATE ledger SET amount_micro = 1 WHERE number = 1")

    async def is_over() -> bool:
        return (await store.jobs.get(account, job.id)).status.is_final

    async with working(replica, means(replica, FakeEngine())):
        await until(is_over)
    ended = await store.jobs.get(account, job.id)
    assert ended.failure is not None
    assert (ended.failure.kind, ended.amount) == (FailureKind.BILLING, Decimal(0))


async def test_of_two_replicas_that_spend_the_last_credit_one_does(
    store: Kept, replica: Kept, account: AccountId
) -> None:
    await store.accounts.pay_in(account, Decimal(5))
    outcomes = await asyncio.gather(*(an_hour(each, account) for each in (store, replica) * 3), return_exceptions=True)
    assert sum(isinstance(outcome, FundsError) for outcome in outcomes) == 5
    assert [outcome for outcome in outcomes if not isinstance(outcome, FundsError)] == [None]
    assert (await store.accounts.balance(account)).available == 0
    assert (await store.accounts.check(account)).number == 5


async def test_who_completes_and_who_cancels_at_once_do_not_wait_for_each_other(
    store: Kept, replica: Kept, account: AccountId
) -> None:
    await store.accounts.pay_in(account, Decimal(1000))
    mine = queue(store)
    for _ in range(10):
        claim = await claimed(mine)
        outcomes = await asyncio.gather(
            mine.complete(claim, JobResult(HEARD), 2500),
            replica.jobs.cancel(claim.job.account, claim.job.id),
            return_exceptions=True,
        )
        assert not any(isinstance(outcome, StoreError) for outcome in outcomes)
        assert sum(isinstance(outcome, JobsError) for outcome in outcomes) <= 1
        await submitted(store, account=account)
    await store.accounts.check(account)


async def test_a_line_that_was_taken_back_is_forgotten(store: Kept, account: AccountId) -> None:
    async with store.database.begin() as tx:
        owner = await funds.locked_account(tx, account)
        await store.funds.pay_in(tx, owner, Decimal(1), by_hand=False)
        await store.funds.pay_in(tx, owner, Decimal(1), by_hand=False)
        await tx.connection.rollback()
    assert (await store.accounts.pay_in(account, Decimal(1))).total == 26
    assert (await store.accounts.check(account)).number == 4


async def test_what_was_held_in_one_unit_is_spent_in_it(store: Kept, account: AccountId) -> None:
    await store.accounts.put_plan(PlanTerms("free"))
    held = await held_job(store)
    await store.accounts.move(account, "free")
    async with store.database.begin() as tx:
        spent = await store.funds.capture(tx, await funds.locked_account(tx, account), held, HOUR_MS)
    assert spent == 10
    await store.accounts.move(account, "prepaid")
    balance = await store.accounts.balance(account)
    assert (balance.total, balance.held) == (Decimal(15), Decimal(0))


OWNER = Account(AccountId("a"), "a", PlanTerms("p", Meter.HOURS_28D, quota_ms=HOUR_MS), 0)


def spent(at_ms: int) -> LedgerEntry:
    return LedgerEntry(OWNER.id, EntryKind.CAPTURE, Meter.HOURS_28D, Decimal("0.5"), at_ms)


def test_hours_begin_anew_with_their_window() -> None:
    head = Head().after(b"1", OWNER, spent(1)).after(b"2", OWNER, spent(2))
    assert head.purse(OWNER, 3).total_micro == -1_000_000
    assert head.purse(OWNER, WINDOW_MS).total_micro == 0
    assert head.after(b"3", OWNER, spent(WINDOW_MS)).purse(OWNER, WINDOW_MS).total_micro == -500_000


def test_a_clock_that_is_put_back_gives_no_hours_back() -> None:
    head = Head().after(b"1", OWNER, spent(WINDOW_MS)).after(b"2", OWNER, spent(1))
    assert head.purses[Meter.HOURS_28D] == Purse(-1_000_000, -1_000_000, WINDOW_MS)
    assert head.purse(OWNER, 1).total_micro == -1_000_000


def test_what_is_held_outlives_its_window() -> None:
    hold = replace(spent(1), kind=EntryKind.HOLD)
    assert Head().after(b"1", OWNER, hold).purse(OWNER, WINDOW_MS).held_micro == 500_000
