"""OpenAI's Python SDK, sync and async, in front of the shipped programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.audio import Transcription, TranscriptionVerbose, Translation, TranslationVerbose

from tests.clients.bodies import check_events, check_verbose, srt, vtt
from tests.clients.conftest import ALIAS
from tests.e2e.processes import RECORDING, SAID

pytestmark = pytest.mark.slow

NOT_AUDIO = ("notes.wav", b"these bytes are no recording")


def verbose(client: openai.OpenAI, file: Path = RECORDING) -> TranscriptionVerbose:
    return client.audio.transcriptions.create(
        model="nano", file=file, language="en", response_format="verbose_json", timestamp_granularities=["segment"]
    )


def test_a_recording_becomes_text(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(model="nano", file=RECORDING)
    assert isinstance(answer, Transcription)
    assert answer.text == SAID
    assert answer.usage is not None
    assert answer.usage.type == "duration"


def test_a_model_answers_to_its_alias(client: openai.OpenAI) -> None:
    assert client.audio.transcriptions.create(model=ALIAS, file=RECORDING).text == SAID
    assert client.models.retrieve(ALIAS).id == ALIAS


@pytest.mark.parametrize(
    "file",
    [RECORDING, RECORDING.read_bytes(), ("a.wav", RECORDING.read_bytes()), ("ä ö.bin", RECORDING.read_bytes())],
    ids=["path", "bytes", "name and bytes", "a name that says nothing"],
)
def test_a_file_may_be_given_in_any_form(client: openai.OpenAI, file: Any) -> None:
    assert client.audio.transcriptions.create(model="nano", file=file).text == SAID


def test_an_open_file_may_be_given(client: openai.OpenAI) -> None:
    with RECORDING.open("rb") as file:
        assert client.audio.transcriptions.create(model="nano", file=file).text == SAID


def test_text_is_plain_text(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(model="nano", file=RECORDING, response_format="text")
    assert answer == f"{SAID}\n"


def test_subtitles_are_the_segments_in_their_formats(client: openai.OpenAI) -> None:
    segments = verbose(client).segments
    assert segments
    for response_format, write in (("srt", srt), ("vtt", vtt)):
        answer = client.audio.transcriptions.create(
            model="nano",
            file=RECORDING,
            language="en",
            response_format=response_format,  # type: ignore[call-overload]
        )
        assert answer == write(segments)


def test_verbose_json_has_segments_and_no_words(client: openai.OpenAI) -> None:
    check_verbose(verbose(client), SAID)


def test_verbose_json_has_words_where_they_are_asked_for(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        model="nano",
        file=RECORDING,
        language="en",
        response_format="verbose_json",
        timestamp_granularities=["segment", "word"],
    )
    check_verbose(answer, SAID, words=True)


def test_words_alone_come_without_segments(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        model="nano", file=RECORDING, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert answer.segments is None
    assert answer.words


def test_a_stream_adds_up_to_the_text(client: openai.OpenAI) -> None:
    with client.audio.transcriptions.create(model="nano", file=RECORDING, stream=True) as stream:
        check_events(list(stream), SAID)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("response_format", "kind"),
    [("json", Translation), ("verbose_json", TranslationVerbose), ("text", str), ("srt", str), ("vtt", str)],
)
def test_a_translation_has_all_formats(client: openai.OpenAI, response_format: Any, kind: type) -> None:
    answer: object = client.audio.translations.create(model="nano", file=RECORDING, response_format=response_format)
    assert isinstance(answer, kind)
    if isinstance(answer, TranslationVerbose):
        assert answer.language == "english"


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["nano", ALIAS]
    assert client.models.retrieve("nano").owned_by == "sottovoce"


ASYNC_FIELDS = [
    {},
    {"model": ALIAS},
    {"response_format": "verbose_json"},
    {"response_format": "json", "chunking_strategy": "auto"},
]


@pytest.mark.parametrize("fields", ASYNC_FIELDS, ids=str)
async def test_the_async_client_gets_the_same_text(async_client: openai.AsyncOpenAI, fields: Any) -> None:
    answer = await async_client.audio.transcriptions.create(**{"model": "nano", "file": RECORDING} | fields)
    assert answer.text == SAID


@pytest.mark.parametrize("response_format", ["text", "srt", "vtt"])
async def test_the_async_client_gets_text_formats(async_client: openai.AsyncOpenAI, response_format: Any) -> None:
    answer = await async_client.audio.transcriptions.create(
        model="nano", file=RECORDING, response_format=response_format
    )
    assert isinstance(answer, str)
    assert set(SAID.split()) <= set(answer.split())


async def test_the_async_client_streams(async_client: openai.AsyncOpenAI) -> None:
    stream = await async_client.audio.transcriptions.create(model="nano", file=RECORDING, stream=True)
    check_events([event async for event in stream], SAID)


async def test_the_async_client_lists_and_retrieves_models(async_client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in async_client.models.list()] == ["nano", ALIAS]
    assert (await async_client.models.retrieve("nano")).id == "nano"


BAD = openai.BadRequestError
REFUSED: list[tuple[dict[str, Any], type[openai.APIStatusError], int, str, str]] = [
    ({"model": "absent"}, openai.NotFoundError, 404, "model_not_found", "model"),
    ({"file": NOT_AUDIO}, BAD, 400, "unsupported_file", "file"),
    ({"file": ("a.wav", b"")}, BAD, 400, "audio_too_short", "file"),
    ({"file": ("a.wav", bytes(26_214_401))}, openai.APIStatusError, 413, "file_too_large", "file"),
    ({"language": "klingon"}, BAD, 400, "invalid_language", "language"),
    ({"response_format": "yaml"}, BAD, 400, "invalid_value", "response_format"),
    ({"response_format": "diarized_json"}, BAD, 400, "unsupported_value", "response_format"),
    ({"temperature": 2}, BAD, 400, "invalid_value", "temperature"),
    ({"timestamp_granularities": ["word"]}, BAD, 400, "invalid_value", "timestamp_granularities"),
    ({"stream": True, "response_format": "verbose_json"}, BAD, 400, "unsupported_value", "stream"),
    ({"include": ["logprobs"], "response_format": "srt"}, BAD, 400, "unsupported_value", "include"),
    ({"known_speaker_names": ["Ada"]}, BAD, 400, "unsupported_parameter", "known_speaker_names"),
]


@pytest.mark.parametrize(("fields", "kind", "status", "code", "param"), REFUSED, ids=[row[3] for row in REFUSED])
def test_a_refusal_raises_its_class_with_code_and_field(
    *,
    client: openai.OpenAI,
    fields: dict[str, Any],
    kind: type[openai.APIStatusError],
    status: int,
    code: str,
    param: str,
) -> None:
    sent: dict[str, Any] = {"model": "nano", "file": RECORDING} | fields
    with pytest.raises(openai.APIStatusError) as raised:
        client.audio.transcriptions.create(**sent)
    error = raised.value
    assert type(error) is kind
    assert (error.status_code, error.code, error.param, error.type) == (status, code, param, "invalid_request_error")
    assert error.request_id


def test_what_is_not_served_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.embeddings.create(model="nano", input="hello")
    assert raised.value.code == "not_found"
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("absent")
    assert raised.value.code == "model_not_found"


def test_every_answer_has_a_request_id_of_its_own(client: openai.OpenAI) -> None:
    answers = [client.audio.transcriptions.create(model="nano", file=RECORDING) for _ in range(2)]
    assert len({answer._request_id for answer in answers} - {None}) == 2


def test_a_request_id_that_the_app_chose_is_kept(client: openai.OpenAI) -> None:
    chosen = {"X-Request-ID": "meeting-42"}
    raw = client.audio.transcriptions.with_raw_response
    answer = raw.create(model="nano", file=RECORDING, extra_headers=chosen)
    assert answer.headers["x-request-id"] == "meeting-42"
    with pytest.raises(openai.BadRequestError) as raised:
        raw.create(model="nano", file=NOT_AUDIO, extra_headers=chosen)
    assert raised.value.request_id == "meeting-42"
