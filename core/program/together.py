"""What if several things go on until one of them ends?"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def first_of(*work: Coroutine[Any, Any, T]) -> T:
    """What the first to end returns or raises; the others are cancelled, and over when this returns.

    Of several that have ended at once the one that was named first counts.
    """
    # Not a TaskGroup, which would wrap what is raised in a group, and waits for all.
    tasks = [asyncio.create_task(each) for each in work]  # noqa: TID251 - awaited below, whatever happens
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = next(task for task in tasks if task.done())
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    outcome = outcomes[tasks.index(first)]
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
