"""What of an app's request and of its answer may cross? Allow-lists, and the sealing of a request as it arrives.

Everything inside is encrypted, and still less is better: the engine learns what it needs to answer, not which program
asked, from which page, or with which cookies. And what the engine says reaches the app only in headers that the
contract names (`core.channel.gateway`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from attestation.statement import Statement
from core.channel.bhttp import Fields, RequestEncoder, RequestHead
from core.channel.gateway import AUTHORITY, MAX_HEAD_BYTES, REQUEST_HEADERS, SCHEME, SINGLE_HEADERS, is_released
from core.channel.ohttp import Digest, RequestSealer
from core.channel.padding import request_padding
from proxy.errors import ErrorCode, ProxyError
from proxy.sealed.spool import BodyReader, RetainedBody


class Headers(Protocol):
    """Header fields by name, in any case; every value of a name."""

    def getall(self, key: str, default: Sequence[str]) -> Sequence[str]: ...


def inner_head(
    method: str, path: str, headers: Headers, replaced: Mapping[str, str], *, names: Sequence[str] = REQUEST_HEADERS
) -> RequestHead:
    """The head that goes into the envelope.

    path: as the app sent it, query included. replaced: fields that we set, whatever the app said. names: of the fields
    that are taken of the app's.
    Raises ProxyError for what is not well-formed, contradicts itself, or is longer than an engine takes.
    """
    values = {name: _combined(name, headers.getall(name, ())) for name in names} | dict(replaced)
    fields = tuple((name, value) for name, value in values.items() if value is not None)
    try:
        head = RequestHead(method, SCHEME, AUTHORITY, path, fields)
    except ValueError:
        raise ProxyError(ErrorCode.INVALID_REQUEST) from None
    if len(RequestEncoder().head(head)) > MAX_HEAD_BYTES:
        raise ProxyError(ErrorCode.INVALID_REQUEST)
    return head


def _combined(name: str, values: Sequence[str]) -> str | None:
    """One field for a repeated one (RFC 9110 section 5.3), so that nobody later has to choose; its bytes as latin-1.

    Raises ProxyError for different values of a field that has one.
    """
    if not values:
        return None
    if name in SINGLE_HEADERS:
        if len(set(values)) > 1:
            raise ProxyError(ErrorCode.INVALID_REQUEST)
        values = values[:1]
    return ", ".join(values).encode("utf-8", "surrogateescape").decode("latin-1")


def released_headers(fields: Fields) -> list[tuple[str, str]]:
    """Those headers of an answer that reach the app."""
    return [
        (name, value.encode("latin-1").decode("utf-8", "surrogateescape"))
        for name, value in fields
        if is_released(name)
    ]


class Progress:
    """How an upload goes, for whoever waits for its answer.

    awaits_app: whether the app is waited for, and not the engine. failure: why the upload broke off, since aiohttp
    wraps what is raised in one beyond recognition.
    """

    def __init__(self) -> None:
        self.awaits_app = False
        self.failure: Exception | None = None
        self._silence: asyncio.Timeout | None = None
        self._idle_s = 0.0
        self._sent_at_s: float | None = None

    @asynccontextmanager
    async def patience(self, idle_s: float) -> AsyncIterator[None]:
        """Wait as long as pieces come, and `idle_s` after the last. Raises TimeoutError."""
        self._idle_s = idle_s
        try:
            async with asyncio.timeout(idle_s) as self._silence:
                yield
        finally:
            self._silence = None

    def piece(self) -> None:
        """A piece came."""
        self.awaits_app = False
        if self._silence is not None and not self._silence.expired():
            self._silence.reschedule(asyncio.get_running_loop().time() + self._idle_s)

    def sent(self) -> None:
        """The last piece went out."""
        self._sent_at_s = asyncio.get_running_loop().time()

    def waited_s(self) -> float:
        """How long ago that was; 0 for an engine that answers before."""
        return asyncio.get_running_loop().time() - self._sent_at_s if self._sent_at_s is not None else 0.0


class SealedUpload:
    """The body of an outer request: sealed piece by piece while the app's body arrives. An asynchronous iterator."""

    def __init__(
        self,
        sealer: RequestSealer,
        head: RequestHead,
        body: RetainedBody,
        statement: Statement,
        progress: Progress,
        *,
        covered: Digest | None = None,
    ) -> None:
        """covered: fed with all that goes out."""
        self._covered = covered
        self._sealer = sealer
        self._reader = BodyReader(body)
        self._encoder = RequestEncoder()
        self._progress = progress
        self._chunk_bytes = statement.max_chunk_bytes
        self._limit_bytes = statement.max_request_bytes
        self._content_bytes = 0
        self._encoded_bytes = 0
        self._pending: deque[memoryview] = (
            deque()
        )  # encoded and not yet sealed, where it stands: never copied as a whole
        self._pending_bytes = 0
        self._header = sealer.header  # goes out with the first chunk
        self._complete = False
        self._ended = False
        self._put(self._encoder.head(head))

    def __aiter__(self) -> SealedUpload:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            # One byte more than a chunk, since the last chunk is sealed as the final one.
            while not self._complete and self._pending_bytes <= self._chunk_bytes:
                await self._fill()
            return self._next_chunk()
        except Exception as exc:
            self._progress.failure = exc
            raise

    async def _fill(self) -> None:
        self._progress.awaits_app = True
        piece = await self._reader.read()
        self._progress.piece()
        self._content_bytes += len(piece)
        if self._content_bytes > self._limit_bytes:
            raise ProxyError(ErrorCode.FILE_TOO_LARGE, numbers={"limit_bytes": self._limit_bytes})
        if piece:
            for encoded in self._encoder.pieces(piece):
                self._put(encoded)
        else:
            self._put(self._encoder.end())
            self._put(bytes(request_padding(self._encoded_bytes)))
            self._complete = True

    def _put(self, encoded: bytes) -> None:
        self._pending.append(memoryview(encoded))
        self._pending_bytes += len(encoded)
        self._encoded_bytes += len(encoded)

    def _next_chunk(self) -> bytes:
        self._ended = self._complete and self._pending_bytes <= self._chunk_bytes
        if self._ended:
            self._progress.sent()
        parts = list(self._taken(min(self._chunk_bytes, self._pending_bytes)))
        chunk = parts[0] if len(parts) == 1 else b"".join(parts)
        sealed = self._sealer.seal_final(chunk) if self._ended else self._sealer.seal(chunk)
        header, self._header = self._header, b""
        sealed = header + sealed if header else sealed
        if self._covered is not None:
            self._covered.update(sealed)
        return sealed

    def _taken(self, wanted_bytes: int) -> Iterator[memoryview]:
        """So much of what is pending."""
        self._pending_bytes -= wanted_bytes
        while wanted_bytes:
            piece = self._pending.popleft()
            if len(piece) > wanted_bytes:
                self._pending.appendleft(piece[wanted_bytes:])
            yield piece[:wanted_bytes]
            wanted_bytes -= min(wanted_bytes, len(piece))
