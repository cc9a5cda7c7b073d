"""Listeners under more connections than they can serve, over real sockets."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from core.program.http.listener import KEEPALIVE_S, MAX_HEAD_BYTES, MAX_LINE_BYTES, Address, listening
from tests.attestation.servers import LOOPBACK, constant_answer
from tests.engine.gateway.sealed_client import Connection, connected
from tests.places import ROOT
from tests.waiting import GIVE_UP_S, time_passes, until


@dataclass
class Gate:
    """What an answer waits for, and whether it does."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def serving(gate: Gate | None = None, **options: Any) -> AsyncIterator[Address]:
    """A listener with one path, which waits for `gate`."""

    async def answer(_: web.Request) -> web.Response:
        if gate is not None:
            gate.begun.set()
            await gate.open.wait()
        return web.Response(text="here")

    app = web.Application()
    app.router.add_get("/", answer)
    async with listening(app, [LOOPBACK], error_response=constant_answer, **options) as (address,):
        yield address


async def get(connection: Connection) -> int:
    await connection.begin("/", method="GET")
    return (await connection.response()).status


async def test_a_connection_that_asks_for_nothing_is_closed_and_one_that_has_asked_is_kept() -> None:
    async with (
        serving(first_head_s=30) as address,
        connected(address) as silent,
        connected(address) as slow,
        connected(address) as asking,
    ):
        await slow.raw(b"GET / HTTP/1.1\r\nHost:")
        assert await get(asking) == 200
        time_passes(30)
        async with asyncio.timeout(KEEPALIVE_S - 31):  # when it would be closed for being idle
            assert await silent.closed()
            assert await slow.closed()
        assert await get(asking) == 200


async def test_the_connection_that_has_been_silent_longest_gives_way() -> None:
    async with (
        serving(max_connections=2) as address,
        connected(address) as first,
        connected(address) as second,
        connected(address) as third,
    ):
        assert await first.closed()
        assert await get(third) == 200
        assert await get(second) == 200


async def test_a_silent_connection_gives_way_before_one_between_two_requests() -> None:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(max_connections=2))
        asking, silent = [await stack.enter_async_context(connected(address)) for _ in range(2)]
        assert await get(asking) == 200
        await stack.enter_async_context(connected(address))
        assert await silent.closed()
        assert await get(asking) == 200


async def test_a_connection_between_two_requests_gives_way_to_a_new_one() -> None:
    async with serving(max_connections=1) as address, connected(address) as idle:
        assert await get(idle) == 200
        async with connected(address) as another:
            assert await idle.closed()
            assert await get(another) == 200


async def test_no_connection_at_work_gives_way() -> None:
    gate = Gate()
    async with serving(gate, max_connections=1) as address, connected(address) as at_work:
        await at_work.begin("/", method="GET")
        await gate.begun.wait()
        async with connected(address) as another:
            assert await another.closed()
        gate.open.set()
        assert (await at_work.response()).status == 200


async def test_connections_that_have_left_are_not_counted() -> None:
    async with serving(max_connections=1) as address:
        for _ in range(5):
            async with connected(address) as connection:
                assert await get(connection) == 200


async def test_a_head_of_many_long_lines_is_cut_off() -> None:
    async with serving() as address, connected(address) as connection:
        await connection.raw(b"GET / HTTP/1.1\r\nHost: x\r\n")
        line = b"X: " + b"x" * (MAX_LINE_BYTES - 100) + b"\r\n"
        with suppress(ConnectionError):
            for _ in range(2 * MAX_HEAD_BYTES // len(line)):  # far fewer than there may be
                await connection.raw(line)
        assert await connection.closed()


async def test_many_requests_on_one_connection_are_not_taken_for_one_long_head() -> None:
    async with serving() as address, connected(address) as connection:
        for _ in range(2 * MAX_HEAD_BYTES // 1000):
            await connection.begin("/", method="GET", headers={"X": "x" * 1000})
            assert (await connection.response()).status == 200


async def test_all_addresses_of_a_name_are_bound_and_told() -> None:
    app = web.Application()
    async with listening(app, [Address("localhost", 0)], error_response=constant_answer) as addresses:
        for address in addresses:
            assert address.port
            async with connected(address) as connection:
                assert await get(connection) == 404


async def test_a_port_in_use_is_told_with_its_number() -> None:
    async with serving() as address:
        with pytest.raises(OSError, match=f"address already in use: 127.0.0.1 port {address.port}"):
            async with listening(web.Application(), [address], error_response=constant_answer):
                pass


@pytest.mark.parametrize("ticks", range(6))
async def test_who_comes_as_a_listener_ends_is_answered_or_cut_off_and_never_left_to_wait(ticks: int) -> None:
    gate = Gate()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        listener = await stack.enter_async_context(AsyncExitStack())
        address = await listener.enter_async_context(serving(gate, shutdown_timeout_s=GIVE_UP_S))
        first = await stack.enter_async_context(connected(address))
        await first.begin("/", method="GET")
        await gate.begun.wait()  # which keeps the listener's end from cutting everybody off
        late = stack.enter_context(socket.create_connection((address.host, address.port)))
        late.sendall(b"GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n")
        late.setblocking(False)
        for _ in range(ticks):
            await asyncio.sleep(0)
        ending = group.create_task(listener.aclose())
        with suppress(ConnectionError):
            await asyncio.get_running_loop().sock_recv(late, 1)
        assert not ending.done()
        gate.open.set()


STARVED = """
import asyncio, resource, sys
from aiohttp import web
from core.program.http.listener import Address, listening
from core.program.logs import LogFormat, LogLevel, configure_logging
from core.program.run import faster_loop

async def main():
    configure_logging(LogFormat.JSON, LogLevel.INFO)
    app = web.Application()
    async with listening(app, [Address("127.0.0.1", 0)], error_response=lambda status: web.Response(status=status),
                         max_connections=100000, first_head_s=3600) as (address,):
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        print(address.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)

with asyncio.Runner(loop_factory=faster_loop() if sys.argv[1] == "faster" else None) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("loop", ["usual", "faster"])
async def test_without_descriptors_a_listener_tries_again_quietly(loop: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STARVED, loop, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, cwd=ROOT
        )
    assert process.stdin is not None
    assert process.stdout is not None
    address = Address("127.0.0.1", int(await process.stdout.readline()))
    async with AsyncExitStack() as stack:
        for _ in range(80):
            await stack.enter_async_context(connected(address))
        await until(lambda: log.stat().st_size)
    async with connected(address) as connection:
        assert await get(connection) == 404
    process.stdin.close()
    assert await process.wait() == 0
    (line,) = log.read_text().splitlines()
    assert json.loads(line) | {"timestamp": ""} == {
        "event": "cannot_accept_connections",
        "level": "error",
        "error": "Too many open files",
        "times": 1,
        "timestamp": "",
    }


def test_the_limit_of_descriptors_is_raised_as_far_as_it_may_be() -> None:
    program = "from core.program.http.connections import raise_descriptor_limit as r; print(r())"
    command = f'ulimit -Sn 100; exec "{sys.executable}" -c "{program}"'
    output = subprocess.run(["sh", "-c", command], check=True, capture_output=True, cwd=ROOT, text=True).stdout
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert int(output) == (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536))
