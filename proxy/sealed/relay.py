"""How does a request reach an engine, and only an engine, and how do we know that the answer is its answer?

A request is sealed as it arrives (chunked Oblivious HTTP over Binary HTTP) and sent with outer headers that are the
same for every request. Whatever comes back is untrusted until its chunks open; the answer is over only when its final
chunk has opened. What the outer response says in the clear decides this much and no more:

==================================== ================================================================================
200 and the sealed media type        open it
422                                  another engine that is ready; else verify this one again and, only under a new key,
                                     seal once more; else 502
501                                  somebody on the way cannot forward incrementally: once more without the header
429, 502, 503, 504                   nobody took the request: another engine, or 503 with a clipped Retry-After
anything else                        another engine, or 502
==================================== ================================================================================

Its headers and body are never passed on, nor logged.

Another engine gets the same body (`failover`) as long as no byte of an answer has reached the app: also when an answer
breaks off, does not open, or is the engine's own 503. A stream reaches the app from its head on, any other answer when
it is whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import aiohttp
import structlog

from attestation.receipt import RECEIPT_HEADER
from core.channel.bhttp import Content, End, Event, Fields, RequestHead, ResponseDecoder, ResponseHead
from core.channel.gateway import INCREMENTAL, OUTER_REQUEST_HEADERS, gateway_path
from core.channel.ohttp import RESPONSE_MEDIA_TYPE, RequestSealer, ResponseOpener
from core.errors import ChannelError
from proxy.engines.lease import Engines, Lease
from proxy.errors import ErrorCode, ProxyError
from proxy.sealed import sse
from proxy.sealed.envelope import Progress, SealedUpload
from proxy.sealed.failover import UNAVAILABLE, Attempt, Busy, Failover, Lost, Refused, Unreachable
from proxy.sealed.receipts import Receipts, Witness
from proxy.sealed.spool import RetainedBody
from proxy.telemetry import SpanName, Telemetry

_log = structlog.get_logger(__name__)

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""Of an answer that is held back until it is whole; the words of a day of speech take a fraction of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An inner response whose head has opened.

    content: its body; of a stream of events as it opens, and it ends only after the final chunk did. Raises ProxyError.
    """

    status: int
    headers: Fields
    content: bytes | AsyncGenerator[bytes, None]
    witness: Witness | None = None


@dataclass(frozen=True, slots=True)
class _Declined:
    """The engine's own 503: what the app gets where no other engine takes the request."""

    answer: Answer
    busy: Busy


class Relay:
    """Sends requests to `engines`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        engines: Engines,
        telemetry: Telemetry,
        *,
        idle_timeout_s: float,
        receipts: Receipts | None = None,
    ) -> None:
        """session: from `core.program.http.client.open_session`. receipts: where those are kept that are asked for."""
        self._receipts = receipts
        self._session = session
        self._failover = Failover(engines, telemetry)
        self._telemetry = telemetry
        self._idle_timeout_s = idle_timeout_s

    @asynccontextmanager
    async def answering(
        self, lease: Lease, head: RequestHead, body: RetainedBody, *, keeps: bool = True
    ) -> AsyncIterator[Answer]:
        """Send a request; the exchange lasts while the context is open. Leaving it cancels what is left of it.

        lease: where it is sent first. The engine may answer before the body ended; then no more of it is read. keeps: a
        receipt that is asked for, in the directory; otherwise it is the caller's, with the answer.
        Raises ProxyError.
        """
        attempt = Attempt(lease)
        while True:
            with attempt.lease.carried():
                async with self._tried(attempt, head, body, keeps=keeps) as outcome:
                    if isinstance(outcome, Answer):
                        yield outcome
                        return
            failure = outcome.busy if isinstance(outcome, _Declined) else outcome
            try:
                attempt = await self._failover.following(attempt, failure, can_replay=body.can_replay)
            except ProxyError:
                if not isinstance(outcome, _Declined):
                    raise
                break
        yield outcome.answer

    @asynccontextmanager
    async def _tried(
        self, attempt: Attempt, head: RequestHead, body: RetainedBody, *, keeps: bool
    ) -> AsyncIterator[Answer | _Declined | Refused | Unreachable | Lost]:
        """One engine's answer, or what came in its place."""
        sealer, progress = RequestSealer(attempt.lease.key), Progress()
        witness = self._witness(attempt.lease, head, keeps=keeps)
        covered = witness.request if witness else None
        upload = SealedUpload(sealer, head, body, attempt.lease.statement, progress, covered=covered)
        async with self._sent(attempt, upload, progress) as response:
            if not isinstance(response, aiohttp.ClientResponse):
                yield response
                return
            waited_s = progress.waited_s()
            if not attempt.lease.has_spare:
                body.forget()
            opener = sealer.response_opener()
            opener.covered = witness.answer if witness else None
            with self._telemetry.spans.step(SpanName.ANSWER):
                async with self._opened(response, opener, attempt.lease, witness) as outcome:
                    if isinstance(outcome, Answer):
                        body.forget()
                        attempt.lease.answered(waited_s)
                    yield outcome
                    if self._receipts and keeps and witness and isinstance(outcome, Answer):
                        await self._receipts.keep(dict(head.headers).get("x-request-id", "unknown"), witness)

    @property
    def keeps_receipts(self) -> bool:
        """Whether a receipt that is asked for has a place."""
        return self._receipts is not None

    def _witness(self, lease: Lease, head: RequestHead, *, keeps: bool) -> Witness | None:
        if RECEIPT_HEADER not in dict(head.headers) or (keeps and self._receipts is None):
            return None
        return Witness(lease.statement.instance, lease.statement_sha256)

    @asynccontextmanager
    async def _sent(
        self, attempt: Attempt, upload: SealedUpload, progress: Progress
    ) -> AsyncIterator[aiohttp.ClientResponse | Refused | Unreachable | Lost]:
        """Send the outer request and wait for the head of its response: a sealed one, or what came in its place."""
        lease = attempt.lease
        options = lease.way.asking({**OUTER_REQUEST_HEADERS, **(INCREMENTAL if attempt.incremental else {})})
        request = self._session.post(
            lease.way.url + gateway_path(lease.key.path_digest), data=upload, allow_redirects=False, **options
        )
        with self._telemetry.spans.step(SpanName.SEND) as span:
            span.attributes["sottovoce.engine"] = lease.engine
            response = await self._head(request, progress)
            span.failed = isinstance(response, Unreachable | Lost)
        if not isinstance(response, aiohttp.ClientResponse):
            yield response
            return
        try:
            yield response if _is_sealed(response) else _refusal(response)
        finally:
            # Closed and not released: a connection with half a message on it serves nobody. The upload has ended
            # when this returns, so that another one may read the same body.
            response.close()
            await response.wait_for_close()

    async def _head(
        self, request: Awaitable[aiohttp.ClientResponse], progress: Progress
    ) -> aiohttp.ClientResponse | Unreachable | Lost:
        """Raises ProxyError for what another engine would make no better."""
        try:
            async with progress.patience(self._idle_timeout_s):
                return await request
        except aiohttp.ConnectionTimeoutError:
            return Unreachable()
        except TimeoutError:
            if progress.awaits_app:
                raise ProxyError(ErrorCode.UPLOAD_TIMEOUT) from None
            _log.warning("engine_silent")
            return Lost(ProxyError(ErrorCode.TIMEOUT))
        except (aiohttp.ClientError, OSError) as exc:
            if progress.failure is not None:
                raise progress.failure from None
            # What aiohttp says may quote the URL or a header, so only the kind goes on.
            _log.warning("engine_unreachable", error=type(exc).__name__)
            return Unreachable()

    @asynccontextmanager
    async def _opened(
        self, response: aiohttp.ClientResponse, opener: ResponseOpener, lease: Lease, witness: Witness | None
    ) -> AsyncIterator[Answer | _Declined | Lost]:
        async with aclosing(self._events(response, opener, lease)) as events:
            try:
                head = await _final_head(events)
                is_stream = _header(head, "content-type").partition(";")[0].strip().lower() == sse.MEDIA_TYPE
                content = _content(events, witness) if is_stream else await _whole(_content(events, witness))
            except ProxyError as exc:
                outcome: Answer | _Declined | Lost = Lost(exc)
            else:
                outcome = Answer(head.status, head.headers, content, witness)
                if head.status == HTTPStatus.SERVICE_UNAVAILABLE and not is_stream:
                    outcome = _Declined(outcome, Busy(_seconds(_header(head, "retry-after"))))
            yield outcome

    async def _events(
        self, response: aiohttp.ClientResponse, opener: ResponseOpener, lease: Lease
    ) -> AsyncGenerator[Event, None]:
        """The inner response as it opens; ends after the final chunk. Heads before the last one are heartbeats."""
        decoder = ResponseDecoder()
        try:
            async for piece in response.content.iter_any():
                for chunk in opener.feed(piece):
                    lease.accepted()
                    for event in decoder.feed(chunk):
                        yield event
        except ChannelError as exc:
            raise _broken(exc) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise self._cut(type(exc).__name__) from None
        for event in self._last_events(opener, decoder):
            yield event

    def _last_events(self, opener: ResponseOpener, decoder: ResponseDecoder) -> list[Event]:
        try:
            final = opener.finish()
        except ChannelError as exc:
            raise self._cut(str(exc)) from exc
        try:
            return [*decoder.feed(final), *decoder.finish()]
        except ChannelError as exc:
            raise _broken(exc) from exc

    def _cut(self, detail: str) -> ProxyError:
        self._telemetry.truncated()
        _log.warning("answer_truncated", detail=detail)
        return ProxyError(ErrorCode.STREAM_TRUNCATED)


def _is_sealed(response: aiohttp.ClientResponse) -> bool:
    """Whether it claims to be an answer of a gateway; whether it is one, its chunks show."""
    headers = response.headers
    return (
        response.status == 200
        and headers.get("Content-Type", "").lower() == RESPONSE_MEDIA_TYPE
        and "Content-Encoding" not in headers
    )


def _refusal(response: aiohttp.ClientResponse) -> Refused | Unreachable:
    _log.warning("outer_refusal", status=response.status)
    if response.status not in UNAVAILABLE:
        return Refused(response.status)
    return Unreachable(_seconds(response.headers.get("Retry-After", "")))


def _seconds(retry_after: str) -> float | None:
    return float(retry_after) if retry_after.isdecimal() else None


def _header(head: ResponseHead, name: str) -> str:
    """The first value of a header; empty without one."""
    return next((value for key, value in head.headers if key == name), "")


async def _final_head(events: AsyncIterator[Event]) -> ResponseHead:
    async for event in events:
        if isinstance(event, ResponseHead) and not event.informational:
            return event
    raise ProxyError(ErrorCode.UPSTREAM_PROTOCOL_ERROR)


async def _content(events: AsyncIterator[Event], witness: Witness | None) -> AsyncGenerator[bytes, None]:
    async for event in events:
        match event:
            case Content(data):
                yield data
            case End(trailers) if witness is not None:
                witness.receipt = dict(trailers).get(RECEIPT_HEADER)


async def _whole(content: AsyncGenerator[bytes, None]) -> bytes:
    body = bytearray()
    async for data in content:
        body += data
        if len(body) > MAX_ANSWER_BYTES:
            raise ProxyError(ErrorCode.UPSTREAM_PROTOCOL_ERROR)
    return bytes(body)


def _broken(error: ChannelError) -> ProxyError:
    _log.warning("answer_not_authentic", detail=str(error))
    return ProxyError(ErrorCode.UPSTREAM_PROTOCOL_ERROR)
