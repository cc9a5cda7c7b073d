"""What is authentic verifies, and nothing that was altered, revoked, expired or signed by another does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import dcap_qvl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.collateral.roots import VENDOR_ROOTS
from attestation.errors import EvidenceError
from attestation.tdx.abi import HEADER_BYTES, TD15_BYTES, parse_quote
from attestation.tdx.chain import Flag, PckCa, TcbClaims, read_pck_chain, trusted_root, verify
from attestation.tdx.collateral import parse_collateral
from attestation.tdx.policy import TcbStatus
from attestation.types import CollateralKey, CollateralKind
from tests.attestation.tdx.forge import NAMES, NOW, PLATFORM, TCB_DATE, ForgedIntel, level, sign, tcb_level
from tests.attestation.tdx.refusals import is_tellable, refusal_of

INTEL = ForgedIntel()
QUOTE = INTEL.quote(version=5)
MEMBERS = INTEL.members()
ROOTS = INTEL.roots.tdx


def _verify(
    quote: bytes = QUOTE, members: Mapping[str, str] = MEMBERS, *, intel: ForgedIntel = INTEL, at: datetime = NOW
) -> TcbClaims:
    parsed = parse_quote(quote)
    chain = read_pck_chain(parsed)
    root = trusted_root(chain, intel.roots.tdx)
    collateral = parse_collateral(json.dumps(members).encode())
    return verify(parsed, chain, collateral, root=root, at_s=int(at.timestamp()))


def test_what_an_authentic_quote_says_of_its_platform_is_read() -> None:
    claims = _verify()
    assert claims.tcb.status is TcbStatus.UP_TO_DATE
    assert claims.tcb.eval_data_number == 18
    assert claims.platform.tcb_level.date == claims.qe.tcb_level.date == TCB_DATE
    assert claims.platform.current_tcb_level == claims.platform.tcb_level
    pck = claims.platform.pck
    assert (pck.fmspc, pck.ppid, pck.pce_id) == (PLATFORM["fmspc"], PLATFORM["ppid"], PLATFORM["pce_id"])
    assert (pck.sgx_type, pck.platform_instance_id) == (1, PLATFORM["platform_instance_id"])
    assert (pck.dynamic_platform, pck.cached_keys, pck.smt_enabled) == (Flag.TRUE, Flag.TRUE, Flag.TRUE)


@pytest.mark.parametrize("quote", [INTEL.quote(), INTEL.quote(version=5, body_type=2)], ids=["version 4", "version 5"])
def test_a_td_1_0_quote_has_no_present_tcb(quote: bytes) -> None:
    assert _verify(quote).platform.current_tcb_level is None


def test_a_platform_of_one_processor_verifies_and_says_less() -> None:
    silent = dict.fromkeys(("platform_instance_id", "dynamic_platform", "cached_keys", "smt_enabled"))
    intel = ForgedIntel(ca="processor", platform=silent)
    pck = _verify(intel.quote(), intel.members(), intel=intel).platform.pck
    assert pck.platform_instance_id is None
    assert pck.smt_enabled is Flag.UNDEFINED


@pytest.mark.parametrize("ca", PckCa)
def test_collateral_is_asked_for_by_processor_and_ca(ca: PckCa) -> None:
    chain = read_pck_chain(parse_quote(ForgedIntel(ca=ca).quote()))
    assert chain.ca is ca
    assert chain.collateral_key == CollateralKey(CollateralKind.TDX, f"b0c06f000000/{ca}")


def test_only_a_root_of_those_believed_is_believed() -> None:
    chain = read_pck_chain(parse_quote(QUOTE))
    assert trusted_root(chain, ROOTS)
    for believed in (frozenset[str](), VENDOR_ROOTS.tdx):
        with pytest.raises(EvidenceError, match="not believed"):
            trusted_root(chain, believed)


BAD_CHAINS = {
    "a CA that issues no PCK": ({"platform": "Intel SGX Any CA"}, "no CA that issues them"),
    "a PCK of another name": ({"pck": "Intel SGX TCB Signing"}, "not one of"),
    "a root of another name": ({"root": "Intel SGX Any Root CA"}, "not one of"),
}


@pytest.mark.parametrize(("names", "fault"), BAD_CHAINS.values(), ids=BAD_CHAINS)
def test_a_chain_of_other_names_is_refused(names: dict[str, str], fault: str) -> None:
    with pytest.raises(EvidenceError, match=fault):
        read_pck_chain(parse_quote(ForgedIntel(names=names).quote()))


def test_a_pck_whose_extension_cannot_be_read_is_refused() -> None:
    with pytest.raises(EvidenceError, match=r"the PCK certificate: .*Fmspc"):
        read_pck_chain(parse_quote(_platform(fmspc=b"").quote()))


def _platform(**changes: Any) -> ForgedIntel:
    return ForgedIntel(platform=changes)


def _wrong(**changes: str) -> dict[str, str]:
    return {**MEMBERS, **changes}


def _signed_by(key: str, part: str) -> dict[str, str]:
    return _wrong(**{f"{part}_signature": sign(key, MEMBERS[part].encode()).hex()})


_LATER = f"{NOW + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"
_EARLIER = f"{NOW - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"

_NAMESAKE = ForgedIntel(names={"processor": NAMES["platform"]})

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a body signed by another": (lambda: _verify(INTEL.quote(signer="somebody")), "ISV enclave report signature"),
    "a QE report signed by another": (
        lambda: _verify(INTEL.quote(qe_signer="somebody")),
        "Signature is invalid for qe_",
    ),
    "a QE that names another key": (lambda: _verify(INTEL.quote(qe_report_data=bytes(64))), "QE report hash mismatch"),
    "a QE that says more": (
        lambda: _verify(INTEL.quote(qe_report_data=parse_quote(QUOTE).qe_report_data[:63] + b"\x01")),
        "says more than",
    ),
    "authentication data of another length": (lambda: _verify(INTEL.quote(auth_data=bytes(31))), "auth data length"),
    "another enclave than the QE": (lambda: _verify(INTEL.quote(qe_report={"mr_signer": bytes(32)})), "MRSIGNER"),
    "another product than the QE": (lambda: _verify(INTEL.quote(qe_report={"isv_prod_id": b"\x01\x00"})), "ISVPRODID"),
    "a debug QE": (
        lambda: _verify(INTEL.quote(qe_report={"attributes": bytes.fromhex("1700000000000000e700000000000000")})),
        "QE report validation failed",
    ),
    "a QE older than any level": (lambda: _verify(INTEL.quote(qe_report={"isv_svn": b"\x03\x00"})), "ISVSVN"),
    "a module by another signer": (lambda: _verify(INTEL.quote(mr_signer_seam=b"\x01" * 48)), "module identity"),
    "a module with attributes": (lambda: _verify(INTEL.quote(seam_attributes=b"\x01" + bytes(7))), "module identity"),
    "a module of no known version": (
        lambda: _verify(INTEL.quote(tee_tcb_svn=bytes((6, 9, 3)) + bytes(13))),
        "No TDX module identity",
    ),
    "a module older than any level": (
        lambda: _verify(INTEL.quote(tee_tcb_svn=bytes((3, 1, 3)) + bytes(13))),
        "TDX module ISVSVN 3 is below",
    ),
    "a debug domain": (lambda: _verify(INTEL.quote(td_attributes=bytes.fromhex("0100001000000000"))), "Debug mode"),
    "a migratable domain": (lambda: _verify(INTEL.quote(td_attributes=bytes.fromhex("0000003000000000"))), "migration"),
    "a service domain": (lambda: _verify(INTEL.quote(version=5, mr_service_td=b"\x01" * 48)), "MR service TD"),
    "another processor": (
        lambda: _verify(members=_platform(fmspc=bytes(6)).members()),
        "Fmspc mismatch",
    ),
    "another PCE": (lambda: _verify(members=_platform(pce_id=b"\x01\x00").members()), "of another PCE"),
    "a platform below every level": (
        lambda: _verify(members=INTEL.members(tcb_info={"tcbLevels": [tcb_level(pce_svn=12)]})),
        "No matching TCB level",
    ),
    "a domain below every level": (
        lambda: _verify(members=INTEL.members(tcb_info={"tcbLevels": [tcb_level(tdx=(5, 0, 4))]})),
        "No matching TCB level",
    ),
    "a present TCB below every level": (
        lambda: _verify(INTEL.quote(version=5, tee_tcb_svn2=bytes((6, 1, 1)) + bytes(13))),
        "current TDX TCB",
    ),
    "a revoked platform": (
        lambda: _verify(members=INTEL.members(tcb_info={"tcbLevels": [tcb_level("Revoked")]})),
        "TCB status is invalid: Revoked",
    ),
    "a revoked QE": (
        lambda: _verify(members=INTEL.members(qe_identity={"tcbLevels": [level({"isvsvn": 4}, "Revoked")]})),
        "TCB status is invalid: Revoked",
    ),
    "TCB info of SGX": (lambda: _verify(members=INTEL.members(tcb_info={"id": "SGX"})), "non-TDX TCB info"),
    "TCB info of version 2": (lambda: _verify(members=INTEL.members(tcb_info={"version": 2})), "non-TDX TCB info"),
    "TCB info of another module": (
        lambda: _verify(members=INTEL.members(tcb_info={"tdxModuleIdentities": []})),
        "TDX_01",
    ),
    "the identity of SGX's QE": (lambda: _verify(members=INTEL.members(qe_identity={"id": "QE"})), "QE Identity"),
    "TCB info of tomorrow": (lambda: _verify(members=INTEL.members(tcb_info={"issueDate": _LATER})), "in the future"),
    "TCB info of yesterday": (lambda: _verify(members=INTEL.members(tcb_info={"nextUpdate": _EARLIER})), "expired"),
    "QE identity of tomorrow": (
        lambda: _verify(members=INTEL.members(qe_identity={"issueDate": _LATER})),
        "the future",
    ),
    "QE identity of yesterday": (
        lambda: _verify(members=INTEL.members(qe_identity={"nextUpdate": _EARLIER})),
        "expired",
    ),
    "a stale PCK CRL": (
        lambda: _verify(members=_wrong(pck_crl=INTEL.crl("platform", next_update=NOW).hex())),
        "Expired",
    ),
    "a stale root CRL": (
        lambda: _verify(members=_wrong(root_ca_crl=INTEL.crl("root", next_update=NOW).hex())),
        "xpired",
    ),
    "TCB info signed by another": (lambda: _verify(members=_signed_by("somebody", "tcb_info")), "invalid for tcb_info"),
    "TCB info signed by a PCK": (
        lambda: _verify(
            members=_signed_by("pck", "tcb_info") | {"tcb_info_issuer_chain": INTEL.pem("pck", "platform", "root")}
        ),
        "is not 2 certificates",
    ),
    "TCB info signed by the PCK CA": (
        lambda: _verify(
            members=_signed_by("platform", "tcb_info") | {"tcb_info_issuer_chain": INTEL.pem("platform", "root")}
        ),
        "not one of Intel SGX TCB Signing",
    ),
    "QE identity signed by another": (
        lambda: _verify(members=_signed_by("somebody", "qe_identity")),
        "for qe_identity",
    ),
    "QE identity signed by the PCK CA": (
        lambda: _verify(
            members=_signed_by("platform", "qe_identity") | {"qe_identity_issuer_chain": INTEL.pem("platform", "root")}
        ),
        "not one of Intel SGX TCB Signing",
    ),
    "signatures changed about": (
        lambda: _verify(members=_wrong(tcb_info_signature=MEMBERS["qe_identity_signature"])),
        "invalid for tcb_info",
    ),
    "CRLs changed about": (
        lambda: _verify(members=_wrong(pck_crl=MEMBERS["root_ca_crl"], root_ca_crl=MEMBERS["pck_crl"])),
        "root CA CRL",
    ),
    "the CRL of another CA": (
        lambda: _verify(members=_wrong(pck_crl=INTEL.crl("processor").hex())),
        "UnknownRevocation",
    ),
    "the issuer of another CRL": (
        lambda: _verify(members=_wrong(pck_crl_issuer_chain=INTEL.pem("processor", "root"))),
        "not one of Intel SGX PCK Platform CA",
    ),
    "the issuer's name with another key": (
        lambda: _verify(members=_wrong(pck_crl_issuer_chain=_NAMESAKE.pem("processor", "root"))),
        "by another key",
    ),
    "collateral of another root": (
        lambda: _verify(members=replace(INTEL, now=NOW - timedelta(days=1)).members()),
        "different roots",
    ),
}


@pytest.mark.parametrize(("attempt", "fault"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_authentic_is_refused(attempt: Callable[[], object], fault: str) -> None:
    with pytest.raises(EvidenceError, match=fault):
        attempt()


@pytest.mark.parametrize("role", ["pck", "platform", "tcb signing"])
def test_a_revoked_certificate_is_refused(role: str) -> None:
    revoking = ForgedIntel(revoked=frozenset({role}))
    with pytest.raises(EvidenceError, match="CertRevoked"):
        _verify(members=revoking.members(), intel=revoking)


@pytest.mark.parametrize("role", ["pck", "platform", "tcb signing"])
def test_an_expired_certificate_is_refused(role: str) -> None:
    expired = ForgedIntel(ends={role: NOW - timedelta(hours=1)})
    with pytest.raises(EvidenceError, match="CertExpired"):
        _verify(expired.quote(), expired.members(), intel=expired)


def test_collateral_is_judged_as_of_the_given_time() -> None:
    assert _verify(at=INTEL.issued) == _verify(at=INTEL.next_update - timedelta(seconds=1))
    for at in (INTEL.issued - timedelta(seconds=1), INTEL.next_update, datetime.fromisoformat("1960-01-01T00:00:00Z")):
        with pytest.raises(EvidenceError):
            _verify(at=at)


_SIGNED = HEADER_BYTES + 6 + TD15_BYTES
_CERTIFICATION = _SIGNED + 4 + 128 + 6
REGIONS = {
    "header": (0, HEADER_BYTES),
    "body type and size": (HEADER_BYTES, HEADER_BYTES + 6),
    "body": (HEADER_BYTES + 6, _SIGNED),
    "length": (_SIGNED, _SIGNED + 4),
    "signature": (_SIGNED + 4, _SIGNED + 68),
    "attestation key": (_SIGNED + 68, _SIGNED + 132),
    "outer certification": (_SIGNED + 132, _CERTIFICATION),
    "QE report": (_CERTIFICATION, _CERTIFICATION + 384),
    "QE report signature": (_CERTIFICATION + 384, _CERTIFICATION + 448),
    "authentication data": (_CERTIFICATION + 448, _CERTIFICATION + 482),
    "inner certification": (_CERTIFICATION + 482, _CERTIFICATION + 488),
    "PCK chain": (_CERTIFICATION + 488, len(QUOTE)),
}


def test_the_regions_make_up_the_quote() -> None:
    assert [start for start, _ in REGIONS.values()] == [0, *(end for _, end in REGIONS.values())][:-1]


@pytest.mark.parametrize(("start", "end"), REGIONS.values(), ids=REGIONS)
def test_a_flipped_bit_anywhere_in_a_quote_is_refused(start: int, end: int) -> None:
    for at in range(start, end, max(1, (end - start) // 24)):
        flipped = bytearray(QUOTE)
        flipped[at] ^= 1 << (at % 8)
        with pytest.raises(EvidenceError):
            _verify(bytes(flipped))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_flipped_bit_anywhere_in_collateral_is_refused(name: str) -> None:
    text = MEMBERS[name]
    for at in range(0, len(text), max(1, len(text) // 24)):
        flipped = text[:at] + chr(ord(text[at]) ^ 1 << (at % 7)) + text[at + 1 :]
        with pytest.raises(EvidenceError):
            _verify(members=_wrong(**{name: flipped}))


@settings(max_examples=50)
@given(st.integers(0, len(QUOTE) - 1), st.binary(min_size=1, max_size=40))
def test_a_spoilt_quote_is_verified_or_refused_and_nothing_else(at: int, spoilt: bytes) -> None:
    assert is_tellable(refusal_of(lambda: _verify(QUOTE[:at] + spoilt + QUOTE[at + len(spoilt) :])))


@settings(max_examples=50)
@given(st.sampled_from(sorted(MEMBERS)), st.text(max_size=60), st.integers(0, 3000))
def test_spoilt_collateral_is_verified_or_refused_and_nothing_else(name: str, spoilt: str, at: int) -> None:
    text = MEMBERS[name]
    assert is_tellable(refusal_of(lambda: _verify(members=_wrong(**{name: text[:at] + spoilt + text[at:]}))))


class PanicException(BaseException):
    """Like the one of the library, which nobody can import."""


@pytest.mark.parametrize(
    ("raised", "refusal"),
    [(PanicException("index out of bounds"), "gave up"), (ValueError("a\nb \x1b" * 999), "a b [?]")],
)
def test_whatever_the_library_does_with_bad_evidence_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, refusal: str
) -> None:
    def verify_with_root_ca(*_: object) -> None:
        raise raised

    monkeypatch.setattr(dcap_qvl, "verify_with_root_ca", verify_with_root_ca)
    with pytest.raises(EvidenceError, match=refusal) as told:
        _verify()
    assert is_tellable(str(told.value))


def test_an_interruption_is_not_taken_for_bad_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify_with_root_ca(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dcap_qvl, "verify_with_root_ca", verify_with_root_ca)
    with pytest.raises(KeyboardInterrupt):
        _verify()
