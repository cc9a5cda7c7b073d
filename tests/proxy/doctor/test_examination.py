"""The whole examination, against an engine that is in order and against everything broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from rich.console import Console

from attestation.statement import ModelIdentity
from core.program.run import ExitCode
from core.program.settings import SettingsError
from proxy.doctor.examination import examine
from proxy.doctor.findings import Finding, Level, exit_code, fail, ok
from proxy.doctor.report import tell
from proxy.doctor.speech import SAID
from proxy.settings import ProxySettings
from tests.attestation.servers import http_answer, raw_server
from tests.proxy.conftest import StartProxy
from tests.proxy.fake_engine import JSON_HEADERS, FakeEngine, Play, Reply, Script, outer


def settings(engine: FakeEngine, policy: Path, **options: Any) -> ProxySettings:
    defaults: dict[str, Any] = {"engine": engine.url, "policy": policy, "status_listen": "127.0.0.1:9"}
    return ProxySettings(**(defaults | options))


async def examined(told: ProxySettings | SettingsError, **options: Any) -> dict[str, Finding]:
    return {finding.subject: finding async for finding in examine(told, **options)}


def answering(body: object, status: int = 200) -> Play:
    async def play(reply: Reply) -> web.StreamResponse:
        await reply.head(status, JSON_HEADERS)
        await reply.content(json.dumps(body).encode())
        return await reply.end()

    return play


async def test_everything_in_order_ends_with_the_sentence(engine: FakeEngine, policy: Path) -> None:
    engine.scripts.append(Script(play=answering({"text": SAID.upper()})))
    found = await examined(settings(engine, policy))
    assert exit_code(found.values()) is ExitCode.ACCEPTED
    assert list(found)[-1] == "test sentence"
    assert found["test sentence"].level is Level.OK
    assert "22 of 22 words" in found["test sentence"].detail
    (received,) = engine.received
    assert b"OggS" in received.content
    assert b"whisper-fake" in received.content


async def test_every_line_that_is_not_in_order_says_what_to_do(engine: FakeEngine, policy: Path) -> None:
    engine.config_changes["log_level"] = "debug"
    found = await examined(settings(engine, policy))
    assert exit_code(found.values()) is ExitCode.REFUSED
    assert all(finding.cure for finding in found.values() if finding.level in (Level.WARN, Level.FAIL))
    assert engine.received == []


@pytest.mark.parametrize(
    ("script", "level", "detail"),
    [
        (Script(play=answering({"text": "la la la"})), Level.WARN, "0 of 22"),
        (Script(play=answering({"text": SAID[: len(SAID) // 2]})), Level.WARN, "words"),
        (Script(play=answering({"error": {"code": "overloaded"}}, 503)), Level.FAIL, "503: overloaded"),
        (Script(play=answering(["canary"], 500)), Level.FAIL, "500: without a code"),
        (Script(play=answering({"canary": 1})), Level.FAIL, "no transcript"),
        (Script(play=answering({}, 401)), Level.SKIP, "API key"),
        (outer(400), Level.FAIL, "upstream_protocol_error"),
        (outer(503), Level.FAIL, "engine_unavailable"),
        (outer(422), Level.FAIL, "upstream_key_mismatch"),
    ],
)
async def test_what_becomes_of_the_sentence(
    script: Script, level: Level, detail: str, engine: FakeEngine, policy: Path
) -> None:
    engine.default = script
    found = (await examined(settings(engine, policy)))["test sentence"]
    assert (found.level, detail in found.detail) == (level, True), found
    assert found.cure
    assert "canary" not in found.detail


async def test_an_api_key_that_is_not_known_fails(
    engine: FakeEngine, policy: Path, secret_file: Callable[[str], str]
) -> None:
    engine.default = Script(play=answering({}, 401))
    found = (await examined(settings(engine, policy, api_key=secret_file("canary"))))["test sentence"]
    assert found.level is Level.FAIL
    assert engine.received[0].header("authorization") == "Bearer canary"
    assert "canary" not in str(found)


async def test_an_engine_without_models_hears_nothing(engine: FakeEngine, policy: Path) -> None:
    empty: tuple[ModelIdentity, ...] = ()
    engine.statement_changes["models"] = empty
    assert (await examined(settings(engine, policy)))["test sentence"].level is Level.FAIL


async def test_no_sentence_is_sent_unless_asked_for(engine: FakeEngine, policy: Path) -> None:
    found = await examined(settings(engine, policy), sentence=False)
    assert found["test sentence"].level is Level.SKIP
    assert engine.received == []


async def test_without_settings_nothing_else_is_looked_at() -> None:
    found = await examined(SettingsError([("engine", "no such thing"), ("", "nor that")]))
    assert found.keys() == {"--engine", "settings"}
    assert exit_code(found.values()) is ExitCode.USAGE


async def test_without_a_policy_no_engine_is_spoken_to(engine: FakeEngine, policy: Path) -> None:
    policy.write_text("broken")
    found = await examined(settings(engine, policy))
    assert exit_code(found.values()) is ExitCode.USAGE
    assert found["engine"].level is Level.SKIP
    assert engine.attestations == 0


async def test_without_an_engine_nothing_is_attested(policy: Path) -> None:
    engine = FakeEngine()
    engine.url = "http://127.0.0.1:9"
    found = await examined(settings(engine, policy))
    assert exit_code(found.values()) is ExitCode.INTERNAL
    assert found["attestation"].level is Level.SKIP


async def test_a_proxy_that_runs_is_told_how_it_does(engine: FakeEngine, policy: Path, start_proxy: StartProxy) -> None:
    engine.attestation_gate.clear()
    async with start_proxy() as proxy:
        told = settings(engine, policy, status_listen=str(proxy.status_address))
        findings = examine(told, sentence=False)
        found = [await anext(findings) for _ in range(6)][-1]
        assert (found.subject, found.level) == ("proxy", Level.WARN)
        assert "not engine attested" in found.detail
        engine.attestation_gate.set()
        await proxy.trust.engine()
        assert (await examined(told, sentence=False))["proxy"].level is Level.OK


async def test_what_is_no_proxy_at_its_address_is_told_of(engine: FakeEngine, policy: Path) -> None:
    async with raw_server(http_answer(b"canary " * 20_000, "500 X")) as server:
        told = settings(engine, policy, status_listen=server.url.removeprefix("http://"))
        assert (await examined(told, sentence=False))["proxy"].level is Level.SKIP


async def _findings(*findings: Finding) -> Any:
    for finding in findings:
        yield finding


async def test_findings_are_told_to_people_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    findings = _findings(ok("one", "good"), fail("two", "bad \x1b[31m", "mend it", ExitCode.REFUSED))
    assert await tell(findings, as_json=False, console=Console(width=200)) is ExitCode.REFUSED
    printed = capsys.readouterr().out
    assert "-> mend it" in printed
    assert "\x1b" not in printed


async def test_findings_are_told_to_programs_as_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    await tell(_findings(ok("one", "good"), fail("two", "bad", "mend it")), as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "version": 1,
        "exit_code": 1,
        "findings": [
            {"subject": "one", "level": "ok", "detail": "good", "cure": ""},
            {"subject": "two", "level": "fail", "detail": "bad", "cure": "mend it"},
        ],
    }
