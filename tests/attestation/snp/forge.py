"""An AMD of our own: root keys, certificates, revocation lists and signed reports, for any product and any field.

::

    amd = ForgedAmd(Product.GENOA)
    report = amd.report(report_data)
    appraise(report, amd.policy(), amd.collateral(report), roots=amd.roots, now=amd.now)

Everything is as AMD makes it, serial numbers of zero included, except that the RSA keys are shorter. The places of the
fields and the extensions are written down here once more, so that the parsers are not tested against themselves. Keys
are made once for a process and shared by all products.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestation.collateral.roots import Roots
from attestation.snp.abi import Product, SigningKey, parse_report, parse_tcb
from attestation.snp.appraise import collateral_of
from attestation.snp.certificate import to_pem
from attestation.snp.collateral import crl_key
from attestation.snp.policy import ProductPolicy, SnpPolicy
from attestation.snp.table import parse_certificate_table
from attestation.types import Collateral
from tests.pki import ISSUES, LISTS, SIGNS, builder

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
CSP_ID = "cloud.example"
ARC = "1.3.6.1.4.1.3704.1"

FIELDS = {
    "version": (0x000, 4),
    "guest_svn": (0x004, 4),
    "policy": (0x008, 8),
    "family_id": (0x010, 16),
    "image_id": (0x020, 16),
    "vmpl": (0x030, 4),
    "signature_algo": (0x034, 4),
    "current_tcb": (0x038, 8),
    "platform_info": (0x040, 8),
    "key_info": (0x048, 4),
    "report_data": (0x050, 64),
    "measurement": (0x090, 48),
    "host_data": (0x0C0, 32),
    "id_key_digest": (0x0E0, 48),
    "author_key_digest": (0x110, 48),
    "report_id": (0x140, 32),
    "report_id_ma": (0x160, 32),
    "reported_tcb": (0x180, 8),
    "cpuid": (0x188, 3),
    "chip_id": (0x1A0, 64),
    "committed_tcb": (0x1E0, 8),
    "current_version": (0x1E8, 3),
    "committed_version": (0x1EC, 3),
    "launch_tcb": (0x1F0, 8),
    "launch_mitigations": (0x1F8, 8),
    "current_mitigations": (0x200, 8),
}
"""Where each field of a report is, and how long."""

TCBS = {
    Product.MILAN: bytes([4, 0, 0, 0, 0, 0, 24, 219]),
    Product.GENOA: bytes([9, 0, 0, 0, 0, 0, 23, 72]),
    Product.TURIN: bytes([1, 1, 1, 4, 0, 0, 0, 81]),
}
CPUIDS = {
    Product.MILAN: bytes([0x19, 0x01, 0x01]),
    Product.GENOA: bytes([0x19, 0x11, 0x02]),
    Product.TURIN: bytes([0x1A, 0x02, 0x01]),
}
PRODUCT_NAMES = {Product.MILAN: "Milan-B0", Product.GENOA: "Genoa", Product.TURIN: "Turin"}
VERSIONS = {Product.MILAN: 3, Product.GENOA: 3, Product.TURIN: 5}

MEASUREMENT = hashlib.sha384(b"the measured image").digest()

_PSS = PSS(MGF1(SHA384()), 48)
_GUIDS = {
    "vcek": "63da758d-e664-4564-adc5-f4b93be8accd",
    "vlek": "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
    "ask": "4ab7b379-bbac-4fe4-a02f-05aef327c782",
    "ark": "c0b406a4-a803-4952-9743-3fb6014cd0ae",
}


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """The key of an authority; AMD's have 4096 bits, and take seconds to make."""
    return rsa.generate_private_key(65537, 2048)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def distinguished(common_name: str) -> x509.Name:
    """A name as AMD writes them."""
    parts = (
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
        (NameOID.COUNTRY_NAME, "US"),
        (NameOID.LOCALITY_NAME, "Santa Clara"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.ORGANIZATION_NAME, "Advanced Micro Devices"),
        (NameOID.COMMON_NAME, common_name),
    )
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def ia5(text: str) -> bytes:
    return b"\x16" + bytes([len(text)]) + text.encode("ascii")


def integer(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + bytes([len(content)]) + content


@dataclass(frozen=True)
class Authority:
    """What a certificate of an ARK, ASK or ASVK says, and whose keys are in it and under it."""

    subject: str
    issuer: str
    key: str
    issuer_key: str
    serial: int
    not_before: datetime
    not_after: datetime
    ca: bool = True
    cert_sign: bool = True
    crl_sign: bool = False
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = ()

    def der(self) -> bytes:
        """The certificate; always the same bytes, though its signature is randomised."""
        return _issue(self)


@cache
def _issue(authority: Authority) -> bytes:
    uses = [use for use, granted in ((ISSUES, authority.cert_sign), (LISTS, authority.crl_sign)) if granted]
    built = builder(
        distinguished(authority.subject),
        distinguished(authority.issuer),
        rsa_key(authority.key).public_key(),
        start=authority.not_before,
        end=authority.not_after,
        serial=authority.serial,
        ca=authority.ca,
        uses=uses or (SIGNS,),
        extensions=authority.extra,
    )
    return built.sign(rsa_key(authority.issuer_key), SHA384(), rsa_padding=_PSS).public_bytes(Encoding.DER)


@dataclass(frozen=True)
class ForgedAmd:
    """AMD, as far as one product is concerned, and a machine of that product.

    signing: whether the machine signs with its own key or with one lent to `CSP_ID`.
    """

    product: Product = Product.MILAN
    signing: SigningKey = SigningKey.VCEK
    now: datetime = NOW

    @property
    def roots(self) -> Roots:
        digest = hashlib.sha256(self.ark().der()).hexdigest()
        return Roots(snp=frozenset({digest}), tdx=frozenset(), gpu_device=frozenset(), gpu_rim=frozenset())

    @property
    def chip_id(self) -> bytes:
        """All of its bytes are used before Turin, and eight from then on."""
        digest = hashlib.sha512(f"a chip of {self.product}".encode()).digest()
        return digest[:8].ljust(64, b"\x00") if self.product is Product.TURIN else digest

    def report(self, report_data: bytes = bytes(64), /, **fields: int | bytes) -> bytes:
        """A signed report that `policy()` accepts, but for the `fields` that are given: numbers or bytes, by name."""
        version = fields.get("version", VERSIONS[self.product])
        assert isinstance(version, int)
        tcb = TCBS[self.product]
        values: dict[str, int | bytes] = {
            "version": version,
            "policy": 0x20000,
            "signature_algo": 1,
            "current_tcb": tcb,
            "platform_info": 0x20,
            "key_info": 4 if self.signing is SigningKey.VLEK else 0,
            "report_data": report_data,
            "measurement": MEASUREMENT,
            "report_id": bytes(range(32)),
            "report_id_ma": b"\xff" * 32,
            "reported_tcb": tcb,
            "cpuid": CPUIDS[self.product] if version > 2 else b"",
            "chip_id": self.chip_id,
            "committed_tcb": tcb,
            "current_version": bytes([29, 55, 1]),
            "committed_version": bytes([29, 55, 1]),
            "launch_tcb": tcb,
            "launch_mitigations": 0x3F if version > 4 else 0,
            "current_mitigations": 0x3F if version > 4 else 0,
        }
        return self.sign(write(bytes(0x4A0), values | fields))

    def sign(self, report: bytes) -> bytes:
        """The same report, signed (anew)."""
        signature = ec_key("vek").sign(report[:0x2A0], ec.ECDSA(SHA384()))
        r, s = decode_dss_signature(signature)
        return (report[:0x2A0] + r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(0x4A0, b"\x00")

    def policy(self, **rules: Any) -> SnpPolicy:
        """What accepts the machine, its firmware and its image; `rules` replaces or adds."""
        tcb = parse_tcb(TCBS[self.product], fmc=self.product is Product.TURIN)
        lent = {"csp_ids": (CSP_ID,)} if self.signing is SigningKey.VLEK else {}
        defaults = {"measurements": (MEASUREMENT.hex(),), "products": (ProductPolicy(self.product, tcb),), **lent}
        return SnpPolicy(**(defaults | rules))

    def collateral(self, report: bytes) -> Collateral:
        """Everything that vouches for a report, under the names that its appraisal looks up."""
        table = parse_certificate_table(self.table(report))
        pieces = collateral_of(parse_report(report), table)
        return {**pieces, crl_key(self.signing, self.product): self.crl()}

    def table(self, report: bytes) -> bytes:
        """The certificates as a host hands them to its guest."""
        return certificate_table(
            {str(self.signing): self.vek(report), "ask": self.ask().der(), "ark": self.ark().der()}
        )

    def ark(self, **changes: Any) -> Authority:
        name = f"ARK-{self.product}"
        start, end = self.now - timedelta(days=1000), self.now + timedelta(days=8000)
        return replace(Authority(name, name, "ark", "ark", 0x10000, start, end, crl_sign=True), **changes)

    def ask(self, **changes: Any) -> Authority:
        """The ASK, or the ASVK where the machine signs with a key that was lent."""
        name = f"SEV-VLEK-{self.product}" if self.signing is SigningKey.VLEK else f"SEV-{self.product}"
        start, end = self.now - timedelta(days=900), self.now + timedelta(days=7000)
        return replace(Authority(name, f"ARK-{self.product}", "ask", "ark", 0x10001, start, end), **changes)

    def chain(self, *, ask: Authority | None = None, ark: Authority | None = None) -> bytes:
        """The two certificates above the VEK, PEM."""
        return to_pem((ask or self.ask()).der()) + to_pem((ark or self.ark()).der())

    def vek(
        self,
        report: bytes,
        *,
        subject: str | None = None,
        issuer: str | None = None,
        issuer_key: str = "ask",
        public_key: Any = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        extensions: Mapping[str, bytes | None] | None = None,
        critical: bool = False,
    ) -> bytes:
        """The certificate of the key that signs, for the chip and the firmware that a report names.

        extensions: by their number below AMD's arc; None leaves one out.
        """
        own = (self.extensions(report) | dict(extensions or {})).items()
        built = builder(
            distinguished(subject or f"SEV-{self.signing.upper()}"),
            distinguished(issuer or self.ask().subject),
            public_key or ec_key("vek").public_key(),
            start=not_before or self.now - timedelta(days=30),
            end=not_after or self.now + timedelta(days=2500),
            serial=1,
            extensions=[
                (x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{ARC}.{number}"), value), critical)
                for number, value in own
                if value is not None
            ],
        )
        return _with_serial_zero(built.sign(rsa_key(issuer_key), SHA384(), rsa_padding=_PSS), issuer_key)

    def extensions(self, report: bytes) -> dict[str, bytes | None]:
        """AMD's extensions, by their number below its arc."""
        tcb, chip_id = report[0x180:0x188], report[0x1A0:0x1E0]
        turin = self.product is Product.TURIN
        places = {1: 1, 2: 2, 3: 3, 8: 7, 9: 0} if turin else {1: 0, 2: 1, 3: 6, 8: 7}
        reserved = (5, 6, 7) if turin else (4, 5, 6, 7)
        lent = self.signing is SigningKey.VLEK
        return {
            "1": integer(int(turin)),
            "2": ia5(PRODUCT_NAMES[self.product]),
            **{f"3.{part}": integer(tcb[place]) for part, place in places.items()},
            **{f"3.{part}": integer(0) for part in reserved},
            "4": None if lent else chip_id[:8] if turin else chip_id,
            "5": ia5(CSP_ID) if lent else None,
        }

    def crl(
        self,
        *serials: int,
        issuer: str | None = None,
        issuer_key: str = "ark",
        this_update: datetime | None = None,
        next_update: datetime | None = None,
        extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ) -> bytes:
        """The list of what the ARK revoked: nothing, but for `serials`."""
        crl = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(distinguished(issuer or f"ARK-{self.product}"))
            .last_update(this_update or self.now - timedelta(days=1))
            .next_update(next_update or self.now + timedelta(days=90))
            .add_extension(x509.CRLNumber(7), critical=False)
        )
        for extension, critical in extra:
            crl = crl.add_extension(extension, critical=critical)
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder(serial, self.now - timedelta(days=2))
            crl = crl.add_revoked_certificate(revoked.build())
        return crl.sign(rsa_key(issuer_key), SHA384(), rsa_padding=_PSS).public_bytes(Encoding.DER)


def write(report: bytes, fields: Mapping[str, int | bytes]) -> bytes:
    """A report with other values in some of its fields; its signature stays as it was."""
    changed = bytearray(report)
    for name, value in fields.items():
        offset, length = FIELDS[name]
        data = value.to_bytes(length, "little") if isinstance(value, int) else value.ljust(length, b"\x00")
        assert len(data) == length, name
        changed[offset : offset + length] = data
    return bytes(changed)


def certificate_table(certificates: Mapping[str, bytes]) -> bytes:
    """A table of certificates, by role, in this order."""
    start = 24 * (len(certificates) + 1)
    head = b""
    for role, certificate in certificates.items():
        head += uuid.UUID(_GUIDS[role]).bytes_le + struct.pack("<II", start, len(certificate))
        start += len(certificate)
    return head + bytes(24) + b"".join(certificates.values())


def _with_serial_zero(certificate: x509.Certificate, issuer_key: str) -> bytes:
    # The library refuses to make a certificate like AMD's: the serial number is changed afterwards, and signed anew.
    tbs = certificate.tbs_certificate_bytes
    one, zero = bytes.fromhex("a003020102020101"), bytes.fromhex("a003020102020100")
    assert tbs.count(one) == 1
    changed = tbs.replace(one, zero)
    signature = rsa_key(issuer_key).sign(changed, _PSS, SHA384())
    return certificate.public_bytes(Encoding.DER).replace(tbs, changed).replace(certificate.signature, signature)
