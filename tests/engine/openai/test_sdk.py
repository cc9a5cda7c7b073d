"""OpenAI's own client against these modules alone: its multipart bodies in, its typed answers out, no sockets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import httpx2
import openai
import pytest
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent

from core.transcript.faults import Fault
from core.transcript.types import Task
from engine.openai.errors import ErrorCode, to_response
from engine.openai.events import CONTENT_TYPE, KEEP_ALIVE, error_event, event_stream
from engine.openai.fields import ParsedRequest, parse_transcription, parse_translation
from engine.openai.formats import render
from engine.openai.multipart import Form, MultipartReader
from engine.openai.rendering import Rendering
from engine.openai.subjects import param_of
from engine.types import Hearing, TextDelta, VoiceActivity
from tests.engine.openai.forms import AUDIO, CATALOGUE, SPOKEN, fault


class Service:
    """Answers every request with the same transcript, or with `error`; keeps what it was asked."""

    def __init__(self, error: Fault | None = None) -> None:
        self.error = error
        self.forms: list[Form] = []
        self.parsed: list[ParsedRequest] = []
        transport = httpx2.MockTransport(self._answer)
        self.client = openai.OpenAI(
            api_key="k", base_url="http://engine/v1", max_retries=0, http_client=httpx2.Client(transport=transport)
        )

    @property
    def asked(self) -> Hearing:
        return self.parsed[-1].hearing

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return self._respond(request)
        except Fault as error:
            refusal = to_response(error)
            return httpx2.Response(refusal.status, headers=dict(refusal.headers), content=refusal.body)

    def _respond(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.removeprefix("/v1")
        json_type = {"content-type": "application/json"}
        if path == "/models":
            return httpx2.Response(200, headers=json_type, content=CATALOGUE.list_body())
        if path.startswith("/models/"):
            body = CATALOGUE.retrieve_body(path.removeprefix("/models/"))
            return httpx2.Response(200, headers=json_type, content=body)
        parse = {"/audio/transcriptions": parse_transcription, "/audio/translations": parse_translation}[path]
        reader = MultipartReader(request.headers["content-type"])
        reader.feed(request.read())
        self.forms.append(reader.finish())
        self.parsed.append(parse(self.forms[-1], CATALOGUE))
        return self._stream() if self.parsed[-1].rendering.stream else self._whole()

    def _whole(self) -> httpx2.Response:
        if self.error is not None:
            raise self.error
        answer = render(SPOKEN, self.parsed[-1].rendering)
        return httpx2.Response(200, headers={"content-type": answer.content_type}, content=answer.body)

    def _stream(self) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": CONTENT_TYPE}, content=b"".join(self._events()))

    def _events(self) -> Iterable[bytes]:
        events = event_stream(self.asked, self.parsed[-1].rendering, request_id="r", created=1)
        yield KEEP_ALIVE
        yield events.delta(TextDelta(" Hello there."))
        if self.error is not None:
            yield error_event(self.error)
            return
        yield events.delta(TextDelta(" Good bye."))
        yield events.done(SPOKEN)


def test_a_plain_transcription() -> None:
    service = Service()
    answer = service.client.audio.transcriptions.create(file=AUDIO, model="whisper-1")
    assert answer.text == "Hello there. Good bye."
    assert service.forms[0].audio == bytearray(AUDIO)
    assert service.parsed == [ParsedRequest(Hearing(model="openai/whisper-large-v3"), Rendering(), 0)]


def test_every_parameter_of_the_sdk_arrives() -> None:
    service = Service()
    service.client.audio.transcriptions.create(
        file=("a.wav", AUDIO),
        model="whisper-1",
        chunking_strategy={"type": "server_vad", "threshold": 0.25, "prefix_padding_ms": 100},
        keywords=["Zoë", "Kyiv"],
        languages=["uk", "en"],
        language="uk",
        prompt="And",
        response_format="verbose_json",
        temperature=0.5,
        timestamp_granularities=["word", "segment"],
        extra_body={"seed": 3, "vad_filter": True, "nobody": "knows"},
    )
    asked = service.asked
    assert asked.voice_activity == VoiceActivity(threshold=0.25, prefix_padding_ms=100)
    assert asked.prompt == "Glossary: Zoë, Kyiv. And"
    assert (asked.language, asked.languages) == ("uk", ("uk", "en"))
    assert (asked.temperature, asked.sampling) == (0.5, {"seed": 3})
    assert service.parsed[-1].rendering.granularities == {"word", "segment"}
    assert service.parsed[0].unknown_fields == 1


def test_parameters_set_to_none_are_not_sent_as_values() -> None:
    service = Service()
    service.client.audio.transcriptions.create(file=AUDIO, model="whisper-1", chunking_strategy=None, stream=None)
    assert service.asked == Hearing(model="openai/whisper-large-v3")


def test_a_verbose_transcription_has_segments_and_words() -> None:
    answer = Service().client.audio.transcriptions.create(
        file=AUDIO, model="whisper-1", response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert [segment.id for segment in answer.segments or ()] == [0, 1]
    assert [word.word for word in answer.words or ()] == ["Hello", "there.", "Good bye."]
    assert answer.usage is not None
    assert answer.usage.seconds == 9


def test_the_language_that_was_heard_arrives() -> None:
    client = Service().client
    answer = client.audio.transcriptions.create(file=AUDIO, model="whisper-1", language="auto")
    assert [language.code for language in answer.languages or ()] == ["en"]
    with client.audio.transcriptions.create(file=AUDIO, model="whisper-1", stream=True) as events:
        done = list(events)[-1]
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert [language.code for language in done.languages or ()] == ["en"]


@pytest.mark.parametrize(
    "name", ['a"b.wav', "my take.wav", "a;name=x.wav", "a\\.wav", "Zoë; b.wav", "日本.wav", ".wav"]
)
def test_a_file_may_have_any_name(name: str) -> None:
    service = Service()
    service.client.audio.transcriptions.create(file=(name, AUDIO), model="whisper-1", prompt="Zoë")
    assert service.forms[0].audio == bytearray(AUDIO)
    assert service.asked.prompt == "Zoë"


def test_what_other_servers_call_it_goes_in_the_extra_body() -> None:
    service = Service()
    create = service.client.audio.transcriptions.create
    create(file=AUDIO, model="whisper-1", extra_body={"task": "translate", "initial_prompt": "Zoë", "diarize": False})
    assert (service.asked.task, service.asked.prompt) == (Task.TRANSLATE, "Zoë")
    with pytest.raises(openai.BadRequestError) as caught:
        create(file=AUDIO, model="whisper-1", extra_body={"diarize": True})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "diarize")
    assert "does not tell speakers apart" in str(caught.value)


def test_log_probabilities_arrive() -> None:
    answer = Service().client.audio.transcriptions.create(file=AUDIO, model="whisper-1", include=["logprobs"])
    assert answer.logprobs is not None
    assert answer.logprobs[0].logprob == -0.25


@pytest.mark.parametrize(
    ("kind", "start"),
    [("text", "Hello there. Good bye.\n"), ("srt", "1\n00:00:00,000"), ("vtt", "WEBVTT\n\n00:00:00.000")],
)
def test_the_text_formats_are_strings(kind: Literal["text", "srt", "vtt"], start: str) -> None:
    answer = Service().client.audio.transcriptions.create(file=AUDIO, model="whisper-1", response_format=kind)
    assert isinstance(answer, str)
    assert answer.startswith(start)


def test_a_stream_gives_deltas_and_the_whole() -> None:
    with Service().client.audio.transcriptions.create(file=AUDIO, model="whisper-1", stream=True) as events:
        first, second, done = list(events)
    assert isinstance(first, TranscriptionTextDeltaEvent)
    assert isinstance(second, TranscriptionTextDeltaEvent)
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert first.delta + second.delta == done.text
    assert done.usage is not None
    assert done.usage.type == "tokens"


def test_an_error_in_a_stream_is_raised_with_its_code() -> None:
    service = Service(fault(ErrorCode.TIMEOUT))
    events = service.client.audio.transcriptions.create(file=AUDIO, model="whisper-1", stream=True)
    with pytest.raises(openai.APIError) as caught:
        list(events)
    assert (caught.value.code, caught.value.type) == ("timeout", "server_error")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK has given up the method, its users have not
def test_a_translation() -> None:
    service = Service()
    assert service.client.audio.translations.create(file=AUDIO, model="whisper-1").text == "Hello there. Good bye."
    assert service.asked.task == "translate"


def test_models_are_listed_and_retrieved() -> None:
    client = Service().client
    assert next(iter(client.models.list())).id == "openai/whisper-large-v3"
    assert client.models.retrieve("whisper-1").created == 1_700_000_000
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-2")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


CLASSES = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    404: openai.NotFoundError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
}


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_reaches_the_caller_as_a_typed_exception(code: ErrorCode) -> None:
    service = Service(fault(code))
    with pytest.raises(openai.APIStatusError) as caught:
        service.client.audio.transcriptions.create(file=AUDIO, model="whisper-1")
    error = caught.value
    fallback = openai.InternalServerError if error.status_code >= 500 else openai.APIStatusError
    assert type(error) is CLASSES.get(error.status_code, fallback)
    assert (error.code, error.param) == (code.value, param_of(fault(code)))
