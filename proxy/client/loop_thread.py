"""How does a program without an event loop use what needs one? A thread that has one, and ways to wait for its work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")

Opened = Future[None]
"""Told once: that all is open, or why not."""


class ClosedError(RuntimeError):
    """The loop has ended, or ends before the work is done."""

    def __init__(self) -> None:
        super().__init__("the transport is closed")


class LoopThread:
    """Runs `main` on a loop in a daemon thread, from the first use until `main` returns."""

    def __init__(self, main: Callable[[Opened], Coroutine[Any, Any, None]], name: str) -> None:
        self._main = main
        self._name = name
        self._opened: Opened = Future()
        self._gate = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = False

    def begin(self) -> None:
        """Return once all is open, whoever began it. Raises what opening raised, and ClosedError after `end`."""
        with self._gate:
            if self._ended:
                raise ClosedError
            if self._thread is None:
                self._thread = threading.Thread(target=asyncio.run, args=(self._run(),), name=self._name, daemon=True)
                self._thread.start()
        self._opened.result()

    def wait_for(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """What comes of `work` on the loop. Raises TimeoutError, ClosedError, and what it raises."""
        with self._gate:
            if self._loop is None:
                work.close()
                raise ClosedError
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except CancelledError:
            raise ClosedError from None
        finally:
            future.cancel()  # where nobody waits any more, an interrupted caller say

    def call(self, act: Callable[..., object], *arguments: Any) -> None:
        """Call `act` on the loop, soon; not at all where that has ended."""
        with self._gate:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(act, *arguments)

    def end(self, stop: Callable[[], object]) -> None:
        """Have `main` return, which `stop` tells it on the loop, and wait for that."""
        with self._gate:
            self._ended = True
            thread = self._thread
        if thread is not None:
            self._opened.exception()  # waits
            self.call(stop)
            thread.join()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await self._main(self._opened)
        finally:
            with self._gate:
                self._loop = None  # from here on nothing new comes
            await asyncio.sleep(0)  # what came before begins, and is cancelled with all else
