"""Every job ends exactly once, whatever dies meanwhile: proxies, the database, the engine, the disk.

The real programs, in front of an engine that takes its time. By hand with larger numbers::

    SOTTOVOCE_FAULT_JOBS=100 SOTTOVOCE_FAULT_S=10 pytest tests/e2e/test_jobs_faults.py
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.jobs.vault import KeyFile
from tests.proxy.fake_engine import FakeEngine, Reply, Script
from tests.proxy.jobs.postgres import Cluster, binaries, cluster
from tests.waiting import until

JOBS = int(os.environ.get("SOTTOVOCE_FAULT_JOBS", "24"))
PERIOD_S = float(os.environ.get("SOTTOVOCE_FAULT_S", "8"))
"""Between two deaths, and how long something is away."""

HEARING_S = float(os.environ.get("SOTTOVOCE_HEARING_S", "2"))
LEASE_S = 3.0
AT_ONCE = 4
POLICY = "version = 1\n[insecure]\naccept = true\n"

pytestmark = pytest.mark.slow


@dataclass
class Proxy:
    """A program that is started, killed, and started again."""

    arguments: list[str]
    port: int
    log: Path
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        program = Path(sys.executable).with_name("sottovoce")
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.log.parent)}
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                program, "proxy", *self.arguments, env=environment, stdout=log, stderr=log
            )

    async def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            await self.process.wait()
            self.process = None


@dataclass
class House:
    """An engine, its proxies, and what was heard of each job."""

    engine: FakeEngine
    proxies: list[Proxy] = field(default_factory=list)
    heard: Counter[str] = field(default_factory=Counter)
    kills: int = 0

    async def ask(self, method: str, path: str, **sent: Any) -> Any:
        """Of whichever proxy is there; again, until one answers."""
        while True:
            for proxy in self.proxies:
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    timeout = aiohttp.ClientTimeout(total=20)
                    async with (
                        aiohttp.ClientSession(timeout=timeout) as session,
                        session.request(method, f"{proxy.url}{path}", **{k: v() for k, v in sent.items()}) as answer,
                    ):
                        if answer.status < 400:
                            return await answer.json()
            await asyncio.sleep(0.2)

    async def submit(self, number: int) -> str:
        def form() -> aiohttp.FormData:
            data = aiohttp.FormData()
            data.add_field("webhook_url", "https://hooks.example/")
            data.add_field("file", f"<recording {number}>".encode(), filename="a.wav")
            return data

        job = await self.ask("POST", "/v1/jobs", data=form, headers=lambda: {"Idempotency-Key": f"job {number}"})
        return str(job["id"])

    async def over(self, ids: list[str]) -> dict[str, str]:
        """How each job ended."""
        found: dict[str, str] = {}

        async def all_over() -> bool:
            for each in ids:
                if each not in found:
                    job = await self.ask("GET", f"/v1/jobs/{each}")
                    if job["status"] not in ("completed", "failed", "cancelled"):
                        return False
                    found[each] = job["status"]
            return True

        await until(all_over, give_up_s=600)
        return found

    async def check(self, ids: list[str], *, unkept: int = 0) -> None:
        """Each has ended well, with its own text, and no part was heard again that was not under way at a death.

        unkept: beside the deaths, how often what was under way could not be kept.
        """
        assert await self.over(ids) == dict.fromkeys(ids, "completed")
        for number, each in enumerate(ids):
            result = await self.ask("GET", f"/v1/jobs/{each}/result")
            assert result["text"] == f"heard {number}"
        again = sum(self.heard.values()) - len(ids)
        assert set(self.heard) == {str(number) for number in range(len(ids))}
        assert again <= (self.kills + unkept) * AT_ONCE
        _say(f"{len(ids)} jobs, {self.kills} deaths, {again} parts heard again")

    async def hear(self, reply: Reply) -> Any:
        found = re.search(rb"<recording (\d+)>", reply.received.content)
        assert found is not None
        number = found[1].decode()
        if not self.engine.drop_connections:
            self.heard[number] += 1
        await asyncio.sleep(HEARING_S)
        await reply.head()
        body = {"text": f"heard {number}", "language": "english", "duration": 1.0, "segments": []}
        await reply.content(json.dumps(body).encode())
        return await reply.end()


def _say(text: str) -> None:
    """For whoever runs this with -s."""
    sys.stdout.write(text + "\n")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def postgres() -> Iterator[Cluster]:
    if binaries() is None:
        pytest.skip("no PostgreSQL is installed")
    with cluster() as running:
        yield running


@asynccontextmanager
async def house(tmp_path: Path, *, proxies: int, database: str | None = None) -> AsyncIterator[House]:
    KeyFile.make(tmp_path / "jobs.key")
    (tmp_path / "policy.toml").write_text(POLICY)
    async with FakeEngine().running() as engine:
        made = House(engine)
        engine.default = Script(play=made.hear)
        for number in range(proxies):
            port = free_port()
            given = {
                "--engine": engine.url,
                "--policy": tmp_path / "policy.toml",
                "--state-dir": tmp_path / f"state{number}",
                "--collateral-dir": tmp_path / "collateral",
                "--listen": f"127.0.0.1:{port}",
                "--status-listen": f"127.0.0.1:{free_port()}",
                "--jobs-dir": tmp_path / "jobs",
                "--jobs-key": tmp_path / "jobs.key",
                "--jobs-lease-s": LEASE_S,
                "--jobs-at-once": AT_ONCE,
            } | ({"--jobs-database": database} if database else {})
            arguments = ["--jobs", "--no-jobs-cut", *(str(word) for pair in given.items() for word in pair)]
            made.proxies.append(Proxy(arguments, port, tmp_path / f"log{number}"))
        try:
            for proxy in made.proxies:
                await proxy.start()
            yield made
        finally:
            for proxy in made.proxies:
                await proxy.kill()
            for proxy in made.proxies:
                _say(proxy.log.read_text()[-1500:])


async def killing(made: House) -> None:
    """One after the other, for ever."""
    while True:
        for proxy in made.proxies:
            await asyncio.sleep(PERIOD_S)
            await proxy.kill()
            made.kills += 1
            await proxy.start()


async def under_fire(made: House) -> None:
    """Submit jobs and see them end while proxies die."""
    task = asyncio.ensure_future(killing(made))  # noqa: TID251 - it is ended below
    try:
        began = time.monotonic()
        ids = [await made.submit(number) for number in range(JOBS)]
        await made.check(ids)
        _say(f"{time.monotonic() - began:.0f} s")
    finally:
        task.cancel()
    assert made.kills


async def test_two_proxies_of_which_one_dies_now_and_then(tmp_path: Path, postgres: Cluster) -> None:
    database = postgres.new_database()
    async with house(tmp_path, proxies=2, database=database) as made:
        await under_fire(made)
    name = database.partition("@/")[2].partition("?")[0]
    found = postgres.sql("SELECT (SELECT count(*) FROM job), count(*), count(DISTINCT job) FROM delivery", name)
    assert found.strip() == f"{JOBS}|{JOBS}|{JOBS}"


async def test_one_proxy_that_dies_now_and_then(tmp_path: Path) -> None:
    async with house(tmp_path, proxies=1) as made:
        await under_fire(made)


async def test_a_database_that_is_away_for_a_while(tmp_path: Path, postgres: Cluster) -> None:
    async with house(tmp_path, proxies=1, database=postgres.new_database()) as made:
        ids = [await made.submit(number) for number in range(JOBS)]
        await until(lambda: made.heard)
        await asyncio.to_thread(postgres.stop)
        await asyncio.sleep(PERIOD_S)
        await asyncio.to_thread(postgres.start)
        await made.check(ids)
        assert sum(made.heard.values()) == JOBS


async def test_an_engine_that_is_away_for_a_while(tmp_path: Path) -> None:
    async with house(tmp_path, proxies=1) as made:
        first = await made.submit(0)
        await made.over([first])
        made.engine.drop_connections = True
        ids = [first, *[await made.submit(number) for number in range(1, JOBS)]]
        await asyncio.sleep(PERIOD_S)
        made.engine.drop_connections = False
        await made.check(ids)


async def test_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    async with house(tmp_path, proxies=1) as made:
        ids = [await made.submit(number) for number in range(JOBS)]
        process = made.proxies[0].process
        assert process is not None
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        # Room for the program's own log, which is a file too.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (65_536, before[1]))
        data = aiohttp.FormData()
        data.add_field("file", bytes(1_000_000), filename="a.wav")
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{made.proxies[0].url}/v1/jobs", data=data) as answer,
        ):
            assert (answer.status, (await answer.json())["error"]["code"]) == (503, "store_unavailable")
        await asyncio.sleep(PERIOD_S)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
        await made.check(ids, unkept=1)
