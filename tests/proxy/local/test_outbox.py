"""A body in pieces is the body, and nothing of an answer is left behind for closing to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from core.program.http.listener import Address, PeerGoneError, listening
from proxy.local.outbox import PIECE_BYTES, send
from tests.proxy.raw import asking, connect
from tests.waiting import until

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def request_of(method: str) -> bytes:
    return f"{method} / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Address]:
    app = web.Application()
    app.router.add_route("*", "/", handler)
    async with listening(
        app, [Address("127.0.0.1", 0)], error_response=lambda status: web.Response(status=status)
    ) as bound:
        yield bound[0]


async def answer_to(method: str, response: web.Response) -> tuple[bytes, bytes]:
    """Head and body as they arrive."""

    async def handle(request: web.Request) -> web.StreamResponse:
        await send(request, response, stall_s=20.0)
        return response

    async with serving(handle) as address, connect(address) as connection:
        await connection.send(request_of(method))
        head, _, body = (await connection.rest()).partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES + 3])
async def test_a_body_of_any_size_arrives_once_and_with_its_length(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    head, received = await answer_to("GET", web.Response(body=body[:size]))
    assert f"Content-Length: {size}".encode() in head
    assert received == body[:size]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_an_answer_that_may_have_no_body_has_none(method: str, status: int) -> None:
    head, received = await answer_to(method, web.Response(status=status, body=b"x" * 1000))
    assert str(status).encode() in head
    assert received == b""


async def test_an_app_that_leaves_the_last_bytes_unread_is_cut_off_without_waiting_for_it() -> None:
    connections: list[asyncio.Transport] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        while not request.transport.get_write_buffer_size():
            request.transport.write(bytes(1000))  # until the system takes no more
        with pytest.raises(PeerGoneError):
            await send(request, web.Response(body=b"x"), stall_s=0.05)
        connections.append(request.transport)
        return web.Response()

    async with serving(handle) as address, asking(address, request_of("GET")):
        await until(lambda: connections and connections[0].get_extra_info("socket").fileno() == -1)
