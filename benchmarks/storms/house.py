"""An engine, proxies and a store in processes of their own, that can be killed; and what was heard meanwhile."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks.processes import POLICY, ROOT
from benchmarks.storms.engine import Hearing, Journal, recording
from benchmarks.storms.outcome import Outcome, Weather
from proxy.jobs.vault import KeyFile
from tests.e2e.processes import free_port
from tests.proxy.jobs.postgres import Cluster
from tests.waiting import until

AT_ONCE: Final = 4
GRACE_S: Final = 5.0
"""Between an answer of the engine and its text in the database, on a busy machine."""

GIVE_UP_S: Final = 1200.0
FINAL: Final = ("completed", "failed", "cancelled")


@dataclass
class Process:
    """A program that is started, killed, and started again."""

    command: list[str]
    log: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.log.parent), **self.variables}
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, env=environment, stdout=log, stderr=log, cwd=ROOT
            )

    async def kill(self) -> None:
        if self.process is not None:
            if self.process.returncode is None:
                self.process.kill()
            await self.process.wait()
            self.process = None


@dataclass
class House:
    """What runs, and what happened to it: from when until when, of the steady clock."""

    weather: Weather
    store: str
    engine: Process
    journal: Journal
    proxies: list[Process]
    urls: list[str]
    rows: Callable[[str], list[tuple[int, ...]]]
    happened: list[tuple[float, float]] = field(default_factory=list)
    deaths: int = 0
    notes: dict[str, object] = field(default_factory=dict)

    async def kill(self, process: Process) -> None:
        await process.kill()
        self.deaths += 1
        self.happened.append((time.monotonic(), time.monotonic()))

    @contextmanager
    def trouble(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.happened.append((began, time.monotonic()))

    async def ask(self, method: str, path: str, **sent: Callable[[], Any]) -> Any:
        """Of whichever proxy is there; again, until one answers."""
        while True:
            for url in self.urls:
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    status, body = await asked(method, url + path, **{name: make() for name, make in sent.items()})
                    if status < 400:
                        return body
            await asyncio.sleep(0.2)

    async def submitted(self, first: int = 0, end: int | None = None) -> list[str]:
        """Jobs by their numbers, one after the other."""
        return [await self._submit(number) for number in range(first, self.weather.jobs if end is None else end)]

    async def _submit(self, number: int) -> str:
        key = {"Idempotency-Key": f"job {number}"}
        job = await self.ask("POST", "/v1/jobs", data=lambda: form(number), headers=lambda: key)
        return str(job["id"])

    async def until_all_serve(self) -> None:
        for url in self.urls:
            await until(partial(serves, url), give_up_s=GIVE_UP_S)

    async def until_heard(self) -> None:
        """Until the engine hears something."""
        await until(self.journal.heard)

    async def over(self, ids: list[str]) -> dict[str, str]:
        """How each job ended, once all have."""
        found: dict[str, str] = {}

        async def all_over() -> bool:
            for each in ids:
                if each not in found:
                    status = (await self.ask("GET", f"/v1/jobs/{each}"))["status"]
                    if status not in FINAL:
                        return False
                    found[each] = status
            return True

        await until(all_over, give_up_s=GIVE_UP_S)
        return found

    async def outcome(self, trial: str, ids: list[str], began: float) -> Outcome:
        """Once all jobs are over; then no proxy runs any more."""
        ended = await self.over(ids)
        took_s = time.monotonic() - began
        wrong = [number for number, each in enumerate(ids) if not await self._has_its_text(number, each, ended[each])]
        for proxy in self.proxies:
            await proxy.kill()
        ((kept,),) = self.rows("SELECT count(*) FROM job")
        ((messages, jobs_with_message),) = self.rows("SELECT count(*), count(DISTINCT job) FROM delivery")
        heard = self.journal.heard()
        again = [caused for times in heard.values() for caused in self._causes(times)]
        return Outcome(
            trial=trial,
            store=self.store,
            jobs=len(ids),
            ended=dict(Counter(ended.values())),
            wrong_texts=len(wrong),
            kept=kept,
            messages=messages,
            jobs_with_message=jobs_with_message,
            parts=len(heard),
            heard_again=len(again),
            without_cause=again.count(False),
            deaths=self.deaths,
            took_s=round(took_s, 1),
            notes=dict(self.notes),
        )

    async def _has_its_text(self, number: int, job_id: str, status: str) -> bool:
        if status != "completed":
            return True  # and none to be wrong
        result = await self.ask("GET", f"/v1/jobs/{job_id}/result")
        return bool(result["text"] == f"{number}.0 {number}.1")

    def _causes(self, times: Sequence[Hearing]) -> Iterator[bool]:
        """For each hearing of a part that was followed by another: whether anything happened while it was under way."""
        for hearing in times[:-1]:
            answered = hearing.began + self.weather.hearing_s if hearing.answered is None else hearing.answered
            yield any(first <= answered + GRACE_S and last >= hearing.began for first, last in self.happened)


async def asked(method: str, url: str, **sent: Any) -> tuple[int, Any]:
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.request(method, url, **sent) as answer:
        return answer.status, await answer.json()


async def serves(url: str) -> bool:
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        return (await asked("GET", f"{url}/v1/jobs"))[0] == 200
    return False


def form(number: int) -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field("channels", "true")  # each is a part
    data.add_field("webhook_url", "https://hooks.example/")
    data.add_field("file", recording(number), filename="a.wav", content_type="audio/wav")
    return data


@asynccontextmanager
async def house(
    weather: Weather,
    directory: Path,
    *,
    proxies: int = 1,
    postgres: Cluster | None = None,
    jobs_directory: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[House]:
    """variables: of the programs' environment. jobs_directory: where recordings and SQLite's file lie."""
    KeyFile.make(directory / "jobs.key")
    journal, port = Journal(directory / "journal"), free_port()
    serve = ["-m", "benchmarks.storms.engine", str(port), str(journal.path), str(weather.hearing_s)]
    engine = Process([sys.executable, *serve], directory / "engine.log", variables or {})
    kept = jobs_directory or directory / "jobs"
    database = postgres.new_database() if postgres else None
    ports = [free_port() for _ in range(proxies)]
    running = []
    for number, each in enumerate(ports):
        given: dict[str, object] = {
            "--engine": f"http://127.0.0.1:{port}",
            "--policy": POLICY,
            "--state-dir": directory / f"state{number}",
            "--collateral-dir": directory / "collateral",
            "--listen": f"127.0.0.1:{each}",
            "--status-listen": f"127.0.0.1:{free_port()}",
            "--jobs-dir": kept,
            "--jobs-key": directory / "jobs.key",
            "--jobs-lease-s": weather.lease_s,
            "--jobs-at-once": AT_ONCE,
            "--jobs-parts-at-once": 1,
        } | ({"--jobs-database": database} if database else {})
        command = [str(Path(sys.executable).with_name("sottovoce")), "proxy", "--jobs"]
        command += [str(word) for pair in given.items() for word in pair]
        running.append(Process(command, directory / f"proxy{number}.log", variables or {}))

    def rows(query: str) -> list[tuple[int, ...]]:
        if postgres and database:
            told = postgres.sql(query, database.partition("@/")[2].partition("?")[0]).split()
            return [tuple(int(number) for number in line.split("|")) for line in told]
        with closing(sqlite3.connect(kept / "jobs.sqlite")) as connection:
            return connection.execute(query).fetchall()

    urls = [f"http://127.0.0.1:{each}" for each in ports]
    made = House(weather, "postgresql" if postgres else "sqlite", engine, journal, running, urls, rows)
    try:
        for process in (engine, *running):
            await process.start()
        yield made
    finally:
        for process in (*running, engine):
            await process.kill()
