"""More than a bounded engine takes, through the shipped programs: right answers, clean refusals, bounded memory."""

from __future__ import annotations

import asyncio
import json
import resource
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.load import Question, family, read_answer
from tests.e2e.conftest import TRANSCRIPTIONS
from tests.e2e.processes import RECORDING, SAID, Program, engine, proxy, until_ready
from tests.engine.gateway.sealed_client import FORM
from tests.engine.gateway.sealed_client import form as sealed_form

MIB = 1024 * 1024
MAX_REQUESTS = 8
MAX_CONNECTIONS = 256
UPLOADS_BYTES = 64 * MIB
FORMULA_BYTES = 2 * UPLOADS_BYTES + 27 * MIB * MAX_REQUESTS + 40 * 1024 * MAX_CONNECTIONS
"""docs/architecture.md, "Memory of a request"."""
PROXY_BYTES = 64 * MIB
"""Beyond the bodies that are kept (benchmarks/README.md), of which 256 MiB at most are in memory."""
REFUSALS = {(503, "overloaded"), (503, "engine_unavailable"), (502, "stream_truncated")}
"""The last where the engine had begun to answer and cut the connection."""

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def long_form() -> bytes:
    """The recording behind 25 MiB that mean nothing: a chunk of RIFF that readers skip."""
    wav = RECORDING.read_bytes()
    filler = 25 * MIB - len(wav) - 8
    riff = wav[:12] + b"JUNK" + filler.to_bytes(4, "little") + bytes(filler) + wav[12:]
    return riff[:4] + (len(riff) - 8).to_bytes(4, "little") + riff[8:]


def held_bytes(pids: tuple[int, ...]) -> int:
    """Memory of processes, where what they share counts once."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


@dataclass(slots=True)
class Held:
    """What a program and those that it started hold: at rest, and at most since."""

    program: Program
    rest_bytes: int = 0
    most_bytes: int = 0

    def look(self) -> None:
        self.most_bytes = max(self.most_bytes, held_bytes(family([self.program.process.pid])))

    async def watch(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Overloaded:
    """The path, and what both programs hold."""

    url: str
    engine: Held
    proxy: Held

    async def asked(self, body: bytes, times: int) -> Counter[tuple[int, str]]:
        """The same request, so many times at once: how often each answer came, as status and text or code."""
        wire = Question.post(
            self.url, TRANSCRIPTIONS, sealed_form(body, ("model", "nano")), FORM[1], streamed=False
        ).wire
        return Counter(await asyncio.gather(*(asked(self.url, wire) for _ in range(times))))


async def asked(url: str, wire: bytes) -> tuple[int, str]:
    """One request, whose answer is read while it is sent: a refusal does not wait for the end of an upload."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port, limit=MIB)

    async def send() -> None:
        with suppress(ConnectionError):
            writer.write(wire)
            await writer.drain()

    try:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(send())
            status, _, content = await read_answer(reader)
            sending.cancel()
    finally:
        writer.transport.abort()
    answer = json.loads(content)
    return status, answer["text"] if status == 200 else answer["error"]["code"]


@asynccontextmanager
async def overloaded(directory: Path) -> AsyncIterator[Overloaded]:
    limits = ("--max-requests", MAX_REQUESTS, "--max-upload-bytes", UPLOADS_BYTES, "--max-connections", MAX_CONNECTIONS)
    async with (
        engine(directory / "engine", *map(str, limits)) as behind,
        proxy(directory / "proxy", behind.url) as front,
    ):
        await until_ready(front)
        both = Overloaded(front.url, Held(behind), Held(front))
        assert (await both.asked(RECORDING.read_bytes(), 2)) == {(200, SAID): 2}
        for held in (both.engine, both.proxy):
            held.rest_bytes = held_bytes(family([held.program.process.pid]))
        async with asyncio.TaskGroup() as group:
            watching = [group.create_task(held.watch()) for held in (both.engine, both.proxy)]
            yield both
            for task in watching:
                task.cancel()


async def test_five_hundred_requests_at_once_are_answered_rightly_or_refused(tmp_path: Path) -> None:
    async with overloaded(tmp_path) as both:
        came = await both.asked(RECORDING.read_bytes(), 500)
        assert came.total() == 500
        assert came[200, SAID] >= MAX_REQUESTS
        assert came.keys() <= {(200, SAID), *REFUSALS}, came
        assert both.engine.most_bytes - both.engine.rest_bytes < FORMULA_BYTES
        assert both.proxy.most_bytes - both.proxy.rest_bytes < 500 * len(RECORDING.read_bytes()) + PROXY_BYTES
        assert await both.asked(RECORDING.read_bytes(), 2) == {(200, SAID): 2}


async def test_thirty_two_of_the_largest_uploads_at_once_are_answered_rightly_or_refused(tmp_path: Path) -> None:
    async with overloaded(tmp_path) as both:
        came = await both.asked(long_form(), 32)
        assert came.total() == 32
        assert came[200, SAID] >= 1
        assert came.keys() <= {(200, SAID), *REFUSALS}, came
        assert both.engine.most_bytes - both.engine.rest_bytes < FORMULA_BYTES
        assert both.proxy.most_bytes - both.proxy.rest_bytes < 256 * MIB + PROXY_BYTES
        assert await both.asked(RECORDING.read_bytes(), 2) == {(200, SAID): 2}
