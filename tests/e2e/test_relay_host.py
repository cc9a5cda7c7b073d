"""A relay on another host name stands between: nothing of ours ever connects to an engine, attestation included."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from core.program.http.listener import Address
from proxy.app import RunningProxy, running_proxy
from proxy.sender import ways
from proxy.settings import ProxySettings
from tests.e2e.conftest import TRANSCRIPTIONS, proxy_settings
from tests.e2e.test_nginx import nginx
from tests.proxy.fake_engine import FakeEngine
from tests.requirements import need_program
from tests.waiting import until

ENGINE = "127.0.0.5"
"""An address that only engines listen at."""

PASSING_ON = """
    set $engine "";
    if ($uri ~ "^/to/(127\\.0\\.0\\.5:[0-9]+)/") { set $engine $1; }
    if ($engine = "") { return 404; }
    rewrite "^/to/[^/]+(/.*)$" $1 break;
    proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off; client_max_body_size 30m;
"""

_connected: list[set[str]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and _connected and isinstance(arguments[1], tuple):
        _connected[-1].add(arguments[1][0])


@contextmanager
def connections() -> Iterator[set[str]]:
    """Every address that a socket of this process connects to, while the context is open."""
    if not hasattr(_watch, "installed"):
        sys.addaudithook(_watch)
        _watch.installed = True  # type: ignore[attr-defined]
    _connected.append(set())
    try:
        yield _connected[-1]
    finally:
        _connected.pop()


async def ask(proxy: RunningProxy) -> int:
    async with (
        aiohttp.ClientSession(f"http://{proxy.addresses[0]}") as app,
        app.post(TRANSCRIPTIONS, data=b"canary" * 1000) as response,
    ):
        await response.read()
        return response.status


async def test_no_socket_opens_to_an_engine_that_a_relay_stands_before(tmp_path: Path) -> None:
    need_program("nginx")
    first, second = FakeEngine(), FakeEngine()
    async with (
        first.running(address=Address(ENGINE, 0)),
        second.running(address=Address(ENGINE, 0)),
        nginx(tmp_path / "nginx", "http://$engine", PASSING_ON) as relay,
    ):
        settings = proxy_settings(f"{first.url},{second.url}", relay=f"{relay}/to/", insecure_remote_engine=True)
        with connections() as seen:
            async with running_proxy(settings) as proxy:
                await until(lambda: len(proxy.service.sender.engines.held) == 2)
                for busy in (0, 1):
                    for member in proxy.service.sender.engines.members:
                        member.health.in_flight = 1000 * (member.id == busy)
                    assert await ask(proxy) == 200
    assert "127.0.0.1" in seen
    assert ENGINE not in seen
    assert [len(engine.received) for engine in (first, second)] == [1, 1]
    assert [engine.attestations for engine in (first, second)] == [1, 1]
    assert bytes(first.received[0].content) == b"canary" * 1000


async def test_without_a_relay_the_same_watch_sees_the_engine() -> None:
    with connections() as seen:
        async with (
            FakeEngine().running(address=Address(ENGINE, 0)) as engine,
            running_proxy(proxy_settings(engine.url)) as proxy,
        ):
            assert await ask(proxy) == 200
    assert ENGINE in seen


def test_what_a_relay_passes_on_under_an_insecure_policy_has_to_be_asked_for() -> None:
    settings = proxy_settings("http://127.0.0.1:1", relay="http://127.0.0.1:2")
    assert not settings.engine_is_loopback


@pytest.mark.parametrize("relay", ["relay.example", "https://user@relay.example", "https://relay.example?to="])
def test_a_relay_is_a_plain_url(relay: str) -> None:
    with pytest.raises(ValueError, match="a relay's URL"):
        proxy_settings("http://127.0.0.1:1", relay=relay)


def test_an_engine_is_named_to_the_relay_by_host_and_port() -> None:
    def asked(settings: ProxySettings, url: str, host: str | None = None) -> str:
        return ways(settings, {})(url, host).url

    settings = proxy_settings("http://a:1", relay="https://relay.example/to/")
    assert asked(settings, "http://a:1/base") == "https://relay.example/to/a:1/base"
    assert asked(settings, "https://[fd00::1]:8800", "a:8800") == "https://relay.example/to/%5Bfd00::1%5D:8800"
    assert urlsplit(asked(settings, "http://a:1")).hostname == "relay.example"
