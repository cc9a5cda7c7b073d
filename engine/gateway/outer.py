"""What does the engine say outside the envelope? Five answers, each a constant; all others are inside it.

==== =====================================================================================
200  whatever the application says, sealed
422  the key, suite or first chunk do not fit what we hold: verify us again (RFC 9458 section 5.3)
400  anything else that is wrong with the envelope: framing, a later chunk, a replay, an upload too slow
413  more bytes arrive than any request we admit can have, padding and framing included
503  the engine still starts, is about to stop, or has no room to look at one more request: try another one
==== =====================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.http import HttpProcessingError

from core.channel.bhttp import PIECE_BYTES, SPARE_PIECES
from core.channel.gateway import MAX_HEAD_BYTES, PROBLEM_MEDIA_TYPE, problem
from core.channel.kem import Kem
from core.channel.keyconfig import NAMES_BYTES
from core.channel.ohttp import MIN_REQUEST_CHUNK_BYTES
from core.channel.padding import padme
from core.errors import ChannelError, KeyMismatchError
from engine.gateway.inbox import ReplayError
from engine.gateway.lobby import CrowdedOutError


class RefusedError(Exception):
    """The request is answered outside the envelope. reason: for the metric only."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


_FAULTS: tuple[tuple[type[Exception], int, str], ...] = (
    (KeyMismatchError, 422, "key_mismatch"),
    (ReplayError, 400, "replay"),
    (ChannelError, 400, "envelope"),
    (TimeoutError, 400, "too_slow"),
    (web.RequestPayloadError, 400, "framing"),
    (HttpProcessingError, 400, "framing"),
    (CrowdedOutError, 503, "crowded"),
)
"""What can go wrong while a request arrives that is not the application's to answer; the first that fits."""


@contextmanager
def outer_faults() -> Iterator[None]:
    """Around the arrival of a request: what is wrong with its envelope becomes a RefusedError."""
    try:
        yield
    except tuple(kind for kind, _, _ in _FAULTS) as exc:
        status, reason = next((row[1], row[2]) for row in _FAULTS if isinstance(exc, row[0]))
        raise RefusedError(status, reason) from exc


def outer_error(status: int) -> web.Response:
    """The constant answer outside the envelope; nothing of the request has a part in it."""
    headers = {"Cache-Control": "no-store", "Server": "sottovoce", "Content-Type": PROBLEM_MEDIA_TYPE}
    if status == 503:
        headers["Retry-After"] = "1"
    return web.Response(status=status, body=problem(status), headers=headers)


def max_outer_bytes(max_request_bytes: int) -> int:
    """The longest sealed request that can hold `max_request_bytes` of content.

    The content comes in pieces, no more than `SPARE_PIECES` and one for every `PIECE_BYTES`, each with a length of at
    most 8 bytes. Head and trailers are at their bounds. Padmé rounds all that up, and never rounds a shorter message to
    a longer one. A chunk of `MIN_REQUEST_CHUNK_BYTES` or more adds at most 24 to that: its length and its tag. In front
    of it all stands the header, with the longest encapsulated key.
    """
    pieces = SPARE_PIECES + max_request_bytes // PIECE_BYTES + 1
    message = max_request_bytes + 8 * pieces + 2 * MAX_HEAD_BYTES + 16
    header = NAMES_BYTES + max(kem.nenc for kem in Kem)
    return header + padme(message) * (MIN_REQUEST_CHUNK_BYTES + 24) // MIN_REQUEST_CHUNK_BYTES + 1024
