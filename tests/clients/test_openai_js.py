"""OpenAI's JavaScript SDK. One run of Node makes all the calls; the tests look at what came of each."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from openai.types import Model
from openai.types.audio import Transcription, TranscriptionStreamEvent, TranscriptionVerbose, Translation
from pydantic import TypeAdapter

from tests.clients.bodies import check_events, check_verbose, srt, vtt
from tests.clients.conftest import ALIAS
from tests.e2e.processes import RECORDING, SAID
from tests.requirements import need, need_program
from tests.waiting import GIVE_UP_S

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "js"


@pytest.fixture(scope="module")
def outcomes(base_url: str) -> dict[str, Any]:
    need_program("node")
    need((HERE / "node_modules" / "openai").is_dir(), "the npm package openai: `make clients`, with npm and a registry")
    command = ("node", "calls.js", base_url, str(RECORDING))
    output = subprocess.run(command, check=True, capture_output=True, cwd=HERE, timeout=GIVE_UP_S).stdout
    found: dict[str, Any] = json.loads(output)
    return found


def test_a_recording_becomes_text(outcomes: dict[str, Any]) -> None:
    assert Transcription.model_validate(outcomes["json"]["value"], strict=True).text == SAID
    assert outcomes["alias"]["value"]["text"] == SAID
    assert outcomes["text"]["value"] == f"{SAID}\n"
    Translation.model_validate(outcomes["translation"]["value"], strict=True)


@pytest.mark.parametrize(("call", "words"), [("segments", False), ("words", True)])
def test_verbose_json_has_what_was_asked_for(outcomes: dict[str, Any], call: str, words: bool) -> None:
    check_verbose(TranscriptionVerbose.model_validate(outcomes[call]["value"]), SAID, words=words)


def test_subtitles_are_the_segments_in_their_formats(outcomes: dict[str, Any]) -> None:
    segments = TranscriptionVerbose.model_validate(outcomes["segments"]["value"]).segments
    assert segments
    assert outcomes["srt"]["value"] == srt(segments)
    assert outcomes["vtt"]["value"] == vtt(segments)


def test_a_stream_adds_up_to_the_text(outcomes: dict[str, Any]) -> None:
    events: TypeAdapter[list[TranscriptionStreamEvent]] = TypeAdapter(list[TranscriptionStreamEvent])
    check_events(events.validate_python(outcomes["stream"]["value"], strict=True), SAID)


def test_models_are_listed_and_retrieved(outcomes: dict[str, Any]) -> None:
    models = [Model.model_validate(model, strict=True) for model in outcomes["models"]["value"]]
    assert [model.id for model in models] == ["nano", ALIAS]
    assert Model.model_validate(outcomes["model"]["value"], strict=True) == models[0]


@pytest.mark.parametrize(
    ("call", "raised", "status", "code", "param"),
    [
        ("unknown_model", "NotFoundError", 404, "model_not_found", "model"),
        ("bad_field", "BadRequestError", 400, "invalid_value", "temperature"),
    ],
)
def test_a_refusal_raises_its_class_with_code_and_field(
    *, outcomes: dict[str, Any], call: str, raised: str, status: int, code: str, param: str
) -> None:
    outcome = outcomes[call]
    assert outcome.pop("requestID").startswith("req_")
    assert outcome == {
        "raised": raised,
        "status": status,
        "code": code,
        "param": param,
        "type": "invalid_request_error",
    }
