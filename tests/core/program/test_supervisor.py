"""A service manager hears datagrams on a real socket; without one nothing is said."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.program.supervisor import ALIVE, READY, STOPPING, Supervisor, supervised


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.setblocking(False)
        yield listener


@pytest.mark.parametrize("kind", ["file", "abstract"])
def test_what_is_told_arrives_as_it_is(kind: str, tmp_path: Path) -> None:
    name = str(tmp_path / "notify") if kind == "file" else f"sottovoce-test-{os.getpid()}"
    address, variable = (name, name) if kind == "file" else (f"\0{name}", f"@{name}")
    with manager(address) as listener:
        supervisor = Supervisor({"NOTIFY_SOCKET": variable})
        supervisor.tell(READY)
        supervisor.tell(STOPPING)
        assert [listener.recv(100), listener.recv(100)] == [b"READY=1", b"STOPPING=1"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere"}, {"NOTIFY_SOCKET": "x"}])
def test_nobody_who_does_not_listen_is_missed(environ: dict[str, str]) -> None:
    Supervisor(environ).tell(READY)


def test_a_manager_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    with manager(str(tmp_path / "notify")):
        supervisor = Supervisor({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(10_000):
            supervisor.tell(ALIVE)


async def test_signs_of_life_come_as_long_as_the_loop_turns_and_no_longer(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with manager(str(tmp_path / "notify")) as listener:
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"}
        async with supervised(environ):
            for _ in range(3):
                assert await loop.sock_recv(listener, 100) == b"WATCHDOG=1"
        while True:
            try:
                assert listener.recv(100) == b"WATCHDOG=1"
            except BlockingIOError:
                break
        await asyncio.sleep(0)
        with pytest.raises(BlockingIOError):
            listener.recv(100)


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
        ({}, None),
    ],
)
def test_signs_of_life_are_given_to_whoever_waits_for_ours(environ: dict[str, str], watchdog_s: float | None) -> None:
    assert Supervisor(environ).watchdog_s == watchdog_s
