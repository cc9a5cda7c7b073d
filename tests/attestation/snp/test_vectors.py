"""Real reports and certificates get exactly the verdict that they deserve."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from attestation.collateral.roots import VENDOR_ROOTS
from attestation.snp.abi import REPORT_BYTES, Product, SnpReport, Tcb, parse_report
from attestation.snp.appraise import CHECKS, appraise, needs
from attestation.snp.certificate import from_pem, parse_certificate, verify_issued
from attestation.snp.chain import CHAIN_CHECKS, VEK_CHECKS
from attestation.snp.collateral import chain_key, collateral_of, vek_key
from attestation.snp.policy import ProductPolicy, SnpPolicy
from attestation.snp.table import CertificateTable
from attestation.types import Appraisal, Collateral
from tests.attestation.snp.judge import detail, failed
from tests.vectors import vector

MID_2026 = datetime(2026, 7, 1, tzinfo=UTC)
AUTHENTIC = {*VEK_CHECKS, *CHAIN_CHECKS} - {"snp revocation"}
"""No real revocation list is at hand: that line is skipped under a policy that allows it."""
PRODUCTS = (
    ProductPolicy(Product.MILAN, Tcb(2, 0, 5, 68)),
    ProductPolicy(Product.TURIN, Tcb(1, 1, 4, 81, fmc=1), 0x3F),
)


@dataclass(frozen=True)
class _Vector:
    """A report and its VEK. refused: the lines that fail under the default policy, but for SMT and revocation."""

    report: Callable[[], bytes]
    vek: str
    chain: str
    refused: list[str] = field(default_factory=list)

    def appraise(self, now: datetime = MID_2026, **rules: Any) -> Appraisal:
        report = self.report()
        return appraise(report, _policy(report, **rules), self.collateral(), roots=VENDOR_ROOTS, now=now)

    def collateral(self) -> Collateral:
        report = parse_report(self.report())
        product = report.product or Product.MILAN
        return {
            vek_key(report): _certificate(self.vek),
            chain_key(report.signing_key, product): vector(f"snp/roots/{self.chain}"),
        }


def _policy(report: bytes, **rules: Any) -> SnpPolicy:
    defaults: dict[str, Any] = {"allow_smt": True, "allow_missing_crl": True}
    return SnpPolicy((parse_report(report).measurement.hex(),), PRODUCTS, **(defaults | rules))


def _certificate(name: str) -> bytes:
    data = vector(f"snp/{name}")
    return from_pem(data, limit=10_000)[0] if name.endswith(".pem") else data


def _file(name: str) -> Callable[[], bytes]:
    return lambda: vector(f"snp/{name}")


def _dstack() -> bytes:
    return vector("snp/dstack_milan_v3_attestation.scale")[4 : 4 + REPORT_BYTES]


VECTORS = {
    "gosev, Milan, version 2": _Vector(
        _file("gosev_milan_v2_report.bin"),
        "gosev_milan_v2_vcek.der",
        "ask_ark_milan.pem",
        ["snp firmware", "snp guest policy", "snp platform"],  # launched with debugging
    ),
    "coco, Milan, version 2": _Vector(
        _file("coco_v2_report.bin"),
        "coco_v2_vcek.der",
        "ask_ark_milan.pem",
        ["snp firmware", "snp provisional", "snp platform"],  # microcode 206 runs, 115 is committed and reported
    ),
    "coco, a VCEK of another chip, old form": _Vector(
        _file("coco_v2_report.bin"),
        "coco_vcek_invalid_legacy.der",
        "ask_ark_milan.pem",
        [
            "snp signature",
            "snp vek tcb",
            "snp vek identity",
            "snp chain",
            "snp firmware",
            "snp provisional",
            "snp platform",
        ],
    ),
    "coco, a VCEK of another chip, new form": _Vector(
        _file("coco_v2_report.bin"),
        "coco_vcek_invalid_new.der",
        "ask_ark_milan.pem",
        [
            "snp signature",
            "snp vek tcb",
            "snp vek identity",
            "snp chain",
            "snp firmware",
            "snp provisional",
            "snp platform",
        ],
    ),
    "ms, Milan, version 3": _Vector(_file("ms_milan_report.bin"), "ms_milan_vcek.pem", "ask_ark_milan.pem"),
    "ms, Turin, version 5": _Vector(_file("ms_turin_report.bin"), "ms_turin_vcek.pem", "ask_ark_turin_vcek.pem"),
    "dstack, Milan, version 3": _Vector(_dstack, "dstack_milan_v3_vcek.pem", "ask_ark_milan.pem"),
}
GOOD = {name: case for name, case in VECTORS.items() if "another chip" not in name}


@pytest.mark.parametrize("case", VECTORS.values(), ids=VECTORS.keys())
def test_each_vector_gets_its_verdict(case: _Vector) -> None:
    appraisal = case.appraise()
    assert failed(appraisal) == case.refused
    assert tuple(check.name for check in appraisal.checks) == CHECKS


@pytest.mark.parametrize("case", GOOD.values(), ids=GOOD.keys())
def test_each_good_vector_is_authentic(case: _Vector) -> None:
    appraisal = case.appraise()
    assert {check.name for check in appraisal.checks if check.status == "pass"} >= AUTHENTIC


@pytest.mark.parametrize("case", GOOD.values(), ids=GOOD.keys())
def test_no_good_vector_is_accepted_without_a_revocation_list(case: _Vector) -> None:
    assert "snp revocation" in failed(case.appraise(allow_missing_crl=False))


@pytest.mark.parametrize("case", GOOD.values(), ids=GOOD.keys())
def test_no_good_vector_outlives_its_certificate(case: _Vector) -> None:
    end = case.appraise().valid_until
    assert end is not None
    assert "snp validity" not in failed(case.appraise(end))
    assert "snp validity" in failed(case.appraise(end.replace(year=end.year + 1)))
    assert "snp validity" in failed(case.appraise(datetime(2021, 1, 1, tzinfo=UTC)))


@pytest.mark.parametrize("case", GOOD.values(), ids=GOOD.keys())
def test_every_changed_byte_of_a_good_vector_is_refused(case: _Vector) -> None:
    report, collateral = case.report(), case.collateral()
    policy = _policy(report, allow_provisional_firmware=True)
    for place in range(0, len(report), 13):
        changed = report[:place] + bytes([report[place] ^ 1 << place % 8]) + report[place + 1 :]
        assert failed(appraise(changed, policy, collateral, roots=VENDOR_ROOTS, now=MID_2026))


@pytest.mark.parametrize("case", GOOD.values(), ids=GOOD.keys())
def test_a_host_can_deliver_what_a_good_vector_needs(case: _Vector) -> None:
    report = case.report()
    ask, ark = from_pem(vector(f"snp/roots/{case.chain}"), limit=10_000)
    delivered = collateral_of(parse_report(report), CertificateTable(vcek=_certificate(case.vek), ask=ask, ark=ark))
    assert set(delivered) == set(needs(report, _policy(report), delivered)[:2])
    assert failed(appraise(report, _policy(report), delivered, roots=VENDOR_ROOTS, now=MID_2026)) == case.refused


def test_the_policy_of_the_debugged_vector_is_what_refuses_it() -> None:
    appraisal = VECTORS["gosev, Milan, version 2"].appraise(min_firmware="1.49", require_platform=())
    assert failed(appraisal) == ["snp guest policy"]
    assert "debug" in detail(appraisal, "snp guest policy")


def test_an_older_policy_accepts_what_was_good_then() -> None:
    rules: dict[str, Any] = {"min_firmware": "1.52", "require_platform": (), "allow_provisional_firmware": True}
    assert failed(VECTORS["coco, Milan, version 2"].appraise(**rules)) == []


def test_the_vcek_follows_what_is_reported_and_not_what_runs() -> None:
    report = parse_report(vector("snp/coco_v2_report.bin"))
    assert (report.reported_tcb.microcode, report.current_tcb.microcode) == (115, 206)


def test_turin_reports_its_firmware_mitigations_and_eight_bytes_of_chip_id() -> None:
    report = parse_report(vector("snp/ms_turin_report.bin"))
    assert report.reported_tcb == Tcb(fmc=1, bootloader=1, tee=1, snp=4, microcode=81)
    assert (report.version, report.launch_mitigations, report.current_mitigations) == (5, 0x3F, 0x3F)
    assert (int(report.platform_info), report.hardware_id.hex()) == (0x65, "59790fb1c39f35c1")


def test_an_envelope_around_a_report_is_not_a_report() -> None:
    envelope = vector("snp/coco_azure_hcl_report.bin")
    policy = _policy(envelope[32 : 32 + REPORT_BYTES])
    appraisal = appraise(envelope, policy, {}, roots=VENDOR_ROOTS, now=MID_2026)
    assert failed(appraisal) == ["snp report"]
    assert "Azure is not supported" in appraisal.checks[0].detail
    inner: SnpReport = parse_report(envelope[32 : 32 + REPORT_BYTES])
    assert inner.measurement.hex().startswith("9ac48fca")


def test_two_captures_of_one_report_agree() -> None:
    document = json.loads(vector("snp/dstack_snp_attestation.json"))
    assert bytes.fromhex(document["attestation"])[4 : 4 + REPORT_BYTES] == _dstack()
    assert parse_report(_dstack()).measurement.hex().startswith("7f51e17f72a04d54")


@pytest.mark.parametrize("file", ["ask_ark_{}.pem", "ask_ark_{}_vlek.pem"])
@pytest.mark.parametrize(("product", "turin"), [("milan", ""), ("genoa", ""), ("turin", "_vcek")])
def test_amds_own_chains_end_in_the_pinned_roots(file: str, product: str, turin: str) -> None:
    name = file.format(product) if "vlek" in file else file.format(product + turin)
    ask, ark = (parse_certificate(der) for der in from_pem(vector(f"snp/roots/{name}"), limit=10_000))
    verify_issued(ask.signed, ark)
    verify_issued(ark.signed, ark)
    assert hashlib.sha256(ark.der).hexdigest() in VENDOR_ROOTS.snp
    assert ark.subject_cn == f"ARK-{product.capitalize()}"
    assert ask.subject_cn == f"SEV-{'VLEK-' if 'vlek' in file else ''}{product.capitalize()}"
