"""A verdict by insecure roots never looks like one by the vendors'."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from attestation.bundle import Bundle
from attestation.cli.verdict import Origin, Verdict, as_json, print_verdict
from attestation.policy import INSECURE_ROOTS_WARNING, Policy
from attestation.verification import verify
from core.program.run import ExitCode
from tests.attestation import machines
from tests.attestation.samples import NONCE, NOW


def _accepted(policy: Policy = machines.SNP_POLICY) -> Verdict:
    document = machines.snp_document()
    result = verify(document, policy, document.collateral, expected=NONCE, now=NOW)
    held = Bundle(NONCE, int(NOW.timestamp()), document)
    return Verdict(policy, Origin.FILE, False, ExitCode.ACCEPTED, held=held, checks=result.checks, result=result)


def test_insecure_roots_are_told_first_and_last(capsys: pytest.CaptureFixture[str]) -> None:
    print_verdict(_accepted())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == INSECURE_ROOTS_WARNING
    assert lines[-1].endswith("BY INSECURE ROOTS")


def test_without_them_nothing_is_said_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_verdict(replace(_accepted(), policy=machines.with_vendor_roots(machines.SNP_POLICY)))
    said = capsys.readouterr().out
    assert "INSECURE" not in said
    assert "ACCEPTED until" in said


def test_machines_are_told_of_them_and_of_the_claims() -> None:
    said = as_json(_accepted())
    assert said["insecure"] is True
    assert said["evidence_kind"] == "snp"
    claims = said["claims"]
    assert isinstance(claims, dict)
    assert claims["measurement"] in machines.AMD.policy().measurements
    assert claims["gpu_count"] == "1"


def test_the_end_that_is_told_is_that_of_the_trust_and_not_of_the_statement() -> None:
    policy = replace(machines.SNP_POLICY, statement=replace(machines.SNP_POLICY.statement, max_evidence_age_s=60))
    assert as_json(_accepted(policy))["expires_at"] == (NOW + timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%SZ")
