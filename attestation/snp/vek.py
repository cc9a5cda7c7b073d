"""Which chip, or which cloud, and which firmware does the key under a report belong to? The VCEK or VLEK certificate.

AMD's extensions (AMD 57230, arc 1.3.6.1.4.1.3704.1; read through published implementations and real certificates)::

    .1      struct version   INTEGER    0, or 1 where the TCB counts the first mutable code (FMC)
    .2      product name     IA5String  "Milan-B0", "Genoa", "Siena", "Turin"
    .3.n    patch levels     INTEGER    1 bootloader, 2 TEE, 3 SNP, 8 microcode, 9 FMC; 4 to 7 reserved, zero here
    .4      hardware id      64 bytes, 8 from Turin on; bare, on some certificates as an OCTET STRING    VCEK only
    .5      CSP id           IA5String, the cloud that the key was lent to                               VLEK only
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from attestation.errors import EvidenceError
from attestation.snp.abi import Product, SigningKey, Tcb
from attestation.snp.certificate import Certificate, p384_key, parse_certificate

T = TypeVar("T")

_ARC: Final = "1.3.6.1.4.1.3704.1"
_STRUCT_VERSION: Final = f"{_ARC}.1"
_PRODUCT_NAME: Final = f"{_ARC}.2"
_HARDWARE_ID: Final = f"{_ARC}.4"
_CSP_ID: Final = f"{_ARC}.5"
_LEVELS: Final = {
    "bootloader": f"{_ARC}.3.1",
    "tee": f"{_ARC}.3.2",
    "snp": f"{_ARC}.3.3",
    "microcode": f"{_ARC}.3.8",
}
_FMC: Final = f"{_ARC}.3.9"
_RESERVED_LEVELS: Final = tuple(f"{_ARC}.3.{part}" for part in range(4, 8))
_KNOWN: Final = frozenset(
    {_STRUCT_VERSION, _PRODUCT_NAME, _HARDWARE_ID, _CSP_ID, *_LEVELS.values(), _FMC, *_RESERVED_LEVELS}
)

_SUBJECTS: Final = {SigningKey.VCEK: "SEV-VCEK", SigningKey.VLEK: "SEV-VLEK"}
_MODELS: Final = {
    Product.MILAN: ("Milan",),
    Product.GENOA: ("Genoa", "Bergamo", "Siena"),
    Product.TURIN: ("Turin",),
}
"""The product names, without a stepping, that a line's keys may have."""

MAX_NAME_CHARACTERS: Final = 64


def issuer_name(key: SigningKey, product: Product) -> str:
    """The common name of the ASK (for VCEKs) or ASVK (for VLEKs) of a product."""
    return f"SEV-VLEK-{product}" if key is SigningKey.VLEK else f"SEV-{product}"


_ISSUERS: Final = {issuer_name(key, product): (key, product) for key in SigningKey for product in Product}


@dataclass(frozen=True, slots=True)
class Vek:
    """A VCEK or VLEK certificate that was read and not yet believed.

    product: by the name of its issuer, with which the product name in the certificate agrees.
    tcb: the firmware whose version the key was derived from.
    hardware_id: of a VCEK's chip. csp_id: of a VLEK's cloud. Exactly one of them is there.
    """

    certificate: Certificate
    key: SigningKey
    product: Product
    tcb: Tcb
    hardware_id: bytes | None
    csp_id: str | None
    public_key: EllipticCurvePublicKey


def parse_vek(der: bytes) -> Vek:
    """Read a VCEK or VLEK certificate. Raises EvidenceError."""
    certificate = parse_certificate(der)
    if certificate.critical - _KNOWN:
        raise EvidenceError("the VEK certificate has a critical extension that is not known")
    key, product = _role(certificate)
    hardware_id = _hardware_id(certificate)
    csp_id = _text(certificate, _CSP_ID) if _CSP_ID in certificate.extensions else None
    if (hardware_id is None) is (key is SigningKey.VCEK) or (csp_id is None) is (key is SigningKey.VLEK):
        raise EvidenceError(f"the {key} certificate does not name a chip (VCEK) or a cloud (VLEK), or names both")
    return Vek(certificate, key, product, _tcb(certificate), hardware_id, csp_id, p384_key(certificate))


def _role(certificate: Certificate) -> tuple[SigningKey, Product]:
    role = _ISSUERS.get(certificate.issuer_cn or "")
    if role is None:
        raise EvidenceError("the VEK certificate names an issuer that is no ASK or ASVK of a known product")
    key, product = role
    if certificate.subject_cn != _SUBJECTS[key]:
        raise EvidenceError(f"the VEK certificate is not that of a {key}, which its issuer signs")
    if _text(certificate, _PRODUCT_NAME).partition("-")[0] not in _MODELS[product]:
        raise EvidenceError(f"the VEK certificate names another product than its issuer, {product}")
    return role


def _tcb(certificate: Certificate) -> Tcb:
    version = _integer(certificate, _STRUCT_VERSION)
    has_fmc = _FMC in certificate.extensions
    if version not in (0, 1) or has_fmc is not (version == 1):
        raise EvidenceError("the VEK certificate counts its firmware in a way that is not known")
    if any(_integer(certificate, oid) for oid in _RESERVED_LEVELS if oid in certificate.extensions):
        raise EvidenceError("the VEK certificate counts parts of the firmware that are not known")
    levels = {part: _integer(certificate, oid) for part, oid in _LEVELS.items()}
    return Tcb(**levels, fmc=_integer(certificate, _FMC) if has_fmc else None)


def _hardware_id(certificate: Certificate) -> bytes | None:
    value = certificate.extensions.get(_HARDWARE_ID)
    if value is None or len(value) in (8, 64):
        return value
    return _decode(bytes, value)


def _integer(certificate: Certificate, oid: str) -> int:
    value = _decode(int, certificate.extensions.get(oid, b""))
    if not 0 <= value <= 255:
        raise EvidenceError(f"extension {oid} of the VEK certificate is not one byte")
    return value


def _text(certificate: Certificate, oid: str) -> str:
    text = _decode(asn1.IA5String, certificate.extensions.get(oid, b"")).as_str()
    if not text.isprintable() or len(text) > MAX_NAME_CHARACTERS:
        raise EvidenceError(f"extension {oid} of the VEK certificate is not a short printable text")
    return text


def _decode(kind: type[T], der: bytes) -> T:
    try:
        return asn1.decode_der(kind, der)
    except ValueError:
        raise EvidenceError("an extension of the VEK certificate is missing or not the DER that it should be") from None
