"""`docs/openai.md` says of live sessions what the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from core.transcript.types import Task, Transcript
from engine.openai.models import ModelCatalogue, ServedModel
from engine.realtime.door import DEFAULT_LIFE_S, MAX_LIFE_S, MIN_LIFE_S
from engine.realtime.events import MAX_AUDIO_BYTES, Events, parse
from engine.realtime.refusals import Named, nothing_to_commit
from engine.realtime.session import MIN_COMMIT_MS
from engine.realtime.settings import (
    LOGPROBS,
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    ServerVad,
    SessionSettings,
    Shape,
    default_settings,
    session_object,
)
from engine.realtime.updates import MAX_PREFIX_MS, MAX_SILENCE_MS, updated
from engine.types import Detail
from tests.places import ROOT

SECTION = (ROOT / "docs" / "openai.md").read_text().partition("\n## Live sessions\n")[2].partition("\n## ")[0]
MEMBERS = re.findall(r"^\| `([^`|]+)` \| (?:`([^`|]+)`)? ?\| (served|told) \| (.*)\|$", SECTION, re.MULTILINE)
APP = re.findall(r"^\| `([^`|]+)` \| (served|refused) \| .*\|$", SECTION, re.MULTILINE)
SENT = re.findall(r"^\| `([^`|]+)` \| (sent|never) \|(.*)\|$", SECTION, re.MULTILINE)
MODELS = ModelCatalogue((ServedModel("whisper", created=1, details=frozenset(Detail)),))

ASKED: dict[str, Any] = {
    "transcription": {
        "model": "whisper",
        "language": "en",
        "languages": ["en"],
        "keywords": ["Sottovoce"],
        "prompt": "Notes.",
        "delay": "low",
    },
    "noise_reduction": {"type": "near_field"},
}
ANSWERS = {"create_response": True, "interrupt_response": True}
TURNS: tuple[dict[str, object], ...] = (
    {
        "type": "server_vad",
        "threshold": 0.4,
        "prefix_padding_ms": 200,
        "silence_duration_ms": 400,
        "idle_timeout_ms": 5_000,
        **ANSWERS,
    },
    {"type": "semantic_vad", "eagerness": "low", **ANSWERS},
)


def everything(shape: Shape) -> Iterator[SessionSettings]:
    """Settings in which every member has been set, with one turn detection and the other."""
    for turns in TURNS:
        if shape is Shape.GA:
            heard = ASKED | {"format": {"type": "audio/pcm", "rate": 16_000}, "turn_detection": turns}
            session = {"type": "transcription", "audio": {"input": heard}, "include": [LOGPROBS]}
        else:
            older = {f"input_audio_{name}": value for name, value in ASKED.items()}
            session = older | {"input_audio_format": "pcm16", "turn_detection": turns, "include": [LOGPROBS]}
        yield updated(default_settings(MODELS), session, shape, MODELS)


def flat(told: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in told.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.mark.parametrize("shape", Shape)
def test_every_member_that_is_documented_is_told_back_and_no_other_is(shape: Shape) -> None:
    named = {older if shape is Shape.BETA else name for name, older, *_ in MEMBERS} - {""}
    told = {
        member
        for settings in everything(shape)
        for member in flat(session_object(settings, shape, session_id="sess_1", expires_at=1))
    }
    assert told - {"id", "object", "expires_at", "modalities"} == named


@pytest.mark.parametrize("member", [name for name, _, here, _ in MEMBERS if here == "told"])
def test_what_is_called_told_changes_nothing_that_is_heard(member: str) -> None:
    inside: Any = True if member.endswith("response") else 5_000 if member.endswith("_ms") else "near_field"
    for name in reversed(member.split(".")):
        inside = {name: inside}
    usual = default_settings(MODELS)
    new = updated(usual, {"type": "transcription", **inside}, Shape.GA, MODELS)
    assert new != usual
    assert (new.hearing, new.format, new.interim_interval_s) == (usual.hearing, usual.format, usual.interim_interval_s)
    assert isinstance(new.turn_detection, ServerVad)
    assert new.turn_detection.silence_duration_ms == ServerVad().silence_duration_ms


def test_the_figures_of_the_members_are_the_codes() -> None:
    said = {name.rpartition(".")[2]: text for name, _, _, text in MEMBERS}
    usual = ServerVad()
    assert f"{MIN_RATE_HZ} to {MAX_RATE_HZ}" in said["rate"]
    assert f"{usual.threshold:g} by default" in said["threshold"]
    assert f"0 to {MAX_PREFIX_MS}; {usual.prefix_padding_ms} by default" in said["prefix_padding_ms"]
    assert f"0 to {MAX_SILENCE_MS}; {usual.silence_duration_ms} by default" in said["silence_duration_ms"]
    assert f"({MIN_LIFE_S} to {MAX_LIFE_S}; {DEFAULT_LIFE_S} by default)" in SECTION
    assert f"At most {MAX_AUDIO_BYTES // 2**20} MiB" in SECTION
    assert f"At least {MIN_COMMIT_MS:g} ms" in SECTION


def test_every_event_that_an_app_may_send_has_its_line() -> None:
    answers = {name: parse(json.dumps({"type": name.replace("*", "create")}).encode()) for name, _ in APP}
    refused = {name for name, answer in answers.items() if isinstance(answer, Named) and answer.refusal.param == "type"}
    assert refused == {name for name, here in APP if here == "refused"}
    unknown = parse(b'{"type": "nonsense"}')
    assert isinstance(unknown, Named)
    assert set(re.findall(r"'([a-z_.]+)'", unknown.refusal.message)) - {"type"} == {
        name for name, here in APP if here == "served"
    }


def test_every_event_of_a_session_has_its_line_with_its_members() -> None:
    (settings, _) = everything(Shape.GA)
    events = Events(Shape.GA, lambda kind: kind)
    sent = [
        *(events.session(what, settings, session_id="s", expires_at=1) for what in ("created", "updated")),
        events.speech_started("i", 1),
        events.speech_stopped("i", 1),
        *events.committed("i", None),
        events.cleared(),
        events.delta("i", "text", ()),
        events.completed("i", Transcript(Task.TRANSCRIBE, "en", 1.0, "text", ()), logprobs=True),
        events.failed("i", nothing_to_commit(0)),
        events.error(Named(nothing_to_commit(0), None)),
    ]
    told = {event.pop("type"): set(event) - {"event_id"} for event in map(json.loads, sent)}
    named = {name: set(re.findall(r"`(\w+)`", text.partition(":")[0])) for name, here, text in SENT if here == "sent"}
    assert told == named
