"""`POST /v1/summaries` inside the envelope: who may ask, what is held meanwhile, and what is said when it fails."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import LogCapture

from core.errors import BackendError
from engine.access.api_keys import ApiKey, ApiKeys, digest
from engine.access.authority import Anyone, Authority, KeyHolders
from engine.api import SpeechApplication
from engine.gateway.admission import Admission
from engine.gateway.exchange import Answer, Head
from engine.openai.models import ModelCatalogue, ServedModel
from engine.speech.pipeline import SpeechPipeline
from engine.summaries.requests import MAX_BODY_BYTES, PATH
from engine.summaries.summariser import Summariser
from engine.telemetry import PREFIX, Telemetry
from tests.engine.fakes import FakeDecoder, FakeTranscriber
from tests.engine.gateway.fake_application import NOW, Clock
from tests.engine.summaries.fake_model import FakeInstruct
from tests.waiting import until

CANARY = "the canary sings at midnight"
BODY = json.dumps({"text": CANARY, "language": "en"}).encode()
JSON = {"content-type": "application/json"}


class Desk:
    """An application that writes summaries, and what is behind it."""

    def __init__(self, model: FakeInstruct | None = None, authority: Authority | None = None, **options: Any) -> None:
        self.model = model or FakeInstruct()
        self.telemetry = Telemetry("fake")
        self.admission = Admission(max_requests=4, max_body_bytes=3 * MAX_BODY_BYTES)
        defaults: dict[str, Any] = {
            "authority": authority or Anyone(),
            "max_request_bytes": 1000,
            "summariser": Summariser(self.model, self.telemetry.summaries),
            "request_timeout_s": 20.0,
        }
        catalogue = ModelCatalogue((ServedModel("whisper", 1),), "instruct")
        pipeline = SpeechPipeline(FakeTranscriber(), FakeDecoder())
        self.application = SpeechApplication(
            catalogue, pipeline, self.admission, self.telemetry.speech, **defaults | options
        )

    async def ask(self, body: bytes = BODY, method: str = "POST", **headers: str) -> Answer:
        head = Head(method, PATH, JSON | {name.replace("_", "-"): value for name, value in headers.items()})
        try:
            exchange = await self.application.open(head, source="")
        except Exception as exc:  # noqa: BLE001 - what the gateway does
            return self.application.refusal(exc, head)
        try:
            exchange.feed(body)
            return await exchange.answer()
        except Exception as exc:  # noqa: BLE001 - likewise
            return self.application.refusal(exc, head)
        finally:
            exchange.close()

    def counted(self, name: str, **labels: str) -> float:
        return self.telemetry.windowed.registry.get_sample_value(f"{PREFIX}_{name}", labels) or 0.0


def told(answer: Answer) -> Any:
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body)


def refused(answer: Answer) -> tuple[int, str, str | None]:
    error = told(answer)["error"]
    assert CANARY not in error["message"]
    return answer.status, error["code"], error["param"]


async def test_a_transcript_has_a_summary() -> None:
    desk = Desk()
    answer = await desk.ask(x_request_id="mine")
    assert answer.status == 200
    assert (told(answer)["model"], told(answer)["summary"], told(answer)["topics"]) == (
        *("instruct", "They greet."),
        ["greetings"],
    )
    headers = dict(answer.headers)
    assert (headers["content-type"], headers["x-request-id"]) == ("application/json", "mine")
    assert answer.processed
    assert (answer.processed().model, answer.processed().audio_s) == ("instruct", 0.0)
    assert desk.admission.requests == 0
    assert desk.counted("requests_total", backend="fake", endpoint="summaries", status="200") == 1
    assert desk.counted("request_duration_seconds_count", backend="fake", endpoint="summaries") == 1


async def test_without_a_model_there_is_no_such_thing() -> None:
    assert refused(await Desk(summariser=None).ask()) == (404, "not_found", None)


async def test_models_say_whether_there_is_one() -> None:
    application = Desk().application
    head = Head("GET", "/v1/models/whisper", {})
    exchange = await application.open(head, source="")
    assert told(await exchange.answer())["summaries"] == "instruct"
    exchange.close()


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"{", {}, (400, "invalid_value", None)),
        (b'{"text":""}', {}, (400, "missing_required_parameter", None)),
        (b'{"text":"a","model":"gpt"}', {}, (404, "model_not_found", "model")),
        (b'{"text":"a","language":"xx"}', {}, (400, "invalid_language", "language")),
        (b'{"text":"a","max_words":1000}', {}, (400, "invalid_value", "max_words")),
        (b'{"text":"a","max_topics":-1}', {}, (400, "invalid_value", "max_topics")),
        (BODY, {"content_type": "text/plain"}, (415, "unsupported_media_type", None)),
        (BODY, {"content_encoding": "gzip"}, (415, "unsupported_media_type", None)),
        (BODY, {"content_length": str(MAX_BODY_BYTES + 1)}, (413, "file_too_large", None)),
        (b" " * (MAX_BODY_BYTES + 1), {}, (413, "file_too_large", None)),
    ],
)
async def test_what_cannot_be_served_is_refused(
    body: bytes, headers: dict[str, str], expected: tuple[int, str, str | None]
) -> None:
    desk = Desk()
    assert refused(await desk.ask(body, **headers)) == expected
    assert not desk.model.asked
    assert desk.admission.requests == 0


async def test_only_post_is_served() -> None:
    answer = await Desk().ask(method="GET")
    assert refused(answer) == (405, "method_not_allowed", None)
    assert dict(answer.headers)["allow"] == "POST"


async def test_a_key_is_asked_for_and_its_requests_are_counted() -> None:
    key = ApiKey("one", digest("sk-1"), requests_per_minute=1)
    desk = Desk(authority=KeyHolders(ApiKeys(keys=(key,)), places=1, clock=Clock(NOW)))
    assert refused(await desk.ask()) == (401, "invalid_api_key", None)
    assert refused(await desk.ask(authorization="Bearer sk-2")) == (401, "invalid_api_key", None)
    first = await desk.ask(authorization="Bearer sk-1")
    assert (first.status, dict(first.headers)["x-ratelimit-remaining-requests"]) == (200, "0")
    assert refused(await desk.ask(authorization="Bearer sk-1"))[:2] == (429, "rate_limit_exceeded")
    assert len(desk.model.asked) == 1


async def test_a_model_that_fails_is_503_and_nothing_of_the_transcript_is_logged(log: LogCapture) -> None:
    desk = Desk(FakeInstruct(lambda _: BackendError("gone")))
    assert refused(await desk.ask()) == (503, "backend_unavailable", None)
    assert desk.counted("summary_failures_total") == 1
    assert log.entries
    assert CANARY not in str(log.entries)


async def test_a_model_that_takes_too_long_is_504() -> None:
    model = FakeInstruct(gate=asyncio.Event())
    desk = Desk(model, request_timeout_s=0.05)
    assert refused(await desk.ask()) == (504, "timeout", None)
    assert (model.live, model.cancelled) == (0, 1)


async def test_a_place_is_held_until_the_answer() -> None:
    model = FakeInstruct(gate=asyncio.Event())
    desk = Desk(model)
    task = asyncio.create_task(desk.ask())  # noqa: TID251  awaited below
    await until(lambda: model.live == 1)
    assert desk.admission.requests == 1
    assert model.gate
    model.gate.set()
    assert (await task).status == 200
    assert desk.admission.requests == 0
