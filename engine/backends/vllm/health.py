"""Does a vLLM server still answer? One that hangs is alive all the same, so it is asked every few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from engine.backends.vllm.client import VllmConnection

HEALTH_PERIOD_S = 5.0
PATIENCE_S = 60.0
"""How long a server may be silent before it is taken for one that never answers again."""

_log = structlog.get_logger(__name__)


class HealthWatch:
    """Follows the health of a server that answers when the watch begins.

    name: what the log calls the server. give_up: what to do once it has not answered for `patience_s`.
    """

    def __init__(
        self,
        client: VllmConnection,
        *,
        name: str,
        period_s: float = HEALTH_PERIOD_S,
        patience_s: float = PATIENCE_S,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        self._client = client
        self._name = name
        self._period_s = period_s
        self._patience_s = patience_s
        self._give_up = give_up
        self._answers = True
        # Lives as long as this object, longer than any TaskGroup here could; `close` awaits it.
        self._task = asyncio.create_task(self._follow())  # noqa: TID251

    @property
    def healthy(self) -> bool:
        """Whether it answered when it was last asked; of a watch that is over, nothing is known."""
        return self._answers and not self._task.done()

    async def close(self) -> None:
        """Watch no longer; safe to call twice."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _follow(self) -> None:
        clock = asyncio.get_running_loop()
        answered_at = clock.time()
        while True:
            await asyncio.sleep(self._period_s)
            answers = await self._client.healthy()
            if answers != self._answers:
                _log.warning("server_health", process=self._name, answers=answers)
            self._answers = answers
            if answers:
                answered_at = clock.time()
            elif self._give_up is not None and clock.time() - answered_at > self._patience_s:
                _log.error("server_given_up", process=self._name)
                self._give_up()
                return
