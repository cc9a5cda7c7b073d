"""curl, as in every example of the API."""

from __future__ import annotations

import json
import subprocess

import pytest
from openai.types.audio import Transcription, TranscriptionVerbose

from tests.clients.bodies import check_events, check_verbose, events, srt, vtt
from tests.clients.conftest import ALIAS, KEY
from tests.e2e.processes import RECORDING, SAID
from tests.requirements import need_program

pytestmark = pytest.mark.slow

FILE = ("-F", f"file=@{RECORDING}")
VERBOSE = (*FILE, "-F", "language=en", "-F", "response_format=verbose_json")


def curl(*arguments: str) -> bytes:
    need_program("curl")
    command = ("curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30", *arguments)
    return subprocess.run(command, check=True, capture_output=True).stdout


def transcribed(base_url: str, *arguments: str) -> bytes:
    return curl(f"{base_url}/audio/transcriptions", "-H", f"Authorization: Bearer {KEY}", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        (*FILE, "-F", "model=nano"),
        (*FILE, "-F", f"model={ALIAS}"),
        FILE,
        ("-F", f"file=@{RECORDING};type=audio/wav;filename=meeting.wav"),
        (*FILE, "-F", "model=nano", "-H", "Expect: 100-continue"),
        (*FILE, "-F", "model=nano", "-H", "Transfer-Encoding: chunked"),
        (*FILE, "-F", "model=nano", "--http1.0"),
        (*FILE, "-F", "model=nano", "-H", "Authorization:"),
    ],
    ids=[
        "as documented",
        "by an alias",
        "without a model",
        "with a type",
        "Expect",
        "chunked",
        "HTTP/1.0",
        "without a key",
    ],
)
def test_a_form_becomes_text(base_url: str, arguments: tuple[str, ...]) -> None:
    answer = Transcription.model_validate_json(transcribed(base_url, *arguments), strict=True)
    assert answer.text == SAID


def test_text_is_the_words_and_a_line_feed(base_url: str) -> None:
    assert transcribed(base_url, *FILE, "-F", "response_format=text") == f"{SAID}\n".encode()


def test_subtitles_are_the_segments_in_their_formats(base_url: str) -> None:
    segments = TranscriptionVerbose.model_validate_json(transcribed(base_url, *VERBOSE)).segments
    assert segments
    for response_format, write in (("srt", srt), ("vtt", vtt)):
        body = transcribed(base_url, *FILE, "-F", "language=en", "-F", f"response_format={response_format}")
        assert body.decode() == write(segments)


@pytest.mark.parametrize("name", ["timestamp_granularities[]", "timestamp_granularities"])
def test_words_are_asked_for_with_brackets_or_without(base_url: str, name: str) -> None:
    body = transcribed(base_url, *VERBOSE, "-F", f"{name}=word", "-F", f"{name}=segment")
    check_verbose(TranscriptionVerbose.model_validate_json(body, strict=True), SAID, words=True)


def test_a_stream_is_events_and_done(base_url: str) -> None:
    check_events(events(transcribed(base_url, *FILE, "-F", "stream=true", "--no-buffer")), SAID)


@pytest.mark.parametrize(
    ("fields", "content_type"),
    [
        (("response_format=json",), "application/json"),
        (("response_format=verbose_json",), "application/json"),
        (("response_format=text",), "text/plain; charset=utf-8"),
        (("response_format=srt",), "text/plain; charset=utf-8"),
        (("response_format=vtt",), "text/vtt; charset=utf-8"),
        (("stream=true",), "text/event-stream; charset=utf-8"),
        (("model=absent",), "application/json"),
    ],
)
def test_every_answer_says_what_it_is(base_url: str, fields: tuple[str, ...], content_type: str) -> None:
    forms = [argument for field in fields for argument in ("-F", field)]
    written = "\n%{content_type}\n%header{x-request-id}"
    *_, said, request_id = transcribed(base_url, *FILE, *forms, "--write-out", written).decode().split("\n")
    assert said == content_type
    assert request_id.startswith("req_")


def test_a_refusal_ends_curl_with_the_envelope(base_url: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        transcribed(base_url, *FILE, "-F", "model=absent", "--fail-with-body")
    assert raised.value.returncode == 22
    assert json.loads(raised.value.stdout)["error"].keys() == {"message", "type", "param", "code"}


def test_models_are_listed(base_url: str) -> None:
    assert [model["id"] for model in json.loads(curl(f"{base_url}/models"))["data"]] == ["nano", ALIAS]
