"""Was this asked before under its idempotency key, and who still waits for the answer?

A request with a key starts a run, which is nobody's connection. Whoever asks the same again, while it goes on or within
`keep_s` of its end, reads what that run answered, event by event where it is a stream; whoever asks something else
under the key is refused. A run that nobody reads any more ends after `linger_s`, so that whoever lost their connection
can come back.

What is not answered well (a fault that waiting mends, a stream that breaks), and what voices are like, is not kept:
asked again, it is done again.
Answers live in memory only, `max_bytes` of them at most; the ones that were done first go first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from engine.gateway.exchange import Answer, Events

KEEP_S: Final = 600.0
LINGER_S: Final = 5.0
MAX_BYTES: Final = 16 * 1024 * 1024
RUN_BYTES: Final = 2_048
"""What a run takes in memory beside its answer."""

_REPLAY: Final = ("idempotent-replay", "true")
_NOT_KEPT: Final = frozenset({408, 409, 429})


class KeyReusedError(Exception):
    """The key came with another request before."""


class Joined(StrEnum):
    """What became of a request with a key."""

    STARTED = "started"
    JOINED = "joined"
    REPLAYED = "replayed"
    REUSED = "reused"


@dataclass(frozen=True, slots=True)
class RunName:
    """Whose key it is: names of one holder mean nothing to another."""

    holder: str
    key: str


class _Run:
    """One piece of work, and what it has answered so far. head: once it is known; its body whole, or in `events`."""

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.head: Answer | None = None
        self.events: list[bytes] = []
        self.error: Exception | None = None
        self.done = False
        self.readers = 0
        self.size_bytes = RUN_BYTES
        self.task: asyncio.Task[None] | None = None
        self.farewell: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    @property
    def worth_keeping(self) -> bool:
        return (
            self.error is None
            and self.head is not None
            and self.head.status < 500
            and (self.head.status not in _NOT_KEPT)
            and self.head.may_be_kept
        )

    async def work(self, work: Callable[[], Awaitable[Answer]]) -> None:
        """Do it, whoever reads."""
        try:
            answer = await work()
            self.size_bytes += len(answer.body) if isinstance(answer.body, bytes) else 0
            self.head = answer
            self._tell()
            if not isinstance(answer.body, bytes):
                await self._record(answer.body)
        except Exception as exc:  # noqa: BLE001 - the application's; it is told to whoever reads
            self.error = exc
        finally:
            self.done = True
            self._tell()

    async def _record(self, events: Events) -> None:
        async with aclosing(events):
            async for event in events:
                self.events.append(event)
                self.size_bytes += len(event)
                self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def more(self) -> None:
        """Return when more is known."""
        await self._changed.wait()


class Reading:
    """One request's part in a run; `leave` is called exactly once."""

    def __init__(self, run: _Run, leave: Callable[[], None], *, again: bool) -> None:
        self._run = run
        self._again = again
        self.leave = leave

    async def answer(self) -> Answer:
        """What the run answers. Raises what it raised."""
        while self._run.head is None and not self._run.done:
            await self._run.more()
        if self._run.head is None:
            raise self._run.error or asyncio.CancelledError
        head = self._run.head
        return replace(
            head,
            headers=(*head.headers, _REPLAY) if self._again else head.headers,
            body=head.body if isinstance(head.body, bytes) else self._events(),
            processed=None if self._again else head.processed,
        )

    async def _events(self) -> Events:
        read = 0
        while True:
            for event in self._run.events[read:]:
                read += 1
                yield event
            if self._run.done and read == len(self._run.events):
                break
            if read == len(self._run.events):
                await self._run.more()
        if self._run.error is not None:
            raise self._run.error


class Runs:
    """The runs of an engine, by name. observe: told of each request with a key. monotonic: seconds."""

    def __init__(
        self,
        *,
        observe: Callable[[Joined], None] = lambda _: None,
        max_bytes: int = MAX_BYTES,
        keep_s: float = KEEP_S,
        linger_s: float = LINGER_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observe = observe
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._linger_s = linger_s
        self._monotonic = monotonic
        self._runs: dict[RunName, _Run] = {}
        self._kept: dict[RunName, float] = {}
        """When each that is done was done; the first first."""

    def join(
        self, name: RunName, digest: bytes, work: Callable[[], Awaitable[Answer]], close: Callable[[], None]
    ) -> Reading:
        """A part in the run of that name, which is started where there is none.

        digest: of what is asked. close: called when the work has ended, or at once where it is not needed.
        Raises KeyReusedError; then nothing is called.
        """
        self._forget()
        run = self._runs.get(name)
        if run is not None and run.digest != digest:
            self._observe(Joined.REUSED)
            raise KeyReusedError
        again = run is not None
        if run is None:
            self._observe(Joined.STARTED)
            run = self._runs[name] = _Run(digest)
            run.task = asyncio.create_task(self._done(name, run, work))  # noqa: TID251 - ends in `end` at the latest
            run.task.add_done_callback(lambda _: close())  # also where it is cancelled before it began
        else:
            self._observe(Joined.REPLAYED if run.done else Joined.JOINED)
            close()
        run.readers += 1
        if run.farewell is not None:
            run.farewell.cancel()
            run.farewell = None
        joined = run
        return Reading(joined, lambda: self._left(name, joined), again=again)

    async def end(self) -> None:
        """Stop all that still runs, and forget the rest."""
        tasks = [run.task for run in self._runs.values() if run.task is not None and not run.task.done()]
        for run in list(self._runs.values()):
            if run.farewell is not None:
                run.farewell.cancel()
        for task in tasks:
            task.cancel()
        self._runs.clear()
        self._kept.clear()
        if tasks:
            await asyncio.wait(tasks)

    @property
    def held_bytes(self) -> int:
        """What the answers that are kept take."""
        return sum(self._runs[name].size_bytes for name in self._kept)

    async def _done(self, name: RunName, run: _Run, work: Callable[[], Awaitable[Answer]]) -> None:
        await run.work(work)
        if self._runs.get(name) is not run:
            return
        if run.worth_keeping:
            self._kept[name] = self._monotonic()
            self._forget()
        else:
            del self._runs[name]

    def _left(self, name: RunName, run: _Run) -> None:
        run.readers -= 1
        if not run.readers and not run.done:
            loop = asyncio.get_running_loop()
            run.farewell = loop.call_later(self._linger_s, lambda: self._abandon(name, run))

    def _abandon(self, name: RunName, run: _Run) -> None:
        if run.task is not None and not run.done:
            if self._runs.get(name) is run:
                del self._runs[name]
            run.task.cancel()

    def _forget(self) -> None:
        """Drop what was kept for long enough, and the first that were done where there are too many bytes."""
        now, held_bytes = self._monotonic(), self.held_bytes
        for name, done_at in list(self._kept.items()):
            if now - done_at < self._keep_s and held_bytes <= self._max_bytes:
                break
            held_bytes -= self._runs.pop(name).size_bytes
            del self._kept[name]
