"""Has a certificate been revoked? Answers of NVIDIA's OCSP responder, judged without asking it (RFC 6960).

What is asked is one certificate, by the SHA-384 of its issuer's name and key as NVIDIA's own verifiers ask, and no
nonce: so an answer can be had beforehand, kept, or delivered by the engine, and its age is judged by its own dates.
NVIDIA's answers are good for a day.

An answer counts when its signer is the certificate's issuer, or somebody whom that very issuer has certified for
signing OCSP answers (section 4.2.2.2), with ECDSA on P-384 and SHA-384 as everywhere in NVIDIA's chains.

No real answer was at hand when this was written: it follows RFC 6960 and how other verifiers read NVIDIA's answers.
Left out: whether the responder's own certificate was revoked, which short-lived ones need not answer
(section 4.2.2.2.1); and critical extensions of a single entry, which the library does not show of several.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID
from pydantic import Field

from attestation.errors import EvidenceError
from attestation.gpu.certificates import UNUSABLE, p384_key
from attestation.types import Check, Collateral, CollateralKey, CollateralKind, failed, passed, skipped
from core.program.validation import STRICT

MAX_ANSWER_BYTES = 64 * 1024
CLOCK_SKEW = timedelta(minutes=5)
"""How far a responder's clock may be ahead of ours: its answers are new when we get them."""


@dataclass(frozen=True, slots=True)
class OcspPolicy:
    """What to make of an answer that is not a fresh "good".

    allow_missing: accept a certificate of which nobody says anything; the check is then skipped.
    allow_unknown: the same when the responder does not know the certificate.
    allow_certificate_hold: accept a certificate that is suspended.
    allow_stale_s: for how long after its nextUpdate an answer still counts.
    """

    __pydantic_config__ = STRICT

    allow_missing: bool = False
    allow_unknown: bool = False
    allow_certificate_hold: bool = False
    allow_stale_s: Annotated[int, Field(ge=0, le=90 * 86_400)] = 0


@dataclass(frozen=True, slots=True)
class OcspVerdict:
    """valid_until: when a newer answer is needed; None when this one does not count."""

    check: Check
    valid_until: datetime | None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What an authentic answer says of our certificate, and until when its signer may say so."""

    entry: ocsp.OCSPSingleResponse
    signer_until: datetime


def request(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """The DER question, which is also the name of the answer among the collateral."""
    return _question(certificate, issuer).public_bytes(Encoding.DER)


def key(certificate: x509.Certificate, issuer: x509.Certificate) -> CollateralKey:
    return CollateralKey(CollateralKind.GPU_OCSP, request(certificate, issuer).hex())


def judge(
    name: str,
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    collateral: Collateral,
    policy: OcspPolicy,
    *,
    now: datetime,
) -> OcspVerdict:
    """Whether `certificate`, whose chain has been verified already, is still good. name: of the check."""
    data = collateral.get(key(certificate, issuer))
    if data is None:
        return _unsaid(name, "no OCSP answer is at hand", allowed=policy.allow_missing)
    try:
        response = _parse(data)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:  # nobody signs these
            text = f"the OCSP responder answered {response.response_status.name.lower()}"
            return _unsaid(name, text, allowed=policy.allow_missing)
        return _judge(name, _read(response, certificate, issuer, now), policy, now)
    except EvidenceError as exc:
        return OcspVerdict(failed(name, str(exc)), None)


def _unsaid(name: str, detail: str, *, allowed: bool) -> OcspVerdict:
    return OcspVerdict(skipped(name, f"{detail}; the policy allows that") if allowed else failed(name, detail), None)


def _judge(name: str, answer: _Answer, policy: OcspPolicy, now: datetime) -> OcspVerdict:
    entry = answer.entry
    fresh_until = entry.next_update_utc or entry.this_update_utc  # without one there may be newer news at any time
    valid_until = fresh_until if now <= fresh_until else fresh_until + timedelta(seconds=policy.allow_stale_s)
    if entry.this_update_utc > now + CLOCK_SKEW:
        return OcspVerdict(failed(name, f"the OCSP answer is of the future, {_date(entry.this_update_utc)}"), None)
    if now > valid_until:
        return OcspVerdict(failed(name, f"the OCSP answer was good until {_date(fresh_until)}"), None)
    if entry.certificate_status is ocsp.OCSPCertStatus.UNKNOWN:
        return _unsaid(name, "the OCSP responder does not know the certificate", allowed=policy.allow_unknown)
    if entry.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        held = entry.revocation_reason is x509.ReasonFlags.certificate_hold
        reason = entry.revocation_reason.value if entry.revocation_reason else "no reason given"
        if not (held and policy.allow_certificate_hold):
            return OcspVerdict(failed(name, f"revoked: {reason}"), None)
        detail = "suspended, which the policy allows"
    else:
        detail = "not revoked"
    late = "" if now <= fresh_until else ", and that late the policy allows"
    check = passed(name, f"{detail}; the answer is good until {_date(fresh_until)}{late}")
    return OcspVerdict(check, min(valid_until, answer.signer_until))


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _question(certificate: x509.Certificate, issuer: x509.Certificate) -> ocsp.OCSPRequest:
    return ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, SHA384()).build()


def _parse(data: bytes) -> ocsp.OCSPResponse:
    if len(data) > MAX_ANSWER_BYTES:
        raise EvidenceError(f"the OCSP answer is longer than {MAX_ANSWER_BYTES} bytes")
    try:
        return ocsp.load_der_ocsp_response(data)
    except ValueError:
        raise EvidenceError("the OCSP answer cannot be read") from None


def _read(
    response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime
) -> _Answer:
    """The entry about `certificate`, after every check of the answer but its age and what it says."""
    try:
        if response.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
            raise EvidenceError("the OCSP answer is not signed by ECDSA with SHA-384")
        if any(extension.critical for extension in response.extensions):
            raise EvidenceError("the OCSP answer has a critical extension that is not understood")
        signer_until = _check_signature(response, issuer, now)
        return _Answer(_entry(response, _question(certificate, issuer)), signer_until)
    except UNUSABLE as exc:
        raise EvidenceError(f"the OCSP answer cannot be used ({type(exc).__name__})") from None


def _entry(response: ocsp.OCSPResponse, question: ocsp.OCSPRequest) -> ocsp.OCSPSingleResponse:
    # Hashes of 48 bytes that equal ours can only be of SHA-384; the entry's own word for it proves nothing.
    found = [
        entry
        for entry in response.responses
        if (entry.serial_number, entry.issuer_name_hash, entry.issuer_key_hash)
        == (question.serial_number, question.issuer_name_hash, question.issuer_key_hash)
    ]
    if len(found) != 1:
        raise EvidenceError(f"the OCSP answer has {len(found)} entries about the certificate instead of one")
    return found[0]


def _check_signature(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime) -> datetime:
    """Raise unless an authorised responder signed; otherwise, until when its certificate lets it."""
    for signer in _named(response, issuer):
        if signer != issuer:
            _check_delegate(signer, issuer, now)
        public_key = p384_key(signer, "the signer of the OCSP answer")
        try:
            public_key.verify(response.signature, response.tbs_response_bytes, ECDSA(SHA384()))
        except InvalidSignature:
            raise EvidenceError("the OCSP answer's signature does not verify") from None
        return signer.not_valid_after_utc
    raise EvidenceError("the OCSP answer is signed by neither the issuer nor a responder whose certificate it holds")


def _named(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> Iterator[x509.Certificate]:
    """Those whom the answer names as its signer, by name or by the SHA-1 of a key, which only chooses among them."""
    for candidate in (issuer, *response.certificates):
        key_hash = x509.SubjectKeyIdentifier.from_public_key(candidate.public_key()).digest
        if response.responder_key_hash == key_hash or response.responder_name == candidate.subject:
            yield candidate


def _check_delegate(signer: x509.Certificate, issuer: x509.Certificate, now: datetime) -> None:
    try:
        signer.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        raise EvidenceError("the OCSP responder was not certified by the certificate's issuer") from None
    if not signer.not_valid_before_utc <= now <= signer.not_valid_after_utc:
        raise EvidenceError("the OCSP responder's certificate is not valid now")
    extensions = signer.extensions
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    if ExtendedKeyUsageOID.OCSP_SIGNING not in purposes or not usage.digital_signature:
        raise EvidenceError("the OCSP responder's certificate is not for signing OCSP answers")
