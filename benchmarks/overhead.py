"""What do the proxy, the channel and the gateway cost? One run, one report.

Every figure compares, in the same run and in turns, a request to the engine's inner application over plain HTTP with
the same request through `sottovoce proxy` and the engine: two more hops, sealing and opening both ways, padding and
framing. Speech is null on both sides. Medians are of paired differences; machines drift, pairs drift together.
"""

from __future__ import annotations

import asyncio
import platform
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from benchmarks.processes import Server
from benchmarks.processes import proxy as proxy_before

KIB, MIB = 1024, 1024 * 1024
PATH = "/v1/audio/transcriptions"
BOUNDARY = "benchmark"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
UPLOADS = 16


@dataclass(frozen=True, slots=True)
class Load:
    """How many requests of one size are sent, at one concurrency."""

    name: str
    file_bytes: int
    concurrency: int
    requests: int


LOADS = (
    Load("100 KB", 100_000, 1, 100),
    Load("100 KB", 100_000, 8, 200),
    Load("100 KB", 100_000, 64, 400),
    Load("25 MiB", 25 * MIB, 1, 15),
    Load("25 MiB", 25 * MIB, 8, 24),
    Load("25 MiB", 25 * MIB, 64, 64),
)


async def main() -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}")
    async with AsyncExitStack() as stack:
        direct = await stack.enter_async_context(server("direct"))
        engine = await stack.enter_async_context(server("engine"))
        proxy = await stack.enter_async_context(proxy_before(engine.url))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))
        )
        columns = ("direct ms", "sealed ms", "added ms", "direct/s", "sealed/s")
        print(f"\n{'body':>7} {'conc.':>6}" + "".join(f" {name:>10}" for name in columns))
        for load in LOADS:
            print(await _compare(session, direct.url, proxy.url, load))
    print(await _peak_memory())


async def _compare(session: aiohttp.ClientSession, direct: str, sealed: str, load: Load) -> str:
    body = form(load.file_bytes)
    for url in (direct, sealed):
        await _timed(session, url, body)
    if load.concurrency == 1:
        pairs = [
            (await _timed(session, direct, body), await _timed(session, sealed, body)) for _ in range(load.requests)
        ]
        plain_ms, sealed_ms = (statistics.median(side) for side in zip(*pairs, strict=True))
        added_ms = statistics.median(after - before for before, after in pairs)
        rates = 1000 / plain_ms, 1000 / sealed_ms
    else:
        plain_ms, plain_rate = await _crowd(session, direct, body, load)
        sealed_ms, sealed_rate = await _crowd(session, sealed, body, load)
        added_ms, rates = sealed_ms - plain_ms, (plain_rate, sealed_rate)
    return (
        f"{load.name:>7} {load.concurrency:>6} {plain_ms:>10.1f} {sealed_ms:>10.1f} {added_ms:>10.1f}"
        f" {rates[0]:>10.1f} {rates[1]:>10.1f}"
    )


async def _crowd(session: aiohttp.ClientSession, url: str, body: bytes, load: Load) -> tuple[float, float]:
    """Median latency in ms, and requests a second."""
    places = asyncio.Semaphore(load.concurrency)

    async def one() -> float:
        async with places:
            return await _timed(session, url, body)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one()) for _ in range(load.requests)]
    elapsed_s = time.perf_counter() - begun
    return statistics.median(task.result() for task in tasks), load.requests / elapsed_s


async def _timed(session: aiohttp.ClientSession, url: str, body: bytes) -> float:
    begun = time.perf_counter()
    async with session.post(url + PATH, data=body, headers={"Content-Type": CONTENT_TYPE}) as response:
        answer = await response.read()
        if response.status != 200:
            raise SystemExit(f"{url} answered {response.status}: {answer[:200]!r}")
    return (time.perf_counter() - begun) * 1000


def form(file_bytes: int, *fields: tuple[str, str]) -> bytes:
    """What OpenAI's SDK sends for a file of so many zeros, and what else is asked for."""
    named = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("model", "null"), *fields)
    )
    head = f'{named}--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return head.encode() + bytes(file_bytes) + f"\r\n--{BOUNDARY}--\r\n".encode()


async def _peak_memory() -> str:
    """Peak memory of the proxy while `UPLOADS` uploads of 25 MiB wait for their answers."""
    async with (
        server("engine", UPLOADS) as engine,
        proxy_before(engine.url) as proxy,
        aiohttp.ClientSession() as session,
    ):
        before = _peak_bytes(proxy.process.pid)
        body = form(25 * MIB)
        async with asyncio.TaskGroup() as group:
            for _ in range(UPLOADS):
                group.create_task(_timed(session, proxy.url, body))
        peak = _peak_bytes(proxy.process.pid)
    retained = UPLOADS * len(body)
    return (
        f"\nproxy memory with {UPLOADS} uploads of 25 MiB in flight: peak {peak / MIB:.0f} MiB, {before / MIB:.0f} MiB"
        f" before; retained bodies {retained / MIB:.0f} MiB, so that the aim is at most {retained / MIB + 64:.0f} MiB"
    )


def _peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * KIB


@asynccontextmanager
async def server(kind: str, *numbers: int) -> AsyncIterator[Server]:
    """numbers: how many uploads are held until all are there, and how many requests are admitted at a time."""
    command = ["-m", "benchmarks.servers", kind, *map(str, numbers)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        yield Server(process, f"http://127.0.0.1:{port}")
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(main())
