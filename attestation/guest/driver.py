"""How do we ask a driver that may hang? In a thread, one call at a time, and for no longer than a deadline.

A call into a driver cannot be cancelled. One that hangs keeps its thread, a daemon so that the program can still end,
and it keeps the driver: whoever comes later waits for it, within a deadline of his own, and never calls beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from attestation.errors import FetchError

T = TypeVar("T")


class DriverThread:
    """The calls of one driver.

    driver: what a message calls it. deadline_s: from a call to its answer, the wait for earlier calls included.
    """

    def __init__(self, driver: str, *, deadline_s: float) -> None:
        self._driver = driver
        self._deadline_s = deadline_s
        self._running: asyncio.Future[Any] | None = None

    async def call(self, work: Callable[[], T]) -> T:
        """The result of `work`. Raises what it raises, and FetchError when there is none in time."""
        try:
            async with asyncio.timeout(self._deadline_s):
                while self._running is not None:
                    await asyncio.wait([self._running])
                answer = self._start(work)
                return await asyncio.shield(answer)
        except TimeoutError as exc:
            raise FetchError(f"{self._driver} did not answer in time") from exc

    def _start(self, work: Callable[[], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        answer.add_done_callback(self._ended)
        self._running = answer

        def run() -> None:
            try:
                deliver = partial(answer.set_result, work())
            except Exception as exc:  # noqa: BLE001 - handed to the caller, who raises it
                deliver = partial(answer.set_exception, exc)
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(deliver)

        threading.Thread(target=run, name=self._driver, daemon=True).start()
        return answer

    def _ended(self, answer: asyncio.Future[Any]) -> None:
        self._running = None
        answer.exception()  # a caller may have left: that must not warn of an unread exception
