"""What arrives of a sealed request, and what may it be? From bytes to an exchange that is fed, without I/O.

The order is fixed: the first chunk authenticates; its `enc` is claimed, so that a replay goes no further; the inner
head opens, by which somebody else admits the request or refuses it; the body is counted and fed; the final chunk opens.

What is asked of an inner request here, whatever it is for. Honest clients never meet any of it:

* It is one message (RFC 9292 section 4): no header that may stand once stands twice, and a Content-Length is the
  number of bytes that follow. Anything else is wrong with the envelope: 400.
* It is for us: scheme `https`, authority `sottovoce.invalid`. Another target does not exist here: 404, sealed.
* Its method is the application's to judge, and so is its path, which starts with a slash: there is no absolute form
  and no CONNECT. What trailers it has are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.channel.bhttp import Content, Fields, RequestDecoder, RequestHead
from core.channel.gateway import AUTHORITY, MAX_HEAD_BYTES, SCHEME, SINGLE_HEADERS
from core.channel.ohttp import MIN_REQUEST_CHUNK_BYTES, RequestOpener
from core.errors import ChannelError
from core.transcript.faults import AUDIO, Fault, FaultKind
from engine.gateway.exchange import Exchange, Head
from engine.gateway.keyring import HeldKey

_MAX_LENGTH_DIGITS = 18


class ReplayError(ChannelError):
    """This `enc` has been seen before."""


class Inbox:
    """A sealed request on its way in: bytes in, an exchange fed.

    head: once it has opened. What has come behind it by then waits for `begin`, so feed nothing more before.
    whole: whether the final chunk has opened.
    """

    def __init__(self, keys: Sequence[HeldKey], *, max_request_bytes: int, max_chunk_bytes: int) -> None:
        self._replays = [held.replays for held in keys]  # and not the keys: a request may outlive them
        self._max_request_bytes = max_request_bytes
        self._decoder = RequestDecoder(max_head_bytes=MAX_HEAD_BYTES)
        self._declared_bytes: int | None = None
        self._content_bytes = 0
        self._claimed = False
        self.opener = RequestOpener(
            [held.key for held in keys], min_chunk_bytes=MIN_REQUEST_CHUNK_BYTES, max_chunk_bytes=max_chunk_bytes
        )
        self._behind_head: list[bytes] = []
        self._exchange: Exchange | None = None
        self.head: Head | None = None
        self.whole = False

    @property
    def size_bytes(self) -> int:
        """The length of the content, as far as it is known beforehand: what was declared, or the most there may be."""
        return self._max_request_bytes if self._declared_bytes is None else self._declared_bytes

    def feed(self, data: bytes) -> None:
        """Take the next bytes; none say that they have ended.

        Raises ChannelError, or what the exchange refuses its body with.
        """
        if data:
            for chunk in self.opener.feed(data):
                self._take(chunk)
        else:
            self._finish()

    def begin(self, exchange: Exchange) -> None:
        """Feed this exchange from now on, and `close` it in the end. Raises what it refuses its body with."""
        self._exchange = exchange
        behind, self._behind_head = self._behind_head, []
        for data in behind:
            exchange.feed(data)

    def _finish(self) -> None:
        self._take(self.opener.finish())
        self._deliver(self._decoder.finish())
        if self.head is None:
            raise ChannelError("a request without a head")
        if self._declared_bytes not in (None, self._content_bytes):
            raise ChannelError("less content than the Content-Length says")
        self.whole = True

    def _take(self, chunk: bytes) -> None:
        if not self._claimed:
            self._claim()
        self._deliver(self._decoder.feed(chunk))

    def _claim(self) -> None:
        enc = self.opener.enc or b""
        # In every set: which of the candidate keys opened the chunk does not matter, and all of them must know.
        if not all([replays.claim(enc) for replays in self._replays]):  # noqa: C419 - no short cut
            raise ReplayError
        self._claimed = True

    def _deliver(self, events: Sequence[object]) -> None:
        for event in events:
            match event:
                case RequestHead():
                    self._begin(event)
                case Content(data=data):
                    self._content(data)

    def _begin(self, event: RequestHead) -> None:
        headers = joined(event.headers)
        self._declared_bytes = _declared_bytes(headers)
        self.head = Head(event.method, event.path, headers)
        if (event.scheme, event.authority) != (SCHEME, AUTHORITY):
            raise Fault(FaultKind.UNKNOWN)

    def _content(self, data: bytes) -> None:
        self._content_bytes += len(data)
        if self._declared_bytes is not None and self._content_bytes > self._declared_bytes:
            # Also what keeps the application's accounts honest, which go by the length declared.
            raise ChannelError("more content than the Content-Length says")
        if self._content_bytes > self._max_request_bytes:
            raise Fault(
                FaultKind.TOO_LARGE,
                AUDIO,
                numbers={"limit_bytes": self._max_request_bytes, "read_bytes": self._content_bytes},
            )
        if self._exchange is None:
            self._behind_head.append(data)
        else:
            self._exchange.feed(data)

    def close(self) -> None:
        if self._exchange is not None:
            self._exchange.close()


def joined(fields: Fields) -> dict[str, str]:
    """Headers by name. Raises ChannelError where one stands twice that may stand once."""
    headers: dict[str, str] = {}
    for name, value in fields:
        if name in headers and name in SINGLE_HEADERS:
            raise ChannelError("a header stands twice that may stand once")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _declared_bytes(headers: Mapping[str, str]) -> int | None:
    declared = headers.get("content-length")
    if declared is None:
        return None
    if not (declared.isascii() and declared.isdecimal() and len(declared) <= _MAX_LENGTH_DIGITS):
        raise ChannelError("a Content-Length that is no length")
    return int(declared)
