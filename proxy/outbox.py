"""What if an app reads its answer slowly, or not at all? Each wait for it is bounded; then it is cut off.

aiohttp waits for a reader without bound, and a connection that is closed waits for the same reader: socket, handler and
the engine's work would be held for as long as an app likes. So every answer to an app leaves through here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiohttp import hdrs, web

_log = structlog.get_logger(__name__)

PIECE_BYTES: Final = 65_536

_BODILESS: Final = (204, 304)
"""RFC 9110, section 6.4.1; and so is every answer to a HEAD."""


class AppGoneError(ConnectionError):
    """The app has left, or does not read; there is nobody to tell."""


async def send(request: web.Request, response: web.StreamResponse, *, stall_s: float) -> None:
    """Send an answer, or what is left of it; a body goes piece by piece, and each has its time to be read.

    stall_s: how long the app may read nothing while there is more to say. Raises AppGoneError.
    When this is cancelled while it waits for the app, the connection is cut.
    """
    async with _patience(request, stall_s):
        writer = await response.prepare(request)
    if isinstance(response, web.Response) and _may_have_body(request, response):
        body, response.body = response.body, None  # so that aiohttp does not send it once more
        for piece in _pieces(body):
            async with _patience(request, stall_s):
                await response.write(piece)
    async with _patience(request, stall_s):
        await response.write_eof()
        if writer is not None:  # it is None where nothing was left
            await writer.drain()  # which `write_eof` leaves out where the length was told


def _may_have_body(request: web.Request, response: web.Response) -> bool:
    return request.method != hdrs.METH_HEAD and response.status not in _BODILESS


def _pieces(body: object) -> Iterator[bytes]:
    if not isinstance(body, bytes):
        return
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]


async def write(request: web.Request, stream: web.StreamResponse, events: bytes, *, stall_s: float) -> None:
    """Send events of a stream, all in one: whatever ends the stream, it ends between events. Raises AppGoneError."""
    async with _patience(request, stall_s):
        await stream.write(events)


@asynccontextmanager
async def _patience(request: web.Request, stall_s: float) -> AsyncIterator[None]:
    if request.transport is not None:
        # Wait until all is in the system's hands: what stays in the transport would keep a closed connection open.
        request.transport.set_write_buffer_limits(high=1)
    try:
        async with asyncio.timeout(stall_s):
            yield
    except TimeoutError:
        _log.info("app_does_not_read")
        _cut(request)
        raise AppGoneError from None
    except asyncio.CancelledError:
        _cut(request)  # aiohttp can wait for a reader no second time
        raise
    except ConnectionError as exc:
        raise AppGoneError from exc


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()  # closing would wait for the app
