from __future__ import annotations

import asyncio

import pytest

from engine.gateway.exchange import ticking
from tests.waiting import until


async def test_work_that_takes_no_time_ticks_not_once() -> None:
    ticks = 0

    async def work() -> str:
        return "done"

    async def tick() -> None:
        nonlocal ticks
        ticks += 1

    assert await ticking(work(), 60, tick) == "done"
    assert ticks == 0


async def test_work_ticks_until_it_is_done() -> None:
    enough = asyncio.Event()
    ticks = 0

    async def work() -> str:
        await enough.wait()
        return "done"

    async def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            enough.set()

    assert await ticking(work(), 0.001, tick) == "done"
    assert ticks >= 3


async def test_what_the_work_raises_is_raised() -> None:
    async def work() -> None:
        raise KeyError

    async def tick() -> None: ...

    with pytest.raises(KeyError):
        await ticking(work(), 60, tick)


async def test_a_tick_that_fails_cancels_the_work_and_waits_for_it() -> None:
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended = True

    async def tick() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await ticking(work(), 0.001, tick)
    assert ended


async def test_the_work_is_cancelled_with_its_caller() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def tick() -> None: ...

    async with asyncio.TaskGroup() as group:
        caller = group.create_task(ticking(work(), 60, tick))
        await begun.wait()
        caller.cancel()
    await until(cancelled.is_set)
