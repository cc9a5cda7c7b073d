"""What every job API takes beyond its own document, and how each tells it again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from core.transcript.types import Segment, Task, Transcript
from proxy.dialects.extensions import NAMES, ExtensionError, extended
from proxy.jobs.model import Capabilities, Job, JobOptions, JobResult, JobStatus, PersonalData, Priority
from tests.proxy.dialects.conftest import Apis, serving

ALL = Capabilities(words=True, diarize=True, summary=True, cut=True, redact=True)
HOOK = JobOptions(webhook_url="https://hooks.example/")
ASKED: dict[str, Any] = {
    "start_s": 1.5,
    "end_s": 60,
    "channels": True,
    "redact": ["email_address", "phone_number"],
    "metadata": {"order": "7"},
    "priority": "high",
    "delete_after_s": 3600,
}
WANTED = JobOptions(
    start_ms=1_500,
    end_ms=60_000,
    channels=True,
    redact=(PersonalData.EMAIL_ADDRESS, PersonalData.PHONE_NUMBER),
    metadata={"order": "7"},
    priority=Priority.HIGH,
    delete_after_ms=3_600_000,
)
AS_TEXT = {
    name: json.dumps(value) if name == "metadata" else ",".join(value) if name == "redact" else str(value)
    for name, value in ASKED.items()
}
SAID = Transcript(Task.TRANSCRIBE, "en", 60.0, "Hello. Hi.", (Segment(1.5, 2.0, "Hello."), Segment(3.0, 4.0, "Hi.")))
RESULT = JobResult(
    SAID,
    channels=(replace(SAID, text="Hello.", segments=SAID.segments[:1]), replace(SAID, text=" Hi.", segments=())),
    redacted={PersonalData.EMAIL_ADDRESS: 2, PersonalData.PHONE_NUMBER: 0},
)
TOLD = {
    "channels": [
        {"channel": 1, "text": "Hello.", "segments": [{"start": 1.5, "end": 2.0, "text": "Hello."}]},
        {"channel": 2, "text": "Hi.", "segments": []},
    ],
    "redacted": {"email_address": 2, "phone_number": 0},
}


@pytest.mark.parametrize("fields", [ASKED, AS_TEXT], ids=["json", "form"])
def test_each_is_taken_from_json_and_from_a_form(fields: dict[str, Any]) -> None:
    assert extended(JobOptions(), fields, ALL) == WANTED


def test_without_any_nothing_changes() -> None:
    assert extended(HOOK, {"language": "en", "start_s": "", "metadata": None}, Capabilities()) == HOOK


def test_all_kinds_may_be_named_at_once_and_one_twice() -> None:
    assert extended(JobOptions(), {"redact": "all"}, ALL).redact == tuple(PersonalData)
    assert extended(JobOptions(), {"redact": ["url", "url"]}, ALL).redact == (PersonalData.URL,)


def test_a_receiver_may_be_given_an_authorization() -> None:
    made = extended(HOOK, {"webhook_authorization": "Bearer mine"}, ALL)
    assert made.webhook_authorization == "Bearer mine"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("start_s", -1),
        ("start_s", "nan"),
        ("start_s", 36_000),
        ("end_s", 0),
        ("end_s", 36_001),
        ("end_s", "soon"),
        ("channels", "both"),
        ("redact", "names"),
        ("redact", 7),
        ("metadata", "no json"),
        ("metadata", '["a"]'),
        ("metadata", {"a": 1}),
        ("metadata", {"": "a"}),
        ("metadata", {"a": "x" * 513}),
        ("metadata", {f"{number}": "a" for number in range(17)}),
        ("priority", "urgent"),
        ("delete_after_s", -1),
        ("delete_after_s", 1.5),
        ("webhook_authorization", "Bearer a\r\nX-Other: b"),
        ("webhook_authorization", " "),
    ],
)
def test_another_value_is_refused_by_name_and_not_repeated(name: str, value: Any) -> None:
    with pytest.raises(ExtensionError) as caught:
        extended(HOOK, {name: value}, ALL)
    assert (caught.value.name, str(caught.value)) == (name, f"The value of {name} is not allowed.")


@pytest.mark.parametrize(
    ("options", "fields", "name"),
    [
        (JobOptions(), {"start_s": 2, "end_s": 2}, "end_s"),
        (JobOptions(), {"webhook_authorization": "Bearer a"}, "webhook_authorization"),
        (JobOptions(diarize=True), {"channels": True}, "channels"),
    ],
)
def test_what_does_not_go_together_is_refused(options: JobOptions, fields: dict[str, Any], name: str) -> None:
    with pytest.raises(ExtensionError) as caught:
        extended(options, fields, ALL)
    assert caught.value.name == name


@pytest.mark.parametrize("name", ["start_s", "end_s", "channels", "redact"])
def test_what_cannot_be_done_here_is_refused(name: str) -> None:
    with pytest.raises(ExtensionError, match=f"{name} is not available") as caught:
        extended(JobOptions(), {name: ASKED[name]}, replace(ALL, cut=False, redact=False))
    assert caught.value.lacking


def test_every_name_is_tried_here() -> None:
    assert set(NAMES) == {*ASKED, "webhook_authorization"}


def finished(job: Job) -> tuple[Job, JobResult | None]:
    return replace(job, status=JobStatus.COMPLETED, audio_ms=58_500), RESULT


def form(fields: dict[str, str]) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        data.add_field(name, value)
    data.add_field("file", b"sound", filename="recording.wav", content_type="audio/wav")
    return data


def asked_of(apis: Apis) -> JobOptions:
    """Without what the API itself puts in."""
    options = apis.jobs.submitted[-1].options
    return replace(options, words=False, min_audio_ms=0, webhook_url=None)


async def test_scriptivox_takes_them_and_tells_them_again() -> None:
    async with serving(ALL) as apis:
        answer = await apis.ask("POST", "/v1/transcribe", json={"url": "https://a.example/a.wav", **ASKED})
        assert (answer.status, asked_of(apis)) == (200, WANTED)
        job = answer.json()["id"]
        apis.jobs.outcome = finished
        told = (await apis.ask("GET", f"/v1/transcribe/{job}")).json()
        assert told["metadata"] == {"order": "7"}
        assert told["result"].items() >= TOLD.items()
        refused = await apis.ask("POST", "/v1/transcribe", json={"url": "https://a.example/a.wav", "priority": "1"})
        assert (refused.status, "priority" in refused.body.decode()) == (400, True)


async def test_audiototext_takes_them_and_tells_them_again() -> None:
    async with serving(ALL) as apis:
        answer = await apis.ask("POST", "/api/v1/transcribe/", data=form(AS_TEXT))
        assert (answer.status // 100, asked_of(apis)) == (2, WANTED)
        job = answer.json()["id"]
        assert (await apis.ask("GET", f"/api/v1/transcribe/{job}/")).json()["metadata"] == {"order": "7"}
        apis.jobs.outcome = finished
        told = (await apis.ask("GET", f"/api/v1/transcribe/{job}/")).json()
        assert told.items() >= {**TOLD, "metadata": {"order": "7"}}.items()
        refused = await apis.ask("POST", "/api/v1/transcribe/", data=form({"priority": "1"}))
        assert (refused.status, "priority" in refused.body.decode()) == (400, True)


async def test_privocio_takes_them_and_tells_them_again() -> None:
    async with serving(ALL) as apis:
        apis.jobs.outcome = finished
        answer = await apis.ask("POST", "/v1/transcriptions", data=form(AS_TEXT))
        assert (answer.status, asked_of(apis)) == (200, WANTED)
        assert answer.json().items() >= {**TOLD, "metadata": {"order": "7"}}.items()
        refused = await apis.ask("POST", "/v1/transcriptions", data=form({"priority": "1"}))
        assert (refused.status, "priority" in refused.body.decode()) == (400, True)
