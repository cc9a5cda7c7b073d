from __future__ import annotations

import asyncio

import pytest

from engine.access.places import MAX_RETRY_AFTER_S, MIN_RETRY_AFTER_S, NoPlaceError, Place, Places
from tests.engine.gateway.fake_application import Clock
from tests.waiting import until

LONG_S = 3600.0


async def refused(places: Places, limit: int, *, patience_s: float = 0.0) -> float:
    """A request finds no place; what it is advised."""
    with pytest.raises(NoPlaceError) as raised:
        await places.take(limit, patience_s=patience_s)
    return raised.value.retry_after_s


async def test_places_are_taken_and_given_back() -> None:
    places = Places()
    first, _ = [await places.take(2, patience_s=0) for _ in range(2)]
    await refused(places, 2)
    first.leave()
    await places.take(2, patience_s=0)
    await refused(places, 2)


async def test_without_a_limit_there_are_places_for_all() -> None:
    places = Places()
    for _ in range(1000):
        await places.take(None, patience_s=0)


async def test_whoever_waits_gets_the_next_place_first_come_first_served() -> None:
    places, served = Places(), []

    async def wait(name: str) -> Place:
        place = await places.take(3, patience_s=LONG_S)
        served.append(name)
        return place

    taken = [await places.take(3, patience_s=0) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        for number, name in enumerate("abc"):
            group.create_task(wait(name))
            await until(lambda number=number: places.waiting == number + 1)  # type: ignore[misc]
        for number, place in enumerate(taken):
            place.leave()
            await refused(places, 3)  # a newcomer overtakes nobody
            await until(lambda number=number: len(served) == number + 1)  # type: ignore[misc]
    assert served == ["a", "b", "c"]


async def test_no_more_wait_than_there_are_places() -> None:
    places = Places()
    place = await places.take(1, patience_s=0)
    async with asyncio.TaskGroup() as group:
        group.create_task(places.take(1, patience_s=LONG_S))
        await until(lambda: places.waiting)
        await refused(places, 1, patience_s=LONG_S)
        place.leave()


async def test_whoever_waits_in_vain_is_refused_and_leaves_no_trace() -> None:
    places = Places()
    place = await places.take(1, patience_s=0)
    await refused(places, 1, patience_s=0.001)
    assert places.waiting == 0
    place.leave()
    await places.take(1, patience_s=0)


async def test_whoever_leaves_while_it_waits_takes_no_place() -> None:
    places = Places()
    place = await places.take(1, patience_s=0)
    waiting = asyncio.create_task(places.take(1, patience_s=LONG_S))  # noqa: TID251 - awaited below
    await until(lambda: places.waiting)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    place.leave()
    await places.take(1, patience_s=0)


async def test_a_place_that_comes_in_the_moment_of_leaving_goes_on_to_the_next() -> None:
    places = Places()
    place = await places.take(1, patience_s=0)
    waiting = asyncio.create_task(places.take(1, patience_s=LONG_S))  # noqa: TID251 - awaited below
    await until(lambda: places.waiting)
    place.leave()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await places.take(1, patience_s=0)


async def test_a_limit_that_was_raised_lets_in_whoever_comes_then() -> None:
    places = Places()
    await places.take(1, patience_s=0)
    await refused(places, 1)
    await places.take(2, patience_s=0)


async def test_the_advice_follows_the_work_in_front() -> None:
    clock = Clock()
    places = Places(monotonic=clock)
    for _ in range(2):
        place = await places.take(2, patience_s=0)
        clock.now += 8
        place.leave()
    for _ in range(2):
        await places.take(2, patience_s=0)
    assert await refused(places, 2) == 4.0  # one in front of two places of 8 s each
    waiting = asyncio.create_task(places.take(2, patience_s=LONG_S))  # noqa: TID251 - cancelled below
    await until(lambda: places.waiting)
    assert await refused(places, 2) == 8.0
    clock.now += 12
    assert await refused(places, 2) == 12.0  # the oldest takes longer than usual
    waiting.cancel()


async def test_the_advice_is_neither_nothing_nor_for_ever() -> None:
    clock = Clock()
    places = Places(monotonic=clock)
    await places.take(1, patience_s=0)
    assert await refused(places, 1) == MIN_RETRY_AFTER_S
    clock.now += 10_000
    assert await refused(places, 1) == MAX_RETRY_AFTER_S
