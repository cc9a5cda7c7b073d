"""Events of one moment leave together, in their order, none is lost, and what breaks the stream comes last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from engine.gateway.coalesce import MAX_WAITING, coalesced
from tests.waiting import until_settled


class Moments:
    """A nap that ends when the test says so."""

    def __init__(self) -> None:
        self.naps: list[float] = []
        self._over: asyncio.Queue[None] = asyncio.Queue()

    async def nap(self, seconds: float) -> None:
        self.naps.append(seconds)
        await self._over.get()

    def end(self) -> None:
        self._over.put_nowait(None)


class Said:
    """A stream of which the test says each event. An exception breaks it, nothing ends it."""

    def __init__(self, *events: bytes | Exception | None) -> None:
        self.queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.closed = False
        for event in events:
            self.queue.put_nowait(event)

    async def events(self) -> AsyncIterator[bytes]:
        try:
            while (event := await self.queue.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed = True


async def following(batches: AsyncIterator[bytes], moments: Moments) -> bytes:
    """The next batch, whose window ends when all that was said is read."""
    async with asyncio.TaskGroup() as group:
        batch = group.create_task(next_of(batches))
        await until_settled()
        assert not batch.done()
        moments.end()
    return batch.result()


async def next_of(batches: AsyncIterator[bytes]) -> bytes:
    return await anext(batches)


async def test_what_is_said_within_a_window_leaves_together_after_it() -> None:
    moments, said = Moments(), Said(b"1", b"2", b"3")
    async with aclosing(coalesced(said.events(), 0.05, nap=moments.nap)) as batches:
        assert await following(batches, moments) == b"123"
        said.queue.put_nowait(b"4")
        said.queue.put_nowait(None)
        assert await following(batches, moments) == b"4"
        with pytest.raises(StopAsyncIteration):
            await anext(batches)
    assert moments.naps == [0.05, 0.05]


async def test_without_a_window_each_event_leaves_at_once() -> None:
    moments, said = Moments(), Said(b"1", b"2", b"3", None)
    assert [batch async for batch in coalesced(said.events(), 0.0, nap=moments.nap)] == [b"1", b"2", b"3"]
    assert moments.naps == []


async def test_what_breaks_the_stream_comes_behind_what_was_said_before() -> None:
    moments, said = Moments(), Said(b"1", b"2", ValueError("broken"))
    async with aclosing(coalesced(said.events(), 0.05, nap=moments.nap)) as batches:
        assert await following(batches, moments) == b"12"
        with pytest.raises(ValueError, match="broken"):
            await anext(batches)


async def test_a_stream_of_nothing_is_over_at_once() -> None:
    assert [batch async for batch in coalesced(Said(None).events(), 0.05)] == []


async def test_no_more_is_read_ahead_than_may_wait() -> None:
    moments, said = Moments(), Said(*[b"."] * (3 * MAX_WAITING))
    async with aclosing(coalesced(said.events(), 0.05, nap=moments.nap)) as batches:
        assert len(await following(batches, moments)) == MAX_WAITING
        assert said.queue.qsize() >= MAX_WAITING - 2


async def test_whoever_leaves_early_leaves_nothing_running() -> None:
    said = Said(b"1")
    async with aclosing(coalesced(said.events(), 0.0)) as batches:
        assert await anext(batches) == b"1"
    assert said.closed
