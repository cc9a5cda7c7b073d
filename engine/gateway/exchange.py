"""What is an exchange, once the envelope is open? The seam between the gateway and the application inside.

The gateway knows keys, chunks and padding and nothing of speech; the application knows requests and answers and nothing
of encryption. Between them: a head that opens an exchange, body pieces, an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

Events = AsyncGenerator[bytes, None]
"""A streamed body; every item is one complete server-sent event, to be flushed by itself."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an inner request.

    path: with its query, still percent-encoded; it starts with a slash.
    headers: names in lower case; the values of a repeated list header are joined by commas (RFC 9110 section 5.3).
    """

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Processed:
    """What was done for an answer. audio_s: how much was heard."""

    model: str
    audio_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An inner response; `body` is whole, or a stream of events. processed: what was done for it, once that is over.

    may_be_kept: whether it may be answered once more to whoever asks again.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes | Events
    processed: Callable[[], Processed] | None = None
    may_be_kept: bool = True

    def to(self, head: Head | None) -> Answer:
        """What of it answers a request: without its content where the head alone was asked for (RFC 9110, 9.3.2)."""
        return replace(self, body=b"") if head and head.method == "HEAD" else self


class Exchange(Protocol):
    """One request on its way in and its answer on its way out."""

    def feed(self, data: bytes) -> None:
        """Take a piece of the body. Raises Fault; then nothing more is fed, nor `answer` called."""

    async def answer(self) -> Answer:
        """Do the work; called once, when the whole request has arrived. Raises Fault, BackendError."""

    def close(self) -> None:
        """Stop what still runs and give back what was held; called exactly once, however the exchange ended."""


class Application(Protocol):
    """What is served inside the envelope."""

    async def open(self, head: Head, *, source: str) -> Exchange:
        """Admit a request by its head, perhaps after a short wait.

        source: where it comes from, as far as can be seen from here; everybody behind one hop has that hop's.
        Raises Fault; then, and when it is cancelled, nothing is held, and there is nothing to close.
        """

    def refusal(self, error: Exception, head: Head | None) -> Answer:
        """The answer to a request that failed with `error`; a constant for what is not a Fault."""

    def broken_stream(self, error: Exception) -> bytes:
        """The last event of a stream that failed with `error` after it began."""


async def ticking(work: Coroutine[Any, Any, T], period_s: float, tick: Callable[[], Awaitable[None]]) -> T:
    """Await `work`, calling `tick` whenever another `period_s` has gone by; cancelled together with its caller."""
    task = asyncio.create_task(work)  # noqa: TID251 - awaited here, whatever happens
    try:
        while not (await asyncio.wait({task}, timeout=period_s))[0]:
            await tick()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
