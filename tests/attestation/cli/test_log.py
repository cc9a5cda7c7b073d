"""`sottovoce-attest log` says whether the chain holds, shows what changed, and leaves with the right code."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from attestation.cli.log import app
from attestation.log import LOG_FILE, NO_RECORD, AcceptedIdentity, IdentityLog, read_log
from attestation.types import EvidenceKind
from tests.attestation.samples import NOW, STATEMENT

ACCEPTED, USAGE, REFUSED = 0, 2, 10
GREEN, RED = r"\x1b\[(?:\d+;)*32m", r"\x1b\[(?:\d+;)*31m"
FIRST = AcceptedIdentity.of(
    "https://engine.example", STATEMENT, kind=EvidenceKind.SNP, claims={"measurement": "ab" * 48, "product": "Milan"},
    policy_digest="ef" * 32,
)  # fmt: skip
SECOND = replace(FIRST, claims={"measurement": "cd" * 48})
INSECURE = replace(FIRST, engine="http://127.0.0.1:8800", evidence=EvidenceKind.INSECURE, claims={})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    for number, identity in enumerate((FIRST, INSECURE, SECOND)):
        IdentityLog(path).record(identity, NOW + timedelta(hours=number))
    return path


def _log(*arguments: str | Path, **variables: str) -> Result:
    environment = {"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb", **variables}
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)


def test_a_log_that_nobody_touched_is_told_with_its_head(log: Path) -> None:
    result = _log("verify", log)
    assert (result.exit_code, result.stderr) == (ACCEPTED, "")
    assert result.stdout.splitlines() == ["The chain of 3 records holds.", f"head {read_log(log).head}"]


def test_this_users_own_log_is_read_unless_another_is_named(log: Path, tmp_path: Path) -> None:
    (tmp_path / "sottovoce").mkdir()
    log.rename(tmp_path / "sottovoce" / LOG_FILE)
    for command in ("verify", "show"):
        assert _log(command, XDG_DATA_HOME=str(tmp_path)).exit_code == ACCEPTED


def test_a_head_that_was_noted_must_still_be_there(log: Path) -> None:
    noted = read_log(log).hashes[0]
    result = _log("verify", log, "--head", noted)
    assert result.exit_code == ACCEPTED
    assert result.stdout.startswith("The chain of 3 records holds, 2 since the one that was noted.")


def test_a_log_that_was_cut_at_a_records_end_lacks_the_head_that_was_noted(log: Path) -> None:
    noted = read_log(log).head
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    assert _log("verify", log).exit_code == ACCEPTED
    result = _log("verify", log, "--head", noted)
    assert result.exit_code == REFUSED
    assert "cut, or written anew" in result.stderr
    assert "holds" not in result.output


@pytest.mark.parametrize("head", [NO_RECORD, "", "\x1b[2J"])
def test_what_is_no_records_hash_is_not_found(head: str, log: Path) -> None:
    result = _log("verify", log, "--head", head)
    assert result.exit_code == REFUSED
    assert "\x1b" not in result.output


@pytest.mark.parametrize("command", ["verify", "show"])
def test_a_broken_log_is_refused(command: str, log: Path) -> None:
    log.write_bytes(log.read_bytes().replace(b"Milan", b"Genoa"))
    result = _log(command, log)
    assert result.exit_code == REFUSED
    assert "record 0 is broken" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["verify", "show"])
def test_a_line_that_was_cut_short_is_told(command: str, log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-10])
    result = _log(command, log)
    assert result.exit_code == REFUSED
    assert "bytes are no record" in result.stderr


def test_what_a_crash_left_is_told_once_it_is_owned(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-10])
    IdentityLog(log).record(SECOND, NOW)
    result = _log("verify", log)
    assert result.exit_code == ACCEPTED
    assert "1 record came after a line that a crash had cut short." in result.stdout


def test_an_empty_log_holds(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    result = _log("verify", tmp_path / "log")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (ACCEPTED, f"head {NO_RECORD}")
    assert _log("show", tmp_path / "log").stdout == ""


@pytest.mark.parametrize("command", ["verify", "show"])
def test_a_log_that_is_missing_is_a_matter_of_usage(command: str, tmp_path: Path) -> None:
    missing = _log(command, tmp_path / "none")
    assert missing.exit_code == USAGE
    assert "no engine was accepted here yet" in missing.stderr
    assert _log(command, tmp_path).exit_code == USAGE


def test_of_each_record_what_differs_from_the_same_engines_last_one_is_shown(log: Path) -> None:
    first, insecure, second = re.split(r"\n(?= +\d+  2026)", _log("show", log).stdout.rstrip())
    assert first.splitlines()[0] == "   0  2026-06-01T12:00:00Z  https://engine.example  snp"
    for value in ("ef" * 32, "ab" * 48, "Milan", "model openai/whisper-large-v3", "device=cpu", "insecure_evidence"):
        assert value in first
    assert "http://127.0.0.1:8800  insecure" in insecure
    assert [line.split() for line in second.splitlines()[1:]] == [
        ["measurement", "cd" * 48],
        ["product", "no", "longer", "there"],
    ]


def test_insecure_evidence_is_red_and_only_a_whole_chain_is_green(log: Path) -> None:
    coloured = {"NO_COLOR": "", "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    shown = _log("show", log, **coloured).stdout.splitlines()
    assert [line for line in shown if re.search(RED, line)] == [line for line in shown if "8800" in line]
    assert not any(re.search(GREEN, line) for line in shown)
    assert re.match(GREEN, _log("verify", log, **coloured).stdout)
    log.write_bytes(log.read_bytes()[:-10])
    cut = _log("verify", log, **coloured)
    assert re.match(RED, cut.stderr)
    assert not re.search(GREEN, cut.output)
