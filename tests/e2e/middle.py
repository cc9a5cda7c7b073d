"""A machine in the middle: an HTTP server between proxy and engine that sees, keeps and changes what it likes."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from attestation.document import WELL_KNOWN_PATH


@dataclass(slots=True)
class Message:
    """A request or an answer as it passes; an attack changes its fields."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


RequestAttack = Callable[[Message], Awaitable[web.StreamResponse | None] | web.StreamResponse | None]
AnswerAttack = Callable[[Message], None]


@dataclass(slots=True)
class Middle:
    """What the middle does, and all it has seen.

    on_request: may change a sealed request, or answer it itself. on_answer: may change a sealed answer.
    on_attestation: may change an attestation document.
    wire: every byte of bodies, targets and headers that passed, both ways.
    """

    engine_url: str
    url: str = ""
    on_request: RequestAttack = lambda _: None
    on_answer: AnswerAttack = lambda _: None
    on_attestation: AnswerAttack = lambda _: None
    requests: list[bytes] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    wire: bytearray = field(default_factory=bytearray)
    attestations: int = 0

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send `body` to the engine as if a proxy had; the status and body of the answer."""
        headers = {"Content-Type": "message/ohttp-chunked-req"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.engine_url + path, data=io.BytesIO(body), headers=headers) as response,
        ):
            return response.status, await response.read()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self._saw(request.method, request.path_qs, *(f"{name}: {value}" for name, value in request.headers.items()))
        message = Message(await request.read())
        self.wire += message.body
        if request.path.startswith(WELL_KNOWN_PATH):
            self.attestations += 1
            return await self._forward(request, message, self.on_attestation)
        self.requests.append(message.body)
        self.targets.append(request.path)
        forged = self.on_request(message)
        if isinstance(forged, Awaitable):
            forged = await forged
        return forged or await self._forward(request, message, self.on_answer)

    async def _forward(self, request: web.Request, message: Message, attack: AnswerAttack) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        async with (
            aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)) as session,
            session.request(
                request.method,
                self.engine_url + request.path_qs,
                data=io.BytesIO(message.body) if message.body else None,
                headers=headers,
            ) as response,
        ):
            answer = Message(await response.read(), response.status, dict(response.headers))
        self._saw(*(f"{name}: {value}" for name, value in answer.headers.items()))
        self.wire += answer.body
        self.answers.append(answer.body)
        attack(answer)
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
        return web.Response(status=answer.status, headers=kept, body=answer.body)

    def _saw(self, *lines: str) -> None:
        self.wire += "\n".join(lines).encode()


_HOP_BY_HOP = {"host", "transfer-encoding", "content-length", "connection", "keep-alive"}


@asynccontextmanager
async def middle(engine_url: str) -> AsyncIterator[Middle]:
    """A middle in front of the engine at `engine_url`."""
    box = Middle(engine_url)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", box.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        box.url = f"http://{host}:{port}"
        yield box
    finally:
        await runner.cleanup()
