"""How does a live session pass through its WebSocket? Sealed messages, one frame each; and when is the other end dead?

A ping proves nothing, since anybody on the way can answer it: only frames that open show that the other end lives. They
come at least once a second, so `liveness_s` without one ends the session. The same time is all that a peer has for
taking what we send.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from aiohttp import WSMsgType, web

from core.channel.bhttp import ResponseHead
from core.channel.live import DOWN_BYTES, SERVER_NONCE_BYTES, DownSealer, UpOpener, encode_response_head
from core.channel.records import EndRecord, FrameWriter, Record
from core.errors import ChannelError
from core.program.http.listener import PeerGoneError, patience
from engine.gateway.live import End, Heard
from engine.gateway.receipts import LiveCoverage
from engine.telemetry import LiveMetrics

MAX_MESSAGE_BYTES = 8_192
"""aiohttp ends a connection with 1009 where a message is as long as this; ours are a good deal shorter."""
CLOSING_S = 2.0
"""How long whoever is told that the connection closes may take to agree."""


class LiveLine:
    """The engine's end of one WebSocket.

    coverage: for a receipt, where one may be asked for; None as soon as it is clear that none is.
    """

    def __init__(
        self,
        request: web.Request,
        opener: UpOpener,
        metrics: LiveMetrics,
        *,
        liveness_s: float,
        coverage: LiveCoverage | None = None,
    ) -> None:
        self._request = request
        self._opener = opener
        self._metrics = metrics
        self._liveness_s = liveness_s
        self.coverage = coverage
        self._heard: Callable[[], Heard] | None = None
        self._ending: End | None = None
        self._left = asyncio.Event()
        self._sealer: DownSealer | None = None
        self._writer = FrameWriter(DOWN_BYTES)
        self.socket = web.WebSocketResponse(
            compress=False, max_msg_size=MAX_MESSAGE_BYTES, timeout=CLOSING_S, writer_limit=0
        )

    @property
    def is_asked_for(self) -> bool:
        """Whether the request asks for a WebSocket."""
        return self.socket.can_prepare(self._request).ok

    @property
    def waiting_bytes(self) -> int:
        """How much has been said that no frame has taken yet."""
        return self._writer.waiting_bytes

    @property
    def ended(self) -> bool:
        """Whether our end has left."""
        return self._writer.ended

    async def open(self) -> None:
        await self.socket.prepare(self._request)

    async def receive(self) -> list[Record]:
        """What the next message says. Raises ChannelError; PeerGoneError; TimeoutError when there is none for long."""
        async with asyncio.timeout(self._liveness_s):
            message = await self.socket.receive()
        if message.type is WSMsgType.BINARY:
            self._metrics.frames.labels(direction="up").inc()
            records = self._opener.open(message.data)
            if self.coverage is not None:
                self.coverage.received(message.data)
            return records
        if message.type is WSMsgType.TEXT:
            raise ChannelError("a message that is no frame")
        raise PeerGoneError

    def begin(self, status: int) -> None:
        """Say the head of the answer; once, when the first frame has opened."""
        self._sealer = self._opener.down_sealer(os.urandom(SERVER_NONCE_BYTES))
        self._writer.head(encode_response_head(ResponseHead(status)))

    def say(self, event: bytes) -> None:
        self._writer.event(event)

    def sign(self, heard: Callable[[], Heard]) -> None:
        """A receipt goes before the end. heard: asked when all that was said has left."""
        self._heard = heard

    def end(self, end: End) -> None:
        """Say the end; of what comes from now on nothing is heard any more."""
        if self.coverage is None or self._heard is None:
            self._writer.end(EndRecord(end.code, end.reason))
            return
        self.coverage.close()
        self._ending = end

    async def left(self) -> None:
        """Return when our end has left."""
        await self._left.wait()

    async def send_frame(self) -> None:
        """Send the next frame, whatever it holds. Raises PeerGoneError."""
        if self._sealer is None:
            raise RuntimeError("the answer has not begun")
        self._sign_if_all_is_said()
        message = self._sealer.seal(self._writer.frame())
        if self.coverage is not None:
            self.coverage.sent(message)
        async with patience(self._request, self._liveness_s):
            await self.socket.send_bytes(message)
        self._metrics.frames.labels(direction="down").inc()
        if self.ended:
            self._left.set()

    def _sign_if_all_is_said(self) -> None:
        """The receipt covers whole frames, so it begins one of its own."""
        if self.coverage is None or self._heard is None or self._ending is None or self._writer.waiting_bytes:
            return
        end, self._ending = self._ending, None
        self._writer.receipt(self.coverage.receipt(end.code, self._heard()))
        self._writer.end(EndRecord(end.code, end.reason))

    async def close(self, code: int) -> None:
        """Close the WebSocket, with a code in the clear and no reason. Raises PeerGoneError."""
        async with patience(self._request, self._liveness_s):
            await self.socket.close(code=code)
