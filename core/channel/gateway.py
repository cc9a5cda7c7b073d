"""What do the two ends agree on outside of the envelope, and at its head? The wire contract, each value once.

The gateway resource (RFC 9458 section 2)::

    POST /ohttp/{digest}                 sealed to the key configuration with this digest (`KeyConfig.path_digest`)
    POST /.well-known/ohttp-gateway      sealed to any key in force (RFC 9540); GET gives the current configuration

What it says in the clear decides no more than a client needs to go on (`OuterStatus`), and its body is a constant. A
client may get any other status from somebody on the way. All else is inside: any request below `/v1/`, for the
authority `sottovoce.invalid`, with the headers named here, of which none but a list stands twice; and its answer, of
which the headers named here reach an application. While an answer is being made, a 102 goes out every `HEARTBEAT_S`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from core.channel.ohttp import REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE

GATEWAY_PATH: Final = "/ohttp/{digest}"
WELL_KNOWN_GATEWAY_PATH: Final = "/.well-known/ohttp-gateway"
LIVE_PATH: Final = "/live/{digest}"
DIGEST_PATTERN: Final = "[0-9a-f]{32}"

SCHEME: Final = "https"
AUTHORITY: Final = "sottovoce.invalid"
"""Of every inner request: which engine it is for is said by the key it is sealed to, and nowhere else."""

HEARTBEAT_S: Final = 15.0
LIVE_PERIOD_S: Final = 0.1
LIVENESS_S: Final = 15.0
"""Without a frame that opens the other end of a live session counts as dead."""
MAX_HEAD_BYTES: Final = 65_536
"""Of the head of an inner request, and of its trailers."""

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"

OUTER_REQUEST_HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": REQUEST_MEDIA_TYPE,
    "Accept": RESPONSE_MEDIA_TYPE,
}
"""Of every request, beside those of the transport and INCREMENTAL."""

INCREMENTAL: Final[Mapping[str, str]] = {"Incremental": "?1"}
"""Asks whoever is on the way not to wait for the end of a message (draft-ietf-httpbis-incremental)."""

OUTER_RESPONSE_HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": RESPONSE_MEDIA_TYPE,
    **INCREMENTAL,
    "Cache-Control": "private, no-store",
    "X-Accel-Buffering": "no",
    "Server": "sottovoce",
}
"""Of every sealed answer, beside those of the transport."""

REQUEST_HEADERS: Final = (
    "content-type",
    "content-length",
    "accept",
    "authorization",
    "idempotency-key",
    "x-request-id",
    "x-stainless-read-timeout",
    "x-stainless-retry-count",
    "sottovoce-receipt",
)
"""The headers of an application that go into the envelope."""

LIVE_REQUEST_HEADERS: Final = ("authorization", "x-request-id", "openai-beta", "sottovoce-receipt")
"""The same of a live session, whose head has to fit into a frame."""

SINGLE_HEADERS: Final = frozenset({*REQUEST_HEADERS, *LIVE_REQUEST_HEADERS, "content-encoding"} - {"accept"})
"""Headers of a request of which a second one would be a choice left to somebody."""

RESPONSE_HEADERS: Final = frozenset(
    {
        "allow",
        "content-type",
        "x-request-id",
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "www-authenticate",
        "openai-processing-ms",
        "idempotent-replay",
    }
)
"""The headers of an answer that reach an application, beside x-ratelimit-*. Its Content-Length is counted there."""

_RATE_LIMIT: Final = "x-ratelimit-"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class OuterStatus(IntEnum):
    """What a gateway says in the clear."""

    SEALED = 200
    MALFORMED = 400
    """Anything that is wrong with an envelope and no matter of its key: framing, a later chunk, a replay, its pace."""
    OVERSIZE = 413
    KEY_MISMATCH = 422
    """The key, the suite or the first chunk do not fit: verify again (RFC 9458 section 5.3)."""
    STOPPING = 503


class CloseCode(IntEnum):
    """What the two ends of a live session's WebSocket say in the clear when they close it."""

    OVER = 1000
    TOO_LONG = 1009
    TRY_AGAIN_LATER = 1013
    MALFORMED = 4400
    KEY_MISMATCH = 4422


def gateway_path(digest: str) -> str:
    """Where a request goes that is sealed to the key configuration with this digest."""
    return GATEWAY_PATH.format(digest=digest)


def live_path(digest: str) -> str:
    """Where a live session goes that is sealed to the key configuration with this digest."""
    return LIVE_PATH.format(digest=digest)


def problem(status: int) -> bytes:
    """The body of an outer refusal (RFC 9457): the same for everything that has its status."""
    if status == OuterStatus.KEY_MISMATCH:
        return (
            b'{"type":"https://iana.org/assignments/http-problem-types#ohttp-key",'
            b'"title":"key identifier unknown or key does not match"}'
        )
    return b'{"type":"about:blank","title":"the request cannot be served","status":%d}' % status


def is_released(name: str) -> bool:
    """Whether a header of an answer, its name in lower case, reaches an application."""
    return name in RESPONSE_HEADERS or name.startswith(_RATE_LIMIT)


def request_id(offered: str | None, drawn: bytes) -> str:
    """The id of a request: the application's own where it is harmless, else one made of `drawn`, 16 random bytes."""
    return offered if offered and _REQUEST_ID.fullmatch(offered) else f"req_{drawn.hex()}"
