"""How is the body of a request read? Piece by piece, never more than is allowed, and each in its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.http import HttpProcessingError

from core.errors import OversizeError
from proxy.local.exchange import ask_for_body


class BrokenBodyError(Exception):
    """The body is not what its head says, or stopped coming. stalled: the latter."""

    def __init__(self, *, stalled: bool = False) -> None:
        super().__init__("stalled" if stalled else "broken")
        self.stalled = stalled


async def stream(request: web.Request, *, idle_s: float) -> AsyncIterator[bytes]:
    """All of the body. Raises BrokenBodyError, ProxyError for an expectation that cannot be met."""
    await ask_for_body(request)
    while True:
        try:
            async with asyncio.timeout(idle_s):
                piece = await request.content.readany()
        except TimeoutError:
            raise BrokenBodyError(stalled=True) from None
        except (web.RequestPayloadError, HttpProcessingError):
            raise BrokenBodyError from None
        if not piece:
            return
        yield piece


async def read(request: web.Request, max_bytes: int, *, idle_s: float) -> bytes:
    """A whole body. Raises OversizeError, and what `stream` raises."""
    body = bytearray()
    async for piece in stream(request, idle_s=idle_s):
        body += piece
        if len(body) > max_bytes:
            raise OversizeError(f"the body is longer than {max_bytes} bytes")
    return bytes(body)


def has_body(request: web.Request) -> bool:
    return request.body_exists


def is_compressed(request: web.Request) -> bool:
    """Nothing here is decompressed: a few kilobytes become gigabytes."""
    return any(coding.lower() != "identity" for coding in request.headers.getall("content-encoding", ()))
