"""Real servers on port 0: an engine's attestation, and raw sockets that answer what a test wants."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from attestation.document import WELL_KNOWN_PATH
from attestation.guest.attester import EvidenceDesk
from attestation.insecure import InsecureAttester
from attestation.types import StatementBytes, parse_nonce
from core.program.http.listener import Address, listening

LOOPBACK = Address("127.0.0.1", 0)


def constant_answer(status: int) -> web.Response:
    return web.Response(status=status, text="constant", headers={"Server": "constant"})


@asynccontextmanager
async def attesting(statement: StatementBytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """An engine that attests `statement` with development evidence; yields its URL."""
    desk = EvidenceDesk(InsecureAttester(), lambda: statement)

    async def attest(request: web.Request) -> web.Response:
        document = await desk.document(parse_nonce(request.query["nonce"]), request.remote or "")
        assert document is not None
        return web.Response(body=document.encode(), content_type="application/json")

    app = web.Application()
    app.router.add_get(WELL_KNOWN_PATH, attest)
    async with listening(app, [LOOPBACK], error_response=constant_answer, tls=tls) as (address,):
        yield f"{'https' if tls else 'http'}://{address}"


@dataclass
class RawServer:
    """Reads one request head of each connection, keeps it, and answers `answer` as it stands."""

    url: str = ""
    heads: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def raw_server(answer: bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[RawServer]:
    server = RawServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server.heads.append(await reader.readuntil(b"\r\n\r\n"))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left, as some tests want it to
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        server.url = "http://{}:{}".format(*listener.sockets[0].getsockname())
        yield server


def http_answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body
