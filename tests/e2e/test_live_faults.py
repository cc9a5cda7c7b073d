"""Live sessions whose engine is killed or stopped, as processes; and sessions through a relay on another host name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from core.channel.gateway import LIVENESS_S
from proxy.app import RunningProxy, running_proxy
from proxy.sender import ProxyParts
from tests.beats import Hurried
from tests.e2e.conftest import proxy_settings
from tests.e2e.live_process import LiveProcess, live_process
from tests.e2e.test_live import CREATED
from tests.e2e.test_nginx import nginx
from tests.e2e.test_relay_host import ENGINE, PASSING_ON, connections
from tests.requirements import need_program
from tests.waiting import time_passes, until, until_settled

SAID = {"type": "session.update", "session": {}}
UPGRADING = 'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"; proxy_read_timeout 60s;'


@dataclass(frozen=True, slots=True)
class Two:
    """A proxy before two engines, of which the first gets sessions as long as it may."""

    proxy: RunningProxy
    http: aiohttp.ClientSession
    first: LiveProcess
    second: LiveProcess

    def connect(self) -> Any:
        return self.http.ws_connect(f"http://{self.proxy.addresses[0]}/v1/realtime?intent=transcription")

    @property
    def begun_with(self) -> list[int]:
        """Sessions at each engine."""
        return [member.health.in_flight % 1000 for member in self.proxy.service.sender.engines.members]


@asynccontextmanager
async def two(directory: Path) -> AsyncIterator[Two]:
    async with live_process(directory / "first") as first, live_process(directory / "second") as second:
        settings = proxy_settings(f"{first.url},{second.url}")
        async with running_proxy(settings, ProxyParts(metronome=Hurried)) as proxy, aiohttp.ClientSession() as http:
            engines = proxy.service.sender.engines
            await until(lambda: len(engines.held) == 2)
            next(each for each in engines.members if each.way.url == second.url).health.in_flight += 1000
            yield Two(proxy, http, first, second)


async def speaks(socket: aiohttp.ClientWebSocketResponse) -> None:
    """It is a session that hears and answers."""
    assert await socket.receive_json() == CREATED
    await socket.send_json(SAID)
    assert await socket.receive_json() == SAID


async def ended(socket: aiohttp.ClientWebSocketResponse) -> tuple[list[str], int | None]:
    """The codes of all events that still come, and the close code."""
    codes = []
    while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
        codes.append(json.loads(message.data)["error"]["code"])
    return codes, socket.close_code


async def test_a_session_whose_engine_is_killed_is_told_once_and_the_next_is_another_engines(tmp_path: Path) -> None:
    async with two(tmp_path) as both:
        async with both.connect() as socket:
            await speaks(socket)
            assert both.begun_with == [1, 0]
            await both.first.kill()
            assert await ended(socket) == (["stream_truncated"], 1011)
        for _ in range(3):  # and nobody waits for the dead one
            async with both.connect() as socket:
                await speaks(socket)
                assert both.begun_with == [0, 1]


async def test_a_session_whose_engine_is_stopped_is_told_once(tmp_path: Path) -> None:
    async with two(tmp_path) as both, both.connect() as socket:
        await speaks(socket)
        both.first.stop()
        await until_settled()
        time_passes(LIVENESS_S + 1)
        assert await ended(socket) == (["stream_truncated"], 1011)


async def test_an_engine_that_is_stopped_before_it_is_called_is_given_up_for_another(tmp_path: Path) -> None:
    async with two(tmp_path) as both, asyncio.TaskGroup() as group:
        both.first.stop()
        async with both.connect() as socket:
            speaking = group.create_task(speaks(socket))
            await until(lambda: both.proxy.service.sender.telemetry.registry)
            await until_settled()
            time_passes(max(LIVENESS_S, both.proxy.service.idle_timeout_s) + 1)
            await speaking
            assert both.begun_with == [0, 1]


async def test_when_every_engine_is_killed_the_app_is_told_to_come_back(tmp_path: Path) -> None:
    async with two(tmp_path) as both:
        await both.first.kill()
        await both.second.kill()
        async with both.connect() as socket:
            codes, closed = await ended(socket)
    assert (len(codes), closed) == (1, 1013)
    assert codes[0] in {"engine_unavailable", "no_attested_engine"}


@pytest.mark.parametrize("has_relay", [True, False], ids=["through a relay", "without one, the same watch sees it"])
async def test_no_socket_of_a_session_opens_to_an_engine_that_a_relay_stands_before(
    tmp_path: Path, *, has_relay: bool
) -> None:
    need_program("nginx")
    async with (
        live_process(tmp_path / "engine", ENGINE) as engine,
        nginx(tmp_path / "nginx", "http://$engine", PASSING_ON + UPGRADING) as relay,
        aiohttp.ClientSession() as http,
    ):
        options = {"relay": f"{relay}/to/", "insecure_remote_engine": True} if has_relay else {}
        with connections() as seen:
            async with running_proxy(proxy_settings(engine.url, **options), ProxyParts(metronome=Hurried)) as proxy:
                url = f"http://{proxy.addresses[0]}/v1/realtime?intent=transcription"
                async with http.ws_connect(url) as socket:
                    await speaks(socket)
    assert (ENGINE not in seen) is has_relay
