"""A crowd of connections that say nothing, before the shipped engine with few descriptors."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.processes import engine

CROWD = 1_150
FEW = 'ulimit -n 1024 && exec "$@"'
WELL_KNOWN = "/.well-known/ohttp-gateway"

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _descriptors_of_our_own() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < CROWD + 200:
        pytest.skip("the tests themselves may not open so many connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(CROWD + 200, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def crowd(url: str, size: int) -> AsyncIterator[None]:
    """So many connections that say nothing."""
    writers = []
    try:
        for _ in range(size):
            _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writers.append(writer)
        yield
    finally:
        for writer in writers:
            writer.transport.abort()


async def answers(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        await response.read()
        return response.status


async def test_an_engine_answers_in_a_crowd_that_says_nothing_and_its_log_does_not_grow(tmp_path: Path) -> None:
    async with (
        engine(tmp_path / "engine", prefix=("sh", "-c", FEW, "sh")) as behind,
        aiohttp.ClientSession() as session,
    ):
        quiet = len(behind.printed())
        async with crowd(behind.url, CROWD), crowd(behind.status_url, 100):
            for _ in range(10):
                assert await answers(session, f"{behind.url}{WELL_KNOWN}") == 200
                assert await answers(session, f"{behind.status_url}/readyz") == 200
        assert len(behind.printed()) == quiet, behind.printed()[quiet:]


async def test_an_engine_raises_its_limit_of_descriptors(tmp_path: Path) -> None:
    async with engine(tmp_path / "engine", prefix=("sh", "-c", 'ulimit -Sn 256 && exec "$@"', "sh")) as behind:
        lines = Path(f"/proc/{behind.process.pid}/limits").read_text().splitlines()
    soft, hard = next(line.split()[3:5] for line in lines if line.startswith("Max open files"))
    assert soft == (hard if hard.isdecimal() and int(hard) < 65_536 else "65536")
