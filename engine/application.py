"""What is served inside the envelope? OpenAI's speech API over the speech pipeline.

One row of `_ROUTES` per target; whatever is not there is OpenAI's 404, sealed like everything else. A request is
admitted by its head alone, its body is parsed as it arrives, and no work starts before the whole of it has come. Where
keys are asked for, the key is the first thing looked at, and its limits are the last: a head that is refused for
another reason does not count. Whoever asks for a receipt is refused by name: none is made, and silence would mislead.

Paths are compared as they stand; only what names a model is percent-decoded. A query is ignored, like a form field
that no API defines. Every other method, HEAD and OPTIONS among them, is a 405.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from typing import Protocol
from urllib.parse import unquote

import structlog

from engine.admission import Admission
from engine.authority import Authority, Caller
from engine.errors import BackendError, ErrorCode, RequestError
from engine.exchange import Answer, Events, Exchange, Head
from engine.openai.allowance import allowance_headers
from engine.openai.errors import to_response
from engine.openai.events import CONTENT_TYPE, KEEP_ALIVE, error_event, event_stream
from engine.openai.fields import ParsedRequest, parse_transcription, parse_translation
from engine.openai.formats import render
from engine.openai.models import ModelCatalogue
from engine.openai.multipart import Form, MultipartReader
from engine.telemetry import SpeechMetrics
from engine.types import MAX_FILE_BYTES, TextDelta, Transcription, TranscriptionRequest

_log = structlog.get_logger(__name__)

KEEPALIVE_S = 15.0
_RECEIPT = "sottovoce-receipt"
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
        authority: Authority,
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
        self._authority = authority
        self._log_requests = log_requests

    def open(self, head: Head) -> Exchange:
        caller = self._authority.identify(head.headers.get("authorization"))
        if _RECEIPT in head.headers:
            raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, _RECEIPT)
        path = _path(head)
        for method, prefix, make in _ROUTES:
            if path == prefix or (prefix.endswith("/") and path.startswith(prefix)):
                if head.method != method:
                    raise RequestError(ErrorCode.METHOD_NOT_ALLOWED)
                return make(self, head, caller)
        raise RequestError(ErrorCode.NOT_FOUND)

    def refusal(self, error: Exception, head: Head | None) -> Answer:
        response = to_response(_as_request_error(error))
        number = request_id(head)
        self.answered("refused", response.status, number)
        headers = (*response.headers.items(), ("x-request-id", number))
        return Answer(response.status, headers, response.body)

    def broken_stream(self, error: Exception) -> bytes:
        known = _as_request_error(error)
        self.answered("broken_stream", to_response(known).status, "unknown")
        return error_event(known)

    def answered(self, endpoint: str, status: int, number: str, caller: Caller | None = None) -> None:
        """Count an answer, and log it where the operator has confessed to doing so. number: the request's id.

        No metric has a series for each key, which would show the operator who sends how much, and when.
        """
        self.metrics.answered(endpoint, status)
        if self._log_requests:
            named = {"key": caller.name} if caller and caller.name else {}
            _log.info("request", endpoint=endpoint, status=status, request_id=number, **named)


_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def request_id(head: Head | None) -> str:
    """The id that came with the request, or a new one; an exchange asks once."""
    given = head.headers.get("x-request-id", "") if head else ""
    return given if _REQUEST_ID.fullmatch(given) else "req_" + secrets.token_hex(16)


def _as_request_error(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if isinstance(error, BackendError):
        _log.warning("backend_failed", error=type(error).__name__, cause=type(error.__cause__).__name__)
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
    """`GET /v1/models`, and `/v1/models/{id}`: an id may hold slashes, plain or percent-encoded."""

    def __init__(self, application: SpeechApplication, head: Head, caller: Caller, name: str | None) -> None:
        self._application = application
        self._request_id = request_id(head)
        self._name = name
        self._held = ExitStack()
        self._visit = self._held.enter_context(caller.admit(audio=False))

    def feed(self, data: bytes) -> None:
        """A GET has no content worth reading."""

    async def answer(self) -> Answer:
        catalogue = self._application.catalogue
        body = catalogue.list_body() if self._name is None else catalogue.retrieve_body(self._name)
        self._application.answered("models", 200, self._request_id, self._visit.caller)
        headers = (_JSON, ("x-request-id", self._request_id), *allowance_headers(self._visit.allowance).items())
        return Answer(200, headers, body)

    def close(self) -> None:
        self._held.close()


class _SpeechExchange:
    """`POST /v1/audio/transcriptions` and `/v1/audio/translations`."""

    def __init__(
        self,
        application: SpeechApplication,
        head: Head,
        caller: Caller,
        endpoint: str,
        parse: Callable[[Form, ModelCatalogue], ParsedRequest],
    ) -> None:
        self._application = application
        self._request_id = request_id(head)
        self._endpoint = endpoint
        self._parse = parse
        self._reader = MultipartReader(
            head.headers.get("content-type"), content_encoding=head.headers.get("content-encoding")
        )
        with ExitStack() as held:
            held.enter_context(application.admission.hold(_declared_bytes(head, application.max_request_bytes)))
            self._visit = held.enter_context(caller.admit(audio=True))
            self._held = held.pop_all()

    def feed(self, data: bytes) -> None:
        self._reader.feed(data)

    async def answer(self) -> Answer:
        form = self._reader.finish()
        parsed = self._parse(form, self._application.catalogue)
        self._application.metrics.fields_ignored(parsed.unknown_fields)
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
            ("x-request-id", self._request_id),
            ("openai-processing-ms", str(round(took_s * 1000))),
            *allowance_headers(self._visit.allowance).items(),
        )
        return Answer(200, headers, rendered.body)

    async def _stream(self, audio: bytearray, request: TranscriptionRequest) -> Answer:
        pump = _Pump(self._events(audio, request), self._application.request_timeout_s)
        self._held.callback(pump.stop)
        # What goes wrong until then can still have a status of its own; no app waits longer without a sign of life.
        first = await pump.next_within(self._application.keepalive_s)
        headers = (_SSE, ("x-request-id", self._request_id), *allowance_headers(self._visit.allowance).items())
        return Answer(200, headers, _kept_alive(first, pump, self._application.keepalive_s))

    async def _events(self, audio: bytearray, request: TranscriptionRequest) -> Events:
        begun = time.monotonic()
        shape = event_stream(request, request_id=self._request_id, created=int(time.time()))
        async with aclosing(self._application.pipeline.stream(audio, request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Transcription):
                    self._finished(begun, piece)
                    yield shape.done(piece)
                    return
                if event := shape.delta(piece):
                    yield event
        raise RuntimeError("a stream of text without its transcription")

    def _finished(self, begun: float, transcription: Transcription) -> float:
        took_s = time.monotonic() - begun
        self._visit.hear(transcription.duration_s)
        self._application.metrics.text_completed(self._endpoint, took_s)
        self._application.answered(self._endpoint, 200, self._request_id, self._visit.caller)
        return took_s

    def close(self) -> None:
        self._held.close()


def _declared_bytes(head: Head, limit: int) -> int:
    """What to set aside: the content length declared, which the gateway holds the sender to, or the most allowed."""
    declared = head.headers.get("content-length")
    if declared is None:
        return limit
    if int(declared) > limit:
        numbers = {"limit_bytes": MAX_FILE_BYTES, "read_bytes": int(declared)}  # OpenAI's words quote the file's limit
        raise RequestError(ErrorCode.FILE_TOO_LARGE, "file", numbers=numbers)
    return int(declared)


class _Pump:
    """Advances a stream of events in one task, from the first to the last.

    A generator that is advanced by one task and then by another loses what belongs to the task that entered it:
    time limits and task groups. It also runs on while nobody reads: a slow reader holds up no backend.
    """

    def __init__(self, events: Events, timeout_s: float) -> None:
        """timeout_s: for all of the events."""
        self._made: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        # `stop` ends it, and what it raises goes through the queue.
        self._task = asyncio.create_task(self._run(events, timeout_s))  # noqa: TID251

    async def _run(self, events: Events, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s), aclosing(events):
                async for event in events:
                    self._made.put_nowait(event)
        except Exception as exc:  # noqa: BLE001 - raised where the events are read
            self._made.put_nowait(exc)
        finally:
            self._made.put_nowait(None)

    async def next_within(self, period_s: float) -> bytes | None:
        """The next event, or None when there is none for so long.

        Raises StopAsyncIteration after the last, and what the stream raised.
        """
        try:
            async with asyncio.timeout(period_s):
                made = await self._made.get()
        except TimeoutError:
            return None
        if made is None:
            raise StopAsyncIteration
        if isinstance(made, Exception):
            raise made
        return made

    def stop(self) -> None:
        self._task.cancel()


async def _kept_alive(first: bytes | None, pump: _Pump, period_s: float) -> Events:
    """`first` and what follows, with a comment (None) whenever another `period_s` has gone by without an event."""
    event = first
    while True:
        yield KEEP_ALIVE if event is None else event
        try:
            event = await pump.next_within(period_s)
        except StopAsyncIteration:
            return


def _models(application: SpeechApplication, head: Head, caller: Caller) -> Exchange:
    return _ModelsExchange(application, head, caller, None)


def _model(application: SpeechApplication, head: Head, caller: Caller) -> Exchange:
    return _ModelsExchange(application, head, caller, unquote(_path(head).removeprefix(_MODEL_PREFIX)))


def _transcriptions(application: SpeechApplication, head: Head, caller: Caller) -> Exchange:
    return _SpeechExchange(application, head, caller, "transcriptions", parse_transcription)


def _translations(application: SpeechApplication, head: Head, caller: Caller) -> Exchange:
    return _SpeechExchange(application, head, caller, "translations", parse_translation)


def _path(head: Head) -> str:
    return head.path.partition("?")[0]


_MODEL_PREFIX = "/v1/models/"

_ROUTES: tuple[tuple[str, str, Callable[[SpeechApplication, Head, Caller], Exchange]], ...] = (
    ("POST", "/v1/audio/transcriptions", _transcriptions),
    ("POST", "/v1/audio/translations", _translations),
    ("GET", "/v1/models", _models),
    ("GET", _MODEL_PREFIX, _model),
)
"""A prefix that ends in a slash takes the rest of the path."""
