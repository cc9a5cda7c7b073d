"""Accounts, their keys, their plans and their money."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from sqlalchemy import text

from proxy.jobs.errors import ConflictError, DeniedError, FundsError, MissingError, StoreError
from proxy.jobs.model import AccountId, Meter, NewJob, PlanTerms, Principal
from proxy.jobs.service import Kept
from tests.proxy.jobs.made import OPTIONS, submitted

HOUR_MS = 3_600_000
PREPAID = PlanTerms("prepaid", Meter.CENTS, max_active_keys=2, price_per_hour=Decimal(20))


@pytest.fixture
async def account(store: Kept) -> AccountId:
    await store.accounts.put_plan(PREPAID)
    return (await store.accounts.add("acme", "prepaid")).id


async def test_a_key_is_shown_once_and_says_whose_it_is(store: Kept, account: AccountId) -> None:
    key, text_of = await store.accounts.add_key(account, "laptop")
    principal, owner = await store.accounts.authenticate(text_of)
    assert principal == Principal(account, key.id)
    assert owner.plan == PREPAID
    assert text_of.startswith(key.prefix)
    assert text_of not in repr(await store.accounts.keys(account))


async def test_the_database_does_not_have_the_text_of_a_key(store: Kept, account: AccountId) -> None:
    _, text_of = await store.accounts.add_key(account, "laptop")
    async with store.database.begin() as tx:
        rows = (await tx.run(text("SELECT * FROM api_key"))).all()
    assert len(rows) == 1
    assert text_of[12:] not in repr(rows)


async def test_keys_that_are_unknown_over_or_revoked_open_nothing(store: Kept, account: AccountId) -> None:
    over, over_text = await store.accounts.add_key(account, "over", lifetime_ms=-1)
    revoked, revoked_text = await store.accounts.add_key(account, "revoked")
    await store.accounts.revoke(account, revoked.id)
    for key, was_revoked in (("sk_live_x", False), ("é", False), (over_text, False), (revoked_text, True)):
        with pytest.raises(DeniedError) as caught:
            await store.accounts.authenticate(key)
        assert caught.value.revoked is was_revoked
    assert over.expires_ms is not None


async def test_a_plan_bounds_the_keys(store: Kept, account: AccountId) -> None:
    first, _ = await store.accounts.add_key(account, "1")
    await store.accounts.add_key(account, "2")
    with pytest.raises(ConflictError):
        await store.accounts.add_key(account, "3")
    await store.accounts.revoke(account, first.id)
    await store.accounts.add_key(account, "3")


async def test_a_session_is_no_key_and_opens_as_long_as_it_lasts(store: Kept, account: AccountId) -> None:
    await store.accounts.add_key(account, "1")
    await store.accounts.add_key(account, "2")
    session, token = await store.accounts.add_session(account, lifetime_ms=HOUR_MS)
    principal, _ = await store.accounts.authenticate(token)
    assert principal == Principal(account, session.id, is_session=True)
    _, over = await store.accounts.add_session(account, lifetime_ms=0)
    await store.accounts.revoke(account, session.id)
    for each in (over, token):
        with pytest.raises(DeniedError):
            await store.accounts.authenticate(each)
    assert [key.is_session for key in await store.accounts.keys(account)] == [False, False, True, True]


async def test_two_who_make_the_last_key_at_once_do_not_both_get_one(store: Kept, account: AccountId) -> None:
    outcomes = await asyncio.gather(*(store.accounts.add_key(account, "key") for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 3


async def test_names_and_plans_must_be_there(store: Kept, account: AccountId) -> None:
    with pytest.raises(ConflictError):
        await store.accounts.add("acme", "prepaid")
    with pytest.raises(MissingError):
        await store.accounts.add("other", "no such plan")
    with pytest.raises(MissingError):
        await store.accounts.named("nobody")
    assert (await store.accounts.named("acme")).id == account


async def test_an_account_with_nothing_submits_nothing(store: Kept, account: AccountId) -> None:
    with pytest.raises(FundsError) as caught:
        await submitted(store, account=account)
    assert caught.value.is_empty


async def test_a_recording_that_costs_more_than_there_is_makes_no_job(store: Kept, account: AccountId) -> None:
    await store.accounts.pay_in(account, Decimal(20))
    made = await submitted(store, account=account)
    too_long = NewJob(account, "test", made.source, OPTIONS, audio_ms=HOUR_MS + 1000)
    with pytest.raises(FundsError) as caught:
        await store.jobs.submit(too_long)
    assert not caught.value.is_empty


async def test_two_who_spend_the_same_money_at_once_do_not_both_get_it(store: Kept, account: AccountId) -> None:
    await store.accounts.pay_in(account, Decimal(20))
    made = await submitted(store, account=account)
    an_hour = NewJob(account, "test", made.source, OPTIONS, audio_ms=HOUR_MS)
    outcomes = await asyncio.gather(*(store.jobs.submit(an_hour) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(outcome, FundsError) for outcome in outcomes) == 3
    assert (await store.accounts.balance(account)).available == 0


async def test_hours_are_counted_in_their_window(store: Kept) -> None:
    await store.accounts.put_plan(PlanTerms("monthly", Meter.HOURS_28D, quota_ms=HOUR_MS))
    account = (await store.accounts.add("monthly", "monthly")).id
    made = await submitted(store, account=account)
    await store.jobs.submit(NewJob(account, "test", made.source, OPTIONS, audio_ms=HOUR_MS // 2))
    balance = await store.accounts.balance(account)
    assert (balance.total, balance.held) == (Decimal(1), Decimal("0.5"))
    with pytest.raises(FundsError):
        await store.jobs.submit(NewJob(account, "test", made.source, OPTIONS, audio_ms=HOUR_MS))


async def test_money_of_another_unit_buys_nothing(store: Kept, account: AccountId) -> None:
    await store.accounts.pay_in(account, Decimal(20))
    await store.accounts.put_plan(PlanTerms("credits", Meter.CREDITS, price_per_hour=Decimal(60)))
    await store.accounts.move(account, "credits")
    assert (await store.accounts.balance(account)).total == 0


@pytest.mark.parametrize("amount", [Decimal(0), Decimal(-1), Decimal("0.0000001")])
async def test_what_is_paid_in_is_an_amount(store: Kept, account: AccountId, amount: Decimal) -> None:
    with pytest.raises(ValueError, match="amount"):
        await store.accounts.pay_in(account, amount)


async def test_a_correction_may_take_away(store: Kept, account: AccountId) -> None:
    await store.accounts.pay_in(account, Decimal(20))
    assert (await store.accounts.pay_in(account, Decimal(-5), by_hand=True)).total == 15


@pytest.mark.parametrize("statement", ["UPDATE ledger SET amount_micro = 1", "DELETE FROM ledger"])
async def test_the_ledger_is_only_added_to(store: Kept, account: AccountId, statement: str) -> None:
    await store.accounts.pay_in(account, Decimal(20))
    with pytest.raises(StoreError):
        async with store.database.begin() as tx:
            await tx.run(text(statement))
    assert (await store.accounts.balance(account)).total == 20
