"""`sottovoce-attest` says what it found, leaves with the right code, and never shows a skipped check as passed."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from attestation import insecure
from attestation.bundle import Bundle, parse_bundle
from attestation.cli.main import app
from attestation.cli.verdict import STYLES
from attestation.statement import encode_statement
from attestation.types import CheckStatus, Nonce, StatementBytes
from core.program.run import project_version
from tests.attestation.samples import NONCE, NOW, OTHER_NONCE, attested, statement_with
from tests.attestation.servers import attesting, http_answer, raw_server
from tests.attestation.test_verification import STEPS
from tests.proxy.certificates import write_certificate

# The engines that run here would write into what the program writes.
pytestmark = pytest.mark.usefixtures("log", "logging_as_it_was")

ACCEPTED, INTERNAL, USAGE, REFUSED = 0, 1, 2, 10
MEMBERS = {
    "version": int,
    "verdict": str,
    "reason": str | None,
    "insecure": bool,
    "strict": bool,
    "origin": str,
    "policy_sha256": str,
    "nonce": str | None,
    "judged_at": str | None,
    "evidence_kind": str | None,
    "expires_at": str | None,
    "claims": dict,
    "keys": list,
    "checks": list,
}
POLICY = "version = 1\n[insecure]\naccept = true\n"
LIVE = replace(statement_with(), not_after=int(time.time()) + 3600)
SAVED = Bundle(NONCE, int(NOW.timestamp()), attested())


def _attest(*arguments: str | Path, **variables: str) -> Result:
    environment = {"COLUMNS": "200", "NO_COLOR": "", **variables}
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)


async def _beside(*arguments: str | Path, **variables: str) -> Result:
    """Run while this event loop serves."""
    return await asyncio.to_thread(_attest, *arguments, **variables)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return _written(tmp_path / "policy.toml", POLICY.encode())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return _written(tmp_path / "bundle.json", SAVED.encode())


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _verdict(result: Result) -> dict[str, Any]:
    """The machine form, whose members are always the same."""
    verdict = json.loads(result.stdout)
    assert list(verdict) == list(MEMBERS)
    for name, kind in MEMBERS.items():
        assert isinstance(verdict[name], kind), name
    for number, check in enumerate(verdict["checks"], 1):
        assert list(check) == ["number", "name", "status", "detail"]
        assert check["number"] == number
        assert check["status"] in ("pass", "fail", "skip")
    return dict(verdict)


# Exit codes and verdicts.


async def test_a_running_engine_is_accepted(policy: Path) -> None:
    async with attesting(encode_statement(LIVE)) as url:
        result = await _beside("verify", url, "--policy", policy, "--json")
    verdict = _verdict(result)
    assert result.exit_code == ACCEPTED
    assert (verdict["verdict"], verdict["reason"], verdict["origin"]) == ("accepted", None, "engine")
    assert verdict["insecure"] is True
    assert verdict["evidence_kind"] == "insecure"
    assert verdict["keys"] == [key.digest.hex() for key in LIVE.ohttp_keys]
    assert [check["name"] for check in verdict["checks"]] == STEPS


async def test_a_running_engine_outside_the_policy_is_refused(policy: Path) -> None:
    async with attesting(encode_statement(replace(LIVE, not_after=1))) as url:
        result = await _beside("verify", url, "--policy", policy, "--json")
    verdict = _verdict(result)
    assert result.exit_code == REFUSED
    assert (verdict["verdict"], verdict["expires_at"], verdict["keys"]) == ("refused", None, [])
    assert [check["name"] for check in verdict["checks"] if check["status"] == "fail"] == ["lifetime"]
    assert [check["name"] for check in verdict["checks"]] == STEPS


async def test_an_answer_to_another_nonce_is_refused(policy: Path) -> None:
    async with raw_server(http_answer(attested(LIVE).encode())) as server:
        result = await _beside("verify", server.url, "--policy", policy, "--json")
    assert result.exit_code == REFUSED
    assert [check["name"] for check in _verdict(result)["checks"] if check["status"] == "fail"] == ["nonce"]


@pytest.mark.parametrize(
    "answer", [b"{}", b"<html>", attested(StatementBytes(b"{}")).encode()], ids=["empty", "no JSON", "bad statement"]
)
@pytest.mark.parametrize("command", ["verify", "show"])
async def test_evidence_that_cannot_be_read_is_refused(answer: bytes, command: str, policy: Path) -> None:
    options: list[str | Path] = ["--policy", policy] if command == "verify" else []
    async with raw_server(http_answer(answer)) as server:
        result = await _beside(command, server.url, *options)
    assert result.exit_code == REFUSED
    assert "ACCEPTED" not in result.output
    assert "UNVERIFIED" not in result.output


async def test_an_engines_certificate_is_of_the_systems_roots_or_of_those_that_are_given(
    policy: Path, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(certificate, key, "127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with attesting(encode_statement(LIVE), tls) as url:
        unknown = await _beside("verify", url, "--policy", policy)
        known = await _beside("verify", url, "--policy", policy, "--ca-file", certificate)
        none = await _beside("verify", url, "--policy", policy, "--ca-file", policy)
    assert [unknown.exit_code, known.exit_code, none.exit_code] == [INTERNAL, ACCEPTED, USAGE]
    assert "no certificate in PEM" in none.output


@pytest.mark.parametrize("command", ["verify", "show"])
async def test_an_engine_that_cannot_be_reached_is_not_judged(command: str, policy: Path) -> None:
    async with raw_server(b"") as server:
        url = server.url
    options: list[str | Path] = ["--policy", policy] if command == "verify" else []
    result = await _beside(command, url, *options)
    assert result.exit_code == INTERNAL
    assert "cannot be reached" in result.output


async def test_an_engine_that_answers_otherwise_is_not_judged(policy: Path) -> None:
    async with raw_server(http_answer(b"", "503 Busy")) as server:
        result = await _beside("verify", server.url, "--policy", policy, "--json")
    assert result.exit_code == INTERNAL
    assert _verdict(result)["verdict"] == "unknown"
    assert _verdict(result)["checks"] == []


_USAGE: dict[str, Callable[[Path, Path], list[str | Path]]] = {
    "no policy": lambda policy, bundle: ["verify", bundle],
    "a policy that is missing": lambda policy, bundle: ["verify", bundle, "--policy", "none.toml"],
    "a policy that is none": lambda policy, bundle: ["verify", bundle, "--policy", bundle],
    "a file that is missing": lambda policy, bundle: ["verify", "none.json", "--policy", policy],
    "a file to show that is missing": lambda policy, bundle: ["show", "none.json"],
    "a directory": lambda policy, bundle: ["verify", bundle.parent, "--policy", policy],
    "a URL of another scheme": lambda policy, bundle: ["verify", "ftp://localhost", "--policy", policy],
    "a URL with a user": lambda policy, bundle: ["show", "http://user:canary@localhost"],
    "a nonce for an engine": lambda policy, bundle: [
        "verify", "http://localhost:1", "--policy", policy, "--nonce", NONCE.hex()
    ],
    "saving what is saved": lambda policy, bundle: ["verify", bundle, "--policy", policy, "--save", "x.json"],
    "a nonce that is none": lambda policy, bundle: ["verify", bundle, "--policy", policy, "--nonce", "00"],
    "an unknown option": lambda policy, bundle: ["verify", bundle, "--policy", policy, "--trust-me"],
}  # fmt: skip


@pytest.mark.parametrize("arguments", _USAGE.values(), ids=_USAGE.keys())
def test_a_wrong_call_is_a_matter_of_usage(
    arguments: Callable[[Path, Path], list[str | Path]], policy: Path, bundle: Path
) -> None:
    result = _attest(*arguments(policy, bundle))
    assert result.exit_code == USAGE
    assert "canary" not in result.output
    assert result.stdout == ""


async def test_a_place_where_nothing_can_be_kept_is_a_matter_of_usage(policy: Path, tmp_path: Path) -> None:
    async with attesting(encode_statement(LIVE)) as url:
        result = await _beside("verify", url, "--policy", policy, "--save", tmp_path)
    assert result.exit_code == USAGE


# Saved evidence.


async def test_what_was_saved_is_accepted_again(policy: Path, tmp_path: Path) -> None:
    async with attesting(encode_statement(LIVE)) as url:
        first = await _beside("verify", url, "--policy", policy, "--json", "--save", tmp_path / "kept.json")
    again = _attest("verify", tmp_path / "kept.json", "--policy", policy, "--json")
    assert first.exit_code == again.exit_code == ACCEPTED
    assert _verdict(again) == {**_verdict(first), "origin": "file"}
    assert _verdict(first)["nonce"] == parse_bundle((tmp_path / "kept.json").read_bytes()).nonce.hex()


async def test_what_was_refused_is_kept_too(policy: Path, tmp_path: Path) -> None:
    async with attesting(encode_statement(replace(LIVE, not_after=1))) as url:
        await _beside("verify", url, "--policy", policy, "--save", tmp_path / "kept.json")
    assert _attest("verify", tmp_path / "kept.json", "--policy", policy).exit_code == REFUSED


def test_a_bundle_is_judged_as_of_when_it_was_saved(policy: Path, bundle: Path) -> None:
    result = _attest("verify", bundle, "--policy", policy)
    assert result.exit_code == ACCEPTED
    assert "judged as of 2026-06-01T12:00:00Z" in result.output


def test_a_bundle_saved_after_its_statement_had_expired_is_refused(policy: Path, tmp_path: Path) -> None:
    late = replace(SAVED, fetched_at=SAVED.fetched_at + 3601)
    result = _attest("verify", _written(tmp_path / "b", late.encode()), "--policy", policy)
    assert result.exit_code == REFUSED


@pytest.mark.parametrize(("nonce", "code"), [(NONCE, ACCEPTED), (OTHER_NONCE, REFUSED)])
def test_a_reader_may_say_which_nonce_a_bundle_must_answer(nonce: Nonce, code: int, policy: Path, bundle: Path) -> None:
    assert _attest("verify", bundle, "--policy", policy, "--nonce", nonce.hex()).exit_code == code


def test_a_bundle_whose_nonce_its_document_does_not_answer_is_refused(policy: Path, tmp_path: Path) -> None:
    other = replace(SAVED, nonce=OTHER_NONCE)
    assert _attest("verify", _written(tmp_path / "b", other.encode()), "--policy", policy).exit_code == REFUSED


def test_a_bare_document_needs_a_nonce_and_is_judged_as_of_now(policy: Path, tmp_path: Path) -> None:
    live, old = _written(tmp_path / "a", attested(LIVE).encode()), _written(tmp_path / "b", attested().encode())
    assert _attest("verify", live, "--policy", policy).exit_code == USAGE
    assert _attest("verify", live, "--policy", policy, "--nonce", NONCE.hex()).exit_code == ACCEPTED
    assert _attest("verify", old, "--policy", policy, "--nonce", NONCE.hex()).exit_code == REFUSED


def test_a_file_that_holds_neither_is_refused(policy: Path, tmp_path: Path) -> None:
    assert _attest("verify", _written(tmp_path / "b", b"{}"), "--policy", policy).exit_code == REFUSED


# What a person reads.


def _lines(result: Result) -> dict[str, str]:
    """Of each check its line, colours included."""
    return {name: line for name in STEPS for line in result.output.splitlines() if re.search(rf"  {name}  ", line)}


def test_checks_are_numbered_and_a_skipped_one_does_not_say_pass(policy: Path, bundle: Path) -> None:
    lines = _lines(_attest("verify", bundle, "--policy", policy))
    assert [int(line.split()[0]) for line in lines.values()] == list(range(1, len(STEPS) + 1))
    for name in ("machine", "devices", "post-quantum", "arguments", "api keys", "models"):
        assert lines[name].split()[1] == "skip"
        assert "pass" not in lines[name]
    assert lines["binding"].split()[1] == "pass"


GREEN, RED, YELLOW = r"\x1b\[(?:\d+;)*32m", r"\x1b\[(?:\d+;)*31m", r"\x1b\[(?:\d+;)*33m"


def _coloured(*arguments: str | Path) -> Result:
    return _attest(*arguments, FORCE_COLOR="1", TERM="xterm-256color")


def test_only_a_passed_check_is_green(policy: Path, tmp_path: Path) -> None:
    refused = replace(SAVED, document=attested(statement_with(log_level="debug")))
    lines = _lines(_coloured("verify", _written(tmp_path / "b", refused.encode()), "--policy", policy))
    assert re.match(GREEN, lines["binding"])
    assert re.match(YELLOW, lines["models"])
    assert re.match(RED, lines["log level"])
    green = {name for name, line in lines.items() if re.search(GREEN, line)}
    assert green == set(STEPS) - {"log level", "machine", "devices", "post-quantum", "arguments", "api keys", "models"}


def test_no_style_but_that_of_a_passed_check_is_green() -> None:
    assert [status for status, style in STYLES.items() if "green" in style] == [CheckStatus.PASS]
    assert set(STYLES) == set(CheckStatus)


def test_an_insecure_verdict_is_announced_in_red_and_never_in_green(policy: Path, bundle: Path) -> None:
    result = _coloured("verify", bundle, "--policy", policy)
    first, *_, last = result.output.splitlines()
    assert re.match(RED, first)
    assert "INSECURE policy" in first
    assert re.match(RED, last)
    assert "NOTHING IS PROVEN" in last
    assert re.match(RED, _lines(result)["machine"])


def test_strict_refuses_when_a_check_was_skipped(policy: Path, bundle: Path) -> None:
    result = _attest("verify", bundle, "--policy", policy, "--strict", "--json")
    assert result.exit_code == REFUSED
    verdict = _verdict(result)
    assert (verdict["verdict"], verdict["strict"]) == ("refused", True)
    assert "skipped" in verdict["reason"]
    assert {check["status"] for check in verdict["checks"]} == {"pass", "skip"}
    assert "ACCEPTED" not in _attest("verify", bundle, "--policy", policy, "--strict").output


# Showing.


def _shown(result: Result) -> dict[str, str]:
    return {line[:18].strip(): line[18:].strip() for line in result.output.splitlines()}


@pytest.mark.parametrize("form", [SAVED.encode(), SAVED.document.encode()], ids=["bundle", "document"])
def test_a_saved_file_is_shown_and_marked_unverified(form: bytes, tmp_path: Path) -> None:
    result = _attest("show", _written(tmp_path / "b", form))
    assert result.exit_code == ACCEPTED
    assert result.output.startswith("UNVERIFIED")
    assert insecure.WARNING in result.output
    for value in (NONCE.hex(), "openai/whisper-large-v3", "ab" * 32, "whisper-1", "device=cpu", "cd" * 32, "note"):
        assert value in result.output
    assert "pass" not in result.output


def test_nothing_that_is_shown_is_green_and_insecure_evidence_is_red(bundle: Path) -> None:
    first, second, *_ = (result := _coloured("show", bundle)).output.splitlines()
    assert re.match(YELLOW, first)
    assert re.match(RED, second)
    assert not re.search(GREEN, result.output)


async def test_a_running_engine_is_shown() -> None:
    async with attesting(encode_statement(LIVE)) as url:
        result = await _beside("show", url)
    assert result.exit_code == ACCEPTED
    assert _shown(result)["instance"] == LIVE.instance
    assert _shown(result)["evidence"].startswith("insecure")


def test_what_the_other_end_wrote_is_shown_as_it_stands_and_does_not_drive_the_terminal(tmp_path: Path) -> None:
    hostile = statement_with(instance="[red]x[/red] :smile:", extensions={"\x1b[2J\n": 1})
    result = _attest("show", _written(tmp_path / "b", attested(hostile).encode()))
    assert _shown(result)["instance"] == "[red]x[/red] :smile:"
    assert "\x1b" not in result.output


# Other machines.


def test_under_an_insecure_policy_other_machines_are_not_spoken_to(policy: Path) -> None:
    result = _attest("verify", "http://192.0.2.1:9", "--policy", policy, "--json")
    assert result.exit_code == INTERNAL
    assert "not a loopback address" in _verdict(result)["reason"]


async def test_under_an_insecure_policy_no_proxy_is_asked(policy: Path) -> None:
    async with raw_server(http_answer(b"")) as proxy:
        await _beside("verify", "http://192.0.2.1:9", "--policy", policy, HTTP_PROXY=proxy.url)
    assert proxy.heads == []


async def test_insecure_remote_engine_lifts_that(policy: Path) -> None:
    """The other machine is played by a proxy, which sees what would be sent there."""
    async with raw_server(http_answer(b"", "503 Busy")) as proxy:
        url = "http://192.0.2.1:9"
        await _beside("verify", url, "--policy", policy, "--insecure-remote-engine", HTTP_PROXY=proxy.url, NO_PROXY="")
    assert [head.split()[1].partition(b"?")[0] for head in proxy.heads] == [
        b"http://192.0.2.1:9/.well-known/sottovoce-attestation"
    ]


async def test_this_machine_is_never_reached_through_a_proxy() -> None:
    async with raw_server(http_answer(b"", "503 Busy")) as proxy, attesting(encode_statement(LIVE)) as url:
        result = await _beside("show", url, HTTP_PROXY=proxy.url, NO_PROXY="")
    assert result.exit_code == ACCEPTED
    assert proxy.heads == []


def test_what_the_environment_names_as_a_proxy_must_be_one() -> None:
    result = _attest("show", "http://192.0.2.1:9", HTTP_PROXY="socks5://canary", NO_PROXY="")
    assert result.exit_code == USAGE
    assert "HTTP_PROXY is not the URL of an HTTP proxy" in " ".join(result.output.split())
    assert "canary" not in result.output


# The program as it is installed.


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--version"], ACCEPTED), ([], USAGE), (["verify"], USAGE), (["show", "none"], USAGE)]
)
def test_the_program_leaves_with_its_code(arguments: list[str], code: int) -> None:
    main = "from attestation.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", main, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    if arguments == ["--version"]:
        assert done.stdout.strip() == project_version()


def test_the_program_reads_a_bundle_in_a_process_of_its_own(policy: Path, bundle: Path) -> None:
    main = "from attestation.cli.main import main; main()"
    command = [sys.executable, "-c", main, "verify", str(bundle), "--policy", str(policy), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (ACCEPTED, "")
    assert json.loads(done.stdout)["verdict"] == "accepted"
