"""What does a certificate, or a revocation list, of AMD's key hierarchy say? X.509 (RFC 5280), as far as AMD uses it.

Why `cryptography.x509` does not read them: every VCEK and VLEK has the serial number 0, over which `cryptography` 50
warns at each load and which a later release will refuse, and its path validation asks for key identifiers that a VEK
does not have. The structures are declared here and decoded by the strict DER parser of the same library
(`cryptography.hazmat.asn1`), without a warning to silence for the whole process.

AMD signs all of them with RSASSA-PSS, SHA-384, MGF1 with SHA-384 and a salt of 48 bytes. No other algorithm is tried,
whatever a certificate names: the parameters that AMD writes are not even DER (a default trailer field is spelled out).

Refused beyond what DER and RFC 5280 ask: a critical extension that the caller does not know, an extension that stands
twice, and names whose parts have more than one attribute.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Protocol, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509 import ObjectIdentifier

from attestation.errors import EvidenceError

MAX_CERTIFICATE_BYTES: Final = 8192
"""AMD's are about 1700 bytes long."""
MAX_CRL_BYTES: Final = 262_144

BASIC_CONSTRAINTS: Final = "2.5.29.19"
KEY_USAGE: Final = "2.5.29.15"
_COMMON_NAME: Final = "2.5.4.3"
_KEY_CERT_SIGN: Final = 0x04  # bit 5, counted from the most significant (RFC 5280 section 4.2.1.3)
_CRL_SIGN: Final = 0x02
_SALT_BYTES: Final = 48
_RSA: Final = bytes.fromhex("300d06092a864886f70d0101010500")
"""AlgorithmIdentifier: rsaEncryption, NULL (RFC 3279 section 2.3.1)."""
_RSA_BITS: Final = range(2048, 8193)  # AMD's have 4096
_RSA_EXPONENT: Final = 65537
_EC_P384: Final = bytes.fromhex("301006072a8648ce3d020106052b81040022")
"""AlgorithmIdentifier: id-ecPublicKey, secp384r1 (RFC 5480 section 2.1.1)."""

_PEM_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----")

T = TypeVar("T")


class _ToBeSigned(Protocol):
    algorithm: asn1.TLV


TBS = TypeVar("TBS", bound=_ToBeSigned)

Name = tuple[tuple[str, str], ...]
"""A distinguished name: object identifiers and values, in order."""

_Time = asn1.UTCTime | asn1.GeneralizedTime


@asn1.sequence
class _Signed:
    tbs: asn1.TLV
    algorithm: asn1.TLV
    signature: asn1.BitString


@asn1.sequence
class _Attribute:
    type: ObjectIdentifier
    value: str | asn1.PrintableString | asn1.IA5String


@asn1.sequence
class _Validity:
    not_before: _Time
    not_after: _Time


@asn1.sequence
class _Extension:
    oid: ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    value: bytes


@asn1.sequence
class _PublicKeyInfo:
    algorithm: asn1.TLV
    key: asn1.BitString


@asn1.sequence
class _TbsCertificate:
    version: Annotated[int, asn1.Explicit(0)]
    serial: int
    algorithm: asn1.TLV
    issuer: list[asn1.SetOf[_Attribute]]
    validity: _Validity
    subject: list[asn1.SetOf[_Attribute]]
    public_key: _PublicKeyInfo
    extensions: Annotated[list[_Extension], asn1.Explicit(3)]


@asn1.sequence
class _RevokedCertificate:
    serial: int
    date: _Time
    extensions: list[_Extension] | None


@asn1.sequence
class _TbsCrl:
    version: int
    algorithm: asn1.TLV
    issuer: list[asn1.SetOf[_Attribute]]
    this_update: _Time
    next_update: _Time
    revoked: list[_RevokedCertificate] | None
    extensions: Annotated[list[_Extension] | None, asn1.Explicit(0)]


@asn1.sequence
class _RsaPublicKey:
    modulus: int
    exponent: int


@asn1.sequence
class _BasicConstraints:
    ca: Annotated[bool, asn1.Default(False)]
    path_length: int | None


@dataclass(frozen=True, slots=True)
class SignedBytes:
    """What was signed, and the signature over it."""

    tbs: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that was read and not yet believed.

    der: the whole of it. key_algorithm, key_bits: the two halves of its SubjectPublicKeyInfo.
    extensions: values by object identifier. critical: the identifiers of those marked so.
    """

    der: bytes
    signed: SignedBytes
    serial: int
    issuer: Name
    subject: Name
    not_before: datetime
    not_after: datetime
    key_algorithm: bytes
    key_bits: bytes
    extensions: Mapping[str, bytes]
    critical: frozenset[str]

    @property
    def subject_cn(self) -> str | None:
        return _common_name(self.subject)

    @property
    def issuer_cn(self) -> str | None:
        return _common_name(self.issuer)


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list of revoked serial numbers that was read and not yet believed."""

    signed: SignedBytes
    issuer: Name
    this_update: datetime
    next_update: datetime
    serials: frozenset[int]


def parse_certificate(der: bytes) -> Certificate:
    """Read an X.509 certificate of version 3. Raises EvidenceError."""
    signed, tbs = _open(der, _TbsCertificate, MAX_CERTIFICATE_BYTES)
    if tbs.version != 2 or tbs.public_key.key.padding_bits():
        raise EvidenceError("a certificate is not of version 3, or its key is not whole bytes")
    return Certificate(
        der=der,
        signed=signed,
        serial=tbs.serial,
        issuer=_name(tbs.issuer),
        subject=_name(tbs.subject),
        not_before=_datetime(tbs.validity.not_before),
        not_after=_datetime(tbs.validity.not_after),
        key_algorithm=asn1.encode_der(tbs.public_key.algorithm),
        key_bits=tbs.public_key.key.as_bytes(),
        extensions=_unique(tbs.extensions),
        critical=frozenset(extension.oid.dotted_string for extension in tbs.extensions if extension.critical),
    )


def parse_crl(der: bytes) -> RevocationList:
    """Read a complete revocation list of version 2. Raises EvidenceError."""
    signed, tbs = _open(der, _TbsCrl, MAX_CRL_BYTES)
    if tbs.version != 1:
        raise EvidenceError("a revocation list is not of version 2")
    # What marks a list as partial, indirect or a delta is critical (RFC 5280 section 5.2), and would mislead us here.
    entries = tbs.revoked or []
    marks = [*(tbs.extensions or []), *(mark for entry in entries for mark in entry.extensions or [])]
    if any(mark.critical for mark in marks):
        raise EvidenceError("a revocation list has a critical extension")
    return RevocationList(
        signed=signed,
        issuer=_name(tbs.issuer),
        this_update=_datetime(tbs.this_update),
        next_update=_datetime(tbs.next_update),
        serials=frozenset(entry.serial for entry in entries),
    )


def _open(der: bytes, kind: type[TBS], limit: int) -> tuple[SignedBytes, TBS]:
    if len(der) > limit:
        raise EvidenceError(f"a certificate or revocation list is longer than {limit} bytes")
    outer = _decode(_Signed, der)
    tbs_bytes = asn1.encode_der(outer.tbs)
    tbs = _decode(kind, tbs_bytes)
    # The algorithm outside is not signed, and must repeat the one inside (RFC 5280 sections 4.1.1.2 and 5.1.1.2).
    if asn1.encode_der(outer.algorithm) != asn1.encode_der(tbs.algorithm):
        raise EvidenceError("a certificate or revocation list names two signature algorithms")
    if outer.signature.padding_bits():
        raise EvidenceError("the signature of a certificate or revocation list is not whole bytes")
    return SignedBytes(tbs_bytes, outer.signature.as_bytes()), tbs


def _decode(kind: type[T], der: bytes) -> T:
    try:
        return asn1.decode_der(kind, der)
    except ValueError:  # its message tells the position in our declarations, and nothing to a person
        raise EvidenceError("a certificate or revocation list is not the DER that it should be") from None


def _name(parts: list[asn1.SetOf[_Attribute]]) -> Name:
    attributes = [part.as_list() for part in parts]
    if any(len(attribute) != 1 for attribute in attributes):
        raise EvidenceError("a name in a certificate has a part of several attributes")
    return tuple((attribute.type.dotted_string, _text(attribute.value)) for (attribute,) in attributes)


def _text(value: str | asn1.PrintableString | asn1.IA5String) -> str:
    return value if isinstance(value, str) else value.as_str()


def _common_name(name: Name) -> str | None:
    names = [value for oid, value in name if oid == _COMMON_NAME]
    return names[0] if len(names) == 1 else None


def _datetime(time: _Time) -> datetime:
    return time.as_datetime().astimezone(UTC)


def _unique(extensions: list[_Extension]) -> dict[str, bytes]:
    by_oid = {extension.oid.dotted_string: extension.value for extension in extensions}
    if len(by_oid) != len(extensions):
        raise EvidenceError("an extension of a certificate stands twice")
    return by_oid


def is_authority(certificate: Certificate, *, may_sign_crls: bool) -> bool:
    """Whether its basic constraints and its key usage let it sign certificates (and lists)."""
    try:
        constraints = _decode(_BasicConstraints, certificate.extensions[BASIC_CONSTRAINTS])
        usage = asn1.decode_der(asn1.BitString, certificate.extensions[KEY_USAGE]).as_bytes()
    except (KeyError, ValueError, EvidenceError):
        return False
    wanted = _KEY_CERT_SIGN | (_CRL_SIGN if may_sign_crls else 0)
    return constraints.ca and bool(usage) and usage[0] & wanted == wanted


def verify_issued(signed: SignedBytes, issuer: Certificate) -> None:
    """Check a signature with the RSA key of `issuer`. Raises EvidenceError."""
    key = _rsa_key(issuer)
    try:
        key.verify(signed.signature, signed.tbs, PSS(MGF1(SHA384()), _SALT_BYTES), SHA384())
    except InvalidSignature:
        raise EvidenceError("the signature is not that of the issuer") from None


def _rsa_key(certificate: Certificate) -> RSAPublicKey:
    # Looked at before the library does: it warns of some kinds of keys, and its work grows with theirs.
    if certificate.key_algorithm != _RSA:
        raise EvidenceError("the key of the issuer is not RSA")
    key = _decode(_RsaPublicKey, certificate.key_bits)
    if key.modulus.bit_length() not in _RSA_BITS or key.modulus < 0 or key.exponent != _RSA_EXPONENT:
        raise EvidenceError("the RSA key of the issuer is not of the size or the exponent that is expected")
    try:
        return RSAPublicNumbers(key.exponent, key.modulus).public_key()
    except ValueError:
        raise EvidenceError("the RSA key of the issuer is none") from None


def p384_key(certificate: Certificate) -> EllipticCurvePublicKey:
    """Its public key. Raises EvidenceError when that is not a point of P-384."""
    if certificate.key_algorithm != _EC_P384:
        raise EvidenceError("the key of a certificate is not on P-384")
    try:
        return EllipticCurvePublicKey.from_encoded_point(SECP384R1(), certificate.key_bits)
    except ValueError:
        raise EvidenceError("the key of a certificate is not a point of P-384") from None


def from_pem(text: bytes, *, limit: int) -> tuple[bytes, ...]:
    """The DER of each certificate in a PEM text (RFC 7468), nothing else in between. Raises EvidenceError."""
    if len(text) > limit:
        raise EvidenceError(f"a PEM text is longer than {limit} bytes")
    if _PEM_BLOCK.sub(b"", text).strip():
        raise EvidenceError("a PEM text holds something else than certificates")
    try:
        return tuple(base64.b64decode(b"".join(body.split()), validate=True) for body in _PEM_BLOCK.findall(text))
    except binascii.Error:
        raise EvidenceError("a PEM text is not base64") from None


def to_pem(der: bytes) -> bytes:
    """A certificate as PEM text (RFC 7468)."""
    text = base64.b64encode(der)
    lines = b"\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return b"-----BEGIN CERTIFICATE-----\n" + lines + b"\n-----END CERTIFICATE-----\n"
