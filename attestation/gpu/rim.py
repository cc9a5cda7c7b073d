"""What may the measurements of a GPU or a switch be? NVIDIA's reference integrity manifests: signed SWID documents.

(ISO/IEC 19770-2 in the TCG's RIM binding, XML Signature 1.1 and Canonical XML 1.1; the form itself was read from the
documents that NVIDIA publishes.)

::

    SoftwareIdentity    tagId; corpus, patch and supplemental are "false"
    ├── Meta            colloquialVersion, product, edition
    ├── Payload
    │   └── Resource    type="Measurement" index active alternatives size ns2:Hash0 .. ns2:HashN
    │                   type="Measurement" index active name ns3:minSvn ns3:includeInResult, from index 4096 on
    └── Signature       enveloped, over the whole document, with the signer's chain of four certificates

Only the one form of signature that NVIDIA makes is accepted, and nothing is looked up by a name that the document
chooses. The octets that were hashed are parsed again, and only what they hold is read, so there is no element to swap
for the signed one (signature wrapping). Of XML only elements, attributes and text are accepted: no DTD, hence no
entity, no comment, no CDATA, no processing instruction.

lxml writes Canonical XML 1.0. Version 1.1 differs only in attributes of the `xml:` namespace, so a document that has
any is refused.

A manifest does not name itself as the service that publishes it does (`NV_GPU_DRIVER_GH100_550.144.03`), so being
served under a name proves nothing: whoever uses one compares `product`, `edition` and `version` with the report.
Revocation of the chain is asked about in `ocsp.py`.

Measurements are numbered up to 253. From 4096 on stand floors: the least security version that the field of opaque data
of that number, less 4096, may have (NVIDIA's page "Opaque Data"). No signed manifest with one was at hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha384
from itertools import pairwise, zip_longest

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import SignatureAlgorithmOID
from lxml import etree

from attestation.collateral.roots import Roots, fingerprint
from attestation.errors import EvidenceError
from attestation.gpu.abi import SIGNATURE_BYTES
from attestation.gpu.certificates import UNDERSTOOD_CRITICAL, UNUSABLE, p384_key, verify_raw
from core.program.validation import decode_base64

MAX_RIM_BYTES = 64 * 1024
"""Published ones have up to 26 KiB."""
MAX_NAMESPACES = 32
"""Published ones declare six. Canonicalising takes time with their number times that of the elements."""
MAX_INDEX = 253
"""SPDM numbers blocks from 1, and 255 means all of them (DSP0274)."""
FLOORS = range(0x1000, 0x1000 + 0x10000)
"""Where the floors stand: one index for each type of opaque data."""
CHAIN_LENGTH = 4

SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
DSIG = "http://www.w3.org/2000/09/xmldsig#"
XML = "http://www.w3.org/XML/1998/namespace"
HASHES = "http://www.w3.org/2001/04/xmlenc#sha384"
"""The namespace of the `HashN` attributes; NVIDIA's, after the digest algorithm's own name."""
OPAQUE_DATA = "https://docs.nvidia.com/attestation/specs/latest/opaque-data.html"
"""The namespace of what a floor says."""

ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
CANONICAL = "http://www.w3.org/2006/12/xml-c14n11"
ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
DIGEST_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"

_SIGNED_INFO: tuple[tuple[int, str, Mapping[str, str]], ...] = (
    (0, "SignedInfo", {}),
    (1, "CanonicalizationMethod", {"Algorithm": CANONICAL}),
    (1, "SignatureMethod", {"Algorithm": ECDSA_SHA384}),
    (1, "Reference", {"URI": ""}),  # the document that holds the signature
    (2, "Transforms", {}),
    (3, "Transform", {"Algorithm": ENVELOPED}),
    (3, "Transform", {"Algorithm": CANONICAL}),
    (2, "DigestMethod", {"Algorithm": DIGEST_SHA384}),
    (2, "DigestValue", {}),
)
"""Depth, element and attributes, in document order: all there may be."""

_DECLARATION = re.compile(rb'<\?xml version="1\.0"( encoding="(UTF|utf)-8")?\?>')
_WORD = re.compile(r"[!-~]{1,128}")
_NUMBER = re.compile(r"[0-9]{1,5}")
_SVN = re.compile(r"[0-9]{1,20}")
_HASH = re.compile(r"[0-9A-Fa-f]{96}")


@dataclass(frozen=True, slots=True)
class Floor:
    """The least security version that a field of opaque data may have. name: NVIDIA's, such as `FSP_UCODE_MIN_SVN`."""

    name: str
    min_svn: int


@dataclass(frozen=True, slots=True)
class Rim:
    """What an authentic manifest says.

    id: the tag's identity, a digest in NVIDIA's documents. version: of the driver or the VBIOS (colloquialVersion).
    measurements: the values that a measurement may have, by the index of its block in a report: from 1, which is one
        more than the manifest's own.
    floors: by the type of the field of opaque data that they are for.
    chain: the signer's, leaf first and the pinned root last. valid_until: when the first of it expires.
    product: the chip, such as `GH100`. edition: `GPU` or `SWITCH`.
    """

    id: str
    version: str
    measurements: Mapping[int, frozenset[bytes]]
    floors: Mapping[int, Floor]
    chain: tuple[x509.Certificate, ...]
    valid_until: datetime
    product: str
    edition: str


@dataclass(frozen=True, slots=True)
class _Signature:
    element: etree._Element
    signed_info: etree._Element
    value: bytes
    certificates: tuple[bytes, ...]


def read(xml: bytes, *, roots: Roots, now: datetime) -> Rim:
    """Authenticate a manifest and read it. Raises EvidenceError with the reason."""
    document = _parse(xml)
    signature = _signature(document)
    chain = _chain(signature.certificates, roots, now)
    digest = _signed_digest(signature, chain[0])
    content = _without(document, signature.element)
    if sha384(content).digest() != digest:
        raise EvidenceError("the RIM is not what was signed: its digest differs")
    return _rim(_parse(content), chain)


def _parse(xml: bytes) -> etree._Element:
    if len(xml) > MAX_RIM_BYTES:
        raise EvidenceError(f"the RIM is longer than {MAX_RIM_BYTES} bytes")
    declaration = _DECLARATION.match(xml)
    body = xml[declaration.end() :] if declaration else xml
    if b"<!" in body or b"<?" in body:
        raise EvidenceError("the RIM holds a DTD, comment, CDATA section or processing instruction, which RIMs do not")
    if body.count(b"xmlns") > MAX_NAMESPACES:
        raise EvidenceError(f"the RIM declares more than {MAX_NAMESPACES} namespaces")
    parser = etree.XMLParser(
        encoding="utf-8",  # no other is guessed or declared, so no other can hide what was looked for above
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
    )
    try:
        root = etree.fromstring(body, parser)
    except etree.XMLSyntaxError:
        raise EvidenceError("the RIM is not well-formed XML in UTF-8") from None
    if any(name.startswith(f"{{{XML}}}") for element in root.iter() for name in map(str, element.attrib)):
        raise EvidenceError("the RIM has attributes of the xml: namespace, which canonicalise in more than one way")
    return root


def _signature(document: etree._Element) -> _Signature:
    found = list(document.iter(f"{{{DSIG}}}Signature"))
    if len(found) != 1 or found[0].getparent() is not document:
        raise EvidenceError("the RIM must hold exactly one signature, right below its root")
    signed_info, value, key_info = _children(found[0], ("SignedInfo", "SignatureValue", "KeyInfo"))
    (data,) = _children(key_info, ("X509Data",))
    certificates = _children(data, ("X509Certificate",) * len(data))
    return _Signature(found[0], signed_info, _binary(value), tuple(map(_binary, certificates)))


def _children(parent: etree._Element, names: tuple[str, ...]) -> list[etree._Element]:
    """The children, which must be exactly these; the parent's own attributes and text are not ours to interpret."""
    children = list(parent)
    if [child.tag for child in children] != [f"{{{DSIG}}}{name}" for name in names] or parent.attrib:
        raise EvidenceError("the RIM's signature must consist of SignedInfo, SignatureValue and KeyInfo/X509Data alone")
    return children


def _binary(element: etree._Element) -> bytes:
    if len(element) or element.attrib:
        raise EvidenceError("the RIM's signature holds elements where base64 should stand")
    try:
        return decode_base64("".join((element.text or "").split()))
    except ValueError as exc:
        raise EvidenceError(f"the RIM's signature: {exc}") from None


def _chain(encoded: tuple[bytes, ...], roots: Roots, now: datetime) -> tuple[x509.Certificate, ...]:
    """The signer's certificates, leaf first, after every check of them but revocation."""
    try:
        chain = tuple(x509.load_der_x509_certificate(data) for data in encoded)
        if not chain or fingerprint(chain[-1]) not in roots.gpu_rim:
            raise EvidenceError("the RIM's chain does not end in a pinned root")
        if len(chain) != CHAIN_LENGTH:
            raise EvidenceError(f"the RIM's chain has {len(chain)} certificates, not {CHAIN_LENGTH}")
        for depth, certificate in enumerate(chain):
            _check_dates(certificate, now)
            _check_role(certificate, depth)
        for certificate, issuer in pairwise(chain):
            _check_issued(certificate, issuer)
    except UNUSABLE as exc:
        raise EvidenceError(f"a certificate of the RIM's chain cannot be used ({type(exc).__name__})") from None
    return chain


def _check_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        raise EvidenceError("a certificate of the RIM's chain was not issued by the next") from None


def _check_dates(certificate: x509.Certificate, now: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise EvidenceError(f"a certificate of the RIM's chain expired at {end:%Y-%m-%d %H:%M:%S} UTC")
    if now < start:
        raise EvidenceError(f"a certificate of the RIM's chain is not valid before {start:%Y-%m-%d %H:%M:%S} UTC")


def _check_role(certificate: x509.Certificate, depth: int) -> None:
    """Algorithms, and what a certificate at this place may do: the first signs documents, the others certificates."""
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise EvidenceError("a certificate of the RIM's chain is not signed by ECDSA with SHA-384")
    p384_key(certificate, "a certificate of the RIM's chain")
    extensions = certificate.extensions
    if any(extension.critical and extension.oid not in UNDERSTOOD_CRITICAL for extension in extensions):
        raise EvidenceError("a certificate of the RIM's chain has a critical extension that is not understood")
    basic = extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    if depth == 0 and (basic.ca or not usage.digital_signature):
        raise EvidenceError("the RIM's signer is not a certificate for signing documents")
    if depth > 0 and not (basic.ca and usage.key_cert_sign):
        raise EvidenceError("the RIM's chain has an issuer that may not issue certificates")
    if basic.path_length is not None and basic.path_length < depth - 1:
        raise EvidenceError("the RIM's chain is longer than an issuer in it allows")


def _signed_digest(signature: _Signature, signer: x509.Certificate) -> bytes:
    """The digest that the signer vouches for, read from the octets that the signature covers."""
    octets = _canonical(signature.signed_info)
    if len(signature.value) != SIGNATURE_BYTES:
        raise EvidenceError(f"the RIM's signature value has {len(signature.value)} bytes, not {SIGNATURE_BYTES}")
    try:
        verify_raw(p384_key(signer, "the RIM's signer"), signature.value, octets)
    except InvalidSignature:
        raise EvidenceError("the RIM's signature does not verify with its signer's key") from None
    return _digest_value(_parse(octets))


def _digest_value(signed_info: etree._Element) -> bytes:
    for found, expected in zip_longest(_walk(signed_info), _SIGNED_INFO):
        if expected is None:
            raise EvidenceError("the RIM's signature covers more than its one Reference")
        if found is None or found[:3] != expected:
            attributes = "".join(f' {name}="{value}"' for name, value in expected[2].items())
            raise EvidenceError(f"the RIM's signature does not have <{expected[1]}{attributes}> where it should")
    return _binary(signed_info[2][2])


def _walk(element: etree._Element, depth: int = 0) -> Iterator[tuple[int, str, Mapping[str, str]]]:
    yield depth, str(element.tag).removeprefix(f"{{{DSIG}}}"), {str(k): str(v) for k, v in element.attrib.items()}
    for child in element:
        yield from _walk(child, depth + 1)


def _without(document: etree._Element, signature: etree._Element) -> bytes:
    """The octets left by the enveloped-signature transform. Text after the signature stays, as the transform says."""
    before = signature.getprevious()
    if before is None:
        document.text = (document.text or "") + (signature.tail or "")
    else:
        before.tail = (before.tail or "") + (signature.tail or "")
    document.remove(signature)
    return _canonical(document)


def _canonical(element: etree._Element) -> bytes:
    try:
        return etree.tostring(element, method="c14n", exclusive=False, with_comments=False)
    except etree.LxmlError:  # a namespace name that is a relative URI
        raise EvidenceError("the RIM cannot be canonicalised") from None


def _rim(tag: etree._Element, chain: tuple[x509.Certificate, ...]) -> Rim:
    if tag.tag != f"{{{SWID}}}SoftwareIdentity":
        raise EvidenceError("the RIM is not a SWID document")
    if any(tag.get(flag) != "false" for flag in ("corpus", "patch", "supplemental")):
        raise EvidenceError("the RIM is not complete by itself: it is marked corpus, patch or supplemental")
    meta, active = _only(tag, "Meta"), _active(_only(tag, "Payload"))
    return Rim(
        id=_word(tag, "tagId"),
        version=_word(meta, "colloquialVersion"),
        measurements=_measurements(active),
        floors=_floors(active),
        chain=chain,
        valid_until=min(certificate.not_valid_after_utc for certificate in chain),
        product=_word(meta, "product"),
        edition=_word(meta, "edition"),
    )


def _only(parent: etree._Element, name: str) -> etree._Element:
    found = parent.findall(f"{{{SWID}}}{name}")
    if len(found) != 1:
        raise EvidenceError(f"the RIM must have one {name}, and has {len(found)}")
    return found[0]


def _word(element: etree._Element, name: str) -> str:
    value = element.get(name, "")
    if not _WORD.fullmatch(value):
        raise EvidenceError(f"the RIM's {name} is missing or not a word")
    return value


def _active(payload: etree._Element) -> Mapping[int, etree._Element]:
    """What counts of the payload, by index."""
    found: dict[int, etree._Element] = {}
    for resource in payload:
        # A reference value that is not understood would be one that is silently not compared.
        if resource.tag != f"{{{SWID}}}Resource" or resource.get("type") != "Measurement":
            raise EvidenceError("the RIM holds reference values of an unknown kind")
        index = _number(resource, "index")
        if index > MAX_INDEX and index not in FLOORS:
            raise EvidenceError(
                f"the RIM has a measurement {index}: reports end at {MAX_INDEX}, floors at {FLOORS[-1]}"
            )
        if index in found:
            raise EvidenceError(f"the RIM has measurement {index} twice")
        found[index] = resource
    return {index: resource for index, resource in found.items() if _is_active(resource)}


def _is_active(resource: etree._Element) -> bool:
    if (active := resource.get("active")) not in ("True", "False"):
        raise EvidenceError("the RIM has a measurement that is neither active nor inactive")
    return active == "True"


def _measurements(active: Mapping[int, etree._Element]) -> Mapping[int, frozenset[bytes]]:
    values = {index + 1: _values(resource) for index, resource in active.items() if index not in FLOORS}
    if not values:
        raise EvidenceError("the RIM has no active measurement")
    return values


def _values(resource: etree._Element) -> frozenset[bytes]:
    """The alternatives of one measurement."""
    hashes = _qualified(resource)
    alternatives = _number(resource, "alternatives")
    if not 0 < alternatives == len(hashes) or hashes.keys() != {f"{{{HASHES}}}Hash{n}" for n in range(len(hashes))}:
        raise EvidenceError("the RIM has a measurement whose values are not as many as it says")
    if not all(map(_HASH.fullmatch, hashes.values())):
        raise EvidenceError("the RIM has a measurement that is not a SHA-384 digest")
    return frozenset(map(bytes.fromhex, hashes.values()))


def _floors(active: Mapping[int, etree._Element]) -> Mapping[int, Floor]:
    floors = {index - FLOORS.start: _floor(resource) for index, resource in active.items() if index in FLOORS}
    if len({floor.name for floor in floors.values()}) != len(floors):
        raise EvidenceError("the RIM has two floors of one name")
    return floors


def _floor(resource: etree._Element) -> Floor:
    """`includeInResult` is for verifiers that do not report every value; `size` and `alternatives` have no meaning."""
    said = _qualified(resource)
    said.pop(f"{{{OPAQUE_DATA}}}includeInResult", None)
    min_svn = said.pop(f"{{{OPAQUE_DATA}}}minSvn", "")
    if said or not _SVN.fullmatch(min_svn):
        raise EvidenceError("the RIM has a floor that is not the number of a security version alone")
    if not _WORD.fullmatch(name := resource.get("name", "")):
        raise EvidenceError("the RIM has a floor whose name is missing or not a word")
    return Floor(name, int(min_svn))


def _qualified(resource: etree._Element) -> dict[str, str]:
    """The attributes of a namespace, which hold the reference values."""
    return {str(name): str(text) for name, text in resource.attrib.items() if str(name).startswith("{")}


def _number(resource: etree._Element, name: str) -> int:
    value = resource.get(name, "")
    if not _NUMBER.fullmatch(value):
        raise EvidenceError(f"the RIM has a measurement whose {name} is not a number")
    return int(value)
