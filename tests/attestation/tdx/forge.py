"""An Intel of our own: root, PCK CAs, PCK, TCB signing, CRLs, TCB info, QE identity, and quotes that it vouches for.

::

    intel = ForgedIntel()
    quote = intel.quote(report_data=...)                  # or quote(version=5, rtmr1=...)
    appraise(quote, intel.policy(), intel.collateral(), roots=intel.roots, now=NOW)

Any part can be had wrong, one at a time, and is then signed as if it were right: a field of the body or of the QE
report, of TCB info or QE identity, of the PCK's extension, a name, a date, a signer, or a whole member.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestation.collateral.roots import VENDOR_ROOTS, Roots, fingerprint
from attestation.tdx.policy import CodeRelease, HardwareProfile, TdxPolicy
from attestation.types import CollateralKey, CollateralKind, Evidence, EvidenceKind, ReportData
from tests.pki import ISSUES, LISTS, SIGNS, builder, named

NOW: Final = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
TCB_DATE: Final = NOW - timedelta(days=200)

KEYS: Final = {
    name: ec.generate_private_key(ec.SECP256R1())
    for name in ("root", "platform", "processor", "pck", "tcb signing", "attestation", "somebody")
}
"""Every ForgedIntel has the same keys, since each takes a moment. Those of `somebody` vouch for nothing."""

NAMES: Final = {
    "root": "Intel SGX Root CA",
    "platform": "Intel SGX PCK Platform CA",
    "processor": "Intel SGX PCK Processor CA",
    "pck": "Intel SGX PCK Certificate",
    "tcb signing": "Intel SGX TCB Signing",
}
_SERIALS: Final = {"root": 101, "platform": 102, "processor": 103, "pck": 104, "tcb signing": 105}

PLATFORM: Final[Mapping[str, Any]] = {
    "ppid": bytes(range(16)),
    "cpu_svn": bytes((3, 3, 2, 2, 4, 1, 0, 5)) + bytes(8),
    "pce_svn": 11,
    "pce_id": bytes(2),
    "fmspc": bytes.fromhex("b0c06f000000"),
    "sgx_type": 1,
    "platform_instance_id": bytes(range(16, 32)),
    "dynamic_platform": True,
    "cached_keys": True,
    "smt_enabled": True,
}
"""What the PCK says of its platform. None leaves a value out."""

BODY: Final[Mapping[str, bytes]] = {
    "tee_tcb_svn": bytes((6, 1, 3)) + bytes(13),  # release 6 of version 1 of the module
    "mr_seam": b"\x5b" * 48,
    "mr_signer_seam": bytes(48),
    "seam_attributes": bytes(8),
    "td_attributes": bytes.fromhex("0000001000000000"),
    "xfam": bytes.fromhex("e702060000000000"),
    "mr_td": b"\xd0" * 48,
    "mr_config_id": bytes(48),
    "mr_owner": bytes(48),
    "mr_owner_config": bytes(48),
    "rtmr0": b"\xa0" * 48,
    "rtmr1": b"\xa1" * 48,
    "rtmr2": b"\xa2" * 48,
    "rtmr3": bytes(48),
    "report_data": bytes(64),
}
_TD15: Final = {"tee_tcb_svn2": BODY["tee_tcb_svn"], "mr_service_td": bytes(48)}

QE_REPORT: Final[Mapping[str, bytes]] = {
    "cpu_svn": bytes(16),
    "misc_select": bytes(4),
    "reserved1": bytes(28),
    "attributes": bytes.fromhex("1500000000000000e700000000000000"),
    "mr_enclave": b"\xee" * 32,
    "reserved2": bytes(32),
    "mr_signer": bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"),
    "reserved3": bytes(96),
    "isv_prod_id": (2).to_bytes(2, "little"),
    "isv_svn": (6).to_bytes(2, "little"),
    "reserved4": bytes(60),
}


def sign(key: str, data: bytes) -> bytes:
    """r || s, 64 bytes."""
    r, s = decode_dss_signature(KEYS[key].sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _point(key: str) -> bytes:
    numbers = KEYS[key].public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


@dataclass(frozen=True)
class ForgedIntel:
    """Certificates, collateral and quotes, in force at `now`.

    ca: `platform` or `processor`. platform: changes to PLATFORM. names: of certificates, by their role, and end: when
    one expires. revoked: roles whose certificates are on their issuer's CRL.
    """

    ca: str = "platform"
    now: datetime = NOW
    platform: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    ends: Mapping[str, datetime] = field(default_factory=dict)
    revoked: frozenset[str] = frozenset()

    @property
    def issued(self) -> datetime:
        return self.now - timedelta(days=2)

    @property
    def next_update(self) -> datetime:
        return self.now + timedelta(days=28)

    @property
    def roots(self) -> Roots:
        """The roots that believe in this Intel, and in the other vendors as ever."""
        return replace(VENDOR_ROOTS, tdx=frozenset({fingerprint(self.certificate("root"))}))

    @property
    def key(self) -> CollateralKey:
        """What `collateral` is looked up by."""
        return CollateralKey(CollateralKind.TDX, f"{self._of_platform()['fmspc'].hex()}/{self.ca}")

    def certificate(self, role: str) -> x509.Certificate:
        """The certificate of `root`, `platform`, `processor`, `pck` or `tcb signing`."""
        issuer = self.ca if role == "pck" else "root"
        extension = _sgx_extension(self._of_platform()) if role == "pck" else None
        end = self.ends.get(role, self.now + timedelta(days=2000))
        names = (role, self._name(role), issuer, self._name(issuer))
        return _certificate(*names, now=self.now, end=end, extension=extension)

    def pem(self, *roles: str) -> str:
        """Their certificates, one after the other."""
        return "".join(self.certificate(role).public_bytes(Encoding.PEM).decode() for role in roles)

    def crl(self, issuer: str, *, issued: datetime | None = None, next_update: datetime | None = None) -> bytes:
        """The DER list of what `issuer` revoked."""
        crl = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(self._name(issuer)))
            .last_update(issued or self.issued)
            .next_update(next_update or self.next_update)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(_key_identifier(issuer), critical=False)
        )
        for role in sorted(self.revoked):
            if issuer == (self.ca if role == "pck" else "root"):
                entry = x509.RevokedCertificateBuilder().serial_number(_SERIALS[role]).revocation_date(self.issued)
                crl = crl.add_revoked_certificate(entry.build())
        return crl.sign(KEYS[issuer], hashes.SHA256()).public_bytes(Encoding.DER)

    def tcb_info(self, **changes: Any) -> str:
        """TCB info for this platform, as JSON; one level, which is UpToDate, and one module, likewise."""
        of_platform = self._of_platform()
        return json.dumps(
            {
                "id": "TDX",
                "version": 3,
                "issueDate": _instant(self.issued),
                "nextUpdate": _instant(self.next_update),
                "fmspc": of_platform["fmspc"].hex().upper(),
                "pceId": of_platform["pce_id"].hex(),
                "tcbType": 0,
                "tcbEvaluationDataNumber": 18,
                "tdxModule": {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8},
                "tdxModuleIdentities": [
                    {
                        "id": "TDX_01",
                        "mrsigner": "00" * 48,
                        "attributes": "00" * 8,
                        "attributesMask": "FF" * 8,
                        "tcbLevels": [level({"isvsvn": 4})],
                    }
                ],
                "tcbLevels": [tcb_level()],
                **changes,
            }
        )

    def qe_identity(self, **changes: Any) -> str:
        """The identity of the quoting enclave, as JSON; one level, which is UpToDate."""
        return json.dumps(
            {
                "id": "TD_QE",
                "version": 2,
                "issueDate": _instant(self.issued),
                "nextUpdate": _instant(self.next_update),
                "tcbEvaluationDataNumber": 18,
                "miscselect": "00000000",
                "miscselectMask": "FFFFFFFF",
                "attributes": "11000000000000000000000000000000",
                "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
                "mrsigner": QE_REPORT["mr_signer"].hex().upper(),
                "isvprodid": 2,
                "tcbLevels": [level({"isvsvn": 4})],
                **changes,
            }
        )

    def members(
        self, *, tcb_info: Mapping[str, Any] | None = None, qe_identity: Mapping[str, Any] | None = None
    ) -> dict[str, str]:
        """The collateral before it is put together. The arguments are changes to what is signed in it."""
        signed_tcb_info, signed_qe_identity = self.tcb_info(**tcb_info or {}), self.qe_identity(**qe_identity or {})
        return {
            "pck_crl_issuer_chain": self.pem(self.ca, "root"),
            "root_ca_crl": self.crl("root").hex(),
            "pck_crl": self.crl(self.ca).hex(),
            "tcb_info_issuer_chain": self.pem("tcb signing", "root"),
            "tcb_info": signed_tcb_info,
            "tcb_info_signature": sign("tcb signing", signed_tcb_info.encode()).hex(),
            "qe_identity_issuer_chain": self.pem("tcb signing", "root"),
            "qe_identity": signed_qe_identity,
            "qe_identity_signature": sign("tcb signing", signed_qe_identity.encode()).hex(),
        }

    def collateral(self, members: Mapping[str, str] | None = None) -> dict[CollateralKey, bytes]:
        """Collateral for this platform, by its key; of other members than its own, where they are given."""
        return {self.key: json.dumps(dict(members or self.members())).encode()}

    def quote(
        self,
        report_data: bytes = bytes(64),
        *,
        version: int = 4,
        body_type: int = 3,
        pck_chain: str | None = None,
        auth_data: bytes = bytes(range(32)),
        qe_report_data: bytes | None = None,
        qe_report: Mapping[str, bytes] | None = None,
        signer: str = "attestation",
        qe_signer: str = "pck",
        **body: bytes,
    ) -> bytes:
        """A signed quote. `body` and `qe_report` are changes to BODY and QE_REPORT, the signers names of KEYS."""
        signed = _header_and_body(version, body_type, {**body, "report_data": report_data})
        named = hashlib.sha256(_point("attestation") + auth_data).digest() + bytes(32)
        qe = b"".join({**QE_REPORT, **(qe_report or {})}.values()) + (qe_report_data or named)
        chain = (pck_chain or self.pem("pck", self.ca, "root")).encode() + b"\x00"
        certification = qe + sign(qe_signer, qe) + _sized(auth_data, 2) + (5).to_bytes(2, "little") + _sized(chain, 4)
        signature = sign(signer, signed) + _point("attestation") + (6).to_bytes(2, "little") + _sized(certification, 4)
        return signed + _sized(signature, 4)

    def evidence(self, report_data: ReportData) -> Evidence:
        """A quote with its collateral."""
        return Evidence(EvidenceKind.TDX, self.quote(report_data), self.collateral())

    def policy(self, **changes: Any) -> TdxPolicy:
        """The strictest policy that accepts an unchanged quote, but for `changes`."""
        of_platform = self._of_platform()
        strictest: dict[str, Any] = {
            "hardware": (HardwareProfile(BODY["mr_td"].hex(), BODY["rtmr0"].hex()),),
            "code": (CodeRelease(BODY["rtmr1"].hex(), BODY["rtmr2"].hex()),),
            "mr_seam": (BODY["mr_seam"].hex(),),
            "min_tcb_evaluation_data_number": 18,
            "max_collateral_age_s": 7 * 86_400,
            "platform_instance_ids": (of_platform["platform_instance_id"].hex(),),
            "ppids": (of_platform["ppid"].hex(),),
        }
        return TdxPolicy(**(strictest | changes))

    def _name(self, role: str) -> str:
        return self.names.get(role, NAMES[role])

    def _of_platform(self) -> dict[str, Any]:
        return {**PLATFORM, **self.platform}


def level(
    tcb: Mapping[str, Any], status: str = "UpToDate", *advisories: str, date: datetime = TCB_DATE
) -> dict[str, Any]:
    """A TCB level of the module or the quoting enclave, or a whole one."""
    return {"tcb": dict(tcb), "tcbDate": _instant(date), "tcbStatus": status, "advisoryIDs": advisories}


def tcb_level(
    status: str = "UpToDate",
    *advisories: str,
    tdx: tuple[int, ...] = (5, 0, 2),
    pce_svn: int = 11,
    date: datetime = TCB_DATE,
) -> dict[str, Any]:
    """A TCB level that PLATFORM meets. tdx: the first components of what TEE_TCB_SVN must reach."""
    components = {
        "sgxtcbcomponents": [{"svn": svn} for svn in PLATFORM["cpu_svn"]],
        "tdxtcbcomponents": [{"svn": svn} for svn in (*tdx, *bytes(16 - len(tdx)))],
        "pcesvn": pce_svn,
    }
    return level(components, status, *advisories, date=date)


def _instant(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _sized(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size, "little") + data


def _header_and_body(version: int, body_type: int, changes: Mapping[str, bytes]) -> bytes:
    intel_qe = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
    header = version.to_bytes(2, "little") + bytes((2, 0, 0x81, 0, 0, 0)) + bytes(4) + intel_qe + bytes(20)
    extended = version == 5 and body_type == 3
    fields = {**BODY, **(_TD15 if extended else {}), **changes}
    body = b"".join(fields.values())
    return header + (b"" if version == 4 else body_type.to_bytes(2, "little") + _sized(body, 4)[:4]) + body


def _name(common_name: str) -> x509.Name:
    return named(common_name, (NameOID.ORGANIZATION_NAME, "Forged Corporation"))


def _key_identifier(role: str) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(KEYS[role].public_key())


@cache
def _certificate(
    role: str, name: str, issuer: str, issuer_name: str, *, now: datetime, end: datetime, extension: bytes | None
) -> x509.Certificate:
    """A certificate; cached, since a signature made anew would give it another fingerprint."""
    is_ca = role in ("root", "platform", "processor")
    identifier = x509.SubjectKeyIdentifier.from_public_key(KEYS[role].public_key())
    extensions: list[tuple[x509.ExtensionType, bool]] = [(_key_identifier(issuer), False), (identifier, False)]
    if extension is not None:
        sgx = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.840.113741.1.13.1"), extension)
        extensions.append((sgx, False))
    built = builder(
        _name(name),
        _name(issuer_name),
        KEYS[role].public_key(),
        start=now - timedelta(days=1000),
        end=end,
        serial=_SERIALS[role],
        ca=is_ca,
        uses=(ISSUES, LISTS) if is_ca else (SIGNS,),
        extensions=extensions,
    )
    return built.sign(KEYS[issuer], hashes.SHA256())


_INTEGER, _OCTETS, _OID, _ENUMERATED, _BOOLEAN, _SEQUENCE = 0x02, 0x04, 0x06, 0x0A, 0x01, 0x30
_SGX_ARC: Final = bytes.fromhex("2a864886f84d010d01")  # 1.2.840.113741.1.13.1


def _der(tag: int, content: bytes) -> bytes:
    size = bytes((len(content),)) if len(content) < 128 else b"\x82" + len(content).to_bytes(2, "big")
    return bytes((tag,)) + size + content


def _entry(arc: tuple[int, ...], tag: int, content: bytes) -> bytes:
    return _der(_SEQUENCE, _der(_OID, _SGX_ARC + bytes(arc)) + _der(tag, content))


def _sgx_extension(platform: Mapping[str, Any]) -> bytes:
    """The extension of a PCK, of what `platform` has."""
    components = [
        _entry((2, number), _INTEGER, bytes((svn,))) for number, svn in enumerate(platform["cpu_svn"], start=1)
    ]
    tcb = [
        *components,
        _entry((2, 17), _INTEGER, bytes((platform["pce_svn"],))),
        _entry((2, 18), _OCTETS, platform["cpu_svn"]),
    ]
    flags = [
        _entry((7, number), _BOOLEAN, b"\xff" if platform[name] else b"\x00")
        for number, name in enumerate(("dynamic_platform", "cached_keys", "smt_enabled"), start=1)
        if platform[name] is not None
    ]
    entries = [
        _entry((1,), _OCTETS, platform["ppid"]),
        _entry((2,), _SEQUENCE, b"".join(tcb)),
        _entry((3,), _OCTETS, platform["pce_id"]),
        _entry((4,), _OCTETS, platform["fmspc"]),
        _entry((5,), _ENUMERATED, bytes((platform["sgx_type"],))),
    ]
    if platform["platform_instance_id"] is not None:
        entries.append(_entry((6,), _OCTETS, platform["platform_instance_id"]))
    if flags:
        entries.append(_entry((7,), _SEQUENCE, b"".join(flags)))
    return _der(_SEQUENCE, b"".join(entries))
