"""How does a request reach the engine, and only the engine, and how do we know that the answer is its answer?

A request is sealed as it arrives (chunked Oblivious HTTP over Binary HTTP) and sent with outer headers that are the
same for every request. Whatever comes back is untrusted until its chunks open; the answer is over only when its final
chunk has opened. What the outer response says in the clear decides this much and no more:

==================================== ================================================================================
200 and the sealed media type        open it
422                                  verify the engine again and, only under a new key, seal once more; else 502
501                                  somebody on the way cannot forward incrementally: once more without the header
429, 502, 503, 504                   nobody took the request: 503 to the app, with a clipped Retry-After
anything else                        502
==================================== ================================================================================

Its headers and body are never passed on, nor logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Final

import aiohttp
import structlog

from attestation.channel.bhttp import Content, Event, Fields, RequestHead, ResponseDecoder, ResponseHead
from attestation.channel.keyconfig import KeyConfig
from attestation.channel.ohttp import REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE, RequestSealer, ResponseOpener
from attestation.errors import ChannelError
from proxy.envelope import SealedUpload
from proxy.errors import ErrorCode, ProxyError
from proxy.spool import RetainedBody
from proxy.telemetry import Telemetry
from proxy.trust import Trust
from proxy.verifier import AttestedEngine

_log = structlog.get_logger(__name__)

OUTER_HEADERS: Final = {"Content-Type": REQUEST_MEDIA_TYPE, "Accept": RESPONSE_MEDIA_TYPE}
INCREMENTAL: Final = {"Incremental": "?1"}
MAX_RETRY_AFTER_S: Final = 60.0
DEFAULT_RETRY_AFTER_S: Final = 5.0

_UNAVAILABLE: Final = (429, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Answer:
    """An inner response whose head has opened.

    content: its body as it opens; it ends only after the final chunk did. Raises ProxyError.
    """

    status: int
    headers: Fields
    content: AsyncGenerator[bytes, None]

    def header(self, name: str) -> str:
        """The first value of a header; empty without one."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def media_type(self) -> str:
        return self.header("content-type").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class _Attempt:
    """How the request is sealed and sent this time."""

    engine: AttestedEngine
    key: KeyConfig
    incremental: bool = True
    reverified: bool = False


class Relay:
    """Sends requests to the engine that `trust` vouches for."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        engine_url: str,
        trust: Trust,
        telemetry: Telemetry,
        *,
        idle_timeout_s: float,
        egress_proxy: str | None = None,
    ) -> None:
        """session: from `attestation.http.open_session`. egress_proxy: URL of an HTTP proxy on the way."""
        self._session = session
        self._engine_url = engine_url
        self._trust = trust
        self._telemetry = telemetry
        self._idle_timeout_s = idle_timeout_s
        self._egress_proxy = egress_proxy

    @asynccontextmanager
    async def answering(self, head: RequestHead, body: RetainedBody) -> AsyncIterator[Answer]:
        """Send a request; the exchange lasts while the context is open. Leaving it cancels what is left of it.

        The engine may answer before the body ended; then no more of it is read. Raises ProxyError.
        """
        engine = await self._trust.engine()
        attempt = _Attempt(engine, engine.choose_key())
        while True:
            sealer = RequestSealer(attempt.key)
            upload = SealedUpload(sealer, head, body, attempt.engine.result.statement)
            async with self._sent(attempt, upload) as response:
                if _is_sealed(response):
                    body.forget()
                    async with self._opened(response, sealer.response_opener()) as answer:
                        yield answer
                    return
                refused = response.status, response.headers.get("Retry-After", "")
            attempt = await self._again(attempt, body, *refused)

    @asynccontextmanager
    async def _sent(self, attempt: _Attempt, upload: SealedUpload) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send the outer request and wait for the head of its response."""
        request = self._session.post(
            f"{self._engine_url}/ohttp/{attempt.key.path_digest}",
            data=upload,
            headers=OUTER_HEADERS | (INCREMENTAL if attempt.incremental else {}),
            allow_redirects=False,
            proxy=self._egress_proxy,
        )
        response = await self._head(request, upload)
        try:
            yield response
        finally:
            # Closed and not released: a connection with half a message on it serves nobody. The upload has ended
            # when this returns, so that another one may read the same body.
            response.close()
            await response.wait_for_close()

    async def _head(self, request: Awaitable[aiohttp.ClientResponse], upload: SealedUpload) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout(self._idle_timeout_s) as silence:
                with _progress(upload, silence, self._idle_timeout_s):
                    return await request
        except aiohttp.ConnectionTimeoutError:
            raise _unavailable() from None
        except TimeoutError:
            code = ErrorCode.UPLOAD_TIMEOUT if upload.awaits_app else ErrorCode.TIMEOUT
            raise ProxyError(code) from None
        except (aiohttp.ClientError, OSError) as exc:
            # What aiohttp says may quote the URL or a header, so only the kind goes on.
            _log.warning("engine_unreachable", error=type(exc).__name__)
            raise (upload.failure or _unavailable()) from None

    @asynccontextmanager
    async def _opened(self, response: aiohttp.ClientResponse, opener: ResponseOpener) -> AsyncIterator[Answer]:
        async with aclosing(self._events(response, opener)) as events:
            head = await _final_head(events)
            async with aclosing(_content(events)) as content:
                yield Answer(head.status, head.headers, content)

    async def _events(self, response: aiohttp.ClientResponse, opener: ResponseOpener) -> AsyncGenerator[Event, None]:
        """The inner response as it opens; ends after the final chunk. Heads before the last one are heartbeats."""
        decoder = ResponseDecoder()
        try:
            async for piece in response.content.iter_any():
                for chunk in opener.feed(piece):
                    self._trust.key_accepted()
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

    async def _again(self, attempt: _Attempt, body: RetainedBody, status: int, retry_after: str) -> _Attempt:
        """How to try once more after an outer refusal. Raises ProxyError when that is all."""
        _log.warning("outer_refusal", status=status)
        if status == 422:
            self._telemetry.key_mismatch()
        if status == 501 and attempt.incremental:
            # Asked anew: while the body came, the key may have expired, or another policy may have been put in force.
            engine = await self._trust.engine()
            key = attempt.key if attempt.key.digest in engine.digests else engine.choose_key()
            following = replace(attempt, engine=engine, key=key, incremental=False)
        elif status == 422 and not attempt.reverified:
            engine = await self._trust.after_mismatch(attempt.key)
            following = replace(attempt, engine=engine, key=engine.choose_key(), reverified=True)
        else:
            raise _outer_error(status, retry_after)
        if not body.can_replay:
            raise _unavailable()
        self._telemetry.retried("not_incremental" if status == 501 else "new_key")
        return following


def _is_sealed(response: aiohttp.ClientResponse) -> bool:
    """Whether it claims to be an answer of a gateway; whether it is one, its chunks show."""
    headers = response.headers
    return (
        response.status == 200
        and headers.get("Content-Type", "").lower() == RESPONSE_MEDIA_TYPE
        and "Content-Encoding" not in headers
    )


async def _final_head(events: AsyncIterator[Event]) -> ResponseHead:
    async for event in events:
        if isinstance(event, ResponseHead) and not event.informational:
            return event
    raise ProxyError(ErrorCode.UPSTREAM_PROTOCOL_ERROR)


async def _content(events: AsyncIterator[Event]) -> AsyncGenerator[bytes, None]:
    async for event in events:
        if isinstance(event, Content):
            yield event.data


@contextmanager
def _progress(upload: SealedUpload, silence: asyncio.Timeout, idle_timeout_s: float) -> Iterator[None]:
    """Every piece of the upload puts the timeout off."""
    now = asyncio.get_running_loop().time
    upload.on_progress = lambda: silence.reschedule(now() + idle_timeout_s)
    try:
        yield
    finally:
        upload.on_progress = lambda: None


def _outer_error(status: int, retry_after: str) -> ProxyError:
    if status in _UNAVAILABLE:
        seconds = float(retry_after) if retry_after.isdecimal() else DEFAULT_RETRY_AFTER_S
        return _unavailable(min(seconds, MAX_RETRY_AFTER_S))
    return ProxyError(ErrorCode.UPSTREAM_KEY_MISMATCH if status == 422 else ErrorCode.UPSTREAM_PROTOCOL_ERROR)


def _unavailable(retry_after_s: float = DEFAULT_RETRY_AFTER_S) -> ProxyError:
    return ProxyError(ErrorCode.ENGINE_UNAVAILABLE, retry_after_s=retry_after_s)


def _broken(error: ChannelError) -> ProxyError:
    _log.warning("answer_not_authentic", detail=str(error))
    return ProxyError(ErrorCode.UPSTREAM_PROTOCOL_ERROR)
