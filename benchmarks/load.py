"""How long do requests take when so many are in flight, and what do they cost the processes that serve them?

The client is made of sockets and bytes that are put together once, so that little of a core goes to asking: it shares
the machine with what it measures. A connection for each place, kept open.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

READ_BYTES = 262_144


class FailedError(Exception):
    """An answer that is not the one that was asked for; its status, and the beginning of what it says."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request as bytes. streamed: whether a stream of events is asked for."""

    wire: bytes
    streamed: bool

    @classmethod
    def post(cls, url: str, path: str, body: bytes, content_type: str, *, streamed: bool) -> Question:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return cls(head.encode() + body, streamed)


class Caller:
    """One connection to a server, over and over."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, question: Question) -> float:
        """Seconds until the last byte of the answer. Raises FailedError, OSError."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address, limit=READ_BYTES)
        reader, writer = self._streams
        begun = time.perf_counter()
        try:
            writer.write(question.wire)
            await writer.drain()
            status, headers, body = await read_answer(reader)
        except (OSError, asyncio.IncompleteReadError, ValueError) as exc:
            self.close()
            raise FailedError(type(exc).__name__) from exc
        took_s = time.perf_counter() - begun
        if headers.get("connection") == "close":
            self.close()
        kind = headers.get("content-type", "")
        if status != 200 or kind.startswith("text/event-stream") != question.streamed:
            raise FailedError(f"{status} {kind}: {body[:200]!r}")
        return took_s

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, and body. Raises OSError, asyncio.IncompleteReadError, ValueError."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(first.split(" ")[1])
    if "content-length" in headers:
        return status, headers, await reader.readexactly(int(headers["content-length"]))
    body = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return status, headers, bytes(body)


@dataclass(slots=True)
class Batch:
    """What came of requests of one kind.

    elapsed_s: while they were in flight. shed: how many were told to come again, where that is no failure. failures:
    what went wrong, each.
    """

    times_s: list[float] = field(default_factory=list)
    shed: int = 0
    failures: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0


async def in_flight(
    batch: Batch, url: str, question: Question, *, at_a_time: int, for_s: float, sheds: bool = False
) -> None:
    """Ask at so many places until the time is over, and at each at least once. sheds: a 503 is no failure."""
    until = time.perf_counter() + for_s

    async def place() -> None:
        caller = Caller(url)
        try:
            while True:
                try:
                    batch.times_s.append(await caller.ask(question))
                except (FailedError, OSError) as exc:
                    if sheds and str(exc).startswith("503 "):
                        batch.shed += 1
                    else:
                        batch.failures.append(str(exc))
                if time.perf_counter() >= until or len(batch.failures) > at_a_time:
                    return
        finally:
            caller.close()

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_a_time):
            group.create_task(place())
    batch.elapsed_s += time.perf_counter() - begun


# --- what the processes of a side have used


def family(roots: Iterable[int]) -> tuple[int, ...]:
    """Processes, and those that they started."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))

    def walk(pid: int) -> Iterator[int]:
        yield pid
        for child in children.get(pid, ()):
            yield from walk(child)

    return tuple(pid for root in roots for pid in walk(root))


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds that processes have computed, of threads that still are."""
    total_ns = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(OSError):
                total_ns += int(task.read_text().split()[0])
    return total_ns / 1e9


def resident_bytes(pids: Iterable[int], name: str = "VmRSS") -> int:
    """Memory that processes hold, or have held at most (VmHWM)."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    return total


def forget_peaks(pids: Iterable[int]) -> None:
    """Begin to count the most that processes hold from now."""
    for pid in pids:
        with suppress(OSError):
            fd = os.open(f"/proc/{pid}/clear_refs", os.O_WRONLY)
            try:
                os.write(fd, b"5")
            finally:
                os.close(fd)
