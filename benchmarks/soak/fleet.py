"""Three engines behind a proxy, of which one is killed and replaced now and then; and the record of who was up when.

An engine counts from the moment at which the proxy says that it has attested this very run of it, by the instance that
its statement names, until it is killed: a proxy holds the key of a dead engine until it finds out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.load import family
from benchmarks.processes import ROOT, Server, engine
from benchmarks.soak.hop import Hop, Search
from tests.waiting import until

CHECKPOINT = ROOT / "tests" / "checkpoints" / "nano" / "ct2"
OPTIONS = ("--model", f"nano={CHECKPOINT}")
LOOK_S = 0.1
GONE_S = 10.0
"""How soon after a kill whatever an engine had started has to be gone too."""


@dataclass(slots=True)
class Life:
    """One run of one engine, by the harness's monotonic clock; None while it has not come to that."""

    place: int
    began_s: float
    ready_s: float | None = None
    attested_s: float | None = None
    killed_s: float | None = None


@dataclass
class Record:
    """Who was up, attested, and killed when.

    kills: before the end of the run. left_behind: processes of killed engines that would not go.
    """

    lives: list[Life] = field(default_factory=list)
    kills: int = 0
    left_behind: int = 0

    def killed_within(self, start_s: float, end_s: float) -> int:
        """How many engines were killed meanwhile."""
        return sum(life.killed_s is not None and start_s <= life.killed_s <= end_s for life in self.lives)

    def is_covered(self, start_s: float, end_s: float) -> bool:
        """Whether at every moment at least one engine was up and attested."""
        reached_s = start_s
        for life in sorted(self.lives, key=lambda life: life.attested_s or float("inf")):
            if life.attested_s is None or life.attested_s > reached_s:
                break
            reached_s = max(reached_s, life.killed_s or float("inf"))
        return reached_s >= end_s


class Seat:
    """A place in the pool: a hop that stays, and engines that come and go behind it."""

    def __init__(self, place: int, search: Search, record: Record) -> None:
        self.place = place
        self.hop = Hop(search)
        self.life: Life | None = None
        self._record = record
        self._doomed = asyncio.Event()
        self._seen: set[str] = set()

    async def run(self) -> None:
        """Engines, one after the other, for ever."""
        while True:
            life = Life(self.place, time.monotonic())
            async with engine(*OPTIONS) as server:
                self._record.lives.append(life)
                await self.hop.open(server.url)
                life.ready_s = time.monotonic()
                self.life = life
                try:
                    await self._doomed.wait()
                finally:
                    self._doomed.clear()
                    await self._killed(server, life)

    async def _killed(self, server: Server, life: Life) -> None:
        family_ = family([server.process.pid])
        life.killed_s, self.life = time.monotonic(), None
        server.process.kill()
        self.hop.close()
        await server.process.wait()
        self._record.left_behind += await _left(family_)

    @property
    def is_attested(self) -> bool:
        return self.life is not None and self.life.attested_s is not None

    def kill(self) -> None:
        self._doomed.set()

    def attested(self, instance: str) -> None:
        """The proxy has attested an engine here that calls itself so."""
        if self.life is not None and instance not in self._seen:
            self._seen.add(instance)
            self.life.attested_s = time.monotonic()


async def _left(pids: Sequence[int]) -> int:
    """How many processes are still there after a while."""
    with suppress(TimeoutError):
        await until(lambda: not any(map(_is_there, pids)), give_up_s=GONE_S)
    return sum(map(_is_there, pids))


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Fleet:
    """Seats, and the record of them. search: of all that passes between them and a proxy."""

    def __init__(self, engines: int, search: Search) -> None:
        self.record = Record()
        self.seats = [Seat(place, search, self.record) for place in range(engines)]

    @property
    def urls(self) -> list[str]:
        return [seat.hop.url for seat in self.seats]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(seat.run()) for seat in self.seats]
            await until(lambda: all(seat.life for seat in self.seats))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def watch(self, http: aiohttp.ClientSession, proxy_url: str) -> None:
        """Note which engines the proxy has attested, for ever."""
        while True:
            async with http.get(f"{proxy_url}/attestation") as answer:
                report = await answer.json()
            for each in report["engines"]:
                if each["attested"]:
                    self.seats[each["engine"]].attested(each["attested"]["statement"]["instance"])
            await asyncio.sleep(LOOK_S)

    async def until_attested(self) -> None:
        await until(lambda: all(seat.is_attested for seat in self.seats))

    async def kill_in_turn(self, every_s: float) -> None:
        """Kill one engine after the other, for ever, but none while no other one is attested."""
        while True:
            for seat in self.seats:
                await asyncio.sleep(every_s)
                await until(lambda: sum(each.is_attested for each in self.seats) > 1)
                if seat.is_attested:
                    self.record.kills += 1
                    seat.kill()
