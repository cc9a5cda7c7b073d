"""What does an app offer when it asks for a WebSocket? Subprotocols, in which pages put what they cannot put elsewhere.

::

    Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.KEY, sottovoce-token.TOKEN, openai-beta.realtime-v1

A browser closes the connection where the answer names none of them, so `realtime` is named where it was offered. The
others are never repeated, to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from aiohttp import hdrs
from multidict import CIMultiDictProxy

REALTIME: Final = "realtime"
TARGET: Final = "/v1/realtime"
_KEY: Final = "openai-insecure-api-key."
_TOKEN: Final = "sottovoce-token."  # noqa: S105 - the name of a subprotocol
_BETA: Final = "openai-beta.realtime-v1"


@dataclass(frozen=True, slots=True)
class Offer:
    """keys: each that was offered, once. beta: as OpenAI's header for it says it."""

    keys: tuple[str, ...] = field(default=(), repr=False)
    token: str | None = field(default=None, repr=False)
    beta: str | None = None

    @classmethod
    def of(cls, headers: CIMultiDictProxy[str]) -> Offer:
        offered = [part.strip() for part in ",".join(headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, ())).split(",")]
        keys = dict.fromkeys(each.removeprefix(_KEY) for each in offered if each.startswith(_KEY))
        token = next((each.removeprefix(_TOKEN) for each in offered if each.startswith(_TOKEN)), None)
        return cls(tuple(keys), token, "realtime=v1" if _BETA in offered else None)


def opens_session(method: str, path: str, headers: CIMultiDictProxy[str]) -> bool:
    """Whether a request asks for a live session."""
    return method == hdrs.METH_GET and path == TARGET and is_websocket(headers)


def is_websocket(headers: CIMultiDictProxy[str]) -> bool:
    """Whether a request asks for a WebSocket."""
    return headers.get(hdrs.UPGRADE, "").strip().lower() == "websocket"
