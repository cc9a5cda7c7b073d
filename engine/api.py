"""What is served inside the envelope? OpenAI's speech API over the speech pipeline, and summaries of what was heard.

One row of `_ROUTES` per target; whatever is not there is OpenAI's 404, sealed like everything else. A request is
admitted by its head alone, its body is parsed as it arrives, and no work starts before the whole of it has come. Where
keys are asked for, the key is the first thing looked at, and its limits are the last: a head that is refused for
another reason does not count.

Paths are compared as they stand; only what names a model is percent-decoded. A query is ignored, like a form field
that no API defines. What may be had by GET may be asked for by HEAD, whose answer the gateway strips of its content.
Every other method, OPTIONS among them, is a 405 that names those allowed.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import ExitStack, aclosing
from typing import Protocol, TypeAlias
from urllib.parse import unquote

import structlog

from core.channel.gateway import request_id as harmless_id
from core.errors import BackendError
from core.media.types import MAX_FILE_BYTES
from core.transcript.faults import AUDIO, TRANSCRIPT, Fault, FaultKind, option
from core.transcript.types import Transcript
from engine.access.authority import Authority, Caller, Visit
from engine.gateway.admission import Admission
from engine.gateway.exchange import Answer, Events, Exchange, Head, Processed
from engine.gateway.live import Failure, SessionExpiredError
from engine.gateway.runs import KeyReusedError, Reading, RunName, Runs
from engine.openai.allowance import allowance_headers
from engine.openai.errors import to_response
from engine.openai.events import CONTENT_TYPE, KEEP_ALIVE, error_event, event_stream
from engine.openai.fields import ParsedRequest, parse_transcription, parse_translation
from engine.openai.formats import render
from engine.openai.live_failures import failure_of
from engine.openai.models import ModelCatalogue
from engine.openai.multipart import Form, MultipartReader
from engine.realtime import door
from engine.realtime.door import LiveDoor
from engine.realtime.refusals import Refusal, envelope_of
from engine.realtime.session import RealtimeSession
from engine.realtime.settings import Shape
from engine.speech.text_stream import TextStream
from engine.speech.under_way import Charge
from engine.summaries import requests
from engine.summaries.summariser import Summariser
from engine.telemetry import SpeechMetrics
from engine.types import Hearing

_log = structlog.get_logger(__name__)

KEEPALIVE_S = 15.0
_RECEIPT = "sottovoce-receipt"
_RUN_KEY = "idempotency-key"
_RUN_KEY_FORM = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
_SSE = ("content-type", CONTENT_TYPE)
_JSON = ("content-type", "application/json")


class Pipeline(Protocol):
    """`engine.speech.pipeline.SpeechPipeline`, as far as it is used here."""

    async def transcribe(
        self, audio: bytearray, hearing: Hearing, *, caller: Hashable, charge: Charge
    ) -> Transcript: ...

    def stream(
        self, audio: bytearray, hearing: Hearing, *, caller: Hashable, charge: Charge, time_limit_s: float
    ) -> TextStream: ...


class SpeechApplication:
    """Implements `engine.gateway.exchange.Application` and `engine.gateway.live.LiveApplication`.

    live: what opens live sessions; None where there are none. runs: of requests that have an idempotency key.
    summariser: what writes summaries; None where nothing does.
    """

    def __init__(
        self,
        catalogue: ModelCatalogue,
        pipeline: Pipeline,
        admission: Admission,
        metrics: SpeechMetrics,
        *,
        authority: Authority,
        live: LiveDoor | None = None,
        summariser: Summariser | None = None,
        max_request_bytes: int,
        request_timeout_s: float,
        keepalive_s: float = KEEPALIVE_S,
        runs: Runs | None = None,
        log_requests: bool = False,
    ) -> None:
        self.catalogue = catalogue
        self.pipeline = pipeline
        self.admission = admission
        self.metrics = metrics
        self.max_request_bytes = max_request_bytes
        self.request_timeout_s = request_timeout_s
        self.keepalive_s = keepalive_s
        self.live = live
        self.summariser = summariser
        self.runs = runs or Runs()
        self._authority = authority
        self._log_requests = log_requests

    async def open(self, head: Head, *, source: str) -> Exchange:
        caller = self._authority.identify(head.headers.get("authorization"), source)
        _check_receipt(head)
        if (route := _route(head)) is None:
            raise Fault(FaultKind.UNKNOWN)
        methods, make = route
        if head.method not in methods:
            raise Fault(FaultKind.METHOD)
        return await make(self, head, caller)

    async def open_live(self, head: Head, *, source: str) -> RealtimeSession:
        if self.live is None:
            raise Fault(FaultKind.UNKNOWN)
        entrance = self.live.identify(head, source)
        _check_receipt(head)
        if _path(head) != door.PATH:
            raise Fault(FaultKind.UNKNOWN)
        session = await self.live.open(head, entrance)
        self.answered("realtime", 101, request_id(head), entrance.caller)
        return session

    def refusal(self, error: Exception, head: Head | None) -> Answer:
        fault = _as_fault(error)
        response = to_response(fault)
        number = request_id(head)
        self.answered("refused", response.status, number)
        headers = [*response.headers.items(), ("x-request-id", number)]
        if fault.kind is FaultKind.METHOD and head and (route := _route(head)):
            headers.append(("allow", ", ".join(route[0])))  # RFC 9110, section 15.5.6
        return Answer(response.status, tuple(headers), response.body)

    def live_failure(self, error: Exception, head: Head | None) -> Failure:
        """As `engine.gateway.live.LiveApplication` has it."""
        known = error if isinstance(error, SessionExpiredError) else _as_fault(error)
        failure = failure_of(known, f"event_{secrets.token_hex(12)}")
        self.answered("realtime", failure.status, request_id(head))
        return failure

    def broken_stream(self, error: Exception) -> bytes:
        known = _as_fault(error)
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


def request_id(head: Head | None) -> str:
    """The id that came with the request, or a new one; an exchange asks once."""
    return harmless_id(head.headers.get("x-request-id") if head else None, secrets.token_bytes(16))


def _check_receipt(head: Head) -> None:
    """Raises Fault."""
    if head.headers.get(_RECEIPT, "1") != "1":
        raise Fault(FaultKind.INVALID, option(_RECEIPT))


def _as_fault(error: Exception) -> Fault:
    if isinstance(error, Fault):
        return error
    if isinstance(error, BackendError):
        _log.warning("backend_failed", error=type(error).__name__, cause=type(error.__cause__).__name__)
        return Fault(FaultKind.UNAVAILABLE)
    if isinstance(error, TimeoutError):
        return Fault(FaultKind.TIMED_OUT)
    # The kind and the place only: the message of an unforeseen error may quote what it choked on.
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{frame.tb_frame.f_code.co_qualname}:{frame.tb_lineno}" if frame else None
    _log.error("unforeseen_error", error=type(error).__name__, place=place)
    return Fault(FaultKind.INTERNAL)


class _ModelsExchange:
    """`GET /v1/models`, and `/v1/models/{id}`: an id may hold slashes, plain or percent-encoded."""

    def __init__(self, application: SpeechApplication, head: Head, visit: Visit, name: str | None) -> None:
        self._application = application
        self._request_id = request_id(head)
        self._name = name
        self._visit = visit

    def feed(self, data: bytes) -> None:
        """A GET has no content worth reading."""

    async def answer(self) -> Answer:
        catalogue = self._application.catalogue
        body = catalogue.list_body() if self._name is None else catalogue.retrieve_body(self._name)
        self._application.answered("models", 200, self._request_id, self._visit.caller)
        headers = (_JSON, ("x-request-id", self._request_id), *allowance_headers(self._visit.allowance).items())
        return Answer(200, headers, body)

    def close(self) -> None:
        self._visit.end()


_Parse: TypeAlias = Callable[[Form, ModelCatalogue], ParsedRequest]


class _SpeechExchange:
    """`POST /v1/audio/transcriptions` and `/v1/audio/translations`. held: what `close` gives back, the visit too."""

    def __init__(
        self,
        application: SpeechApplication,
        head: Head,
        reader: MultipartReader,
        visit: Visit,
        held: ExitStack,
        *,
        endpoint: str,
        parse: _Parse,
    ) -> None:
        self._application = application
        self._request_id = request_id(head)
        self._reader = reader
        self._visit = visit
        self._held = held
        self._endpoint = endpoint
        self._parse = parse
        self._run_key = _run_key(head)
        self._heard_s = 0.0
        self._reading: Reading | None = None

    @classmethod
    async def open(
        cls, application: SpeechApplication, head: Head, caller: Caller, *, endpoint: str, parse: _Parse
    ) -> _SpeechExchange:
        headers = head.headers
        reader = MultipartReader(headers.get("content-type"), content_encoding=headers.get("content-encoding"))
        _run_key(head)  # refused by the head alone
        with ExitStack() as held:
            size_bytes = _declared_bytes(head, application.max_request_bytes)
            if size_bytes > application.max_request_bytes:
                # OpenAI's words quote the file's limit.
                numbers = {"limit_bytes": MAX_FILE_BYTES, "read_bytes": size_bytes}
                raise Fault(FaultKind.TOO_LARGE, AUDIO, numbers=numbers)
            held.enter_context(application.admission.hold(size_bytes, caller.holder))
            visit = await caller.admit(audio=True)
            held.callback(visit.end)
            return cls(application, head, reader, visit, held.pop_all(), endpoint=endpoint, parse=parse)

    def feed(self, data: bytes) -> None:
        self._reader.feed(data)

    async def answer(self) -> Answer:
        form = self._reader.finish()
        if self._run_key is None:
            return await self._work(form)
        name, digest = RunName(self._visit.caller.holder, self._run_key), await self._digest(form)
        try:
            # What is held is the run's from now on: `close` only says that this request reads it no longer.
            self._reading = self._application.runs.join(name, digest, lambda: self._work(form), self._held.close)
        except KeyReusedError:
            raise Fault(FaultKind.REPEATED, option(_RUN_KEY)) from None
        return await self._reading.answer()

    async def _digest(self, form: Form) -> bytes:
        """SHA-256 of what is asked, not of the form as it came: a client that sends it again draws a new boundary."""
        digest = hashlib.sha256()
        said = (self._endpoint, str(form.audio_type), *(text for pair in form.fields for text in pair))
        for text in said:
            data = text.encode("utf-8", "surrogateescape")
            digest.update(len(data).to_bytes(8, "big") + data)
        await asyncio.to_thread(digest.update, form.audio or b"")
        return digest.digest()

    async def _work(self, form: Form) -> Answer:
        parsed = self._parse(form, self._application.catalogue)
        self._application.metrics.fields_ignored(parsed.unknown_fields)
        audio = form.audio
        if audio is None:
            raise Fault(FaultKind.MISSING, AUDIO)
        if parsed.rendering.stream:
            return await self._stream(audio, parsed)
        return await self._whole(audio, parsed)

    async def _whole(self, audio: bytearray, asked: ParsedRequest) -> Answer:
        begun = time.monotonic()
        async with asyncio.timeout(self._application.request_timeout_s):
            transcription = await self._application.pipeline.transcribe(
                audio, asked.hearing, caller=self._visit.caller.holder, charge=self._charge
            )
        rendered = render(transcription, asked.rendering)
        took_s = self._finished(begun)
        headers = (
            ("content-type", rendered.content_type),
            ("x-request-id", self._request_id),
            ("openai-processing-ms", str(round(took_s * 1000))),
            *allowance_headers(self._visit.allowance).items(),
        )
        return Answer(200, headers, rendered.body, self._processed(asked), may_be_kept=not asked.rendering.voices)

    async def _stream(self, audio: bytearray, asked: ParsedRequest) -> Answer:
        begun = time.monotonic()
        stream = self._application.pipeline.stream(
            audio,
            asked.hearing,
            caller=self._visit.caller.holder,
            charge=self._charge,
            time_limit_s=self._application.request_timeout_s,
        )
        self._held.callback(stream.stop)
        events = self._events(stream, asked, begun)
        # What goes wrong until then can still have a status of its own; no app waits longer without a sign of life.
        first = await anext(events)
        headers = (_SSE, ("x-request-id", self._request_id), *allowance_headers(self._visit.allowance).items())
        return Answer(
            200, headers, _from(first, events), self._processed(asked), may_be_kept=not asked.rendering.voices
        )

    def _charge(self, duration_s: float) -> None:
        self._heard_s += duration_s
        self._visit.hear(duration_s)

    def _processed(self, asked: ParsedRequest) -> Callable[[], Processed]:
        return lambda: Processed(asked.hearing.model, self._heard_s)

    async def _events(self, stream: TextStream, asked: ParsedRequest, begun: float) -> Events:
        """The events of a stream, and a comment whenever `keepalive_s` has gone by without one."""
        shape = event_stream(asked.hearing, asked.rendering, request_id=self._request_id, created=int(time.time()))
        while True:
            piece = await stream.next_within(self._application.keepalive_s)
            if isinstance(piece, Transcript):
                self._finished(begun)
                yield shape.done(piece)
                return
            if piece is None:
                yield KEEP_ALIVE
            elif event := shape.delta(piece):
                yield event

    def _finished(self, begun: float) -> float:
        took_s = time.monotonic() - begun
        self._application.metrics.text_completed(self._endpoint, took_s)
        self._application.answered(self._endpoint, 200, self._request_id, self._visit.caller)
        return took_s

    def close(self) -> None:
        if self._reading is None:
            self._held.close()
        else:
            self._reading.leave()


class _SecretExchange:
    """`POST /v1/realtime/client_secrets`, and the older `/v1/realtime/transcription_sessions`."""

    def __init__(self, application: SpeechApplication, head: Head, visit: Visit, live: LiveDoor, shape: Shape) -> None:
        self._application = application
        self._request_id = request_id(head)
        self._visit = visit
        self._live = live
        self._shape = shape
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > door.MAX_BODY_BYTES:
            raise Fault(FaultKind.TOO_LARGE)

    async def answer(self) -> Answer:
        try:
            status, body = 200, self._live.make_secret(bytes(self._body), self._visit.caller, self._shape)
        except Refusal as refusal:
            status, body = 400, envelope_of(refusal)
        self._application.answered("client_secrets", status, self._request_id, self._visit.caller)
        headers = (_JSON, ("x-request-id", self._request_id), *allowance_headers(self._visit.allowance).items())
        return Answer(status, headers, body)

    def close(self) -> None:
        self._visit.end()


class _SummaryExchange:
    """`POST /v1/summaries`. held: what `close` gives back, the visit too."""

    def __init__(
        self, application: SpeechApplication, head: Head, visit: Visit, held: ExitStack, summariser: Summariser
    ) -> None:
        self._application = application
        self._request_id = request_id(head)
        self._visit = visit
        self._held = held
        self._summariser = summariser
        self._body = bytearray()

    @classmethod
    async def open(
        cls, application: SpeechApplication, head: Head, caller: Caller, summariser: Summariser
    ) -> _SummaryExchange:
        requests.check_content_type(head.headers.get("content-type"), head.headers.get("content-encoding"))
        with ExitStack() as held:
            size_bytes = _declared_bytes(head, requests.MAX_BODY_BYTES)
            if size_bytes > requests.MAX_BODY_BYTES:
                raise Fault(FaultKind.TOO_LARGE, TRANSCRIPT)
            held.enter_context(application.admission.hold(size_bytes, caller.holder))
            visit = await caller.admit(audio=False)
            held.callback(visit.end)
            return cls(application, head, visit, held.pop_all(), summariser)

    def feed(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > requests.MAX_BODY_BYTES:
            raise Fault(FaultKind.TOO_LARGE, TRANSCRIPT)

    async def answer(self) -> Answer:
        begun = time.monotonic()
        model = self._summariser.model.name
        wish = await asyncio.to_thread(requests.parse, bytes(self._body), model)
        async with asyncio.timeout(self._application.request_timeout_s):
            summary = await self._summariser.summarise(wish)
        self._application.metrics.text_completed("summaries", time.monotonic() - begun)
        self._application.answered("summaries", 200, self._request_id, self._visit.caller)
        headers = (_JSON, ("x-request-id", self._request_id), *allowance_headers(self._visit.allowance).items())
        return Answer(200, headers, requests.render(summary, model), lambda: Processed(model, 0.0))

    def close(self) -> None:
        self._held.close()


def _run_key(head: Head) -> str | None:
    """The idempotency key, 1 to 255 printable ASCII characters. Raises Fault."""
    key = head.headers.get(_RUN_KEY)
    if key is not None and not _RUN_KEY_FORM.fullmatch(key):
        raise Fault(FaultKind.INVALID, option(_RUN_KEY))
    return key


def _declared_bytes(head: Head, limit: int) -> int:
    """What to set aside: the content length declared, which the gateway holds the sender to, or the most allowed."""
    return int(head.headers.get("content-length", limit))


async def _from(first: bytes, events: Events) -> Events:
    """`first`, and what follows it."""
    yield first
    async with aclosing(events):
        async for event in events:
            yield event


async def _models(application: SpeechApplication, head: Head, caller: Caller) -> Exchange:
    return _ModelsExchange(application, head, await caller.admit(audio=False), None)


async def _model(application: SpeechApplication, head: Head, caller: Caller) -> Exchange:
    name = unquote(_path(head).removeprefix(_MODEL_PREFIX))
    return _ModelsExchange(application, head, await caller.admit(audio=False), name)


async def _transcriptions(application: SpeechApplication, head: Head, caller: Caller) -> Exchange:
    return await _SpeechExchange.open(application, head, caller, endpoint="transcriptions", parse=parse_transcription)


async def _translations(application: SpeechApplication, head: Head, caller: Caller) -> Exchange:
    return await _SpeechExchange.open(application, head, caller, endpoint="translations", parse=parse_translation)


async def _summaries(application: SpeechApplication, head: Head, caller: Caller) -> Exchange:
    if application.summariser is None:
        raise Fault(FaultKind.UNKNOWN)
    return await _SummaryExchange.open(application, head, caller, application.summariser)


async def _client_secrets(application: SpeechApplication, head: Head, caller: Caller) -> Exchange:
    return await _secret(application, head, caller, Shape.GA)


async def _transcription_sessions(application: SpeechApplication, head: Head, caller: Caller) -> Exchange:
    return await _secret(application, head, caller, Shape.BETA)


async def _secret(application: SpeechApplication, head: Head, caller: Caller, shape: Shape) -> Exchange:
    if application.live is None:
        raise Fault(FaultKind.UNKNOWN)
    return _SecretExchange(application, head, await caller.admit(audio=False), application.live, shape)


def _path(head: Head) -> str:
    return head.path.partition("?")[0]


_MODEL_PREFIX = "/v1/models/"
_READ = ("GET", "HEAD")
_SEND = ("POST",)

_Make: TypeAlias = Callable[[SpeechApplication, Head, Caller], Awaitable[Exchange]]

_ROUTES: tuple[tuple[str, tuple[str, ...], _Make], ...] = (
    ("/v1/audio/transcriptions", _SEND, _transcriptions),
    ("/v1/audio/translations", _SEND, _translations),
    (requests.PATH, _SEND, _summaries),
    (f"{door.PATH}/client_secrets", _SEND, _client_secrets),
    (f"{door.PATH}/transcription_sessions", _SEND, _transcription_sessions),
    ("/v1/models", _READ, _models),
    (_MODEL_PREFIX, _READ, _model),
)
"""A prefix that ends in a slash takes the rest of the path."""


def _route(head: Head) -> tuple[tuple[str, ...], _Make] | None:
    """The methods that a target knows, and what serves it."""
    path = _path(head)
    for prefix, methods, make in _ROUTES:
        if path == prefix or (prefix.endswith("/") and path.startswith(prefix)):
            return methods, make
    return None
