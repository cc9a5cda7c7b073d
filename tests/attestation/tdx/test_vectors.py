"""Real quotes, with the collateral of their time, get the verdicts that they deserve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from attestation.collateral.roots import VENDOR_ROOTS, Roots
from attestation.errors import EvidenceError
from attestation.tdx.abi import TdReport, parse_quote
from attestation.tdx.appraise import appraise, needs
from attestation.tdx.policy import CodeRelease, HardwareProfile, TdxPolicy
from attestation.types import Appraisal, CollateralKey, CollateralKind
from tests.vectors import vector

PLACEHOLDER = "5a" * 48
LAX = TdxPolicy((HardwareProfile(PLACEHOLDER, PLACEHOLDER),), (CodeRelease(PLACEHOLDER, PLACEHOLDER),))


def _policy(report: TdReport) -> TdxPolicy:
    """The default policy for this very software; a register in which nothing was measured cannot be named."""
    named = {name: getattr(report, name).hex() if any(getattr(report, name)) else PLACEHOLDER for name in _REGISTERS}
    return TdxPolicy(
        (HardwareProfile(named["mr_td"], named["rtmr0"]),),
        (CodeRelease(named["rtmr1"], named["rtmr2"], report.rtmr3.hex()),),
    )


_REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2")


@dataclass(frozen=True)
class _Sample:
    quote: str
    collateral: str
    at: str
    roots: Roots = VENDOR_ROOTS

    def appraise(self) -> Appraisal:
        report = vector(f"tdx/{self.quote}")
        policy = _policy(parse_quote(report).report)
        collateral = {key: vector(f"tdx/{self.collateral}") for key in needs(report, policy, {})}
        now = datetime.fromisoformat(self.at).replace(tzinfo=UTC)
        return appraise(report, policy, collateral, roots=self.roots, now=now)


def _failed(appraisal: Appraisal) -> dict[str, str]:
    return {check.name: check.detail for check in appraisal.checks if check.failed}


V4 = _Sample("phala_v4_quote.bin", "phala_v4_quote_collateral.json", "2025-06-20")
V5 = _Sample("gotdx_v5_quote.dat", "phala_v5_outdated_collateral.json", "2026-02-19")
V5_OUTDATED = replace(V5, quote="phala_v5_outdated_quote.bin")
DEBUG = _Sample("coco_v4_quote.dat", "gotdx-50806f000000-2023.json", "2023-07-01")


@pytest.mark.parametrize(
    ("sample", "until", "fmspc"),
    [(V4, "2025-07-19T10:00:35Z", "b0c06f000000"), (V5, "2026-03-20T10:41:15Z", "90c06f000000")],
    ids=["version 4", "version 5"],
)
def test_a_platform_that_is_up_to_date_is_accepted(sample: _Sample, until: str, fmspc: str) -> None:
    appraisal = sample.appraise()
    assert _failed(appraisal) == {}
    assert appraisal.claims["tcb_status"] == "UpToDate"
    assert appraisal.claims["fmspc"] == fmspc
    assert appraisal.valid_until == datetime.fromisoformat(until)


def test_collateral_that_expired_is_refused() -> None:
    assert set(_failed(replace(V4, at="2025-08-19").appraise())) == {"tdx collateral validity"}


def test_collateral_of_the_future_is_refused() -> None:
    failed = _failed(replace(V4, at="2024-05-16").appraise())
    assert set(failed) == {"tdx collateral validity", "tdx certificates", "tdx authenticity"}
    assert "TCBInfo issue date is in the future" in failed["tdx authenticity"]


def test_a_platform_below_every_level_is_refused() -> None:
    assert "No matching TCB level found" in _failed(V5_OUTDATED.appraise())["tdx authenticity"]


def test_a_debug_domain_is_refused() -> None:
    failed = _failed(DEBUG.appraise())
    assert "Debug mode is enabled" in failed["tdx authenticity"]
    assert "a debug domain" in failed["tdx td_attributes"]


def test_an_sgx_quote_is_refused_by_name() -> None:
    report = vector("tdx/phala_sgx_v3_quote.bin")
    with pytest.raises(EvidenceError, match="an SGX quote"):
        parse_quote(report)
    assert needs(report, LAX, {}) == ()
    key = CollateralKey(CollateralKind.TDX, "00a067110000/processor")
    collateral = {key: vector("tdx/phala_sgx_v3_collateral.json")}
    now = datetime(2025, 6, 20, tzinfo=UTC)
    assert set(_failed(appraise(report, LAX, collateral, roots=VENDOR_ROOTS, now=now))) == {"tdx quote"}


@pytest.mark.parametrize("sample", [V4, V5], ids=["version 4", "version 5"])
def test_without_the_pinned_root_nothing_is_authentic(sample: _Sample) -> None:
    appraisal = replace(sample, roots=replace(VENDOR_ROOTS, tdx=frozenset())).appraise()
    assert set(_failed(appraisal)) == {"tdx root"}
    assert appraisal.claims == {}


def test_collateral_of_another_platform_is_refused() -> None:
    swapped = replace(V4, collateral=V5.collateral, at=V5.at)
    assert "Fmspc mismatch" in _failed(swapped.appraise())["tdx authenticity"]


def test_padding_of_a_real_quote_is_cut_off() -> None:
    assert len(vector("tdx/phala_v4_quote.bin")) - len(parse_quote(vector("tdx/phala_v4_quote.bin")).unpadded) == 70
    padded = vector("tdx/gotdx_v5_quote.dat") + bytes(3065)
    assert parse_quote(padded) == parse_quote(vector("tdx/gotdx_v5_quote.dat"))


@pytest.mark.parametrize("sample", [V4, V5], ids=["version 4", "version 5"])
def test_a_flipped_bit_of_a_real_quote_is_refused(sample: _Sample) -> None:
    report = vector(f"tdx/{sample.quote}")
    policy = _policy(parse_quote(report).report)
    (key,) = needs(report, policy, {})
    collateral = {key: vector(f"tdx/{sample.collateral}")}
    now = datetime.fromisoformat(sample.at).replace(tzinfo=UTC)
    for at in range(0, len(parse_quote(report).unpadded), 97):
        flipped = report[:at] + bytes([report[at] ^ 1 << (at % 8)]) + report[at + 1 :]
        assert _failed(appraise(flipped, policy, collateral, roots=VENDOR_ROOTS, now=now)), at
