"""A session gives nothing away: it sends nothing of its own, and goes nowhere by itself."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from core.program.http.client import NotLoopbackError, open_session, open_unix_session, proxy_for
from core.program.http.listener import Address, listening
from tests.attestation.servers import constant_answer, http_answer, raw_server
from tests.waiting import GIVE_UP_S


@asynccontextmanager
async def _session(*, loopback_only: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session(
        tls=None, loopback_only=loopback_only, connect_timeout_s=GIVE_UP_S, idle_timeout_s=GIVE_UP_S
    ) as session:
        yield session


async def test_a_session_sends_no_header_of_its_own_but_a_constant_user_agent() -> None:
    async with raw_server(http_answer(b"")) as server, _session() as session, session.get(server.url):
        pass
    host = server.url.removeprefix("http://")
    assert server.heads == [f"GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sottovoce\r\n\r\n".encode()]


async def test_a_session_keeps_no_cookie() -> None:
    answer = http_answer(b"", "200 OK", "Set-Cookie: canary=1", "Connection: close")
    async with raw_server(answer) as server, _session() as session:
        for _ in range(2):
            async with session.get(server.url):
                pass
    assert len(server.heads) == 2
    assert b"ookie" not in b"".join(server.heads)


async def test_a_session_reads_neither_netrc_nor_proxies_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login user password canary-4711\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with raw_server(http_answer(b"")) as elsewhere, raw_server(http_answer(b"")) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, elsewhere.url)
        async with _session() as session, session.get(server.url):
            pass
    assert elsewhere.heads == []
    assert b"uthorization" not in server.heads[0]


async def test_a_session_does_not_decompress() -> None:
    body = gzip.compress(bytes(50_000))
    answer = http_answer(body, "200 OK", "Content-Encoding: gzip")
    async with raw_server(answer) as server, _session() as session, session.get(server.url) as response:
        assert await response.read() == body


@pytest.mark.parametrize("status", ["200 OK", "307 Temporary Redirect", "404 Not Found"])
async def test_a_session_that_asks_for_a_websocket_follows_nobody_elsewhere(status: str) -> None:
    async with raw_server(http_answer(b"")) as elsewhere:
        answer = http_answer(b"", status, f"Location: {elsewhere.url}/")
        async with raw_server(answer) as server, _session() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await session.ws_connect(server.url)
    assert refusal.value.status == int(status[:3])
    assert elsewhere.heads == []


async def test_silence_is_given_up() -> None:
    left = asyncio.Event()

    async def hang(_: asyncio.StreamWriter) -> None:
        await left.wait()

    async with (
        raw_server(hang) as server,
        open_session(tls=None, loopback_only=False, connect_timeout_s=GIVE_UP_S, idle_timeout_s=0.05) as session,
    ):
        with pytest.raises(TimeoutError):
            await session.get(server.url)
        left.set()


async def test_a_unix_session_reaches_its_socket_whatever_host_a_url_names(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(http_answer(b"here"))
        writer.close()

    path = tmp_path / "agent.sock"
    async with (
        await asyncio.start_unix_server(answer, path),
        open_unix_session(path, connect_timeout_s=5, idle_timeout_s=5) as session,
    ):
        response = await session.get("http://agent/x")
        assert await response.read() == b"here"
    assert heads[0].startswith(b"GET /x HTTP/1.1\r\nHost: agent\r\n")


@asynccontextmanager
async def _everywhere() -> AsyncIterator[int]:
    """A listener on every address of this machine; yields its port."""
    async with listening(web.Application(), [Address("0.0.0.0", 0)], error_response=constant_answer) as (address,):
        yield address.port


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost"])
async def test_a_loopback_session_reaches_this_machine(host: str) -> None:
    async with _everywhere() as port, _session(loopback_only=True) as session:
        response = await session.get(f"http://{host}:{port}/x")
        assert response.status == 404


def _own_address() -> str | None:
    """An address of this machine that is not loopback; found by routing, nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "0.0.0.0", "[::ffff:192.0.2.1]", "own"])
async def test_a_loopback_session_refuses_every_other_address(host: str) -> None:
    if host == "own" and (host := _own_address() or "") in ("", "127.0.0.1"):
        pytest.skip("this machine has no address but loopback")
    async with _everywhere() as port, _session(loopback_only=True) as session:
        with pytest.raises(aiohttp.ClientConnectorError) as refusal:
            await session.get(f"http://{host}:{port}/")
    assert isinstance(refusal.value.os_error, NotLoopbackError)


async def test_a_loopback_session_looks_at_what_a_name_resolves_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a name is rebound: the name says this machine, the resolver says another."""

    async def elsewhere(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 9))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", elsewhere)
    async with _session(loopback_only=True) as session:
        with pytest.raises(aiohttp.ClientConnectorError) as refusal:
            await session.get("http://engine.localhost:9/")
    assert isinstance(refusal.value.os_error, NotLoopbackError)


# The way out.


HTTPS = {"https_proxy": "http://proxy.example:3128"}


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        ("https://engine.example", {}, None),
        ("https://engine.example:8443/x", HTTPS, "http://proxy.example:3128"),
        ("file:///x", HTTPS, None),
        ("http://127.0.0.1:8800", {"http_proxy": "http://proxy.example"}, None),
        ("https://engine.example", HTTPS, "http://proxy.example:3128"),
        ("https://engine.example", {"HTTPS_PROXY": "proxy.example:3128"}, "http://proxy.example:3128"),
        ("https://engine.example", {"http_proxy": "http://proxy.example"}, None),
        ("http://engine.example", {"HTTP_PROXY": "http://proxy.example"}, "http://proxy.example"),
        ("https://engine.example", {"https_proxy": ""}, None),
        ("https://localhost", HTTPS, None),
        ("https://a.localhost", HTTPS, None),
        ("https://127.0.0.1", HTTPS, None),
        ("https://[::1]", HTTPS, None),
        ("https://engine.example", HTTPS | {"no_proxy": "*"}, None),
        ("https://engine.example", HTTPS | {"NO_PROXY": "other, engine.example"}, None),
        ("https://engine.example", HTTPS | {"no_proxy": ".example"}, None),
        ("https://engine.example", HTTPS | {"no_proxy": "*.example"}, None),
        ("https://engine.example", HTTPS | {"no_proxy": "example"}, None),
        ("https://engine.example", HTTPS | {"no_proxy": "ENGINE.EXAMPLE:443"}, None),
        ("https://engine.example", HTTPS | {"no_proxy": "engine.example:80"}, "http://proxy.example:3128"),
        ("https://engine.example", HTTPS | {"no_proxy": "ngine.example"}, "http://proxy.example:3128"),
        ("https://10.1.2.3", HTTPS | {"no_proxy": "10.0.0.0/8"}, None),
        ("https://11.1.2.3", HTTPS | {"no_proxy": "10.0.0.0/8"}, "http://proxy.example:3128"),
        ("https://10.1.2.3", HTTPS | {"no_proxy": "10.1.2.3"}, None),
        ("https://[2001:db8::1]", HTTPS | {"no_proxy": "2001:db8::/32"}, None),
    ],
)
def test_the_way_out(url: str, environ: dict[str, str], expected: str | None) -> None:
    found = proxy_for(url, environ)
    assert (found or "").rstrip("/") == (expected or "")


@pytest.mark.parametrize("proxy", ["socks5://proxy.example", "http://"])
def test_what_is_no_http_proxy_is_refused_and_not_quoted(proxy: str) -> None:
    with pytest.raises(ValueError, match="HTTPS_PROXY is not") as caught:
        proxy_for("https://engine.example", {"https_proxy": proxy})
    assert "proxy.example" not in str(caught.value)
