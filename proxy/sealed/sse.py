"""Where does one server-sent event end and the next begin? (HTML, section 9.2)

A stream that breaks must break between events: half an event, followed by our own error event, would read as one
garbled event. So events leave whole, and what is left of a broken one does not leave at all. `[DONE]` tells the app
that nothing is missing, so it leaves only once the end of the answer has authenticated.
"""

from __future__ import annotations

from typing import Final

from core.channel.padding import PaddingStripper
from proxy.errors import ErrorCode, ProxyError

MEDIA_TYPE: Final = "text/event-stream"
MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""The last event repeats the whole transcript; hours of speech stay far below this."""

_EVENT_END: Final = b"\n\n"
_DONE: Final = b"data: [DONE]\n\n"


class EventStream:
    """Takes the content of a sealed event stream; gives complete events, without the filler that hid their sizes."""

    def __init__(self) -> None:
        self._stripper = PaddingStripper()
        self._partial = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Every event that `data` completes; empty if none. Raises ProxyError when an event outgrows the bound."""
        searched = max(0, len(self._partial) - 1)
        self._partial += self._stripper.feed(data)
        end = self._partial.rfind(_EVENT_END, searched)
        if end < 0:
            if len(self._partial) > MAX_EVENT_BYTES:
                raise ProxyError(ErrorCode.UPSTREAM_PROTOCOL_ERROR)
            return b""
        events = bytes(self._partial[: end + len(_EVENT_END)]).removesuffix(_DONE)
        del self._partial[: len(events)]
        return events

    def finish(self) -> bytes:
        """What is left once the end was authenticated: the engine meant it, so it belongs to the answer."""
        return bytes(self._partial) + self._stripper.finish()


def error_event(error: ProxyError) -> bytes:
    """The last event of a stream that failed after it began; no `[DONE]` follows it."""
    return b"event: error\ndata: " + error.body() + _EVENT_END
