from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Callable, Hashable
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import LogCapture

from core.errors import BackendError
from core.media.types import RawSamples
from core.transcript.faults import AUDIO, Fault, FaultKind
from core.transcript.types import Task, Transcript
from engine.access.api_keys import ApiKey, ApiKeys, digest
from engine.access.authority import Anyone, KeyHolders
from engine.api import Pipeline, SpeechApplication, request_id
from engine.gateway.admission import Admission
from engine.gateway.exchange import Answer, Exchange, Head
from engine.gateway.inbox import Inbox
from engine.gateway.runs import Runs
from engine.openai.events import KEEP_ALIVE
from engine.openai.models import ModelCatalogue, ServedModel
from engine.speech.pipeline import SpeechPipeline
from engine.speech.speakers import ToldBy
from engine.speech.text_stream import Send, TextStream
from engine.speech.under_way import Charge
from engine.telemetry import PREFIX, Telemetry
from engine.types import Hearing, TextDelta
from tests.engine.fakes import FakeDecoder, FakeTranscriber, Turnstile, scripted, silence, speech
from tests.engine.gateway.fake_application import NOW, Clock, ring
from tests.engine.gateway.sealed_client import BOUNDARY, FORM, form, seal
from tests.engine.speech.fake_diarizer import FakeDiarizer
from tests.waiting import time_passes, until, until_settled

LIMIT = 100_000
CANARY = "the canary sings at midnight"
TRANSCRIPTION = Transcript(Task.TRANSCRIBE, "en", 1.0, " one two", ())
CATALOGUE = ModelCatalogue((ServedModel("openai/whisper", created=1, aliases=("whisper-1", "wäß")),))


@dataclass
class ScriptedPipeline:
    """Implements `engine.api.Pipeline`. pieces: what `stream` yields, raises or awaits, in turn."""

    pieces: tuple[TextDelta | Transcript | Exception | asyncio.Event, ...] = ()
    closed: int = 0
    begun: int = 0
    callers: list[Hashable] = field(default_factory=list)

    async def transcribe(self, audio: bytearray, hearing: Hearing, *, caller: Hashable, charge: Charge) -> Transcript:
        async with aclosing(self.stream(audio, hearing, caller=caller, charge=charge)) as stream:
            async for piece in stream:
                if isinstance(piece, Transcript):
                    return piece
        raise BackendError("nothing")

    def stream(
        self,
        audio: bytearray,
        hearing: Hearing,
        *,
        caller: Hashable,
        charge: Charge,
        time_limit_s: float | None = None,
    ) -> TextStream:
        self.begun += 1
        self.callers.append(caller)
        return TextStream(self._write, time_limit_s=time_limit_s)

    async def _write(self, send: Send) -> None:
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                if isinstance(piece, asyncio.Event):
                    await piece.wait()
                else:
                    send(piece)
        finally:
            self.closed += 1


@dataclass
class Desk:
    """An application and what is behind it."""

    application: SpeechApplication
    telemetry: Telemetry
    admission: Admission
    exchanges: list[Exchange] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def counted(self, name: str, **labels: str) -> float:
        return (
            self.telemetry.windowed.registry.get_sample_value(f"{PREFIX}_{name}", {"backend": "fake", **labels}) or 0.0
        )

    async def ask(
        self, body: bytes, *headers: tuple[str, str], target: str = "transcriptions", source: str = ""
    ) -> Answer:
        head = Head("POST", f"/v1/audio/{target}", dict([FORM, *headers]))
        try:
            exchange = await self.application.open(head, source=source)
            self.exchanges.append(exchange)
            exchange.feed(body)
            return await exchange.answer()
        except Exception as exc:  # noqa: BLE001 - what the gateway does
            return self.application.refusal(exc, head)

    async def fetch(self, path: str, method: str = "GET", **headers: str) -> Answer:
        head = Head(method, path, headers)
        try:
            with closing(await self.application.open(head, source="")) as exchange:
                return await exchange.answer()
        except Fault as exc:
            return self.application.refusal(exc, head)

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return asyncio.run(self.fetch(path, method, **headers))


Make = Callable[..., Desk]


@pytest.fixture
def desk() -> Make:
    def make(
        pipeline: Pipeline | None = None,
        *,
        max_requests: int = 2,
        catalogue: ModelCatalogue = CATALOGUE,
        **options: Any,
    ) -> Desk:
        telemetry = Telemetry("fake")
        admission = Admission(max_requests=max_requests, max_body_bytes=2 * LIMIT)
        pipeline = pipeline or SpeechPipeline(FakeTranscriber(), FakeDecoder(), observer=telemetry.speech)
        defaults: dict[str, Any] = {"authority": Anyone(), "max_request_bytes": LIMIT, "request_timeout_s": 20.0}
        application = SpeechApplication(catalogue, pipeline, admission, telemetry.speech, **(defaults | options))
        return Desk(application, telemetry, admission)

    return make


def error_of(answer: Answer) -> tuple[int, str, str | None]:
    assert isinstance(answer.body, bytes)
    error = json.loads(answer.body)["error"]
    return answer.status, error["code"], error["param"]


async def streamed(answer: Answer) -> bytes:
    assert not isinstance(answer.body, bytes)
    assert dict(answer.headers)["content-type"].startswith("text/event-stream")
    return b"".join([event async for event in answer.body])


SPOKEN = form(speech(2.0), ("model", "whisper-1"))
STREAMED = form(speech(2.0), ("model", "whisper-1"), ("stream", "true"))


# --- targets and methods


def test_models_are_listed_and_found(desk: Make) -> None:
    listed = desk().get("/v1/models")
    assert isinstance(listed.body, bytes)
    assert [model["id"] for model in json.loads(listed.body)["data"]] == ["openai/whisper", "whisper-1", "wäß"]


@pytest.mark.parametrize(
    "name", ["whisper-1", "openai/whisper", "openai%2Fwhisper", "openai%2fwhisper", "w%C3%A4%C3%9F", "whisper-1?a=b"]
)
def test_a_models_name_may_hold_slashes_and_be_percent_encoded(desk: Make, name: str) -> None:
    answer = desk().get(f"/v1/models/{name}")
    assert answer.status == 200


@pytest.mark.parametrize(
    "name", ["", "/", "nothing", "whisper-1/", "%FF", "%", "openai%252Fwhisper", "../models", "%00"]
)
def test_any_other_models_name_is_not_found(desk: Make, name: str) -> None:
    assert error_of(desk().get(f"/v1/models/{name}")) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    "path",
    ["/", "/v1/model", "/v1/models%2F", "//v1/models", "/v1/audio/transcriptions/", "/V1/models", "/v1/audio/speech"],
)
def test_any_other_target_is_not_found(desk: Make, path: str) -> None:
    assert error_of(desk().get(path)) == (404, "not_found", None)


ALLOWED = {
    "/v1/models": "GET, HEAD",
    "/v1/models/whisper-1?a=b": "GET, HEAD",
    "/v1/audio/transcriptions": "POST",
    "/v1/audio/translations": "POST",
}
METHODS = ("HEAD", "GET", "POST", "OPTIONS", "PUT", "DELETE", "CONNECT", "get", "TRACE")
NOT_ALLOWED = [
    (path, method, allowed)
    for path, allowed in ALLOWED.items()
    for method in METHODS
    if method not in allowed.split(", ")
]


@pytest.mark.parametrize(("path", "method", "allowed"), NOT_ALLOWED)
def test_any_other_method_is_not_allowed_and_told_which_are(desk: Make, path: str, method: str, allowed: str) -> None:
    answer = desk().get(path, method)
    assert error_of(answer) == (405, "method_not_allowed", None)
    assert dict(answer.headers)["allow"] == allowed


def test_no_other_refusal_names_methods(desk: Make) -> None:
    assert "allow" not in dict(desk().get("/v1/models/nothing").headers)
    assert "allow" not in dict(desk().get("/nothing", "PUT").headers)


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 200), ("/v1/models/nothing", 404)])
def test_head_is_answered_as_get_is(desk: Make, path: str, status: int) -> None:
    answer = desk().get(path, "HEAD", **{"x-request-id": "a"})
    assert answer == desk().get(path, **{"x-request-id": "a"})
    assert answer.status == status


async def test_a_query_changes_nothing(desk: Make) -> None:
    answer = await desk().ask(SPOKEN, target="transcriptions?model=nothing&stream=true")
    assert answer.status == 200


# --- answers


@pytest.mark.parametrize("target", ["transcriptions", "translations"])
async def test_speech_becomes_text(desk: Make, target: str) -> None:
    behind = desk()
    answer = await behind.ask(SPOKEN, ("x-request-id", "abc_DEF-1"), target=target)
    assert isinstance(answer.body, bytes)
    assert json.loads(answer.body)["text"] == "clip at 0"
    headers = dict(answer.headers)
    assert headers["x-request-id"] == "abc_DEF-1"
    assert headers["openai-processing-ms"].isdecimal()
    assert behind.counted("requests_total", endpoint=target, status="200") == 1
    assert behind.counted("request_duration_seconds_count", endpoint=target) == 1
    assert behind.counted("audio_seconds_total") == pytest.approx(2.0, abs=0.05)
    assert behind.counted("clips_total") == 1


async def test_raw_samples_reach_the_decoder_with_their_form(desk: Make) -> None:
    decoder = FakeDecoder()
    raw = SPOKEN.replace(b"Content-Type: audio/wav", b"Content-Type: audio/L16; rate=8000")
    assert (await desk(SpeechPipeline(FakeTranscriber(), decoder)).ask(raw)).status == 200
    assert decoder.forms == [RawSamples(8_000, big_endian=True)]


async def test_raw_samples_of_an_absurd_form_are_refused_by_name(desk: Make) -> None:
    raw = SPOKEN.replace(b"Content-Type: audio/wav", b"Content-Type: audio/pcm; rate=7")
    assert error_of(await desk().ask(raw)) == (400, "invalid_raw_audio", "file")


async def test_a_stream_ends_with_done(desk: Make) -> None:
    behind = desk()
    events = await streamed(await behind.ask(STREAMED))
    assert events.startswith(b'data: {"type":"transcript.text.delta"')
    assert events.endswith(b"data: [DONE]\n\n")
    assert behind.counted("requests_total", endpoint="transcriptions", status="200") == 1


async def test_an_answer_keeps_one_request_id(desk: Make, log: LogCapture) -> None:
    answer = await desk(log_requests=True).ask(SPOKEN)
    (entry,) = log.entries
    assert entry["request_id"] == dict(answer.headers)["x-request-id"]


async def test_no_request_is_logged_unless_that_was_confessed(desk: Make, log: LogCapture) -> None:
    await desk().ask(SPOKEN)
    await desk().ask(b"")
    assert log.entries == []


@pytest.mark.parametrize("given", ["a", "A-b_9" * 12, "---"])
def test_a_request_id_of_the_right_shape_is_kept(given: str) -> None:
    assert request_id(Head("GET", "/", {"x-request-id": given})) == given


@pytest.mark.parametrize("given", ["", "é", "a b", "a" * 65, "a\n", "٣", "a=b"])
def test_any_other_request_id_is_replaced(given: str) -> None:
    ids = {request_id(Head("GET", "/", {"x-request-id": given})) for _ in range(2)}
    assert len(ids) == 2
    assert all(new.startswith("req_") and len(new) == 36 for new in ids)


async def test_unknown_fields_are_counted(desk: Make) -> None:
    behind = desk()
    await behind.ask(form(speech(1.0), ("model", "whisper-1"), ("flavour", "salt")))
    assert behind.counted("unknown_fields_total") == 1


# --- admission


async def test_a_request_holds_its_declared_size_until_it_is_closed(desk: Make) -> None:
    behind = desk(max_requests=9)
    size = ("content-length", str(LIMIT - 1))
    await behind.ask(SPOKEN, size)
    await behind.ask(SPOKEN, size)
    assert error_of(await behind.ask(SPOKEN, size)) == (503, "overloaded", None)
    assert behind.admission.requests == 2
    assert (await behind.ask(SPOKEN, ("content-length", "2"), source="another")).status == 200
    behind.exchanges[0].close()
    assert (await behind.ask(SPOKEN, size)).status == 200


async def test_a_source_that_asks_for_everything_leaves_room_for_another(desk: Make) -> None:
    behind = desk(max_requests=100)
    size = ("content-length", str(LIMIT // 10))
    answers = [await behind.ask(SPOKEN, size, source="greedy") for _ in range(20)]
    assert {answer.status for answer in answers} == {200, 503}
    assert (await behind.ask(SPOKEN, size, source="modest")).status == 200


async def test_a_key_is_one_holder_wherever_it_comes_from(keyed: Make) -> None:
    behind = keyed(limits={}, max_requests=100)
    size = ("content-length", str(LIMIT // 10))
    answers = [await behind.ask(SPOKEN, KEYED, size, source=str(number)) for number in range(20)]
    assert {answer.status for answer in answers} == {200, 503}


async def test_a_request_of_unknown_size_holds_the_largest(desk: Make) -> None:
    behind = desk(max_requests=9)
    await behind.ask(SPOKEN)
    await behind.ask(SPOKEN)
    assert error_of(await behind.ask(SPOKEN, ("content-length", "1")))[0] == 503


async def test_an_overloaded_engine_says_when_to_come_again(desk: Make) -> None:
    behind = desk(max_requests=1)
    await behind.ask(SPOKEN)
    answer = await behind.ask(SPOKEN)
    assert dict(answer.headers)["retry-after"] == "2"


async def test_a_declared_size_above_the_limit_is_refused_by_the_head(desk: Make) -> None:
    behind = desk()
    answer = await behind.ask(SPOKEN, ("content-length", str(LIMIT + 1)))
    assert error_of(answer) == (413, "file_too_large", "file")
    assert not behind.exchanges
    assert behind.admission.requests == 0


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (("content-encoding", "gzip"), "unsupported_media_type"),
        (("content-type", "application/json"), "unsupported_media_type"),
        (("content-type", "multipart/form-data"), "invalid_multipart"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_by_the_head_and_holds_nothing(
    desk: Make, headers: tuple[str, str], code: str
) -> None:
    behind = desk()
    assert error_of(await behind.ask(SPOKEN, headers))[1] == code
    assert not behind.exchanges
    assert behind.admission.requests == 0


@pytest.mark.parametrize("asked", ["0", "2", ""])
async def test_who_asks_for_a_receipt_in_other_words_is_refused_by_the_head_and_holds_nothing(
    desk: Make, asked: str
) -> None:
    behind = desk()
    answer = await behind.ask(SPOKEN, ("sottovoce-receipt", asked))
    assert error_of(answer) == (400, "invalid_value", "sottovoce-receipt")
    assert not behind.exchanges
    assert behind.admission.requests == 0


# --- keys and their limits

SECRET = "sk-sv-canary-NOTAREALKEY"
KEYED = ("authorization", f"Bearer {SECRET}")
RATE = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
EMPTY = ("content-length", "0")


@pytest.fixture
def keyed(desk: Make) -> Make:
    """Make a desk that asks for a key; limits: of the only one, which is called newsroom."""

    def make(pipeline: Pipeline | None = None, *, limits: dict[str, Any] | None = None, **options: Any) -> Desk:
        clock = Clock()
        keys = ApiKeys(keys=(ApiKey("newsroom", digest(SECRET), **(limits or {})),))
        holders = KeyHolders(keys, places=32, clock=clock, monotonic=Clock(), place_wait_s=0.0)
        behind = desk(pipeline, authority=holders, **({"max_requests": 9} | options))
        behind.clock = clock
        return behind

    return make


@pytest.mark.parametrize("body", [SPOKEN, STREAMED])
async def test_the_turns_that_a_file_takes_are_its_holders(keyed: Make, body: bytes) -> None:
    pipeline = ScriptedPipeline((TRANSCRIPTION,))
    behind = keyed(pipeline)
    answer = await behind.ask(body, KEYED)
    assert answer.status == 200
    if not isinstance(answer.body, bytes):
        await streamed(answer)
    (holder,) = pipeline.callers
    assert holder == behind.application._authority.identify(KEYED[1], "").holder


def rate_of(answer: Answer) -> tuple[str | None, ...]:
    return tuple(dict(answer.headers).get(name) for name in RATE)


@pytest.mark.parametrize(
    "shown",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer sk-sv-other"),),
        (("authorization", f"Basic {SECRET}"),),
        (("authorization", SECRET),),
        (("x-api-key", SECRET),),
    ],
)
@pytest.mark.parametrize("body", [SPOKEN, STREAMED])
async def test_a_request_without_a_key_that_is_known_is_refused_by_its_head(
    keyed: Make, log: LogCapture, shown: tuple[tuple[str, str], ...], body: bytes
) -> None:
    behind = keyed(log_requests=True)
    answer = await behind.ask(body, *shown)
    assert error_of(answer) == (401, "invalid_api_key", None)
    assert dict(answer.headers)["www-authenticate"] == "Bearer"
    assert rate_of(answer) == (None, None, None)
    assert not behind.exchanges
    assert behind.admission.requests == 0
    assert "canary" not in repr(log.entries) + repr(answer)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/whisper-1", "/v1/models/nothing", "/", "/v1/audio/speech"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_without_a_key_nobody_learns_what_exists(keyed: Make, path: str, method: str) -> None:
    assert error_of(keyed().get(path, method)) == (401, "invalid_api_key", None)


def test_an_expired_key_is_like_none(keyed: Make) -> None:
    behind = keyed(limits={"expires": datetime.fromtimestamp(NOW + 1, UTC)})
    assert behind.get("/v1/models", authorization=KEYED[1]).status == 200
    behind.clock.now += 1
    answer = behind.get("/v1/models", authorization=KEYED[1])
    assert error_of(answer) == (401, "invalid_api_key", None)
    assert dict(answer.headers)["www-authenticate"] == "Bearer"


async def test_a_key_without_limits_is_admitted_and_told_of_none(keyed: Make) -> None:
    behind = keyed()
    for _ in range(2):
        answer = await behind.ask(SPOKEN, KEYED, ("content-length", "1"))
        assert (answer.status, rate_of(answer)) == (200, (None, None, None))


@pytest.mark.parametrize("body", [SPOKEN, STREAMED])
async def test_an_answer_says_what_is_left_and_a_request_too_many_when_to_come_again(keyed: Make, body: bytes) -> None:
    behind = keyed(limits={"requests_per_minute": 2})
    assert rate_of(await behind.ask(body, KEYED, EMPTY)) == ("2", "1", "30s")
    assert rate_of(await behind.fetch("/v1/models", authorization=KEYED[1])) == ("2", "0", "1m0s")
    behind.clock.now += 0.5
    answer = await behind.ask(body, KEYED, EMPTY)
    assert error_of(answer) == (429, "rate_limit_exceeded", None)
    headers = dict(answer.headers)
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("30", "29500")
    assert "x-should-retry" not in headers
    assert rate_of(answer) == ("2", "0", "59.5s")
    assert error_of(await behind.fetch("/v1/models", authorization=KEYED[1]))[1] == "rate_limit_exceeded"
    behind.clock.now += 29.5
    assert (await behind.ask(body, KEYED, EMPTY)).status == 200


async def test_a_request_too_many_at_a_time_is_refused_until_another_is_closed(keyed: Make) -> None:
    behind = keyed(limits={"concurrent_requests": 1, "requests_per_minute": 9})
    assert (await behind.ask(SPOKEN, KEYED, EMPTY)).status == 200
    answer = await behind.ask(SPOKEN, KEYED, EMPTY)
    assert error_of(answer) == (429, "rate_limit_exceeded", None)
    assert (dict(answer.headers)["retry-after"], dict(answer.headers)["retry-after-ms"]) == ("1", "1000")
    assert rate_of(answer) == ("9", "8", "6.667s")
    assert error_of(await behind.fetch("/v1/models", authorization=KEYED[1]))[0] == 429
    assert behind.admission.requests == 1
    behind.exchanges[0].close()
    assert rate_of(await behind.ask(SPOKEN, KEYED, EMPTY)) == ("9", "7", "13.334s")


async def test_a_list_of_models_gives_its_place_back(keyed: Make) -> None:
    behind = keyed(limits={"concurrent_requests": 1})
    exchange = await behind.application.open(Head("GET", "/v1/models", dict([KEYED])), source="")
    assert error_of(await behind.fetch("/v1/models", authorization=KEYED[1]))[0] == 429
    exchange.close()
    assert (await behind.fetch("/v1/models", authorization=KEYED[1])).status == 200


@pytest.mark.parametrize("body", [SPOKEN, STREAMED])
async def test_a_day_is_used_up_by_the_audio_that_was_heard(keyed: Make, body: bytes) -> None:
    behind = keyed(limits={"audio_seconds_per_day": 3})
    for _ in range(2):
        answer = await behind.ask(body, KEYED, EMPTY)
        assert answer.status == 200
        if not isinstance(answer.body, bytes):
            await streamed(answer)
    answer = await behind.ask(body, KEYED, EMPTY)
    assert error_of(answer) == (429, "insufficient_quota", None)
    headers = dict(answer.headers)
    assert headers["x-should-retry"] == "false"
    assert not {"retry-after", "retry-after-ms"} & set(headers)
    assert (await behind.fetch("/v1/models", authorization=KEYED[1])).status == 200
    behind.clock.now += 86_400
    assert (await behind.ask(body, KEYED, EMPTY)).status == 200


async def test_who_hangs_up_is_charged_for_what_was_heard(keyed: Make) -> None:
    gate = Turnstile()
    fake = FakeTranscriber(gate=gate)
    behind = keyed(SpeechPipeline(fake, FakeDecoder()), limits={"audio_seconds_per_day": 3})
    gate.admit_one()
    body = form((speech(3.2) + silence(12.8)) * 3, ("model", "whisper-1"), ("stream", "true"), ("language", "en"))
    answer = await behind.ask(body, KEYED, EMPTY)
    assert not isinstance(answer.body, bytes)
    await anext(answer.body)
    await until(lambda: fake.live == 1)
    behind.exchanges[0].close()
    await until(lambda: fake.live == 0)
    assert error_of(await behind.ask(SPOKEN, KEYED, EMPTY)) == (429, "insufficient_quota", None)


async def test_what_failed_is_not_charged(keyed: Make) -> None:
    behind = keyed(ScriptedPipeline((BackendError(CANARY),)), limits={"audio_seconds_per_day": 1})
    for _ in range(3):
        assert error_of(await behind.ask(SPOKEN, KEYED, EMPTY))[0] == 503


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("speech", (), 404),
        ("transcriptions", (("content-type", "text/plain"),), 415),
        ("transcriptions", (("content-length", str(LIMIT + 1)),), 413),
        ("transcriptions", (), 503),
    ],
)
async def test_a_request_that_is_refused_by_its_head_does_not_count(
    keyed: Make, target: str, headers: tuple[tuple[str, str], ...], status: int
) -> None:
    behind = keyed(limits={"requests_per_minute": 1, "concurrent_requests": 1})
    with ExitStack() as full:
        for _ in range(2):
            full.enter_context(behind.admission.hold(LIMIT, ""))
        for _ in range(3):
            assert error_of(await behind.ask(SPOKEN, KEYED, *headers, target=target))[0] == status
    assert (await behind.ask(SPOKEN, KEYED)).status == 200


async def test_a_request_that_a_key_may_not_send_holds_nothing_of_the_engine(keyed: Make) -> None:
    behind = keyed(limits={"concurrent_requests": 1})
    await behind.ask(SPOKEN, KEYED, ("content-length", str(LIMIT)))
    for _ in range(3):
        assert error_of(await behind.ask(SPOKEN, KEYED, ("content-length", str(LIMIT))))[0] == 429
    assert behind.admission.requests == 1
    with behind.admission.hold(LIMIT, ""):
        pass


async def test_a_form_at_fault_counts_and_gives_its_place_back(keyed: Make) -> None:
    behind = keyed(limits={"requests_per_minute": 2, "concurrent_requests": 1})
    assert error_of(await behind.ask(SPOKEN[:-4], KEYED))[0] == 400
    behind.exchanges[0].close()
    assert rate_of(await behind.ask(SPOKEN, KEYED)) == ("2", "0", "1m0s")


async def test_a_keys_name_is_logged_where_requests_are_and_nowhere_counted(keyed: Make, log: LogCapture) -> None:
    behind = keyed(log_requests=True)
    await behind.ask(SPOKEN, KEYED)
    await behind.fetch("/v1/models", authorization=KEYED[1])
    assert [entry["key"] for entry in log.entries] == ["newsroom"] * 2
    behind.telemetry.close_window()
    assert b"newsroom" not in behind.telemetry.snapshot().exposition()
    assert "canary" not in repr(log.entries)


async def test_a_keys_name_is_not_logged_where_requests_are_not(keyed: Make, log: LogCapture) -> None:
    behind = keyed(limits={"requests_per_minute": 1})
    await behind.ask(SPOKEN, KEYED)
    await behind.ask(SPOKEN, KEYED)
    assert log.entries == []


async def test_where_no_key_is_asked_for_any_is_taken_and_none_logged(desk: Make, log: LogCapture) -> None:
    answer = await desk(log_requests=True).ask(SPOKEN, KEYED)
    assert (answer.status, rate_of(answer)) == (200, (None, None, None))
    assert "key" not in log.entries[0]


# --- what goes wrong


async def test_a_cut_form_starts_no_work(desk: Make) -> None:
    pipeline = ScriptedPipeline((TRANSCRIPTION,))
    assert error_of(await desk(pipeline).ask(SPOKEN[:-4]))[1] == "invalid_multipart"
    assert pipeline.begun == 0


FAILURES = [
    (BackendError(CANARY), (503, "backend_unavailable")),
    (TimeoutError(CANARY), (504, "timeout")),
    (Fault(FaultKind.TOO_LONG, AUDIO), (400, "audio_too_long")),
    (ValueError(CANARY), (500, "internal_error")),
]


@pytest.mark.parametrize(("failure", "told"), FAILURES)
@pytest.mark.parametrize("body", [SPOKEN, STREAMED])
async def test_what_fails_before_any_text_has_a_status_and_no_words_of_its_own(
    desk: Make, log: LogCapture, body: bytes, failure: Exception, told: tuple[int, str]
) -> None:
    behind = desk(ScriptedPipeline((failure,)))
    answer = await behind.ask(body)
    assert error_of(answer)[:2] == told
    assert CANARY not in repr(log.entries) + repr(answer)
    assert behind.counted("requests_total", endpoint="refused", status=str(told[0])) == 1


@pytest.mark.parametrize(("failure", "told"), FAILURES)
async def test_what_fails_after_some_text_is_an_error_event(
    desk: Make, log: LogCapture, failure: Exception, told: tuple[int, str]
) -> None:
    behind = desk(ScriptedPipeline((TextDelta("one"), failure)))
    answer = await behind.ask(STREAMED)
    with pytest.raises(type(failure)) as raised:
        await streamed(answer)
    event = behind.application.broken_stream(raised.value)
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == told[1]
    assert CANARY.encode() not in event
    assert CANARY not in repr(log.entries)
    assert behind.counted("requests_total", endpoint="broken_stream", status=str(told[0])) == 1


async def test_an_unforeseen_error_is_logged_by_kind_and_place(desk: Make, log: LogCapture) -> None:
    await desk(ScriptedPipeline((ValueError(CANARY),))).ask(SPOKEN)
    (entry,) = log.entries
    assert (entry["event"], entry["error"]) == ("unforeseen_error", "ValueError")
    assert entry["place"].startswith("ScriptedPipeline._write:")


@pytest.mark.parametrize("pieces", [(), (TextDelta("one"),)])
async def test_a_stream_without_its_transcription_is_an_error(desk: Make, pieces: tuple[TextDelta, ...]) -> None:
    answer = await desk(ScriptedPipeline(pieces)).ask(STREAMED)
    if pieces:
        with pytest.raises(RuntimeError):
            await streamed(answer)
    else:
        assert error_of(answer)[0] == 500


@pytest.mark.parametrize("body", [SPOKEN, STREAMED])
async def test_work_has_a_time_limit(desk: Make, body: bytes) -> None:
    pipeline = ScriptedPipeline((asyncio.Event(),))
    answer = await desk(pipeline, request_timeout_s=0.01).ask(body)
    assert error_of(answer)[:2] == (504, "timeout")
    assert pipeline.closed == 1


async def test_a_stream_that_has_begun_has_a_time_limit_too(desk: Make) -> None:
    pipeline = ScriptedPipeline((TextDelta("one"), asyncio.Event()))
    answer = await desk(pipeline, request_timeout_s=100, keepalive_s=1000).ask(STREAMED)
    assert not isinstance(answer.body, bytes)
    assert b"one" in await anext(answer.body)
    more = asyncio.ensure_future(anext(answer.body))  # noqa: TID251
    await until_settled()
    time_passes(100)
    with pytest.raises(TimeoutError):
        await more
    assert pipeline.closed == 1


# --- streams


async def test_a_quiet_stream_is_kept_alive(desk: Make) -> None:
    more = asyncio.Event()
    pipeline = ScriptedPipeline((TextDelta("one"), more, TextDelta(" two"), TRANSCRIPTION))
    answer = await desk(pipeline, keepalive_s=0.001).ask(STREAMED)
    assert not isinstance(answer.body, bytes)
    while (event := await anext(answer.body)) == KEEP_ALIVE:  # of a busy machine, before anything was said
        pass
    assert b"one" in event
    assert [await anext(answer.body) for _ in range(3)] == [KEEP_ALIVE] * 3
    more.set()
    rest = [event async for event in answer.body if event != KEEP_ALIVE]
    assert b"two" in rest[-2]
    assert rest[-1].endswith(b"data: [DONE]\n\n")


async def test_a_stream_that_is_slow_to_begin_is_kept_alive(desk: Make) -> None:
    begin = asyncio.Event()
    answer = await desk(ScriptedPipeline((begin, TRANSCRIPTION)), keepalive_s=0.001).ask(STREAMED)
    assert answer.status == 200
    assert not isinstance(answer.body, bytes)
    assert [await anext(answer.body) for _ in range(3)] == [KEEP_ALIVE] * 3
    begin.set()
    rest = [event async for event in answer.body if event != KEEP_ALIVE]
    assert rest[-1].endswith(b"data: [DONE]\n\n")


async def test_what_fails_after_a_sign_of_life_is_an_error_event(desk: Make) -> None:
    begin = asyncio.Event()
    behind = desk(ScriptedPipeline((begin, BackendError("gone"))), keepalive_s=0.001)
    answer = await behind.ask(STREAMED)
    assert answer.status == 200
    assert not isinstance(answer.body, bytes)
    assert await anext(answer.body) == KEEP_ALIVE
    begin.set()
    with pytest.raises(BackendError) as raised:
        await streamed(answer)
    assert b'"backend_unavailable"' in behind.application.broken_stream(raised.value)


async def test_text_is_sent_as_it_comes(desk: Make) -> None:
    more = asyncio.Event()
    transcriber = FakeTranscriber(scripted(" one two"), word_gate=more)
    more.set()
    answer = await desk(SpeechPipeline(transcriber, FakeDecoder())).ask(STREAMED)
    assert not isinstance(answer.body, bytes)
    assert b'"delta":"one"' in await anext(answer.body)
    assert b'"delta":" two"' in await anext(answer.body)
    await answer.body.aclose()


async def test_closing_an_exchange_ends_its_stream(desk: Make) -> None:
    pipeline = ScriptedPipeline((TextDelta("one"), asyncio.Event()))
    behind = desk(pipeline)
    answer = await behind.ask(STREAMED)
    assert not isinstance(answer.body, bytes)
    await answer.body.aclose()
    behind.exchanges[0].close()
    await until(lambda: pipeline.closed)
    assert behind.admission.requests == 0


async def test_a_stream_that_nobody_began_to_read_ends_with_its_exchange(desk: Make) -> None:
    pipeline = ScriptedPipeline((TextDelta("one"), asyncio.Event()))
    behind = desk(pipeline)
    await behind.ask(STREAMED)
    behind.exchanges[0].close()
    await until(lambda: pipeline.closed)


async def test_a_slow_reader_holds_up_no_backend(desk: Make) -> None:
    pipeline = ScriptedPipeline((TextDelta("one"), *[TextDelta(" more")] * 100, TRANSCRIPTION))
    answer = await desk(pipeline).ask(STREAMED)
    await until(lambda: pipeline.closed)
    assert (await streamed(answer)).count(b" more") == 100


async def test_cancelling_an_answer_cancels_its_work(desk: Make) -> None:
    never = asyncio.Event()
    pipeline = ScriptedPipeline((never,))
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(desk(pipeline).ask(SPOKEN))
        await until(lambda: pipeline.begun)
        asking.cancel()
    assert pipeline.closed == 1


async def test_a_recording_is_in_memory_once_when_its_request_has_arrived(desk: Make) -> None:
    size = 4 * 2**20
    behind = desk(max_request_bytes=2 * size)
    behind.application.admission = Admission(max_requests=1, max_body_bytes=2 * size)
    head = [FORM, ("content-length", str(len(form(bytes(size)))))]
    keys = ring().held(NOW)
    wire = seal(keys[0].key.config, form(bytes(size)), headers=head).wire
    tracemalloc.start()
    try:
        inbox = Inbox(keys, max_request_bytes=2 * size, max_chunk_bytes=65_536)
        for start in range(0, len(wire), 131_072):
            inbox.feed(wire[start : start + 131_072])
            if start == 0:
                assert inbox.head is not None
                inbox.begin(await behind.application.open(inbox.head, source=""))
        inbox.feed(b"")
        assert inbox.whole
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    inbox.close()
    assert most < 1.3 * size


# --- idempotency keys

AGAIN = ("idempotency-key", "of mine")


class Counted:
    """A pipeline that counts what is asked of it. gate: when it answers."""

    def __init__(self) -> None:
        self.pipeline = SpeechPipeline(FakeTranscriber(), FakeDecoder())
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def transcribe(self, audio: bytearray, hearing: Hearing, *, caller: Hashable, charge: Charge) -> Transcript:
        self.asked += 1
        await self.gate.wait()
        return await self.pipeline.transcribe(audio, hearing, caller=caller, charge=charge)

    def stream(self, audio: bytearray, hearing: Hearing, **rest: Any) -> TextStream:
        self.asked += 1
        return self.pipeline.stream(audio, hearing, **rest)


def with_boundary(body: bytes, boundary: str) -> tuple[bytes, tuple[str, str]]:
    return body.replace(BOUNDARY.encode(), boundary.encode()), (FORM[0], FORM[1].replace(BOUNDARY, boundary))


async def test_a_request_that_comes_again_under_its_key_is_done_once(desk: Make) -> None:
    counted = Counted()
    behind = desk(counted, max_requests=9)
    body, header = with_boundary(SPOKEN, "another-boundary")
    small = ("content-length", "1")
    answers = [await behind.ask(SPOKEN, AGAIN, small), await behind.ask(body, header, AGAIN, small)]
    assert counted.asked == 1
    assert answers[0].body == answers[1].body
    assert ["idempotent-replay" in dict(answer.headers) for answer in answers] == [False, True]
    assert (await behind.ask(SPOKEN, small)).status == 200
    assert counted.asked == 2
    events = [await streamed(await behind.ask(STREAMED, ("idempotency-key", "another"), small)) for _ in range(2)]
    assert events[0] == events[1]
    assert counted.asked == 3


async def test_what_voices_are_like_is_not_kept_to_be_answered_again(desk: Make) -> None:
    spoken = SpeechPipeline(FakeTranscriber(), FakeDecoder(), diarizer=FakeDiarizer())
    catalogue = ModelCatalogue((ServedModel("whisper-1", 0, speakers=ToldBy.VOICES),))
    behind = desk(spoken, max_requests=9, catalogue=catalogue)
    diarized = (("model", "whisper-1"), ("response_format", "diarized_json"))
    voices = ("include[]", "speaker_embeddings")
    for number, (fields, stream, kept) in enumerate(
        ((diarized, False, True), ((*diarized, voices), False, False), ((*diarized, voices), True, False))
    ):
        key = ("idempotency-key", str(number))
        body = form(speech(2.0), *fields, *((("stream", "true"),) if stream else ()))
        answers = [await behind.ask(body, key, ("content-length", "1"))]
        if stream:
            await streamed(answers[0])
        await until_settled()
        answers.append(await behind.ask(body, key, ("content-length", "1")))
        assert ["idempotent-replay" in dict(answer.headers) for answer in answers] == [False, kept]


@pytest.mark.parametrize(
    ("body", "target"),
    [
        (form(speech(2.0), ("model", "whisper-1"), ("language", "en")), "transcriptions"),
        (form(speech(1.9), ("model", "whisper-1")), "transcriptions"),
        (SPOKEN, "translations"),
        (STREAMED, "transcriptions"),
    ],
)
async def test_another_request_under_the_same_key_is_refused(desk: Make, body: bytes, target: str) -> None:
    counted = Counted()
    behind = desk(counted, max_requests=9)
    await behind.ask(SPOKEN, AGAIN)
    answer = await behind.ask(body, AGAIN, target=target)
    assert error_of(answer) == (422, "idempotency_key_reused", "idempotency-key")
    assert counted.asked == 1


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "a\x7f", "ä", " x"])
async def test_a_key_that_is_none_is_refused_by_the_head(desk: Make, key: str) -> None:
    answer = await desk().ask(SPOKEN, ("idempotency-key", key))
    assert error_of(answer) == (400, "invalid_value", "idempotency-key")


async def test_a_keyed_request_whose_connection_breaks_is_done_for_whoever_comes_back(desk: Make) -> None:
    counted = Counted()
    counted.gate.clear()
    behind = desk(counted, max_requests=9, runs=Runs(linger_s=3_600.0))
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(behind.ask(SPOKEN, AGAIN))
        await until(lambda: counted.asked)
        asking.cancel()
    behind.exchanges[0].close()
    assert behind.admission.requests == 1
    counted.gate.set()
    assert (await behind.ask(SPOKEN, AGAIN)).status == 200
    assert counted.asked == 1
    await until(lambda: behind.admission.requests == 0)


async def test_nobody_coming_back_the_keyed_request_is_given_up(desk: Make) -> None:
    counted = Counted()
    counted.gate.clear()
    behind = desk(counted, max_requests=9, runs=Runs(linger_s=0.0))
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(behind.ask(SPOKEN, AGAIN))
        await until(lambda: counted.asked)
        asking.cancel()
    behind.exchanges[0].close()
    await until(lambda: behind.admission.requests == 0)
