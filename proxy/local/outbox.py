"""What if an app reads its answer slowly, or not at all? Each wait for it is bounded; then it is cut off.

Otherwise socket, handler and the engine's work would be held for as long as an app likes. So every answer to an app
leaves through here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from aiohttp import hdrs, web

from core.program.http.listener import patience

PIECE_BYTES: Final = 65_536

_BODILESS: Final = (204, 304)
"""RFC 9110, section 6.4.1; and so is every answer to a HEAD."""


async def send(request: web.Request, response: web.StreamResponse, *, stall_s: float) -> None:
    """Send a whole answer; its body goes piece by piece, and each has its time to be read.

    stall_s: how long the app may read nothing while there is more to say. Raises PeerGoneError.
    When this is cancelled while it waits for the app, the connection is cut.
    """
    async with patience(request, stall_s):
        await response.prepare(request)
    if isinstance(response, web.Response) and _may_have_body(request, response):
        body, response.body = response.body, None  # so that aiohttp does not send it once more
        for piece in _pieces(body):
            async with patience(request, stall_s):
                await response.write(piece)
    await finish(request, response, stall_s=stall_s)


async def finish(request: web.Request, response: web.StreamResponse, *, stall_s: float) -> None:
    """End an answer of which all else was sent. Raises PeerGoneError."""
    async with patience(request, stall_s):
        await response.write_eof()
        await request.writer.drain()  # which `write_eof` leaves out where the length was told


def _may_have_body(request: web.Request, response: web.Response) -> bool:
    return request.method != hdrs.METH_HEAD and response.status not in _BODILESS


def _pieces(body: object) -> Iterator[bytes]:
    if not isinstance(body, bytes):
        return
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]


async def write(request: web.Request, stream: web.StreamResponse, events: bytes, *, stall_s: float) -> None:
    """Send events of a stream, all in one: whatever ends the stream, it ends between events. Raises PeerGoneError."""
    async with patience(request, stall_s):
        await stream.write(events)
