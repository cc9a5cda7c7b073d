"""litellm as a client, in an environment of its own. One run makes all the calls; the tests look at what came of each.

`openai/` asks for `verbose_json` unless told otherwise, since litellm bills by its `duration`; `hosted_vllm/` does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from openai.types.audio import TranscriptionVerbose

from tests.clients.bodies import check_times, srt, vtt
from tests.e2e.processes import RECORDING, SAID
from tests.requirements import need
from tests.waiting import GIVE_UP_S

pytestmark = pytest.mark.slow

PYTHON = Path(sys.prefix) / "litellm" / "bin" / "python"
CALLS = Path(__file__).with_name("litellm_calls.py")
ROUTES = ("openai", "hosted_vllm")
# Nothing of litellm's own may be fetched or sent.
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "NO_PROXY": "*"}


@pytest.fixture(scope="module")
def outcomes(base_url: str) -> dict[str, Any]:
    need(PYTHON.exists(), "litellm in an environment of its own: `make clients`, with a registry")
    command = (str(PYTHON), str(CALLS), base_url, str(RECORDING))
    output = subprocess.run(
        command, check=True, capture_output=True, timeout=GIVE_UP_S, env=os.environ | OFFLINE
    ).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("call", ["default", "alias", "json", "segments", "words", "async"])
def test_a_recording_becomes_text(outcomes: dict[str, Any], route: str, call: str) -> None:
    assert outcomes[f"{route} {call}"]["value"]["text"] == SAID


@pytest.mark.parametrize("route", ROUTES)
def test_verbose_json_has_duration_segments_and_words(outcomes: dict[str, Any], route: str) -> None:
    answer = outcomes[f"{route} words"]["value"]
    assert answer["language"] == "english"
    for name in ("segments", "words"):
        check_times([(piece["start"], piece["end"]) for piece in answer[name]], answer["duration"])
    assert [word["word"] for word in answer["words"]] == SAID.split()


@pytest.mark.parametrize("route", ROUTES)
def test_text_formats_arrive_as_they_were_sent(outcomes: dict[str, Any], route: str) -> None:
    segments = TranscriptionVerbose.model_validate(outcomes[f"{route} segments"]["value"]).segments
    assert segments
    for call, sent in (("text", f"{SAID}\n"), ("srt", srt(segments)), ("vtt", vtt(segments))):
        assert outcomes[f"{route} {call}"]["value"]["text"] == sent


@pytest.mark.parametrize("route", ROUTES)
def test_a_model_that_is_not_served_raises_not_found(outcomes: dict[str, Any], route: str) -> None:
    assert outcomes[f"{route} unknown_model"] == {"raised": "NotFoundError", "status": 404}
