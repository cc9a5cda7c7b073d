"""What is served inside the envelope? OpenAI's speech API over the speech pipeline.

One row of `_ROUTES` per target; whatever is not there is OpenAI's 404, sealed like everything else. A request is
admitted by its head alone, its body is parsed as it arrives, and no work starts before the whole of it has come.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from typing import Protocol
from urllib.parse import unquote

import structlog

from engine.admission import Admission
from engine.errors import BackendError, ErrorCode, RequestError
from engine.exchange import Answer, Events, Exchange, Head
from engine.openai.errors import to_response
from engine.openai.events import CONTENT_TYPE, KEEP_ALIVE, error_event, event_stream
from engine.openai.fields import ParsedRequest, parse_transcription, parse_translation
from engine.openai.formats import render
from engine.openai.models import ModelCatalogue
from engine.openai.multipart import Form, MultipartReader
from engine.telemetry import SpeechMetrics
from engine.types import TextDelta, Transcription, TranscriptionRequest

_log = structlog.get_logger(__name__)

KEEPALIVE_S = 15.0
_SSE = ("content-type", CONTENT_TYPE)
_JSON = ("content-type", "application/json")


class Pipeline(Protocol):
    """`engine.speech.pipeline.SpeechPipeline`, as far as it is used here."""

    async def transcribe(self, audio: bytearray, request: TranscriptionRequest) -> Transcription: ...

    def stream(
        self, audio: bytearray, request: TranscriptionRequest
    ) -> AsyncGenerator[TextDelta | Transcription, None]: ...


class SpeechApplication:
    """Implements `engine.exchange.Application`."""

    def __init__(
        self,
        catalogue: ModelCatalogue,
        pipeline: Pipeline,
        admission: Admission,
        metrics: SpeechMetrics,
        *,
        max_request_bytes: int,
        request_timeout_s: float,
        keepalive_s: float = KEEPALIVE_S,
        log_requests: bool = False,
    ) -> None:
        self.catalogue = catalogue
        self.pipeline = pipeline
        self.admission = admission
        self.metrics = metrics
        self.max_request_bytes = max_request_bytes
        self.request_timeout_s = request_timeout_s
        self.keepalive_s = keepalive_s
        self._log_requests = log_requests

    def open(self, head: Head) -> Exchange:
        path = head.path.partition("?")[0]
        for method, prefix, make in _ROUTES:
            if path == prefix or (prefix.endswith("/") and path.startswith(prefix)):
                if head.method != method:
                    raise RequestError(ErrorCode.METHOD_NOT_ALLOWED)
                return make(self, head)
        raise RequestError(ErrorCode.NOT_FOUND)

    def refusal(self, error: Exception, head: Head | None) -> Answer:
        response = to_response(_as_request_error(error))
        self.answered("refused", response.status, head)
        headers = (*response.headers.items(), ("x-request-id", request_id(head)))
        return Answer(response.status, headers, response.body)

    def broken_stream(self, error: Exception) -> bytes:
        return error_event(_as_request_error(error))

    def answered(self, endpoint: str, status: int, head: Head | None) -> None:
        """Count an answer, and log it where the operator has confessed to doing so."""
        self.metrics.requests.labels(endpoint=endpoint, status=str(status)).inc()
        if self._log_requests:
            _log.info("request", endpoint=endpoint, status=status, request_id=request_id(head))


def request_id(head: Head | None) -> str:
    """The id that came with the request, which our proxy has checked, or a new one."""
    given = head.headers.get("x-request-id", "") if head else ""
    return given if 0 < len(given) <= 64 and given.replace("-", "").replace("_", "").isalnum() else _new_id()


def _new_id() -> str:
    return "req_" + secrets.token_hex(16)


def _as_request_error(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if isinstance(error, BackendError):
        return RequestError(ErrorCode.BACKEND_UNAVAILABLE)
    if isinstance(error, TimeoutError):
        return RequestError(ErrorCode.TIMEOUT)
    # The kind and the place only: the message of an unforeseen error may quote what it choked on.
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{frame.tb_frame.f_code.co_qualname}:{frame.tb_lineno}" if frame else None
    _log.error("unforeseen_error", error=type(error).__name__, place=place)
    return RequestError(ErrorCode.INTERNAL_ERROR)


class _ModelsExchange:
    """`GET /v1/models` and `/v1/models/{id}`."""

    def __init__(self, application: SpeechApplication, head: Head) -> None:
        self._application = application
        self._head = head

    def feed(self, data: bytes) -> None:
        """A GET has no content worth reading."""

    async def answer(self) -> Answer:
        name = unquote(self._head.path.partition("?")[0].removeprefix("/v1/models").removeprefix("/"))
        catalogue = self._application.catalogue
        body = catalogue.retrieve_body(name) if name else catalogue.list_body()
        self._application.answered("models", 200, self._head)
        return Answer(200, (_JSON, ("x-request-id", request_id(self._head))), body)

    def close(self) -> None:
        """Nothing is held."""


class _SpeechExchange:
    """`POST /v1/audio/transcriptions` and `/v1/audio/translations`."""

    def __init__(
        self,
        application: SpeechApplication,
        head: Head,
        endpoint: str,
        parse: Callable[[Form, ModelCatalogue], ParsedRequest],
    ) -> None:
        self._application = application
        self._head = head
        self._endpoint = endpoint
        self._parse = parse
        self._reader = MultipartReader(
            head.headers.get("content-type"), content_encoding=head.headers.get("content-encoding")
        )
        self._held = ExitStack()
        self._held.enter_context(application.admission.hold(self._declared_bytes()))

    def _declared_bytes(self) -> int:
        limit = self._application.max_request_bytes
        declared = self._head.headers.get("content-length", "")
        if not (declared.isascii() and declared.isdecimal()):
            return limit
        if int(declared) > limit:
            numbers = {"limit_bytes": limit, "read_bytes": int(declared)}
            raise RequestError(ErrorCode.FILE_TOO_LARGE, "file", numbers=numbers)
        return int(declared)

    def feed(self, data: bytes) -> None:
        self._reader.feed(data)

    async def answer(self) -> Answer:
        form = self._reader.finish()
        parsed = self._parse(form, self._application.catalogue)
        self._application.metrics.unknown_fields.inc(parsed.unknown_fields)
        audio = form.audio
        if audio is None:
            raise RequestError(ErrorCode.MISSING_REQUIRED_PARAMETER, "file")
        if parsed.request.stream:
            return await self._stream(audio, parsed.request)
        return await self._whole(audio, parsed.request)

    async def _whole(self, audio: bytearray, request: TranscriptionRequest) -> Answer:
        begun = time.monotonic()
        async with asyncio.timeout(self._application.request_timeout_s):
            transcription = await self._application.pipeline.transcribe(audio, request)
        rendered = render(transcription, request)
        took_s = self._finished(begun, transcription)
        headers = (
            ("content-type", rendered.content_type),
            ("x-request-id", request_id(self._head)),
            ("openai-processing-ms", str(round(took_s * 1000))),
        )
        return Answer(200, headers, rendered.body)

    async def _stream(self, audio: bytearray, request: TranscriptionRequest) -> Answer:
        events = self._events(audio, request)
        # What goes wrong before the first event can still have a status of its own.
        first = await anext(events)
        headers = (_SSE, ("x-request-id", request_id(self._head)))
        return Answer(200, headers, _kept_alive(first, events, self._application.keepalive_s))

    async def _events(self, audio: bytearray, request: TranscriptionRequest) -> Events:
        begun = time.monotonic()
        shape = event_stream(request, request_id=request_id(self._head), created=int(time.time()))
        async with (
            asyncio.timeout(self._application.request_timeout_s),
            aclosing(self._application.pipeline.stream(audio, request)) as pieces,
        ):
            async for piece in pieces:
                event = shape.delta(piece) if isinstance(piece, TextDelta) else shape.done(piece)
                if event:
                    yield event
                if isinstance(piece, Transcription):
                    self._finished(begun, piece)

    def _finished(self, begun: float, transcription: Transcription) -> float:
        took_s = time.monotonic() - begun
        metrics = self._application.metrics
        metrics.duration.labels(endpoint=self._endpoint).observe(took_s)
        metrics.audio.inc(transcription.duration_s)
        metrics.output_tokens.inc(transcription.output_tokens)
        self._application.answered(self._endpoint, 200, self._head)
        return took_s

    def close(self) -> None:
        self._held.close()


async def _kept_alive(first: bytes, events: Events, period_s: float) -> Events:
    """`first`, then `events`, with a comment whenever another `period_s` has gone by without any."""
    yield first
    async with aclosing(events):
        while True:
            following = asyncio.ensure_future(anext(events, None))  # noqa: TID251 - awaited or cancelled below
            try:
                while not (await asyncio.wait({following}, timeout=period_s))[0]:
                    yield KEEP_ALIVE
                event = following.result()
            finally:
                if not following.done():
                    following.cancel()
                    await asyncio.wait({following})
            if event is None:
                return
            yield event


def _transcriptions(application: SpeechApplication, head: Head) -> Exchange:
    return _SpeechExchange(application, head, "transcriptions", parse_transcription)


def _translations(application: SpeechApplication, head: Head) -> Exchange:
    return _SpeechExchange(application, head, "translations", parse_translation)


_ROUTES: tuple[tuple[str, str, Callable[[SpeechApplication, Head], Exchange]], ...] = (
    ("POST", "/v1/audio/transcriptions", _transcriptions),
    ("POST", "/v1/audio/translations", _translations),
    ("GET", "/v1/models", _ModelsExchange),
    ("GET", "/v1/models/", _ModelsExchange),
)
"""A prefix that ends in a slash takes the rest of the path."""
