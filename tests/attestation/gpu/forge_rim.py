"""NVIDIA's services in miniature, for tests: a signer of reference manifests, an OCSP responder, and NRAS.

Everything is signed with keys made here, so a verifier must be told to believe `AUTHORITY.root`. Documents are written
in canonical form to begin with, so no XML library is needed, and none can share a mistake with the code under test.

::

    manifest = sign(swid(id="t", version="545.00", golden={8: [digest]}))
    answer = ocsp_answer(AUTHORITY.signer.certificate, AUTHORITY.level3)
    verdict, keys = nras_answer(nonce, count=8), jwks()
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha384
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation.collateral.roots import Roots, fingerprint
from attestation.types import Nonce
from tests.pki import P384, Party, issue

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
SIGNED_WITH = SHA384()

SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
DSIG = "http://www.w3.org/2000/09/xmldsig#"
HASHES = "http://www.w3.org/2001/04/xmlenc#sha384"
OPAQUE_DATA = "https://docs.nvidia.com/attestation/specs/latest/opaque-data.html"
BINDING = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"


@dataclass(frozen=True)
class RimAuthority:
    """The four certificates that NVIDIA's manifests carry."""

    root: Party
    family: Party
    level3: Party
    signer: Party

    @property
    def parties(self) -> tuple[Party, ...]:
        return self.signer, self.level3, self.family, self.root

    @property
    def pins(self) -> frozenset[str]:
        """For `Roots.gpu_rim`."""
        return frozenset({fingerprint(self.root.certificate)})


def rim_authority() -> RimAuthority:
    root = issue("Test RIM Root CA")
    family = issue("Test Reference Value GH100 CA", root)
    level3 = issue("Test Reference Value L3 GH100 001", family, path_length=0)
    return RimAuthority(root, family, level3, issue("Test RIM L4 Signer", level3, ca=False))


AUTHORITY = rim_authority()
ROOTS = Roots(snp=frozenset(), tdx=frozenset(), gpu_device=frozenset(), gpu_rim=AUTHORITY.pins)


def swid(
    *,
    id: str = "00" * 48,  # noqa: A002 - the manifest's own word
    version: str = "545.00",
    golden: Mapping[int, Sequence[bytes]],
    product: str = "GH100",
    edition: str = "GPU",
    inactive: Sequence[int] = (),
    floors: Sequence[str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> str:
    """An unsigned manifest in canonical form.

    golden: the allowed values by block index of a report, which is one more than the manifest's own.
    inactive: block indices that are listed and do not count.
    floors: as `floor` writes them; None as in older manifests, which do not declare their namespace either.
    """
    named = {"corpus": "false", "patch": "false", "supplemental": "false", **(flags or {})}
    outer = {**named, "name": product, "tagId": id, "tagVersion": "0", "version": "1.0"}
    meta = {"PayloadType": "direct", "colloquialVersion": version, "edition": edition, "product": product}
    resources = {**{block: resource(block, [bytes(48)], active="False") for block in inactive}}
    resources |= {block: resource(block, values) for block, values in golden.items()}
    declared = "" if floors is None else f' xmlns:ns3="{OPAQUE_DATA}"'
    return (
        f'<SoftwareIdentity xmlns="{SWID}" xmlns:ns0="{SWID}" xmlns:ns2="{HASHES}"{declared}{attributes(outer)}>\n'
        '    <ns0:Entity name="NVIDIA Corporation" role="softwareCreator tagCreator"></ns0:Entity>\n'
        f'    <ns0:Meta xmlns:ns1="{BINDING}"{attributes(meta)} ns1:BindingSpec="RIMIM"></ns0:Meta>\n'
        f'    <ns0:Payload xmlns:SHA384="{HASHES}">\n'
        f"{''.join(resources[block] for block in sorted(resources))}{''.join(floors or ())}"
        "    </ns0:Payload>\n"
        "</SoftwareIdentity>"
    )


def resource(block: int, values: Sequence[bytes], *, active: str = "True", **changes: str) -> str:
    """One measurement. changes: attributes to write otherwise, or to add."""
    plain = {
        "active": active,
        "alternatives": str(len(values)),
        "index": str(block - 1),
        "name": f"Measurement_{block - 1}",
        "size": "48",
        "type": "Measurement",
        **changes,
    }
    hashes = {f"ns2:Hash{n}": value.hex() for n, value in enumerate(values)}
    return f"        <ns0:Resource{attributes(plain)}{attributes(hashes)}></ns0:Resource>\n"


def floor(kind: int, min_svn: int | str, said: Mapping[str, str] | None = None, **changes: str) -> str:
    """The least security version in a field of opaque data. changes: attributes to write otherwise, or to add.

    said: the attributes of a namespace, when not the usual two.
    """
    plain = {
        "active": "True",
        "alternatives": "1",
        "index": str(4096 + kind),
        "name": f"FIELD_{kind}_MIN_SVN",
        "size": "2",
        "type": "Measurement",
        **changes,
    }
    usual = {"ns3:includeInResult": "True", "ns3:minSvn": str(min_svn)}
    return f"        <ns0:Resource{attributes(plain)}{attributes(usual if said is None else said)}></ns0:Resource>\n"


def attributes(named: Mapping[str, str]) -> str:
    return "".join(f" {name}={quoteattr(value)}" for name, value in sorted(named.items()))


@dataclass(frozen=True)
class SignedInfo:
    """What the signature says it covers and how; the defaults are NVIDIA's."""

    canonicalization: str = "http://www.w3.org/2006/12/xml-c14n11"
    signature_method: str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
    uri: str = ' URI=""'
    transforms: tuple[str, ...] = (
        "http://www.w3.org/2000/09/xmldsig#enveloped-signature",
        "http://www.w3.org/2006/12/xml-c14n11",
    )
    digest_method: str = "http://www.w3.org/2001/04/xmldsig-more#sha384"
    references: int = 1

    def children(self, digest: str) -> str:
        transforms = "".join(f'<ds:Transform Algorithm="{name}"></ds:Transform>' for name in self.transforms)
        reference = (
            f"<ds:Reference{self.uri}><ds:Transforms>{transforms}</ds:Transforms>"
            f'<ds:DigestMethod Algorithm="{self.digest_method}"></ds:DigestMethod>'
            f"<ds:DigestValue>{digest}</ds:DigestValue></ds:Reference>"
        )
        return (
            f'<ds:CanonicalizationMethod Algorithm="{self.canonicalization}"></ds:CanonicalizationMethod>'
            f'<ds:SignatureMethod Algorithm="{self.signature_method}"></ds:SignatureMethod>'
            f"{reference * self.references}"
        )


def sign(
    document: str,
    authority: RimAuthority = AUTHORITY,
    *,
    info: SignedInfo | None = None,
    chain: Sequence[Party] | None = None,
    digest: bytes | None = None,
) -> bytes:
    """`document`, which is in canonical form, with an enveloped signature as its last child.

    chain: the certificates to put in, when not all of the authority's. digest: to vouch for, when not the document's.
    """
    vouched = base64.b64encode(digest or sha384(document.encode()).digest()).decode()
    children = (info or SignedInfo()).children(vouched)
    value = raw_signature(
        authority.signer.key, f"<ds:SignedInfo{_inherited(document)}>{children}</ds:SignedInfo>".encode()
    )
    certificates = "".join(
        f"<ds:X509Certificate>{base64.encodebytes(party.der).decode()}</ds:X509Certificate>"
        for party in (authority.parties if chain is None else chain)
    )
    signature = (
        f'<ds:Signature xmlns:ds="{DSIG}"><ds:SignedInfo>{children}</ds:SignedInfo>'
        f"<ds:SignatureValue>{base64.b64encode(value).decode()}</ds:SignatureValue>"
        f"<ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature>"
    )
    end = document.rindex("</")
    return f"{document[:end]}{signature}{document[end:]}\n".encode()


def _inherited(document: str) -> str:
    """What the canonical form of SignedInfo declares: all namespaces of the root, and that of signatures."""
    declared = re.findall(r' xmlns(?:|:\w+)="[^"]*"', document[: document.index(">")])
    return "".join(sorted([*declared, f' xmlns:ds="{DSIG}"'], key=lambda declaration: declaration.partition("=")[0]))


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """ECDSA with SHA-384 as r || s, 48 bytes each: the form of XML signatures and of JWS."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(SHA384())))
    return r.to_bytes(48) + s.to_bytes(48)


def ocsp_responder(issuer: Party, **changes: Any) -> Party:
    """Somebody to whom `issuer` delegates its answers."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
    return issue("Test OCSP Responder", issuer, **{"ca": False, "extensions": [(usage, False)], **changes})


def ocsp_answer(
    certificate: x509.Certificate,
    issuer: Party,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    reason: x509.ReasonFlags | None = None,
    this_update: datetime = NOW - timedelta(hours=1),
    next_update: datetime | None = NOW + timedelta(hours=23),
    responder: Party | None = None,
    embed: bool = True,
    digest: SHA256 | SHA384 = SIGNED_WITH,
) -> bytes:
    """A DER answer about one certificate, signed by its issuer or by a responder, whose certificate is embedded."""
    signer = responder or issuer
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=certificate,
            issuer=issuer.certificate,
            algorithm=SHA384(),
            cert_status=status,
            this_update=this_update,
            next_update=next_update,
            revocation_time=this_update if status is ocsp.OCSPCertStatus.REVOKED else None,
            revocation_reason=reason,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
    )
    if responder is not None and embed:
        builder = builder.certificates([responder.certificate])
    return builder.sign(signer.key, digest).public_bytes(Encoding.DER)


def ocsp_merged(answers: Sequence[bytes], issuer: Party) -> bytes:
    """One answer of `issuer` with the entries of several (RFC 6960 section 4.2.1), which no library here writes."""
    parts = [_elements(_elements(ocsp.load_der_ocsp_response(answer).tbs_response_bytes)[0][1]) for answer in answers]
    responder, produced_at, _ = (_der(tag, value) for tag, value in parts[0])
    entries = b"".join(entry for *_, (_, entry) in parts)
    data = _der(0x30, responder + produced_at + _der(0x30, entries))
    ecdsa_sha384 = bytes.fromhex("300a06082a8648ce3d040303")
    basic = _der(0x30, data + ecdsa_sha384 + _der(0x03, b"\0" + issuer.key.sign(data, ec.ECDSA(SHA384()))))
    basic_type = bytes.fromhex("06092b0601050507300101")
    return _der(0x30, b"\x0a\x01\x00" + _der(0xA0, _der(0x30, basic_type + _der(0x04, basic))))


def _der(tag: int, value: bytes) -> bytes:
    length = len(value).to_bytes((len(value).bit_length() + 7) // 8 or 1)
    return bytes([tag]) + (length if len(value) < 0x80 else bytes([0x80 | len(length)]) + length) + value


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Tag and value of each element, of those that have short tags."""
    found = []
    while data:
        tag, length, start = data[0], data[1], 2
        if length >= 0x80:
            start += length - 0x80
            length = int.from_bytes(data[2:start])
        found.append((tag, data[start : start + length]))
        data = data[start + length :]
    return found


ISSUER = "https://nras.attestation.nvidia.com"


@dataclass(frozen=True)
class TokenSigner:
    """One of the keys of a day."""

    kid: str
    key: ec.EllipticCurvePrivateKey

    @property
    def jwk(self) -> dict[str, Any]:
        numbers = self.key.public_key().public_numbers()
        x, y = (base64url(number.to_bytes(48)) for number in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-384", "use": "sig", "alg": "ES384", "kid": self.kid, "x": x, "y": y}


TODAY = TokenSigner("nv-eat-kid-test-today", ec.generate_private_key(P384))
YESTERDAY = TokenSigner("nv-eat-kid-test-yesterday", ec.generate_private_key(P384))


def jwks(*signers: TokenSigner) -> bytes:
    return json.dumps({"keys": [signer.jwk for signer in signers or (TODAY,)]}).encode()


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(claims: Mapping[str, Any], signer: TokenSigner = TODAY, **header: Any) -> str:
    """A signed JWT. header: members to write otherwise."""
    head = {"kid": signer.kid, "typ": "JWT", "alg": "ES384", **header}
    signed = f"{base64url(json.dumps(head).encode())}.{base64url(json.dumps(claims).encode())}"
    return f"{signed}.{base64url(raw_signature(signer.key, signed.encode()))}"


def common_claims(nonce: Nonce, now: datetime = NOW) -> dict[str, Any]:
    at = int(now.timestamp())
    return {"iss": ISSUER, "iat": at, "nbf": at, "exp": at + 3600, "eat_nonce": nonce.hex()}


def device_claims(nonce: Nonce, kind: Literal["gpu", "switch"] = "gpu", now: datetime = NOW) -> dict[str, Any]:
    """What NRAS says of one good device."""
    said = {
        **common_claims(nonce, now),
        "measres": "success",
        "secboot": True,
        "dbgstat": "disabled",
        f"x-nvidia-{kind}-attestation-report-nonce-match": True,
    }
    if kind == "gpu":
        versions = {"x-nvidia-gpu-driver-version": "550.144.03", "x-nvidia-gpu-vbios-version": "96.00.5E.00.01"}
        opaque: dict[str, Any] = {"x-nvidia-attester-claims": {}, "x-nvidia-mismatch-opaque-data-records": None}
        return {**said, **versions, **opaque, "hwmodel": "GH100 A01 GSP BROM"}
    return {**said, "x-nvidia-switch-bios-version": "96.10.55.00.01", "hwmodel": "LS_10 A01 SOE BROM"}


def nras_bundle(
    devices: Mapping[str, str],
    nonce: Nonce,
    *,
    kind: Literal["gpu", "switch"] = "gpu",
    signer: TokenSigner = TODAY,
    now: datetime = NOW,
    overall: Mapping[str, Any] | None = None,
) -> bytes:
    """The service's answer around device tokens. overall: claims to write otherwise."""
    said = {"x-nvidia-ver": "4.0" if kind == "gpu" else "3.0", "x-nvidia-overall-att-result": True}
    digests = {name: ["DIGEST", ["SHA-256", sha256(text.encode()).hexdigest()]] for name, text in devices.items()}
    claims = {**common_claims(nonce, now), **said, "submods": digests, **(overall or {})}
    return json.dumps([["JWT", token(claims, signer)], devices]).encode()


def nras_answer(
    nonce: Nonce,
    *,
    kind: Literal["gpu", "switch"] = "gpu",
    count: int = 1,
    signer: TokenSigner = TODAY,
    now: datetime = NOW,
    device: Mapping[str, Any] | None = None,
    overall: Mapping[str, Any] | None = None,
) -> bytes:
    """A good answer about `count` devices. device, overall: claims to write otherwise."""
    name = "GPU" if kind == "gpu" else "SWITCH"
    claims = {**device_claims(nonce, kind, now), **(device or {})}
    devices = {f"{name}-{n}": token({**claims, "ueid": str(n)}, signer) for n in range(count)}
    return nras_bundle(devices, nonce, kind=kind, signer=signer, now=now, overall=overall)
