"""When does each event of a stream leave? Not at once, but together with those of the next moment.

How long words are, and how fast they follow each other, shows in the sizes and times of what is sent, whatever hides
their letters ("Whisper Leak", arXiv 2511.03675). Padding hides the sizes (`core.channel.padding`). What leaves
`window_s` after the first of its events hides how many these are, and all their times but one.
`benchmarks/observer.py` measures what that leaves to somebody on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from engine.gateway.exchange import Events

MAX_WAITING: Final = 64
"""Events that are read ahead; more come when these have left."""


@dataclass(frozen=True, slots=True)
class _End:
    """The stream is over. error: what broke it."""

    error: Exception | None = None


async def coalesced(
    events: AsyncIterator[bytes], window_s: float, *, nap: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> Events:
    """The events in batches, each of which leaves `window_s` after its first event.

    What breaks the stream is raised behind all that came before it. nap: waits so many seconds.
    """
    waiting: asyncio.Queue[bytes | _End] = asyncio.Queue(MAX_WAITING)

    async def read() -> None:
        try:
            async for event in events:
                await waiting.put(event)
        except Exception as exc:  # noqa: BLE001 - raised where the batches are read
            await waiting.put(_End(exc))
        else:
            await waiting.put(_End())

    reading = asyncio.create_task(read())  # noqa: TID251 - awaited below, whatever happens
    try:
        while True:
            batch = await _batch(waiting, window_s, nap)
            if said := b"".join(item for item in batch if isinstance(item, bytes)):
                yield said
            if isinstance(end := batch[-1], _End):
                if end.error is not None:
                    raise end.error
                return
    finally:
        reading.cancel()
        await asyncio.wait({reading})


async def _batch(
    waiting: asyncio.Queue[bytes | _End], window_s: float, nap: Callable[[float], Awaitable[None]]
) -> list[bytes | _End]:
    batch = [await waiting.get()]
    if window_s and isinstance(batch[0], bytes):
        await nap(window_s)
        while not waiting.empty() and len(batch) < MAX_WAITING:
            batch.append(waiting.get_nowait())
    return batch
