from __future__ import annotations

import asyncio

import pytest

from core.program.together import first_of
from tests.waiting import until


class Work:
    """Waits for ever, and notes how it ends."""

    def __init__(self) -> None:
        self.begun = False
        self.over = False

    async def forever(self) -> str:
        self.begun = True
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.over = True
        return "never"


async def at_once() -> str:
    await asyncio.sleep(0)
    return "first"


async def failing() -> str:
    await asyncio.sleep(0)
    raise ValueError("first")


async def test_the_first_to_end_counts_and_the_others_are_over_by_then() -> None:
    work = Work()
    assert await first_of(work.forever(), at_once()) == "first"
    assert work.over


async def test_what_the_first_raises_is_raised_as_it_is() -> None:
    work = Work()
    with pytest.raises(ValueError, match="first"):
        await first_of(work.forever(), failing())
    assert work.over


async def test_of_two_that_end_at_once_the_one_named_first_counts() -> None:
    assert await first_of(at_once(), failing()) == "first"
    with pytest.raises(ValueError, match="first"):
        await first_of(failing(), at_once())


async def test_whoever_is_cancelled_leaves_nothing_behind() -> None:
    works = [Work(), Work()]
    task = asyncio.get_running_loop().create_task(first_of(*(work.forever() for work in works)))
    await until(lambda: all(work.begun for work in works))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(work.over for work in works)
