"""Who starts a model server again when it dies? A keeper, one for each.

It waits longer before every further attempt, until a server has answered a call: a checkpoint that crashes its server
at once must not keep the machine busy with start-ups.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import structlog

from core.errors import BackendError

MAX_RESTART_DELAY_S = 30.0

_log = structlog.get_logger(__name__)


class ModelServer(Protocol):
    """A process, or several, that serve a model."""

    @property
    def served(self) -> bool:
        """Whether it has answered a call."""

    async def wait(self) -> None:
        """Return once it has ended."""

    async def close(self) -> None:
        """End it and wait until it is gone; safe to call twice."""


S = TypeVar("S", bound=ModelServer)


class Keeper(Generic[S]):
    """Keeps one model server running.

    launch: starts a server and returns once it serves; raises BackendError.
    name: what the log calls it.
    delay_s: the wait before a server that died is replaced; doubled while none answers a call.
    """

    def __init__(
        self,
        launch: Callable[[], Awaitable[S]],
        *,
        name: str,
        delay_s: float = 0.5,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._launch = launch
        self._name = name
        self._delay_s = delay_s
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None
        self.current: S | None = None

    async def start(self) -> None:
        """Return once the first server serves. Raises BackendError."""
        self.current = await self._launch()
        # Lives as long as this object, longer than any TaskGroup here could; `close` awaits it.
        self._task = asyncio.create_task(self._keep(self.current))  # noqa: TID251

    async def close(self) -> None:
        """End the server for good; safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
        # A task that is cancelled before its first step never reaches its `finally`.
        server, self.current = self.current, None
        if server is not None:
            await server.close()

    async def _keep(self, server: S) -> None:
        delay_s = self._delay_s
        try:
            while True:
                await server.wait()
                self.current = None
                await server.close()
                _log.warning("process_ended", process=self._name, next="another is started")
                delay_s = self._delay_s if server.served else min(2 * delay_s, MAX_RESTART_DELAY_S)
                server, delay_s = await self._replace(delay_s)
        finally:
            self.current = None
            await server.close()

    async def _replace(self, delay_s: float) -> tuple[S, float]:
        """The next server that starts, and how long the wait for it was in the end."""
        while True:
            await self._sleep(delay_s)
            try:
                self.current = await self._launch()
            except BackendError:
                _log.warning("process_not_started", process=self._name, next="it is tried again")
                delay_s = min(2 * delay_s, MAX_RESTART_DELAY_S)
            else:
                return self.current, delay_s
