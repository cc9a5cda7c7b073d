"""An HTTP proxy on the way to the engine sees sealed requests, and of an engine behind TLS not even those."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from yarl import URL

from proxy.local.tls import ServerTls
from proxy.sender import ProxyParts
from tests.proxy.certificates import write_certificate
from tests.proxy.conftest import StartProxy, url_of
from tests.proxy.fake_engine import FakeEngine

NAME = "engine.invalid"
"""Of the engine: no resolver knows it, so nobody but the HTTP proxy can lead there."""


class HttpProxy:
    """Passes all that comes to one engine, whatever name it is asked for; keeps what was said to itself."""

    def __init__(self, engine_url: str) -> None:
        self._engine = URL(engine_url)
        self.url = ""
        self.heard = bytearray()

    @property
    def requests(self) -> list[tuple[str, str]]:
        """Method and target of everything that was asked for in the clear."""
        lines = re.findall(rb"^([A-Z]{3,8}) (\S+) HTTP/1\.1\r$", self.heard, re.MULTILINE)
        return [(method.decode(), target.decode()) for method, target in lines]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[HttpProxy]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection(self._engine.host, self._engine.port)
        try:
            begun = await reader.readuntil(b"\r\n\r\n")
            self.heard += begun
            if begun.startswith(b"CONNECT "):
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                onward.write(begun)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, onward, self.heard))
                group.create_task(self._pass(there, writer, bytearray()))
        finally:
            for end in (writer, onward):
                end.close()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept: bytearray) -> None:
        while data := await source.read(65_536):
            kept += data
            sink.write(data)
            await sink.drain()
        sink.close()


async def ask(proxy_url: str) -> int:
    async with (
        aiohttp.ClientSession(proxy_url) as app,
        app.post("/v1/audio/transcriptions", data=b"canary" * 1000) as response,
    ):
        await response.read()
        return response.status


async def test_attestation_and_requests_pass_through_the_http_proxy(
    start_proxy: StartProxy, engine: FakeEngine
) -> None:
    async with HttpProxy(engine.url).running() as way:
        parts = ProxyParts(environ={"http_proxy": way.url})
        async with start_proxy(parts, engine=f"http://{NAME}:8800", insecure_remote_engine=True) as proxy:
            assert await ask(url_of(proxy)) == 200
    (asked, attestation), sealed = way.requests[0], way.requests[1:]
    assert asked == "GET"
    assert attestation.startswith(f"http://{NAME}:8800/.well-known/sottovoce-attestation?nonce=")
    assert sealed == [("POST", f"http://{NAME}:8800/ohttp/{engine.key.config.path_digest}")]
    assert (engine.attestations, len(engine.received)) == (1, 1)
    assert bytes(engine.received[0].content) == b"canary" * 1000
    assert b"canary" not in way.heard


async def test_to_an_engine_behind_tls_the_http_proxy_only_connects(start_proxy: StartProxy, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(cert, key, NAME)
    async with FakeEngine().running(ServerTls(cert, key).context) as engine, HttpProxy(engine.url).running() as way:
        parts = ProxyParts(environ={"https_proxy": way.url})
        settings = {"engine": f"https://{NAME}", "insecure_remote_engine": True, "ca_file": cert}
        async with start_proxy(parts, **settings) as proxy:
            assert await ask(url_of(proxy)) == 200
    assert way.requests
    assert set(way.requests) == {("CONNECT", f"{NAME}:443")}
    assert (engine.attestations, len(engine.received)) == (1, 1)
    assert b"canary" not in way.heard
    assert b"ohttp" not in way.heard
