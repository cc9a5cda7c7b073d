"""The selftest accepts and refuses what it should, its data are what is made now, and it can fail."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cache
from importlib import resources
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from attestation import selftest
from attestation.cli import selftest as selftest_cli
from attestation.errors import EvidenceError, PolicyError, RefusedError
from attestation.policy import parse_policy
from attestation.selftest import Case, Outcome, Suite, flipped, parse_suite, run, shipped_suite
from attestation.types import Check, CheckStatus, CollateralKind, failed, passed
from attestation.verification import AttestationResult, verify
from tests.attestation import selftest_samples
from tests.places import ROOT

PASSED, FAILED = 0, 1

SHIPPED = shipped_suite()
OUTCOMES = tuple(run(SHIPPED))
GOOD = {outcome.sample: outcome for outcome in OUTCOMES if not outcome.expected}
TAMPERED = [outcome for outcome in OUTCOMES if outcome.expected]

UNREAD = ("document",)
"""What refuses a statement that cannot be read: no check, so that none can overlook it."""

generated = cache(selftest_samples.build)


def _title(outcome: Outcome) -> str:
    return f"{outcome.sample}: {outcome.name}"


# What is shipped.


def test_every_sample_is_accepted() -> None:
    assert set(GOOD) == {"SEV-SNP", "SEV-SNP with two GPUs", "TDX"}
    assert [outcome.refusals for outcome in GOOD.values()] == [(), (), ()]


@pytest.mark.parametrize("outcome", TAMPERED, ids=_title)
def test_every_case_is_refused_by_exactly_the_checks_that_should(outcome: Outcome) -> None:
    assert {check.name for check in outcome.refusals} == set(outcome.expected)
    assert outcome.as_expected
    assert all(check.detail for check in outcome.refusals)


@pytest.mark.parametrize("outcome", TAMPERED, ids=_title)
def test_what_refuses_a_case_had_passed_for_its_sample(outcome: Outcome) -> None:
    before = {check.name for check in GOOD[outcome.sample].checks if check.status is CheckStatus.PASS}
    assert set(outcome.expected) - {*UNREAD} <= before


def test_every_case_is_judged_once() -> None:
    judged = [(outcome.sample, outcome.name) for outcome in TAMPERED]
    assert sorted(judged) == sorted((case.of, case.name) for case in SHIPPED.cases)
    assert len(set(judged)) == len(judged)


UNCHALLENGED = {
    "snp product",  # the same evidence of another product has other collateral throughout
    "switch count",  # no case has switches
    "tdx certificates",  # and those below take collateral or a chain of their own, for one line each
    "tdx module",
    "tdx mr_owner",
    "tdx mr_owner_config",
    "tdx pck chain",
    "tdx tcb evaluation",
    "gpu report",
}
"""What passes for a good machine, and no case makes fail; the tests of each kind do."""


def test_every_other_check_that_passes_for_a_good_machine_refuses_a_tampered_one() -> None:
    passing = {check.name for outcome in GOOD.values() for check in outcome.checks if check.status is CheckStatus.PASS}
    refusing = {name for outcome in TAMPERED for name in outcome.expected}
    assert passing - refusing == UNCHALLENGED


@pytest.mark.parametrize("case", [case for case in SHIPPED.cases if case.policy], ids=lambda case: case.name)
def test_another_policy_of_a_case_differs_in_its_roots_only(case: Case) -> None:
    (sample,) = [sample for sample in SHIPPED.samples if sample.name == case.of]
    before, after = (
        parse_policy("\n".join(SHIPPED.policies[name]).encode()) for name in (sample.policy, case.policy or "")
    )
    assert replace(after, insecure_roots=before.insecure_roots, digest=before.digest) == before
    assert after.roots != before.roots


# The data are what is made now.


def test_the_cases_are_those_that_are_made_now() -> None:
    assert generated().cases == SHIPPED.cases
    assert generated().samples == SHIPPED.samples


def test_the_rest_of_the_data_is_what_is_made_now_but_for_keys() -> None:
    made = generated()
    assert _without_digests(made.policies) == _without_digests(SHIPPED.policies)
    assert made.gpus.keys() == SHIPPED.gpus.keys()
    assert made.blobs.keys() == SHIPPED.blobs.keys()
    assert [(piece.kind, piece.data) for piece in made.collateral] == [
        (piece.kind, piece.data) for piece in SHIPPED.collateral
    ]


def _without_digests(policies: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {name: [re.sub(r'"[0-9a-f]{64}"', '""', line) for line in lines] for name, lines in policies.items()}


def test_data_made_anew_pass_too() -> None:
    data = selftest_samples.encode(generated())
    assert parse_suite(data) == generated()
    assert all(outcome.as_expected for outcome in run(generated()))


def test_the_data_file_is_small_holds_no_private_key_and_nothing_that_no_case_uses() -> None:
    data = selftest_samples.FILE.read_bytes()
    assert len(data) < 400_000
    assert b"PRIVATE" not in data
    assert not any(b"PRIVATE" in blob for blob in SHIPPED.blobs.values())
    assert set(SHIPPED.blobs) == set(selftest._blob_references(SHIPPED))


def test_the_wheel_takes_the_data_along() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {
        "packages": ["attestation", "core", "engine", "proxy", "sottovoce"]
    }  # whole directories, whatever the file's name
    assert parse_suite(resources.files("attestation").joinpath("selftest.json").read_bytes()) == SHIPPED


# It can fail.


def _changed(name: str, **changes: Any) -> Suite:
    cases = tuple(replace(case, **changes) if case.name == name else case for case in SHIPPED.cases)
    assert cases != SHIPPED.cases
    return replace(SHIPPED, cases=cases)


def _only(suite: Suite, *names: str) -> Suite:
    """The suite with no other cases than these, and no other samples than theirs."""
    cases = tuple(case for case in suite.cases if case.name in names)
    of = {case.of for case in cases}
    return replace(suite, cases=cases, samples=tuple(sample for sample in suite.samples if sample.name in of))


def _wrong(suite: Suite) -> list[str]:
    return [_title(outcome) for outcome in run(suite) if not outcome.as_expected]


def _laxer(*lines: str, without: str = "nothing") -> Suite:
    snp = tuple(line for line in SHIPPED.policies["snp"] if without not in line)
    place = snp.index("[statement]") + 1
    return replace(SHIPPED, policies={**SHIPPED.policies, "snp": (*snp[:place], *lines, *snp[place:])})


@pytest.mark.parametrize(
    ("suite", "wrong"),
    [
        (_laxer('allow_attached = ["faster-whisper"]'), "SEV-SNP: it hears through a process that it did not start"),
        (_laxer('log_levels = ["info", "debug"]'), "SEV-SNP: it logs at level debug"),
        (_laxer("max_lifetime_s = 31536000"), "SEV-SNP: its keys shall live for a year"),
        (_laxer(without="require_api_keys"), "SEV-SNP: it asks for no API key"),
    ],
)
def test_a_laxer_policy_is_found_out(suite: Suite, wrong: str) -> None:
    assert _wrong(_only(suite, *selftest_samples.CONFESSIONS)) == [wrong]


CASES_WITHOUT_CHANGE: Mapping[str, Mapping[str, Any]] = {
    "another image was launched": {"instead": {}},
    "one bit of the report's signature is flipped": {"flips": {}},
    "the revocation list is withheld": {"withholds": ()},
    "its statement expired an hour ago": {"judged_at": None},
    "it answers another nonce than ours (a replay)": {"nonce": None},
    "its root is not AMD's": {"policy": None},
    "the evidence of its GPUs was changed afterwards": {"gpus": None},
}


@pytest.mark.parametrize(("name", "changes"), CASES_WITHOUT_CHANGE.items(), ids=CASES_WITHOUT_CHANGE)
def test_a_case_whose_data_are_the_good_sample_is_found_out(name: str, changes: Mapping[str, Any]) -> None:
    suite = _only(_changed(name, **changes), name)
    (outcome,) = [outcome for outcome in run(suite) if not outcome.as_expected]
    assert (outcome.name, outcome.refusals) == (name, ())


@pytest.mark.parametrize("refused_by", [("snp vmpl",), ("snp measurement", "snp vmpl")])
def test_a_refusal_by_other_checks_than_expected_is_found_out(refused_by: tuple[str, ...]) -> None:
    name = "another image was launched"
    assert _wrong(_only(_changed(name, refused_by=refused_by), name)) == [f"SEV-SNP: {name}"]


def test_a_check_beside_the_expected_ones_is_found_out() -> None:
    name = "one bit of the measurement is flipped"
    assert _wrong(_only(_changed(name, refused_by=("snp measurement",)), name)) == [f"SEV-SNP: {name}"]


def test_a_good_sample_that_is_refused_is_found_out() -> None:
    (first, *others) = SHIPPED.samples
    late = replace(first, judged_at=first.judged_at + timedelta(days=4000))
    suite = _only(replace(SHIPPED, samples=(late, *others)), "it logs at level debug")
    assert "SEV-SNP: SEV-SNP" in _wrong(suite)


def _lenient(blind: str) -> Callable[..., AttestationResult]:
    """The verifier, but that it overlooks what one of its checks finds."""

    def lenient(*arguments: Any, **named: Any) -> Any:
        try:
            return verify(*arguments, **named)
        except RefusedError as exc:
            if {check.name for check in exc.checks if check.failed} != {blind}:
                raise
            return _Accepted(tuple(passed(check.name, "") for check in exc.checks))

    return lenient


class _Accepted:
    def __init__(self, checks: tuple[Check, ...]) -> None:
        self.checks = checks


@pytest.mark.parametrize(
    "blind", sorted({case.refused_by for case in SHIPPED.cases if len(case.refused_by) == 1} - {UNREAD})
)
def test_a_verifier_blind_to_one_check_is_found_out(blind: tuple[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "verify", _lenient(*blind))
    cases = [case for case in SHIPPED.cases if case.refused_by == blind]
    wrong = _wrong(_only(SHIPPED, *(case.name for case in cases)))
    assert set(wrong) == {f"{case.of}: {case.name}" for case in cases}


# The data file is read strictly.


def _edited(edit: Callable[[dict[str, Any]], object]) -> bytes:
    members = json.loads(selftest_samples.FILE.read_bytes())
    edit(members)
    return json.dumps(members).encode()


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda data: data.update(version=2), "version"),
        (lambda data: data.update(cases=[]), "cases"),
        (lambda data: data.update(samples=[]), "samples"),
        (lambda data: data.update(more=1), "unknown member"),
        (lambda data: data["cases"][0].update(refused_by=[]), "refused_by"),
        (lambda data: data["cases"][0].update(kind="sgx"), "kind"),
        (lambda data: data["cases"][0].update(judged_at="2026-06-01T12:00:00"), "timezone"),
        (lambda data: data["cases"][0].update(of="nobody"), "no sample 'nobody'"),
        (lambda data: data["cases"][0].update(policy="none"), "no policy 'none'"),
        (lambda data: data["cases"][0].update(gpus=["GPU 9"]), "no gpu 'GPU 9'"),
        (lambda data: data["cases"][0].update(withholds=["snp report"]), "no collateral 'snp report'"),
        (lambda data: data["cases"][0].update(instead={"statement": "b"}), "no blob 'b'"),
        (lambda data: data["cases"][0].update(instead={"b": "statement"}), "no blob 'b'"),
        (lambda data: data["cases"][0].update(flips={"b": [0]}), "no blob 'b'"),
        (lambda data: data["cases"][0].update(flips={"snp report": [8 * 0x4A0]}), "not so many bits"),
        (lambda data: data["blobs"].pop("snp vcek"), "no blob 'snp vcek'"),
        (lambda data: data["gpus"].pop("GPU 1"), "no gpu 'GPU 1'"),
        (lambda data: data["policies"].pop("tdx"), "no policy 'tdx'"),
    ],
)
def test_data_that_are_not_whole_are_refused(edit: Callable[[dict[str, Any]], object], fault: str) -> None:
    with pytest.raises(EvidenceError, match=f"selftest data: .*{fault}"):
        parse_suite(_edited(edit))


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b" " * (selftest.MAX_DATA_BYTES + 1)])
def test_what_is_no_data_file_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceError, match="selftest data"):
        parse_suite(data)


def test_bits_are_counted_from_the_lowest_of_the_first_byte() -> None:
    assert flipped(b"\x00\x00", (0, 9)) == b"\x01\x02"
    assert flipped(flipped(b"abc", (5,)), (5,)) == b"abc"
    assert flipped(b"abc", ()) == b"abc"


def test_a_flip_is_of_what_was_put_in_place() -> None:
    blobs = {"a": b"\x00", "b": b"\xf0"}
    case = Case("c", "s", ("x",), instead={"a": "b"}, flips={"a": (0,)})
    assert selftest._tampered(blobs, case) == {"a": b"\xf1", "b": b"\xf0"}


def test_what_is_withheld_is_not_at_hand() -> None:
    at_hand = selftest._at_hand(SHIPPED, SHIPPED.blobs, withheld=("snp crl",))
    assert len(at_hand) == len(SHIPPED.collateral) - 1
    assert CollateralKind.SNP_CRL not in {key.kind for key in at_hand}


# The command.


def _command(*arguments: str) -> Result:
    app = typer.Typer()
    app.command("selftest")(selftest_cli.selftest_command)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"})


def test_the_command_shows_every_refusal_in_a_line() -> None:
    result = _command()
    assert result.exit_code == PASSED
    (*lines, conclusion) = result.stdout.splitlines()
    assert len(lines) == len(OUTCOMES)
    for outcome, line in zip(OUTCOMES, lines, strict=True):
        assert line.startswith("refused " if outcome.expected else "accepted ")
        assert outcome.name in line
        assert all(f"{check.name}: {check.detail}" in line for check in outcome.refusals)
    assert conclusion == f"PASSED: 3 good machines, {len(TAMPERED)} tampered ones, each judged as it should be"


def test_the_command_speaks_to_machines() -> None:
    result = _command("--json")
    assert result.exit_code == PASSED
    told = json.loads(result.stdout)
    assert (told["version"], told["passed"]) == (1, True)
    assert [one["name"] for one in told["outcomes"]] == [outcome.name for outcome in OUTCOMES]
    replayed = next(one for one in told["outcomes"] if "replay" in one["name"])
    assert replayed == {
        "sample": "SEV-SNP",
        "name": "it answers another nonce than ours (a replay)",
        "verdict": "refused",
        "as_expected": True,
        "expected": ["nonce"],
        "refused_by": [{"name": "nonce", "detail": "it answers other nonces than ours"}],
    }
    assert told["outcomes"][0]["verdict"] == "accepted"
    assert told["outcomes"][0]["refused_by"] == []


def _ships(monkeypatch: pytest.MonkeyPatch, suite: Suite) -> None:
    monkeypatch.setattr(selftest_cli, "shipped_suite", lambda: suite)


def test_the_command_fails_for_a_laxer_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    _ships(monkeypatch, _only(_laxer("allow_request_log = true"), *selftest_samples.CONFESSIONS))
    result = _command()
    assert result.exit_code == FAILED
    (wrong,) = [line for line in result.stdout.splitlines() if line.startswith("WRONG")]
    assert wrong.startswith("WRONG: accepted")
    assert "it logs a line per request" in wrong
    assert wrong.endswith("it should be refused by request log")
    total = f"1 good machines, {len(selftest_samples.CONFESSIONS)} tampered ones"
    assert f"FAILED: of {total}, 1 were not judged as they should be" in result.stdout
    told = _command("--json")
    assert told.exit_code == FAILED
    assert json.loads(told.stdout)["passed"] is False


def test_the_command_fails_for_a_good_machine_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "verify", lambda *a, **named: verify(*a, **{**named, "expected": bytes(32)}))
    _ships(monkeypatch, _only(SHIPPED, "it serves other model weights", "a GPU is missing", "its root is not Intel's"))
    result = _command()
    assert result.exit_code == FAILED
    refused = [line for line in result.stdout.splitlines() if line.endswith("; it should be accepted")]
    assert [line.partition("refused")[2].strip().partition("  ")[0] for line in refused] == list(GOOD)


def test_the_command_fails_for_a_verifier_that_accepts_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "verify", lambda *_, **__: _Accepted((passed("all", "well"),)))
    result = _command()
    assert result.exit_code == FAILED
    assert f"{len(TAMPERED)} were not judged" in result.stdout


def test_the_command_fails_for_a_verifier_that_refuses_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RefusedError((failed("all", "ill"),))

    monkeypatch.setattr(selftest, "verify", refuse)
    result = _command()
    assert result.exit_code == FAILED
    assert f"{len(OUTCOMES)} were not judged" in result.stdout


@pytest.mark.parametrize("error", [EvidenceError("selftest data: bad\x1b"), PolicyError("policy: bad\x1b")])
def test_the_command_fails_for_data_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken() -> Suite:
        raise error

    monkeypatch.setattr(selftest_cli, "shipped_suite", broken)
    result = _command()
    assert result.exit_code == FAILED
    assert result.stdout == ""
    assert "bad\N{REPLACEMENT CHARACTER}" in result.stderr


def test_the_command_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    assert _command().exit_code == PASSED


def test_it_takes_less_than_two_seconds() -> None:
    before = time.process_time()  # of this process: what else runs here does not count
    assert all(outcome.as_expected for outcome in run(shipped_suite()))
    assert time.process_time() - before < 2


def test_the_selftest_needs_nothing_of_the_tests() -> None:
    program = "import attestation.cli.selftest, sys; print(*[name for name in sys.modules if name.startswith('tests')])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT)
    assert done.stdout.strip() == b""
