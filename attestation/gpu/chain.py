"""Is a device report authentic? Its chain of certificates to NVIDIA's root, and its signature.

::

    leaf        "GH100 A01 GSP FMC LF"   the firmware's signing key; made, and certified, on the chip at each boot
    brom        "GH100 A01 GSP BROM"     the chip's own key, which its boot ROM holds and NVIDIA certified
    provisioner "NVIDIA GH100 Provisioner ICA 1"
    identity    "NVIDIA GH100 Identity"  (of switches too)
    root        "NVIDIA Device Identity CA", pinned

The names were read from real chains. The chip of the leaf must be that of the two certificates above it: the leaf is
the device's own word, and those are NVIDIA's. All keys are of P-384, all signatures ECDSA with SHA-384.

A leaf also certifies a digest of the firmware that holds its key (FWID): in a CompositeDeviceID, as RIoT defined it,
on Hopper, and in the TCG's DiceTcbInfo on Blackwell. When the report repeats it, the two must agree.

A chip has a number for the fabric (PDI), by which switches and GPUs name each other. In every real chain it is also
the end of the serial number in the boot ROM's certificate. NVIDIA documents neither; used here, it turns "the switches
say they lead to eight GPUs" into "to these eight".

Revocation is asked about in `ocsp.py`. Left out: key identifiers, since every link is checked by name and signature;
and the operational flags of DiceTcbInfo, whose meaning on these devices is not published.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import Annotated, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from attestation.collateral.roots import Roots, fingerprint
from attestation.errors import EvidenceError
from attestation.gpu.abi import FWID_BYTES, Pdi, SpdmReport
from attestation.gpu.certificates import UNDERSTOOD_CRITICAL, UNUSABLE, p384_key, verify_raw
from attestation.gpu.evidence import Architecture

CHAIN_LENGTH: Final = 5
_LEAF, _BROM, _PROVISIONER = 0, 1, 2

COMPOSITE_DEVICE_ID: Final = x509.ObjectIdentifier("2.23.133.5.4.1")
DICE_TCB_INFO: Final = x509.ObjectIdentifier("2.23.133.5.4.1.1")
_SHA384: Final = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.2")

_CHIPS: Final = (
    (re.compile(r"GH[0-9]{3}"), Architecture.HOPPER),
    (re.compile(r"GB[0-9]{3}"), Architecture.BLACKWELL),
    (re.compile(r"LS_10"), Architecture.LS10),
)
_LEAF_NAME: Final = re.compile(r"([A-Z]{2}_?[0-9]{2,3}) [A-Z0-9]{1,8} (?:GSP|FSP) FMC LF")
_SERIAL: Final = re.compile(r"[0-9A-F]{2}([0-9A-F]{16})")

Link = tuple[x509.Certificate, x509.Certificate]
"""A certificate and its issuer."""


@asn1.sequence
class _Fwid:
    algorithm: x509.ObjectIdentifier
    digest: bytes


@asn1.sequence
class _CompositeDeviceId:
    version: int
    device_key: asn1.TLV
    fwid: _Fwid


@asn1.sequence
class _DiceTcbInfo:
    vendor: Annotated[str | None, asn1.Implicit(0)]
    model: Annotated[str | None, asn1.Implicit(1)]
    version: Annotated[bytes | None, asn1.Implicit(2)]
    svn: Annotated[int | None, asn1.Implicit(3)]
    layer: Annotated[int | None, asn1.Implicit(4)]
    index: Annotated[int | None, asn1.Implicit(5)]
    fwids: Annotated[list[_Fwid] | None, asn1.Implicit(6)]
    flags: Annotated[asn1.BitString | None, asn1.Implicit(7)]
    vendor_info: Annotated[bytes | None, asn1.Implicit(8)]
    type: Annotated[bytes | None, asn1.Implicit(9)]


@dataclass(frozen=True, slots=True)
class DeviceChain:
    """A chain that was read and not yet believed.

    certificates: the device's own first, the root last.
    chip: such as `GH100` or `LS10`, as reference values name it.
    fwid: SHA-384 of the firmware that holds the leaf's key; None when the leaf does not certify one.
    pdi: the chip's number for the fabric; None when its certificate has none.
    leaf_key, chip_key: SHA-256 of the SubjectPublicKeyInfo of the leaf, which changes with the firmware, and of the
        boot ROM's certificate, which stays with the chip; lower-case hexadecimal.
    """

    certificates: tuple[x509.Certificate, ...]
    chip: str
    architecture: Architecture
    fwid: bytes | None
    pdi: Pdi | None
    leaf_key: str
    chip_key: str

    @property
    def valid_until(self) -> datetime:
        return min(certificate.not_valid_after_utc for certificate in self.certificates)


def read_chain(pem: bytes) -> DeviceChain:
    """Read the chain of a device. Raises EvidenceError."""
    try:
        certificates = tuple(x509.load_pem_x509_certificates(pem))
        if len(certificates) != CHAIN_LENGTH:
            raise EvidenceError(f"the chain has {len(certificates)} certificates, not {CHAIN_LENGTH}")
        for certificate in certificates:
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc  # read late, and a year 0 is none
        leaf, brom = certificates[_LEAF], certificates[_BROM]
        chip, architecture = _chip(leaf)
        return DeviceChain(
            certificates=certificates,
            chip=chip.replace("_", ""),
            architecture=architecture,
            fwid=_fwid(leaf),
            pdi=_pdi(brom),
            leaf_key=_key_id(leaf),
            chip_key=_key_id(brom),
        )
    except UNUSABLE as exc:
        raise EvidenceError(f"the chain cannot be read ({type(exc).__name__})") from None


def verify_chain(chain: DeviceChain, roots: Roots, now: datetime) -> None:
    """Check that NVIDIA vouches for the device's key. Raises EvidenceError with every fault."""
    try:
        if faults := tuple(_faults(chain.certificates, roots, now)):
            raise EvidenceError("; ".join(faults))
        for link in links(chain.certificates):
            _verify_link(*link)
    except InvalidSignature:
        raise EvidenceError("a certificate is not signed by the next") from None
    except UNUSABLE as exc:
        raise EvidenceError(f"a certificate cannot be used ({type(exc).__name__})") from None


def verify_signature(chain: DeviceChain, report: SpdmReport) -> None:
    """Check that the key of the chain's leaf signed the report. Raises EvidenceError."""
    try:
        verify_raw(p384_key(chain.certificates[_LEAF], "the leaf"), report.signature, report.signed)
    except InvalidSignature:
        raise EvidenceError("the signature does not verify with the device's key") from None


def links(chain: Sequence[x509.Certificate]) -> tuple[Link, ...]:
    """The certificates of a chain but the last, each with its issuer."""
    return tuple(pairwise(chain))


def common_name(certificate: x509.Certificate) -> str:
    """What a certificate is called; empty when it has no name, or several."""
    return _attribute(certificate, NameOID.COMMON_NAME)


def _faults(certificates: tuple[x509.Certificate, ...], roots: Roots, now: datetime) -> Iterator[str]:
    if fingerprint(certificates[-1]) not in roots.gpu_device:
        yield "the chain does not end in a pinned root"
    word = _word(certificates[_LEAF])
    if not common_name(certificates[_BROM]).startswith(f"{word} ") or word not in _words(certificates[_PROVISIONER]):
        yield "the leaf names another chip than the certificates above it"
    for depth, certificate in enumerate(certificates):
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            yield f"certificate {depth} is not valid now"
        if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
            yield f"certificate {depth} is not signed by ECDSA with SHA-384"
        yield from (f"certificate {depth} {fault}" for fault in _role_faults(certificate.extensions, depth))


def _role_faults(extensions: x509.Extensions, depth: int) -> Iterator[str]:
    """What a certificate at this place may do: the leaf signs reports, the others certificates."""
    if any(extension.critical and extension.oid not in UNDERSTOOD_CRITICAL for extension in extensions):
        yield "has a critical extension that is not understood"
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    if depth == _LEAF:
        basic = [extension.value for extension in extensions if isinstance(extension.value, x509.BasicConstraints)]
        if usage.key_cert_sign or not usage.digital_signature or any(value.ca for value in basic):
            yield "is not for signing reports, and nothing else"
        return
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    if not (constraints.ca and usage.key_cert_sign):
        yield "may not issue certificates"
    if constraints.path_length is not None and constraints.path_length < depth - 1:
        yield "allows fewer issuers below it"


@lru_cache(maxsize=64)
def _verify_link(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Raise unless one signed the other. Devices of a machine share issuers, and what held once holds."""
    if certificate.issuer != issuer.subject:
        raise EvidenceError("a certificate names another issuer than the next")
    p384_key(issuer, "an issuer of the chain")
    certificate.verify_directly_issued_by(issuer)


def _key_id(certificate: x509.Certificate) -> str:
    der = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(der).hexdigest()


def _attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    values = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(oid)]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


def _words(certificate: x509.Certificate) -> list[str]:
    return common_name(certificate).split(" ")


def _word(leaf: x509.Certificate) -> str:
    match = _LEAF_NAME.fullmatch(common_name(leaf))
    if match is None:
        raise EvidenceError("the leaf is not that of a GPU's or a switch's firmware")
    return match[1]


def _chip(leaf: x509.Certificate) -> tuple[str, Architecture]:
    word = _word(leaf)
    for pattern, architecture in _CHIPS:
        if pattern.fullmatch(word):
            return word, architecture
    raise EvidenceError(f"the leaf is that of a chip {word}, which we do not know")


def _pdi(brom: x509.Certificate) -> Pdi | None:
    match = _SERIAL.fullmatch(_attribute(brom, NameOID.SERIAL_NUMBER))
    return bytes.fromhex(match[1]) if match else None


def _composite_fwid(data: bytes) -> _Fwid:
    return asn1.decode_der(_CompositeDeviceId, data).fwid


def _tcb_info_fwid(data: bytes) -> _Fwid:
    fwids = asn1.decode_der(_DiceTcbInfo, data).fwids
    if not fwids:
        raise EvidenceError("the leaf certifies no firmware digest where it should")
    return fwids[0]  # a second one has been all zeros in real certificates


_FWIDS: Final[Mapping[x509.ObjectIdentifier, Callable[[bytes], _Fwid]]] = {
    COMPOSITE_DEVICE_ID: _composite_fwid,
    DICE_TCB_INFO: _tcb_info_fwid,
}


def _fwid(leaf: x509.Certificate) -> bytes | None:
    found = [
        _FWIDS[extension.oid](extension.value.value)
        for extension in leaf.extensions
        if extension.oid in _FWIDS and isinstance(extension.value, x509.UnrecognizedExtension)
    ]
    if not found:
        return None
    (fwid, *others) = found
    if others or fwid.algorithm != _SHA384 or len(fwid.digest) != FWID_BYTES:
        raise EvidenceError("the leaf certifies its firmware in a form that we do not know")
    return fwid.digest
