"""What of an app's request and of its answer may cross? Allow-lists, and the sealing of a request as it arrives.

Everything inside is encrypted, and still less is better: the engine learns what it needs to answer, not which program
asked, from which page, or with which cookies. And what the engine says reaches the app only in headers that are named
here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from attestation.channel.bhttp import Fields, RequestEncoder, RequestHead
from attestation.channel.ohttp import RequestSealer
from attestation.channel.padding import request_padding
from attestation.statement import Statement
from proxy.errors import ErrorCode, ProxyError
from proxy.spool import BodyReader, RetainedBody

AUTHORITY: Final = "sottovoce.invalid"
"""Of every inner request: the engine's name is not the app's business, nor the other way round."""

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
"""The headers of an app that go into the envelope; no other leaves this machine."""

RESPONSE_HEADERS: Final = frozenset(
    {
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
"""The headers of an answer that reach the app, beside x-ratelimit-*. Its content-length is counted here instead."""

_LISTS: Final = frozenset({"accept"})
"""Those of REQUEST_HEADERS that may be repeated; of any other a second value would be a choice left to somebody."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Headers(Protocol):
    """Header fields by name, in any case; every value of a name."""

    def getall(self, key: str, default: Sequence[str]) -> Sequence[str]: ...


def request_id(offered: str | None) -> str:
    """The app's own id where it is harmless, else a new one."""
    return offered if offered and _REQUEST_ID.fullmatch(offered) else f"req_{secrets.token_hex(16)}"


def inner_head(method: str, path: str, headers: Headers, replaced: Mapping[str, str]) -> RequestHead:
    """The head that goes into the envelope.

    path: as the app sent it, query included. replaced: fields that we set, whatever the app said.
    Raises ProxyError for what is not well-formed or contradicts itself.
    """
    values = {name: _combined(name, headers.getall(name, ())) for name in REQUEST_HEADERS} | dict(replaced)
    fields = tuple((name, value) for name, value in values.items() if value is not None)
    try:
        return RequestHead(method, "https", AUTHORITY, path, fields)
    except ValueError:
        raise ProxyError(ErrorCode.INVALID_REQUEST) from None


def _combined(name: str, values: Sequence[str]) -> str | None:
    """One field for a repeated one (RFC 9110 section 5.3), so that nobody later has to choose; its bytes as latin-1.

    Raises ProxyError for different values of a field that has one.
    """
    if not values:
        return None
    if name not in _LISTS:
        if len(set(values)) > 1:
            raise ProxyError(ErrorCode.INVALID_REQUEST)
        values = values[:1]
    return ", ".join(values).encode("utf-8", "surrogateescape").decode("latin-1")


def released_headers(fields: Fields) -> list[tuple[str, str]]:
    """Those headers of an answer that reach the app."""
    return [
        (name, value.encode("latin-1").decode("utf-8", "surrogateescape"))
        for name, value in fields
        if name in RESPONSE_HEADERS or name.startswith("x-ratelimit-")
    ]


class SealedUpload:
    """The body of an outer request: sealed piece by piece while the app's body arrives. An asynchronous iterator.

    failure: why it broke off, since aiohttp wraps what is raised here beyond recognition.
    """

    def __init__(self, sealer: RequestSealer, head: RequestHead, body: RetainedBody, statement: Statement) -> None:
        self._sealer = sealer
        self._reader = BodyReader(body)
        self._encoder = RequestEncoder()
        self._chunk_bytes = statement.max_chunk_bytes
        self._limit_bytes = statement.max_request_bytes
        self._content_bytes = 0
        self._encoded_bytes = 0
        self._plain = bytearray()
        self._sealed = sealer.header  # goes out with the first chunk
        self._complete = False
        self._ended = False
        self._put(self._encoder.head(head))
        self.awaits_app = False
        self.failure: Exception | None = None
        self.on_progress: Callable[[], None] = lambda: None

    def __aiter__(self) -> SealedUpload:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            # One byte more than a chunk, since the last chunk is sealed as the final one.
            while not self._complete and len(self._plain) <= self._chunk_bytes:
                await self._fill()
            return self._next_chunk()
        except Exception as exc:
            self.failure = exc
            raise

    async def _fill(self) -> None:
        self.awaits_app = True
        piece = await self._reader.read()
        self.awaits_app = False
        self.on_progress()
        self._content_bytes += len(piece)
        if self._content_bytes > self._limit_bytes:
            raise ProxyError(ErrorCode.FILE_TOO_LARGE, numbers={"limit_bytes": self._limit_bytes})
        if piece:
            self._put(self._encoder.content(piece))
        else:
            self._put(self._encoder.end())
            self._put(bytes(request_padding(self._encoded_bytes)))
            self._complete = True

    def _put(self, encoded: bytes) -> None:
        self._plain += encoded
        self._encoded_bytes += len(encoded)

    def _next_chunk(self) -> bytes:
        chunk = bytes(self._plain[: self._chunk_bytes])
        del self._plain[: self._chunk_bytes]
        self._ended = self._complete and not self._plain
        sealed = self._sealed + (self._sealer.seal_final(chunk) if self._ended else self._sealer.seal(chunk))
        self._sealed = b""
        return sealed
