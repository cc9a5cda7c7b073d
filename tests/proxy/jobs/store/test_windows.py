"""A limit is one limit, however many proxies there are; moments of requests are kept for a minute and name nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text, update

from proxy.dialects.rates import WINDOW_S, Rates, StoredRates
from proxy.jobs.service import Kept, Places, kept
from proxy.jobs.store.retention import Periods, Sweeper
from proxy.jobs.store.schema import rate_window
from proxy.jobs.store.windows import StoredWindows, counting


def rates_of(store: Kept) -> Rates:
    return StoredRates(StoredWindows(store.database, store.pepper, WINDOW_S * 1000))


@pytest.fixture
async def replica(places: Places, store: Kept) -> AsyncIterator[Kept]:
    async with kept(places, alone=False) as opened:
        yield opened


async def test_replicas_count_together_whoever_is_first(store: Kept, replica: Kept) -> None:
    both = [rates_of(store), rates_of(replica)] * 6
    standings = await asyncio.gather(*(rates.hit("route", "me", 5) for rates in both))
    let_through = sorted(each.remaining for each in standings if each.retry_after_s is None)
    assert let_through == [0, 1, 2, 3, 4]
    waits = [each.retry_after_s for each in standings if each.retry_after_s is not None]
    assert len(waits) == 7
    assert all(0 <= wait <= WINDOW_S for wait in waits)


async def test_callers_and_routes_have_windows_of_their_own(store: Kept) -> None:
    rates = rates_of(store)
    for scope, caller in (("a", "me"), ("b", "me"), ("a", "you"), ("am", "e")):
        assert (await rates.hit(scope, caller, 1)).retry_after_s is None
    assert (await rates.hit("a", "me", 1)).retry_after_s is not None


async def test_what_is_a_minute_old_counts_no_more_and_goes(store: Kept) -> None:
    rates = rates_of(store)
    await rates.hit("a", "me", 1)
    async with store.database.begin() as tx:
        old_ms = tx.now_ms - WINDOW_S * 1000
        await tx.run(update(rate_window).values(hits_ms=f"[{old_ms}]", until_ms=tx.now_ms - 1))
    assert (await rates.hit("a", "me", 1)).retry_after_s is None
    async with store.database.begin() as tx:
        await tx.run(update(rate_window).values(until_ms=tx.now_ms - 1))
    sweeper = Sweeper(store.database, store.records, store.blobs, store.answers, Periods(), funds=store.funds)
    assert (await sweeper.sweep())["rate"] == 1


def test_a_clock_that_is_put_back_holds_nobody_up_for_longer() -> None:
    an_hour_ahead = 3_600_000
    assert counting([an_hour_ahead, 59_999, -59_999, -60_000, 60_000], 0, 60_000) == [59_999, -59_999]


async def test_who_asked_is_not_readable(store: Kept) -> None:
    await rates_of(store).hit("address", "192.0.2.55", 5)
    async with store.database.begin() as tx:
        rows = (await tx.run(text("SELECT * FROM rate_window"))).all()
    assert len(rows) == 1
    assert "192.0.2.55" not in repr(rows)


async def test_a_limit_that_was_lowered_lets_nobody_in_too_early(store: Kept) -> None:
    rates = rates_of(store)
    for _ in range(4):
        await rates.hit("a", "me", 4)
    standing = await rates.hit("a", "me", 2)
    assert standing.remaining == 0
    assert standing.retry_after_s is not None
