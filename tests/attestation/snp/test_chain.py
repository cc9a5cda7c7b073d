"""Only what hangs from AMD's root, is in force and belongs to this report makes it authentic."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from attestation.collateral.roots import VENDOR_ROOTS, Roots
from attestation.snp.abi import Product, SigningKey, parse_report
from attestation.snp.certificate import to_pem
from attestation.snp.chain import CHAIN_CHECKS, VEK_CHECKS
from attestation.snp.collateral import chain_key, crl_key, vek_key
from attestation.types import Appraisal, CollateralKind
from tests.attestation.snp.forge import CSP_ID, Authority, ForgedAmd, ec_key, ia5, write
from tests.attestation.snp.judge import AMD, detail, failed, judge, replaced, skipped

VEK, CHAIN, CRL = CollateralKind.SNP_VEK, CollateralKind.SNP_CHAIN, CollateralKind.SNP_CRL
TURIN = ForgedAmd(Product.TURIN)
LENT = ForgedAmd(Product.GENOA, SigningKey.VLEK)
REPORT = AMD.report()
SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class _Case:
    """A fault, and the one line that it fails. pieces: what stands in the place of good collateral."""

    check: str
    pieces: Mapping[CollateralKind, bytes | None] = field(default_factory=dict)
    amd: ForgedAmd = AMD
    report: bytes | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)
    roots: Roots | None = None
    now: datetime | None = None

    def judge(self) -> Appraisal:
        report = self.amd.report() if self.report is None else self.report
        collateral = self.amd.collateral(report)
        for kind, data in self.pieces.items():
            collateral = replaced(collateral, kind, data)
        policy = self.amd.policy(**self.rules)
        return judge(self.amd, report, policy, collateral, roots=self.roots, now=self.now)


def _under(ark: Authority, pieces: Mapping[CollateralKind, bytes] | None = None) -> dict[str, Any]:
    """Another root, and that it is believed."""
    roots = replace(AMD.roots, snp=frozenset({hashlib.sha256(ark.der()).hexdigest()}))
    return {"pieces": {CHAIN: AMD.chain(ark=ark), **(pieces or {})}, "roots": roots}


_MARK = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"?")
_FOREIGN_ROOT = AMD.ark(subject="ARK-Genoa", issuer="ARK-Genoa")
_OTHER_FIRMWARE = AMD.report(reported_tcb=bytes([4, 0, 0, 0, 0, 0, 24, 218]))
_OTHER_CHIP = AMD.report(chip_id=b"\x09" * 64)

CASES = {
    "no VEK": _Case("snp vek", {VEK: None}),
    "a VEK that cannot be read": _Case("snp vek", {VEK: b"junk"}),
    "a VEK that names no chip": _Case("snp vek", {VEK: AMD.vek(REPORT, extensions={"4": None})}),
    "signed by another key": _Case("snp signature", {VEK: AMD.vek(REPORT, public_key=ec_key("other").public_key())}),
    "not signed at all": _Case("snp signature", report=REPORT[:0x2A0] + bytes(0x200)),
    "signed before it was changed": _Case("snp signature", report=write(REPORT, {"guest_svn": 1})),
    "a key for other firmware": _Case("snp vek tcb", {VEK: AMD.vek(_OTHER_FIRMWARE)}),
    "a key of another chip": _Case("snp vek identity", {VEK: AMD.vek(_OTHER_CHIP)}),
    "a key of half a chip id": _Case("snp vek identity", {VEK: AMD.vek(REPORT, extensions={"4": AMD.chip_id[:8]})}),
    "a chip id longer than Turin's": _Case("snp vek identity", amd=TURIN, report=TURIN.report(chip_id=b"\x09" * 64)),
    "a key lent to another cloud": _Case(
        "snp vek identity", {VEK: LENT.vek(LENT.report(), extensions={"5": ia5("elsewhere")})}, LENT
    ),
    "a product that is not accepted": _Case("snp product", rules={"products": TURIN.policy().products}),
    "no chain": _Case("snp certificates", {CHAIN: None}),
    "a chain that cannot be read": _Case("snp certificates", {CHAIN: b"junk"}),
    "a chain of three": _Case("snp certificates", {CHAIN: AMD.chain() + to_pem(AMD.ark().der())}),
    "a root that is not AMD's": _Case("snp root", roots=VENDOR_ROOTS),
    "a root that is believed for another product": _Case(
        "snp root",
        **_under(
            _FOREIGN_ROOT,
            {
                CHAIN: AMD.chain(ask=AMD.ask(issuer="ARK-Genoa"), ark=_FOREIGN_ROOT),
                CRL: AMD.crl(issuer="ARK-Genoa"),
            },
        ),
    ),
    "a root that was issued by another": _Case("snp root", **_under(AMD.ark(issuer="ARK-Genoa"))),
    "a root that is no authority": _Case("snp root", **_under(AMD.ark(ca=False))),
    "a root that may not sign certificates": _Case("snp root", **_under(AMD.ark(cert_sign=False))),
    "a root that may not sign lists": _Case("snp root", **_under(AMD.ark(crl_sign=False))),
    "an ASK that the root did not sign": _Case("snp chain", {CHAIN: AMD.chain(ask=AMD.ask(issuer_key="other"))}),
    "an ASK that names another root": _Case("snp chain", {CHAIN: AMD.chain(ask=AMD.ask(issuer="ARK-Turin"))}),
    "an ASK with another name": _Case("snp chain", {CHAIN: AMD.chain(ask=AMD.ask(subject="SEV-Genoa"))}),
    "an ASK that is no authority": _Case("snp chain", {CHAIN: AMD.chain(ask=AMD.ask(ca=False))}),
    "an ASK that may not sign certificates": _Case("snp chain", {CHAIN: AMD.chain(ask=AMD.ask(cert_sign=False))}),
    "an ASK with a strange extension": _Case("snp chain", {CHAIN: AMD.chain(ask=AMD.ask(extra=((_MARK, True),)))}),
    "a root with a strange extension": _Case("snp chain", **_under(AMD.ark(extra=((_MARK, True),)))),
    "a VEK that the ASK did not sign": _Case("snp chain", {VEK: AMD.vek(REPORT, issuer_key="other")}),
    "a VEK that the root signed": _Case("snp chain", {VEK: AMD.vek(REPORT, issuer_key="ark")}),
    "a VEK below an ASK of the same name": _Case("snp chain", {CHAIN: AMD.chain(ask=AMD.ask(key="other"))}),
    "an expired VEK": _Case("snp validity", {VEK: AMD.vek(REPORT, not_after=AMD.now - SECOND)}),
    "a VEK that is to come": _Case("snp validity", {VEK: AMD.vek(REPORT, not_before=AMD.now + SECOND)}),
    "an expired ASK": _Case("snp validity", {CHAIN: AMD.chain(ask=AMD.ask(not_after=AMD.now - SECOND))}),
    "an ASK that is to come": _Case("snp validity", {CHAIN: AMD.chain(ask=AMD.ask(not_before=AMD.now + SECOND))}),
    "an expired root": _Case("snp validity", **_under(AMD.ark(not_after=AMD.now - SECOND))),
    "no revocation list": _Case("snp revocation", {CRL: None}),
    "a revocation list that cannot be read": _Case("snp revocation", {CRL: b"junk"}),
    "a revoked ASK": _Case("snp revocation", {CRL: AMD.crl(7, AMD.ask().serial)}),
    "a revoked root": _Case("snp revocation", {CRL: AMD.crl(AMD.ark().serial)}),
    "a list that another signed": _Case("snp revocation", {CRL: AMD.crl(issuer_key="other")}),
    "a list of another root": _Case("snp revocation", {CRL: AMD.crl(issuer="ARK-Turin")}),
    "a list that is to come": _Case("snp revocation", {CRL: AMD.crl(this_update=AMD.now + SECOND)}),
    "a stale list": _Case("snp revocation", {CRL: AMD.crl(next_update=AMD.now - SECOND)}),
    "a list that is stale for too long": _Case(
        "snp revocation", {CRL: AMD.crl(next_update=AMD.now - 61 * SECOND)}, rules={"allow_stale_crl_s": 60}
    ),
    "a list that is too old": _Case(
        "snp revocation", {CRL: AMD.crl(this_update=AMD.now - 61 * SECOND)}, rules={"max_crl_age_s": 60}
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_fault_fails_exactly_its_check(case: _Case) -> None:
    assert failed(case.judge()) == [case.check]


def test_every_check_of_authenticity_has_a_case() -> None:
    assert {case.check for case in CASES.values()} == {*VEK_CHECKS, *CHAIN_CHECKS}


@pytest.mark.parametrize("signing", SigningKey)
@pytest.mark.parametrize("product", Product)
def test_what_amd_vouches_for_is_authentic(product: Product, signing: SigningKey) -> None:
    amd = ForgedAmd(product, signing)
    appraisal = judge(amd)
    assert failed(appraisal) == []
    assert not {*VEK_CHECKS, *CHAIN_CHECKS} & set(skipped(appraisal))


def test_an_old_report_is_of_the_product_that_its_key_names() -> None:
    for product in (Product.MILAN, Product.GENOA):
        amd = ForgedAmd(product)
        assert failed(judge(amd, amd.report(version=2))) == []


def test_without_a_vek_nothing_below_it_is_judged() -> None:
    appraisal = _Case("snp vek", {VEK: None}).judge()
    assert set(VEK_CHECKS[1:]) | {"snp chain", "snp validity"} <= set(skipped(appraisal))


def test_without_a_chain_nothing_of_it_is_judged() -> None:
    appraisal = _Case("snp certificates", {CHAIN: None}).judge()
    assert set(CHAIN_CHECKS[1:]) <= set(skipped(appraisal))


def test_a_report_of_one_product_and_a_key_of_another_are_refused() -> None:
    # Both products are AMD's and both are accepted: what is wrong is that they meet.
    genoa = ForgedAmd(Product.GENOA)
    report = parse_report(REPORT)
    collateral = {
        vek_key(report): genoa.vek(REPORT),
        chain_key(SigningKey.VCEK, Product.MILAN): genoa.chain(),
        crl_key(SigningKey.VCEK, Product.MILAN): genoa.crl(),
    }
    policy = AMD.policy(products=(*AMD.policy().products, *genoa.policy().products))
    roots = replace(AMD.roots, snp=AMD.roots.snp | genoa.roots.snp)
    assert failed(judge(AMD, REPORT, policy, collateral, roots=roots)) == ["snp product", "snp root"]


def test_a_lent_key_does_not_pass_for_that_of_a_chip() -> None:
    lent = ForgedAmd(Product.MILAN, SigningKey.VLEK)
    collateral = replaced(replaced(AMD.collateral(REPORT), VEK, lent.vek(REPORT)), CHAIN, lent.chain())
    appraisal = judge(AMD, REPORT, AMD.policy(csp_ids=(CSP_ID,)), collateral)
    assert failed(appraisal) == ["snp vek identity"]
    assert "a vcek signed it" in detail(appraisal, "snp vek identity")


def test_a_turin_key_does_not_vouch_for_an_old_report() -> None:
    report = TURIN.report(version=2, reported_tcb=bytes([1, 1, 0, 0, 0, 0, 0, 81]), **_CLASSIC)
    vek = TURIN.vek(TURIN.report())
    collateral = {
        vek_key(parse_report(report)): vek,
        chain_key(SigningKey.VCEK, Product.TURIN): TURIN.chain(),
        crl_key(SigningKey.VCEK, Product.TURIN): TURIN.crl(),
    }
    assert "snp vek tcb" in failed(judge(TURIN, report, collateral=collateral))


_CLASSIC = dict.fromkeys(("current_tcb", "committed_tcb", "launch_tcb"), bytes([1, 1, 0, 0, 0, 0, 0, 81]))


@pytest.mark.parametrize("name", ["an expired VEK", "an ASK that may not sign certificates", "a revoked ASK"])
def test_a_refusal_tells_why(name: str) -> None:
    told = detail(CASES[name].judge(), CASES[name].check)
    assert told in {
        f"the VEK certificate is valid from {(AMD.now - timedelta(days=30)).date()} to {AMD.now.date()}",
        "the ASK may not sign certificates",
        "the ASK or its root is revoked",
    }


def test_the_ends_of_every_validity_are_still_valid() -> None:
    pieces = {
        VEK: AMD.vek(REPORT, not_before=AMD.now, not_after=AMD.now),
        CHAIN: AMD.chain(ask=AMD.ask(not_before=AMD.now, not_after=AMD.now)),
        CRL: AMD.crl(this_update=AMD.now, next_update=AMD.now),
    }
    assert failed(_Case("none", pieces).judge()) == []


def test_a_stale_list_counts_within_its_grace() -> None:
    pieces = {CRL: AMD.crl(next_update=AMD.now - 60 * SECOND)}
    appraisal = _Case("none", pieces, rules={"allow_stale_crl_s": 60}).judge()
    assert failed(appraisal) == []
    assert appraisal.valid_until == AMD.now


def test_a_young_enough_list_counts_until_it_is_too_old() -> None:
    pieces = {CRL: AMD.crl(this_update=AMD.now - 60 * SECOND)}
    appraisal = _Case("none", pieces, rules={"max_crl_age_s": 60}).judge()
    assert failed(appraisal) == []
    assert appraisal.valid_until == AMD.now


@pytest.mark.parametrize("name", ["no revocation list", "a revocation list that cannot be read", "a stale list"])
def test_a_list_that_may_be_missing_is_skipped_and_never_passed(name: str) -> None:
    appraisal = replace(CASES[name], rules={"allow_missing_crl": True}).judge()
    assert failed(appraisal) == []
    assert "snp revocation" in skipped(appraisal)


@pytest.mark.parametrize(
    "name",
    [
        "a revoked ASK",
        "a revoked root",
        "a list that another signed",
        "a list of another root",
        "a list that is to come",
    ],
)
def test_a_list_that_may_be_missing_still_counts_when_it_is_there(name: str) -> None:
    assert failed(replace(CASES[name], rules={"allow_missing_crl": True}).judge()) == ["snp revocation"]


def test_a_stale_list_that_may_be_missing_still_revokes() -> None:
    pieces = {CRL: AMD.crl(AMD.ask().serial, next_update=AMD.now - SECOND)}
    assert failed(_Case("", pieces, rules={"allow_missing_crl": True}).judge()) == ["snp revocation"]


def test_an_appraisal_is_valid_until_the_first_of_all_ends() -> None:
    soon = AMD.now + timedelta(days=3)
    assert judge().valid_until == AMD.now + timedelta(days=90)  # the revocation list
    assert _Case("", {VEK: AMD.vek(REPORT, not_after=soon)}).judge().valid_until == soon
    assert _Case("", {CHAIN: AMD.chain(ask=AMD.ask(not_after=soon))}).judge().valid_until == soon
    assert _Case("", {CRL: AMD.crl(next_update=soon)}).judge().valid_until == soon
    assert _Case("", **_under(AMD.ark(not_after=soon))).judge().valid_until == soon


def test_a_list_that_may_be_missing_ends_nothing() -> None:
    case = _Case("", {CRL: AMD.crl(next_update=AMD.now + SECOND)}, rules={"allow_missing_crl": True})
    assert case.judge().valid_until == AMD.now + timedelta(days=2500)  # the VEK


def test_without_anything_that_ends_there_is_no_end() -> None:
    assert judge(collateral={}).valid_until is None


def test_a_list_until_the_end_of_time_does_no_harm() -> None:
    case = _Case("", {CRL: AMD.crl(next_update=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))})
    assert failed(replace(case, rules={"allow_stale_crl_s": 315_360_000}).judge()) == []
