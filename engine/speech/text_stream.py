"""How is a file's text read while it is made?

One task makes it, from the first piece to the last, and whoever likes takes the pieces: time limits and task groups
belong to the task that enters them, and would be lost in a generator that is advanced by one task and then by another.
The work goes on while nobody reads, so that a slow reader holds up no backend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeAlias

from core.transcript.types import Transcript
from engine.types import TextDelta

Piece: TypeAlias = TextDelta | Transcript
Send: TypeAlias = Callable[[Piece], None]


class TextStream:
    """A file's deltas, and last its transcription. Whoever begins one closes it."""

    def __init__(
        self, write: Callable[[Send], Coroutine[Any, Any, None]], *, time_limit_s: float | None = None
    ) -> None:
        """write: sends all of the pieces. time_limit_s: for all of them, after which reading raises TimeoutError."""
        self._pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        # Awaited by whoever reads to the end, or closes; what it raised before that is nobody's surprise.
        self._work = asyncio.create_task(self._run(write, time_limit_s))  # noqa: TID251
        self._work.add_done_callback(lambda work: work.cancelled() or work.exception())

    async def _run(self, write: Callable[[Send], Coroutine[Any, Any, None]], time_limit_s: float | None) -> None:
        try:
            async with asyncio.timeout(time_limit_s):
                await write(self._pieces.put_nowait)
        finally:
            self._pieces.put_nowait(None)

    async def next_within(self, period_s: float | None) -> Piece | None:
        """The next piece, or None when there is none for so long.

        Raises StopAsyncIteration after the last, and what the work raised, once all that it had sent was read.
        """
        try:
            async with asyncio.timeout(period_s):
                piece = await self._pieces.get()
        except TimeoutError:
            return None
        if piece is not None:
            return piece
        self._pieces.put_nowait(None)  # for whoever asks again
        await self._work
        raise StopAsyncIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        piece = await self.next_within(None)
        if piece is None:
            raise AssertionError("a wait without a limit ended")
        return piece

    def stop(self) -> None:
        """Cancel the work, without waiting for its end."""
        self._work.cancel()

    async def aclose(self) -> None:
        """Cancel the work, and wait until it has given back what it held."""
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)
