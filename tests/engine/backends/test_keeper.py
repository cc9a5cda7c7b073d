from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from core.errors import BackendError
from engine.backends.keeper import MAX_RESTART_DELAY_S, Keeper
from tests.waiting import until


@dataclass
class FakeServer:
    """Implements `engine.backends.keeper.ModelServer`."""

    served: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    closed: int = 0

    async def wait(self) -> None:
        await self.ended.wait()

    async def close(self) -> None:
        self.closed += 1
        self.ended.set()


class Machine:
    """Starts servers as a test wants them, and notes how long its keeper waits before each.

    fails: how many of the next starts fail. serves: whether a new server has served by the time it dies.
    """

    def __init__(self) -> None:
        self.servers: list[FakeServer] = []
        self.waits: list[float] = []
        self.fails = 0
        self.serves = False
        self.keeper = Keeper(self.launch, name="the fake", delay_s=0.5, sleep=self.sleep)

    async def launch(self) -> FakeServer:
        if self.fails:
            self.fails -= 1
            raise BackendError("no fake today")
        self.servers.append(FakeServer(served=self.serves))
        return self.servers[-1]

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    async def die(self) -> None:
        """Let the server of the moment die, and wait for the next."""
        count = len(self.servers)
        self.servers[-1].ended.set()
        await until(lambda: len(self.servers) > count and self.keeper.current is self.servers[-1])


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    machine = Machine()
    await machine.keeper.start()
    yield machine
    await machine.keeper.close()


async def test_a_server_that_dies_is_closed_and_replaced(machine: Machine) -> None:
    await machine.die()
    first, second = machine.servers
    assert (first.closed, second.closed) == (1, 0)
    assert machine.keeper.current is second


async def test_the_wait_doubles_while_no_server_has_answered_a_call(machine: Machine) -> None:
    for _ in range(8):
        await machine.die()
    assert machine.waits == [1.0, 2.0, 4.0, 8.0, 16.0, *[MAX_RESTART_DELAY_S] * 3]


async def test_a_server_that_answered_a_call_is_replaced_soon(machine: Machine) -> None:
    await machine.die()
    machine.serves = True
    await machine.die()
    await machine.die()
    assert machine.waits == [1.0, 2.0, 0.5]


async def test_the_wait_doubles_while_no_server_starts_whatever_the_last_one_answered(machine: Machine) -> None:
    machine.serves = True
    await machine.die()
    machine.fails = 3
    await machine.die()
    assert machine.waits == [1.0, 0.5, 1.0, 2.0, 4.0]


async def test_while_no_server_runs_there_is_no_current_one(machine: Machine) -> None:
    machine.fails = 10**9
    machine.servers[-1].ended.set()
    await until(lambda: len(machine.waits) > 3)
    assert machine.keeper.current is None


async def test_closing_ends_the_server_and_starts_no_other() -> None:
    machine = Machine()
    await machine.keeper.start()
    await machine.keeper.close()
    await machine.keeper.close()
    assert machine.keeper.current is None
    assert (len(machine.servers), machine.waits) == (1, [])
    assert machine.servers[0].closed


async def test_closing_while_none_starts_gives_up() -> None:
    machine = Machine()
    await machine.keeper.start()
    machine.fails = 10**9
    machine.servers[-1].ended.set()
    await until(lambda: bool(machine.waits))
    await machine.keeper.close()
    assert machine.keeper.current is None


async def test_a_first_server_that_does_not_start_fails_the_start() -> None:
    machine = Machine()
    machine.fails = 1
    with pytest.raises(BackendError, match="today"):
        await machine.keeper.start()
    await machine.keeper.close()


async def test_a_mistake_of_ours_is_not_taken_for_a_server_that_does_not_start() -> None:
    machine = Machine()
    await machine.keeper.start()

    async def broken(_: float) -> None:
        raise ZeroDivisionError

    machine.keeper._sleep = broken
    machine.servers[-1].ended.set()
    await until(lambda: machine.servers[-1].closed > 1)
    with pytest.raises(ZeroDivisionError):
        await machine.keeper.close()
