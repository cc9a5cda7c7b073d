"""What happens while jobs run: deaths, absences, a full disk, clocks that are stepped."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import run
from typing import Final

from benchmarks.storms.house import House, asked, form, house
from benchmarks.storms.outcome import Outcome, Weather
from tests.proxy.jobs.postgres import binaries, cluster

DISK_BYTES: Final = 32 << 20
FAKETIME: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


async def proxies_killed(weather: Weather, directory: Path) -> Outcome:
    """Two proxies on one PostgreSQL, of which one dies now and then."""
    with cluster() as postgres:
        async with house(weather, directory, proxies=2, postgres=postgres) as made:
            return await _under_fire("proxies-killed", made)


async def proxy_killed(weather: Weather, directory: Path) -> Outcome:
    """The only proxy, on SQLite, dies now and then."""
    async with house(weather, directory) as made:
        return await _under_fire("proxy-killed", made)


async def database_away(weather: Weather, directory: Path) -> Outcome:
    """PostgreSQL ends as by a crash while two proxies work."""
    with cluster() as postgres:
        async with house(weather, directory, proxies=2, postgres=postgres) as made:
            began = time.monotonic()
            ids = await made.submitted()
            with made.trouble():
                await asyncio.to_thread(postgres.stop)
                await asyncio.sleep(weather.away_s)
                await asyncio.to_thread(postgres.start)
            return await made.outcome("database-away", ids, began)


async def engine_away(weather: Weather, directory: Path) -> Outcome:
    """The engine is killed, and comes again with other keys."""
    async with house(weather, directory) as made:
        began = time.monotonic()
        ids = await made.submitted(0, weather.jobs // 2)
        await made.until_heard()
        with made.trouble():
            await made.kill(made.engine)
            ids += await made.submitted(weather.jobs // 2)
            await asyncio.sleep(weather.engine_away_s)
            await made.engine.start()
        return await made.outcome("engine-away", ids, began)


async def disk_full(weather: Weather, directory: Path) -> Outcome:
    """There is no room for SQLite's file and log, nor for recordings."""
    with _disk(directory / "disk") as room:
        async with house(weather, directory, jobs_directory=room / "jobs") as made:
            began = time.monotonic()
            ids = await made.submitted(0, weather.jobs // 2)
            with made.trouble():
                ballast = _fill(room)
                status, body = await asked("POST", f"{made.urls[0]}/v1/jobs", data=form(weather.jobs))
                made.notes["submission_when_full"] = f"{status} {body['error']['code']}"
                await asyncio.sleep(weather.away_s)
                ballast.unlink()
            ids += await made.submitted(weather.jobs // 2)
            return await made.outcome("disk-full", ids, began)


async def clock_stepped(weather: Weather, directory: Path) -> Outcome:
    """The clock of a proxy with SQLite, and of its engine, without which no evidence would hold."""
    clock = _Clock(directory / "clock")
    clock.step(0)
    async with house(weather, directory, variables=clock.variables) as made:
        return await _stepped("clock-stepped", made, clock)


async def clocks_stepped(weather: Weather, directory: Path) -> Outcome:
    """The clock of two proxies, of their PostgreSQL and of the engine."""
    with cluster() as postgres:
        clock = _Clock(postgres.directory / "clock")
        clock.step(0)
        postgres.stop()
        postgres.start(clock.variables)
        async with house(weather, directory, proxies=2, postgres=postgres, variables=clock.variables) as made:
            return await _stepped("clocks-stepped", made, clock)


TRIALS: Final[Mapping[str, Callable[[Weather, Path], Coroutine[None, None, Outcome]]]] = {
    "proxies-killed": proxies_killed,
    "proxy-killed": proxy_killed,
    "database-away": database_away,
    "engine-away": engine_away,
    "disk-full": disk_full,
    "clock-stepped": clock_stepped,
    "clocks-stepped": clocks_stepped,
}


def missing(trial: str) -> str:
    """What a trial needs that is not here; empty if all is."""
    if trial in ("proxies-killed", "database-away", "clocks-stepped") and binaries() is None:
        return "PostgreSQL"
    if trial == "disk-full" and os.geteuid() != 0:
        return "root, to mount a small disk"
    if trial in ("clock-stepped", "clocks-stepped") and not FAKETIME.exists():
        return "libfaketime"
    return ""


async def _killing(made: House) -> None:
    """One after the other, for ever: the first once a job is heard, each other one so long after all serve again."""
    await made.until_heard()
    while True:
        for proxy in made.proxies:
            await made.kill(proxy)
            await proxy.start()
            await made.until_all_serve()
            await asyncio.sleep(made.weather.death_every_s)


async def _under_fire(trial: str, made: House) -> Outcome:
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        killing = group.create_task(_killing(made))
        ids = await made.submitted()
        await made.over(ids)
        killing.cancel()
    if not made.deaths:
        raise AssertionError("the jobs were over before anything died")
    return await made.outcome(trial, ids, began)


@contextmanager
def _disk(place: Path) -> Iterator[Path]:
    """A file system of its own at `place`, in memory, which can be full."""
    place.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        run(["umount", place], check=True)


def _fill(disk: Path) -> Path:
    """A file that takes all room that is left."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast


@dataclass(frozen=True)
class _Clock:
    """What time it is for programs that run with these variables: the machine's, and so many seconds later.

    Clocks that nobody can step stay as they are, as when somebody sets the time of a machine.
    """

    file: Path

    @property
    def variables(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",  # of processes that are killed it would stay
        }

    def step(self, seconds: int) -> None:
        new = self.file.with_name("clock.new")
        new.write_text(f"{seconds:+d}\n")
        new.chmod(0o644)
        new.replace(self.file)


async def _stepped(trial: str, made: House, clock: _Clock) -> Outcome:
    """Forward, back beyond what it was, and right again; after each step a proxy dies and its jobs are taken over."""
    weather, began = made.weather, time.monotonic()
    steps = (weather.step_s, -weather.step_s, 0)
    ids: list[str] = []
    for number, seconds in enumerate(steps):
        share = range(weather.jobs)[number * weather.jobs // len(steps) : (number + 1) * weather.jobs // len(steps)]
        ids += await made.submitted(share.start, share.stop)
        with made.trouble():
            clock.step(seconds)
            await asyncio.sleep(weather.wrong_s / 4)
            proxy = made.proxies[number % len(made.proxies)]
            await made.kill(proxy)
            await proxy.start()
            await asyncio.sleep(weather.wrong_s)
    return await made.outcome(trial, ids, began)
