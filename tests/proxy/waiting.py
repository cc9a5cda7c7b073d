"""Tests wait for what they want to see, never for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GIVE_UP_S = 20.0


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition` holds. Raises TimeoutError when it never does."""
    async with asyncio.timeout(GIVE_UP_S):
        while not condition():  # noqa: ASYNC110 - the things waited for know nothing of events
            await asyncio.sleep(0.001)
