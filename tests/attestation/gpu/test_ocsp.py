"""Only a fresh and authorised "good" passes; what else may count, a policy must say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as x509_ocsp
from cryptography.x509.ocsp import OCSPCertStatus, OCSPResponseStatus
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from attestation.gpu import ocsp
from attestation.gpu.ocsp import OcspPolicy, OcspVerdict
from attestation.types import CheckStatus, CollateralKind
from core.program.validation import validate
from tests.attestation.gpu.forge_rim import AUTHORITY, NOW, ocsp_answer, ocsp_merged, ocsp_responder
from tests.pki import Party, issue

CERTIFICATE = AUTHORITY.signer.certificate
ISSUER = AUTHORITY.level3
KEY = ocsp.key(CERTIFICATE, ISSUER.certificate)
STRICT_POLICY = OcspPolicy()
GOOD = ocsp_answer(CERTIFICATE, ISSUER)
RESPONDER = ocsp_responder(ISSUER)
DELEGATED = ocsp_answer(CERTIFICATE, ISSUER, responder=RESPONDER)

FLIPPED = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")


def _judge(answer: bytes | None, policy: OcspPolicy = STRICT_POLICY, now: datetime = NOW) -> OcspVerdict:
    collateral = {} if answer is None else {KEY: answer}
    return ocsp.judge("gpu ocsp", CERTIFICATE, ISSUER.certificate, collateral, policy, now=now)


def _fails(answer: bytes | None, reason: str, policy: OcspPolicy = STRICT_POLICY, now: datetime = NOW) -> None:
    verdict = _judge(answer, policy, now)
    assert verdict.check.name == "gpu ocsp"
    assert verdict.check.failed, verdict.check
    assert reason in verdict.check.detail
    assert verdict.valid_until is None


def test_the_question_names_one_certificate_by_sha384_and_has_no_nonce() -> None:
    question = x509_ocsp.load_der_ocsp_request(ocsp.request(CERTIFICATE, ISSUER.certificate))
    assert isinstance(question.hash_algorithm, SHA384)
    assert question.serial_number == CERTIFICATE.serial_number
    assert len(list(question.extensions)) == 0
    assert (KEY.kind, KEY.name) == (CollateralKind.GPU_OCSP, ocsp.request(CERTIFICATE, ISSUER.certificate).hex())
    assert ocsp.request(CERTIFICATE, ISSUER.certificate) == ocsp.request(CERTIFICATE, ISSUER.certificate)


@pytest.mark.parametrize("answer", [GOOD, DELEGATED], ids=["issuer", "delegate"])
def test_a_fresh_good_passes(answer: bytes) -> None:
    verdict = _judge(answer)
    assert verdict.check.status is CheckStatus.PASS
    assert verdict.check.detail == "not revoked; the answer is good until 2026-06-02 11:00:00 UTC"
    assert verdict.valid_until == NOW + timedelta(hours=23)


def test_a_responder_whose_certificate_ends_sooner_limits_the_answer() -> None:
    soon = NOW + timedelta(hours=2)
    verdict = _judge(ocsp_answer(CERTIFICATE, ISSUER, responder=ocsp_responder(ISSUER, end=soon)))
    assert verdict.valid_until == soon


def test_an_answer_counts_to_its_last_second() -> None:
    end = NOW + timedelta(hours=23)
    assert _judge(GOOD, now=end).check.status is CheckStatus.PASS
    _fails(GOOD, "was good until 2026-06-02 11:00:00 UTC", now=end + timedelta(seconds=1))


def test_an_answer_may_be_a_little_ahead_of_our_clock() -> None:
    ahead = ocsp_answer(CERTIFICATE, ISSUER, this_update=NOW + timedelta(minutes=5))
    assert _judge(ahead).check.status is CheckStatus.PASS
    _fails(ocsp_answer(CERTIFICATE, ISSUER, this_update=NOW + timedelta(minutes=6)), "of the future")


def _stranger() -> Party:
    return issue("Test Reference Value L3 GH100 001", AUTHORITY.family)


def _multiple(*certificates: x509.Certificate) -> bytes:
    """One answer about several certificates of the same issuer."""
    return ocsp_merged([ocsp_answer(certificate, ISSUER) for certificate in certificates], ISSUER)


OTHER = issue("another", ISSUER, ca=False).certificate
_SERVER_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])


def _extended(*, critical: bool) -> bytes:
    builder = (
        x509_ocsp.OCSPResponseBuilder()
        .add_response(
            cert=CERTIFICATE,
            issuer=ISSUER.certificate,
            algorithm=SHA384(),
            cert_status=OCSPCertStatus.GOOD,
            this_update=NOW,
            next_update=NOW + timedelta(days=1),
            revocation_time=None,
            revocation_reason=None,
        )
        .responder_id(x509_ocsp.OCSPResponderEncoding.NAME, ISSUER.certificate)
        .add_extension(x509.OCSPNonce(b"n" * 32), critical=critical)
    )
    return builder.sign(ISSUER.key, SHA384()).public_bytes(Encoding.DER)


def _answer_of(responder: Party, *, embed: bool = True) -> bytes:
    return ocsp_answer(CERTIFICATE, ISSUER, responder=responder, embed=embed)


@dataclass(frozen=True)
class _Case:
    answer: bytes | None
    reason: str


CASES: Mapping[str, _Case] = {
    "nothing": _Case(None, "no OCSP answer is at hand"),
    "no bytes": _Case(b"", "cannot be read"),
    "no DER": _Case(b"good", "cannot be read"),
    "a question": _Case(ocsp.request(CERTIFICATE, ISSUER.certificate), "cannot be read"),
    "too long": _Case(GOOD + b" " * ocsp.MAX_ANSWER_BYTES, "longer than 65536 bytes"),
    "something after it": _Case(GOOD + b"\0", "cannot be read"),
    "revoked": _Case(ocsp_answer(CERTIFICATE, ISSUER, status=OCSPCertStatus.REVOKED), "revoked: no reason given"),
    "compromised": _Case(
        ocsp_answer(CERTIFICATE, ISSUER, status=OCSPCertStatus.REVOKED, reason=x509.ReasonFlags.key_compromise),
        "revoked: keyCompromise",
    ),
    "on hold": _Case(
        ocsp_answer(CERTIFICATE, ISSUER, status=OCSPCertStatus.REVOKED, reason=x509.ReasonFlags.certificate_hold),
        "revoked: certificateHold",
    ),
    "unknown": _Case(ocsp_answer(CERTIFICATE, ISSUER, status=OCSPCertStatus.UNKNOWN), "does not know"),
    "without a next update": _Case(ocsp_answer(CERTIFICATE, ISSUER, next_update=None), "was good until"),
    "about another certificate": _Case(ocsp_answer(OTHER, ISSUER), "0 entries"),
    "about another's certificate": _Case(ocsp_answer(CERTIFICATE, _stranger()), "neither the issuer"),
    "about two others": _Case(_multiple(OTHER, ISSUER.certificate), "0 entries"),
    "twice about the certificate": _Case(_multiple(CERTIFICATE, OTHER, CERTIFICATE), "2 entries"),
    "by another key of the issuer's name": _Case(
        ocsp_merged([GOOD], Party(ISSUER.certificate, _stranger().key)), "signature does not verify"
    ),
    "with SHA-256": _Case(ocsp_answer(CERTIFICATE, ISSUER, digest=SHA256()), "not signed by ECDSA with SHA-384"),
    "with a critical extension": _Case(_extended(critical=True), "critical extension"),
    "by a responder of another issuer": _Case(_answer_of(ocsp_responder(AUTHORITY.family)), "not certified by"),
    "by a responder of the issuer's issuer": _Case(_answer_of(ocsp_responder(AUTHORITY.root)), "not certified by"),
    "by a responder that certifies itself": _Case(_answer_of(issue("self", ca=False)), "not certified by"),
    "by a responder of the issuer's name": _Case(_answer_of(ocsp_responder(_stranger())), "not certified by"),
    "by a responder that is not in it": _Case(_answer_of(RESPONDER, embed=False), "neither the issuer"),
    "by the certificate itself": _Case(_answer_of(AUTHORITY.signer), "ExtensionNotFound"),
    "by a certificate for servers": _Case(
        _answer_of(ocsp_responder(ISSUER, extensions=[(_SERVER_AUTH, False)])), "not for signing OCSP answers"
    ),
    "by a responder that may not sign": _Case(
        _answer_of(ocsp_responder(ISSUER, uses=())), "not for signing OCSP answers"
    ),
    "by an expired responder": _Case(
        _answer_of(ocsp_responder(ISSUER, end=NOW - timedelta(seconds=1))), "not valid now"
    ),
    "by a responder of tomorrow": _Case(
        _answer_of(ocsp_responder(ISSUER, start=NOW + timedelta(days=1))), "not valid now"
    ),
    "by a responder on P-256": _Case(_answer_of(ocsp_responder(ISSUER, curve=ec.SECP256R1())), "not of P-384"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_is_not_a_fresh_and_authorised_good_fails(case: _Case) -> None:
    verdict = _judge(case.answer)
    assert verdict.check.failed
    assert case.reason in verdict.check.detail
    assert verdict.valid_until is None


MOST_LENIENT = OcspPolicy(
    allow_missing=True, allow_unknown=True, allow_certificate_hold=True, allow_stale_s=90 * 86_400
)


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"nothing", "on hold", "unknown", "without a next update"}))
def test_no_policy_accepts_a_revocation_or_an_answer_that_is_not_authentic(name: str) -> None:
    assert _judge(CASES[name].answer, MOST_LENIENT).check.failed


def test_entries_about_others_do_no_harm() -> None:
    assert _judge(_multiple(OTHER, CERTIFICATE)).check.status is CheckStatus.PASS


def test_a_nonce_in_the_answer_does_no_harm() -> None:
    assert _judge(_extended(critical=False)).check.status is CheckStatus.PASS


def test_a_missing_answer_is_skipped_where_the_policy_allows_it() -> None:
    verdict = _judge(None, OcspPolicy(allow_missing=True))
    assert verdict.check.status is CheckStatus.SKIP
    assert verdict.valid_until is None


@pytest.mark.parametrize(
    "status", [status for status in OCSPResponseStatus if status is not OCSPResponseStatus.SUCCESSFUL]
)
def test_an_error_of_the_responder_is_no_answer(status: OCSPResponseStatus) -> None:
    error = x509_ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
    _fails(error, f"the OCSP responder answered {status.name.lower()}")
    _fails(error, "answered", OcspPolicy(allow_unknown=True, allow_certificate_hold=True, allow_stale_s=86_400))
    assert _judge(error, OcspPolicy(allow_missing=True)).check.status is CheckStatus.SKIP


def test_an_unknown_certificate_is_skipped_where_the_policy_allows_it() -> None:
    answer = CASES["unknown"].answer
    assert _judge(answer, OcspPolicy(allow_unknown=True)).check.status is CheckStatus.SKIP
    _fails(answer, "does not know", OcspPolicy(allow_missing=True, allow_certificate_hold=True))


def test_a_suspended_certificate_passes_where_the_policy_allows_it() -> None:
    check = _judge(CASES["on hold"].answer, OcspPolicy(allow_certificate_hold=True)).check
    assert check.status is CheckStatus.PASS
    assert "suspended, which the policy allows" in check.detail
    _fails(CASES["on hold"].answer, "certificateHold", OcspPolicy(allow_missing=True, allow_unknown=True))


def test_a_stale_answer_passes_for_as_long_as_the_policy_allows() -> None:
    policy = OcspPolicy(allow_stale_s=3600)
    end = NOW + timedelta(hours=23)
    late = _judge(GOOD, policy, end + timedelta(hours=1))
    assert late.check.status is CheckStatus.PASS
    assert "that late the policy allows" in late.check.detail
    assert late.valid_until == end + timedelta(hours=1)
    assert _judge(GOOD, policy).valid_until == end
    _fails(GOOD, "was good until", policy, end + timedelta(hours=1, seconds=1))


def test_an_answer_without_a_next_update_is_stale_from_the_start() -> None:
    answer = ocsp_answer(CERTIFICATE, ISSUER, next_update=None)
    assert _judge(answer, OcspPolicy(allow_stale_s=3600)).check.status is CheckStatus.PASS
    _fails(answer, "was good until", OcspPolicy(allow_stale_s=3599))


def test_the_issuer_may_be_named_by_its_key_or_its_name() -> None:
    named = _extended(critical=False)
    assert x509_ocsp.load_der_ocsp_response(named).responder_name == ISSUER.certificate.subject
    assert x509_ocsp.load_der_ocsp_response(GOOD).responder_name is None
    assert _judge(named).check.status is _judge(GOOD).check.status is CheckStatus.PASS


def test_a_policy_is_read_from_its_table_and_strict_by_default() -> None:
    adapter = TypeAdapter(OcspPolicy)
    assert validate(adapter, {}) == OcspPolicy(
        allow_missing=False, allow_unknown=False, allow_certificate_hold=False, allow_stale_s=0
    )
    assert validate(adapter, {"allow_stale_s": 60, "allow_missing": True}) == OcspPolicy(
        allow_stale_s=60, allow_missing=True
    )
    for wrong in ({"allow_stale_s": -1}, {"allow_stale_s": 91 * 86_400}, {"allow_missing": 1}, {"allow_revoked": True}):
        with pytest.raises(ValueError, match="allow_"):
            validate(adapter, wrong)


@FLIPPED
@pytest.mark.parametrize("answer", [GOOD, DELEGATED], ids=["issuer", "delegate"])
def test_every_flipped_bit_fails(answer: bytes) -> None:
    """A sample that meets every bit of a byte. Of each signature, one byte says how many bits of its last byte are
    unused: nobody signs it, and the library ignores it."""
    signatures = [x509_ocsp.load_der_ocsp_response(answer).signature, RESPONDER.certificate.signature]
    ignored = {answer.find(signature) - 1 for signature in signatures}
    for bit in range(0, 8 * len(answer), 13):
        flipped = bytearray(answer)
        flipped[bit // 8] ^= 1 << bit % 8
        if bit // 8 not in ignored:
            assert _judge(bytes(flipped), MOST_LENIENT).check.status is not CheckStatus.PASS


def test_every_truncation_fails() -> None:
    for length in range(len(DELEGATED)):
        assert _judge(DELEGATED[:length], MOST_LENIENT).check.failed


@FLIPPED
@given(st.integers(0, len(DELEGATED) - 1), st.binary(max_size=8))
def test_an_answer_with_other_bytes_put_in_says_the_same_or_fails(place: int, put: bytes) -> None:
    changed = DELEGATED[:place] + put + DELEGATED[place + len(put) :]
    verdict = _judge(changed)
    assert verdict.check.failed or verdict == _judge(DELEGATED)


@given(st.binary(max_size=200))
def test_any_bytes_fail_with_a_reason(data: bytes) -> None:
    assert _judge(data).check.failed
