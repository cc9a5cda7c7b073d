"""Every certificate of the tests: what all of them have in common, once. Each test PKI says only what is its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import EllipsisType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

START = datetime(2023, 1, 1, tzinfo=UTC)
END = datetime(2049, 12, 31, tzinfo=UTC)
P384 = ec.SECP384R1()

ISSUES, SIGNS, LISTS = "key_cert_sign", "digital_signature", "crl_sign"
"""What a key may be for, by its name in `x509.KeyUsage`."""
_OTHER_USES = (
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
)

Extensions = Sequence[tuple[x509.ExtensionType, bool]]
"""Each with its criticality."""


def named(common_name: str, *others: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    """A name; its further parts come after the common name."""
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in ((NameOID.COMMON_NAME, common_name), *others)])


def builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: Any,
    *,
    start: datetime,
    end: datetime,
    serial: int | None = None,
    ca: bool | None = None,
    path_length: int | None = None,
    uses: Collection[str] | None = None,
    extensions: Extensions = (),
) -> x509.CertificateBuilder:
    """A certificate that only wants signing.

    serial: None draws one. ca: None leaves basic constraints out. uses: None leaves the key's usage out.
    """
    built = x509.CertificateBuilder(issuer, subject, public_key, serial or x509.random_serial_number(), start, end)
    if uses is not None:
        bits = {bit: bit in uses for bit in (ISSUES, SIGNS, LISTS)} | dict.fromkeys(_OTHER_USES, False)
        built = built.add_extension(x509.KeyUsage(**bits), critical=True)
    if ca is not None:
        built = built.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    for extension, critical in extensions:
        built = built.add_extension(extension, critical)
    return built


@dataclass(frozen=True)
class Party:
    """Somebody with a certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def issue(
    name: str,
    issuer: Party | None = None,
    *,
    serial_number: str | None = None,
    ca: bool | None = True,
    uses: Collection[str] | EllipsisType | None = ...,
    path_length: int | None = None,
    start: datetime = START,
    end: datetime = END,
    curve: ec.EllipticCurve = P384,
    key: ec.EllipticCurvePrivateKey | None = None,
    digest: SHA256 | SHA384 | None = None,
    extensions: Extensions = (),
) -> Party:
    """A certificate, for a new key unless one is given; without an issuer, one that signs itself.

    serial_number: a part of the name. uses: by default to issue for a CA, to sign for others; None leaves them out.
    """
    key = key or ec.generate_private_key(curve)
    subject = named(name, *([(NameOID.SERIAL_NUMBER, serial_number)] if serial_number is not None else []))
    built = builder(
        subject,
        issuer.certificate.subject if issuer else subject,
        key.public_key(),
        start=start,
        end=end,
        ca=ca,
        path_length=path_length,
        uses=((ISSUES,) if ca else (SIGNS,)) if uses is ... else uses,
        extensions=extensions,
    )
    return Party(built.sign(issuer.key if issuer else key, digest or SHA384()), key)
