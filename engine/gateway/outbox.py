"""How is an answer sealed and sent? Chunk by chunk, its sizes hidden, to a reader whose patience is ours to bound."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import aclosing

from aiohttp import web

from attestation.receipt import RECEIPT_HEADER
from core.channel.bhttp import ResponseEncoder, ResponseHead
from core.channel.gateway import OUTER_RESPONSE_HEADERS
from core.channel.ohttp import RequestOpener, ResponseSealer
from core.channel.padding import pad_event, receipt_padding, response_padding, stream_filler, trailer_filler
from core.program.http.listener import PeerGoneError, patience
from engine.gateway.coalesce import coalesced
from engine.gateway.exchange import Answer, Events
from engine.gateway.receipts import FIELD_FILLER, Coverage

RESPONSE_CHUNK_BYTES = 65_536


class _Response(web.StreamResponse):
    """An outer answer whose head leaves with what is written first, as aiohttp's own answers of known length do."""

    _send_headers_immediately = False


class Outbox:
    """A sealed response on its way out.

    stall_s: how long the other side may read nothing while we have more to say; then the connection is cut.
    """

    def __init__(
        self,
        request: web.Request,
        opener: RequestOpener,
        *,
        stall_s: float,
        window_s: float = 0.0,
        coverage: Coverage | None = None,
    ) -> None:
        """window_s: how long an event waits for others. coverage: where a receipt goes with the answer."""
        self._window_s = window_s
        self._request = request
        self._coverage = coverage
        self._stall_s = stall_s
        # No length and no explicit chunking: aiohttp chunks for HTTP/1.1 and closes after HTTP/1.0, which is what
        # a stock nginx speaks to its upstream. The envelope itself tells a cut answer from a complete one.
        self._response = _Response(status=200, headers=OUTER_RESPONSE_HEADERS)
        self._encoder = ResponseEncoder()
        self._sealer: ResponseSealer = opener.response_sealer(os.urandom(opener.response_nonce_length))
        self._begun = False

    async def begin(self) -> None:
        """Send the outer head and the response nonce."""
        if not self._begun:
            self._begun = True
            await self._response.prepare(self._request)
            await self._write(self._sealer.header)

    async def heartbeat(self) -> None:
        """Show that work goes on: an authenticated 102 that the other side drops."""
        await self._write(self._sealer.seal(self._encoder.informational(102)))

    async def send_whole(self, answer: Answer) -> web.StreamResponse:
        """Send a complete answer, its size hidden in a multiple of 4 KiB."""
        await self.begin()
        body = answer.body if isinstance(answer.body, bytes) else b""
        message = self._encoder.head(ResponseHead(answer.status, answer.headers))
        message += self._encoder.content(body) if body else b""
        if self._coverage is not None:
            filler = trailer_filler(len(message) + 1, FIELD_FILLER)
            await self._chunks(message + self._encoder.trailer(FIELD_FILLER, filler))
            return await self._end_with_receipt(self._coverage, answer)
        message += self._encoder.end(padding=response_padding(len(message) + 2))
        last = (len(message) - 1) // RESPONSE_CHUNK_BYTES * RESPONSE_CHUNK_BYTES
        await self._chunks(message[:last])
        return await self._end(message[last:])

    async def _chunks(self, message: bytes) -> None:
        for start in range(0, len(message), RESPONSE_CHUNK_BYTES):
            await self._write(self._sealer.seal(message[start : start + RESPONSE_CHUNK_BYTES]))

    async def send_stream(
        self, answer: Answer, events: Events, broken: Callable[[Exception], bytes]
    ) -> web.StreamResponse:
        """Send the events of each moment in a chunk of their own, its size hidden in a multiple of 256 bytes.

        The head goes first, hidden in a multiple of 512.
        """
        async with aclosing(events):
            head = self._encoder.head(ResponseHead(answer.status, answer.headers))
            head += self._encoder.content(stream_filler(len(head)))
            await self._write(self._sealer.seal(head))
            try:
                async with aclosing(coalesced(events, self._window_s)) as batches:
                    async for batch in batches:
                        await self._event(batch)
            except PeerGoneError:
                raise
            except Exception as exc:  # noqa: BLE001 - the stream's; it is told to the other side, and logged by kind
                await self._event(broken(exc))
        if self._coverage is not None:
            return await self._end_with_receipt(self._coverage, answer)
        return await self._end(self._encoder.end())

    async def _end_with_receipt(self, coverage: Coverage, answer: Answer) -> web.StreamResponse:
        message = self._encoder.trailer(RECEIPT_HEADER, coverage.receipt(answer))
        self._coverage = None  # it does not cover itself
        return await self._end(message + self._encoder.end(padding=receipt_padding(len(message) + 1)))

    async def _event(self, event: bytes) -> None:
        await self._write(self._sealer.seal(self._encoder.content(pad_event(event))))

    async def _end(self, message: bytes) -> web.StreamResponse:
        async with patience(self._request, self._stall_s):
            await self._response.write_eof(self._sealer.seal_final(message))  # in one piece with the end of the body
        return self._response

    async def _write(self, data: bytes) -> None:
        if self._coverage is not None:
            self._coverage.sent(data)
        async with patience(self._request, self._stall_s):
            await self._response.write(data)
