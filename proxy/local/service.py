"""What do the handlers of both listeners work with?"""

from __future__ import annotations

import asyncio
from dataclasses import KW_ONLY, dataclass, field
from typing import Final

from aiohttp import web

from proxy.sender import Sender


@dataclass(slots=True)
class Service:
    """The parts behind the listeners.

    idle_timeout_s: how long an app may read nothing of its answer. draining: the proxy is about to end.
    stopping: set when it ends, and live sessions with it.
    """

    sender: Sender
    _: KW_ONLY
    idle_timeout_s: float
    overall_timeout_s: float
    draining: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


SERVICE: Final = web.AppKey("service", Service)
REQUEST_ID: Final = web.RequestKey("request_id", str)
