"""Tests wait for what they want to see, never for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable

GIVE_UP_S = 180.0
"""Longer than anything here takes on the slowest machine: a test that waits in vain fails instead of hanging."""


async def until(condition: Callable[[], object], *, give_up_s: float = GIVE_UP_S) -> None:
    """Return once `condition`, which may be asynchronous, holds. Raises TimeoutError when it never does."""
    pause_s = 0.0
    async with asyncio.timeout(give_up_s):
        while not (await found if isawaitable(found := condition()) else found):
            await asyncio.sleep(pause_s)  # the things waited for know nothing of events
            pause_s = min(pause_s + 0.001, 0.05)


def time_passes(seconds: float) -> None:
    """Put the clock of the running loop forward: what has to happen within less than `seconds` is late at once.

    So a test of a time-out chooses when it ends, and a busy machine does not.
    """
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]


async def until_settled(seen: Callable[[], object] = lambda: None) -> None:
    """Return once the loop has gone round many times and `seen` has not changed: nothing more comes on its own."""
    before, unchanged = seen(), 0
    while unchanged < 20:
        await asyncio.sleep(0.001)
        unchanged = unchanged + 1 if seen() == before else 0
        before = seen()
