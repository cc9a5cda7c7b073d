"""A synthetic NVIDIA, for tests: a certificate authority for devices, chips that answer nonces, and whole machines.

Everything is signed with keys made here, so a verifier must be told to believe `ROOTS`. The reports, chains, manifests
and revocation answers have the forms of real ones, and every part of them can be chosen.

::

    machine = Machine.build(gpus=8, switches=4)
    devices = machine.answer(nonce)
    appraise(devices, machine.policy, machine.collateral(), nonce=nonce, roots=ROOTS, now=NOW)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from hashlib import sha256, sha384
from itertools import pairwise
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from attestation.gpu import ocsp
from attestation.gpu.abi import Field
from attestation.gpu.evidence import Architecture, DeviceAnswer, encode_devices
from attestation.gpu.policy import GpuPolicy, Mode, SwitchPolicy
from attestation.roots import Roots, fingerprint
from attestation.types import CollateralKey, CollateralKind, DeviceEvidence, Nonce
from tests.attestation.gpu.forge_rim import AUTHORITY, END, NOW, START, Party, ocsp_answer, raw_signature, sign, swid

__all__ = ["NOW", "NVIDIA", "ROOTS", "Chip", "Machine", "gpu_fields", "report", "switch_fields"]

P384 = ec.SECP384R1()

DRIVER = "590.12"
GPU_VBIOS = "96.00.A5.00.01"
SWITCH_VBIOS = "96.10.73.00.01"
GPU_MANIFESTS = (f"NV_GPU_DRIVER_GH100_{DRIVER}", "NV_GPU_VBIOS_G520_0200_885_9600A50001")
SWITCH_MANIFEST = "NV_SWITCH_BIOS_5612_0002_890_9610730001"
FWID = sha384(b"the firmware that holds the signing key").digest()

DRIVER_BLOCKS = (8, 22, 23, 36)
VBIOS_BLOCKS = (1, 2, 9)
"""The measurements that manifests speak of; 36 is that of the first video decoder."""


def measurement(index: int) -> bytes:
    """What a good device measures."""
    return sha384(b"measurement %d" % index).digest()


GOOD_MEASUREMENTS = {index: measurement(index) for index in range(1, 41) if index != 36} | {36: bytes(48)}


def certify(
    name: str,
    issuer: Party | None = None,
    *,
    serial_number: str | None = None,
    ca: bool | None = True,
    key_usage: bool = True,
    signs_certificates: bool | None = None,
    signs_reports: bool | None = None,
    path_length: int | None = None,
    start: datetime = START,
    end: datetime = END,
    key: ec.EllipticCurvePrivateKey | None = None,
    digest: SHA256 | SHA384 | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Party:
    """A certificate; without an issuer, one that signs itself.

    ca: None leaves the constraints out, as device leaves do. extensions: each with its criticality.
    """
    key = key or ec.generate_private_key(P384)
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if serial_number is not None:
        attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial_number))
    subject = x509.Name(attributes)
    is_ca = bool(ca)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if key_usage:
        usage = _usage(
            signs_certificates=is_ca if signs_certificates is None else signs_certificates,
            signs_reports=not is_ca if signs_reports is None else signs_reports,
        )
        builder = builder.add_extension(usage, critical=True)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Party(builder.sign(issuer.key if issuer else key, digest or SHA384()), key)


def _usage(*, signs_certificates: bool, signs_reports: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs_reports,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class DeviceAuthority:
    """The certificates above a chip's own. provisioners: by the word for a chip in names."""

    root: Party
    identity: Party
    provisioners: Mapping[str, Party]

    @property
    def pins(self) -> frozenset[str]:
        """For `Roots.gpu_device`."""
        return frozenset({fingerprint(self.root.certificate)})


def device_authority() -> DeviceAuthority:
    root = certify("Test Device Identity CA")
    identity = certify("Test GH100 Identity", root)
    provisioners = {word: certify(f"Test {word} Provisioner ICA 1", identity) for word in ("GH100", "GB100", "LS_10")}
    return DeviceAuthority(root, identity, provisioners)


NVIDIA = device_authority()
ROOTS = Roots(snp=frozenset(), tdx=frozenset(), gpu_device=NVIDIA.pins, gpu_rim=AUTHORITY.pins)


def der(tag: int, *parts: bytes) -> bytes:
    """An element of less than 256 bytes."""
    content = b"".join(parts)
    size = bytes([len(content)])
    return bytes([tag]) + (size if len(content) < 0x80 else b"\x81" + size) + content


SHA384_OID = bytes.fromhex("0609608648016503040202")


def fwid_element(digest: bytes, algorithm: bytes = SHA384_OID) -> bytes:
    return der(0x30, algorithm, der(0x04, digest))


def composite_device_id(fwid: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """What a Hopper leaf certifies: its firmware under the chip's key."""
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der(0x30, b"\x02\x01\x01", spki, fwid)


def dice_tcb_info(*fwids: bytes) -> bytes:
    """What a Blackwell leaf certifies."""
    return der(
        0x30,
        der(0x80, b"NVIDIA"),
        der(0x81, b"GB100 A01 GSP"),
        der(0x82, b"01"),
        der(0x83, b"\x01"),
        der(0x84, b"\x00"),
        der(0x85, b"\x00"),
        *([der(0xA6, *fwids)] if fwids else []),
        bytes.fromhex("87050080000001 8801c0 890100"),
    )


COMPOSITE_DEVICE_ID = x509.ObjectIdentifier("2.23.133.5.4.1")
DICE_TCB_INFO = x509.ObjectIdentifier("2.23.133.5.4.1.1")


@dataclass(frozen=True)
class Chip:
    """A device: its own key, and the key of the firmware that it has booted."""

    word: str
    pdi: bytes
    brom: Party
    leaf: Party
    authority: DeviceAuthority

    @classmethod
    def make(cls, word: str = "GH100", *, number: int = 0, authority: DeviceAuthority = NVIDIA, **leaf: Any) -> Chip:
        """A chip of a kind (`GH100`, `GB100`, `LS_10`). leaf: as `boot` takes it."""
        pdi = sha256(b"%s %d" % (word.encode(), number)).digest()[:8]
        part = "FSP" if word == "LS_10" else "GSP"
        brom = certify(f"{word} A01 {part} BROM", authority.provisioners[word], serial_number=f"41{pdi.hex().upper()}")
        return cls(word, pdi, brom, brom, authority).boot(**leaf)

    def boot(self, *, fwid: bytes | None = FWID, name: str | None = None, **certificate: Any) -> Chip:
        """The same chip with a new firmware key. fwid: None certifies none. certificate: as `certify` takes it."""
        part = "FSP" if self.word == "LS_10" else "GSP"
        return replace(
            self,
            leaf=certify(
                name or f"{self.word} A01 {part} FMC LF",
                self.brom,
                **{"ca": None, "extensions": self._certified(fwid), **certificate},
            ),
        )

    def _certified(self, fwid: bytes | None) -> Sequence[tuple[x509.ExtensionType, bool]]:
        if fwid is None:
            return ()
        if self.word.startswith("GB"):
            value = dice_tcb_info(fwid_element(fwid), fwid_element(bytes(48)))
            return ((x509.UnrecognizedExtension(DICE_TCB_INFO, value), False),)
        value = composite_device_id(fwid_element(fwid), self.brom.key)
        return ((x509.UnrecognizedExtension(COMPOSITE_DEVICE_ID, value), False),)

    @property
    def parties(self) -> tuple[Party, ...]:
        above = self.authority
        return self.leaf, self.brom, above.provisioners[self.word], above.identity, above.root

    @property
    def certificate(self) -> bytes:
        """The chain as the driver gives it."""
        return pem(self.parties)

    @property
    def hardware_id(self) -> str:
        spki = self.brom.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return sha256(spki).hexdigest()


def pem(parties: Sequence[Party]) -> bytes:
    return b"".join(party.certificate.public_bytes(Encoding.PEM) for party in parties)


def gpu_fields(**changes: bytes | None) -> dict[int, bytes]:
    """The opaque data of a Hopper GPU in single passthrough. changes: values by the name of a field; None omits it."""
    fields: dict[str, bytes | None] = {
        "VBIOS_VERSION": bytes.fromhex("00a5009601000000"),
        "CHIP_SKU": b"885" + bytes(6),
        "PROJECT": b"G520\0",
        "PROJECT_SKU": b"0200\0",
        "DRIVER_VERSION": DRIVER.encode() + b"\0",
        "NVDEC0_STATUS": b"\x55",
        "FWID": FWID,
        "PROTECTED_PCIE_STATUS": b"\x55",
        "OPAQUE_VERSION": b"\x01\0",
        "FEATURE_FLAG": b"\0\0",
    }
    return _by_type({**fields, **changes})


def ppcie_fields(switches: Sequence[Chip], **changes: bytes | None) -> dict[int, bytes]:
    """The same in protected PCIe, with every one of its links to one of the switches."""
    pdis = b"".join(switch.pdi[::-1] for switch in switches)
    links = (pdis * 18)[: 18 * 8] if pdis else bytes(18 * 8)
    protected = {"PROTECTED_PCIE_STATUS": b"\xaa", "FEATURE_FLAG": b"\x02\0", "PDI": links}
    return gpu_fields(**{**protected, **changes})


def switch_fields(switch: Chip, gpus: Sequence[Chip], **changes: bytes | None) -> dict[int, bytes]:
    """The opaque data of a switch between GPUs."""
    places = [gpu.pdi for gpu in gpus] + [b"\xff" * 8] * (8 - len(gpus))
    fields: dict[str, bytes | None] = {
        "VBIOS_VERSION": SWITCH_VBIOS.encode(),
        "PDI": switch.pdi,
        "GPU_PDIS": b"".join(places) + bytes(range(8)) * 4 + b"\xff" * 32,
    }
    return _by_type({**fields, **changes})


def _by_type(fields: Mapping[str, bytes | None]) -> dict[int, bytes]:
    return {int(Field[name]): value for name, value in fields.items() if value is not None}


def block(index: int, value: bytes) -> bytes:
    return (
        bytes([index, 1]) + (len(value) + 3).to_bytes(2, "little") + b"\x01" + len(value).to_bytes(2, "little") + value
    )


def opaque(fields: Mapping[int, bytes]) -> bytes:
    return b"".join(
        kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value for kind, value in fields.items()
    )


def unsigned_report(nonce: Nonce, fields: Mapping[int, bytes], measured: Mapping[int, bytes]) -> bytes:
    """The request, and the response up to its signature."""
    record, data = b"".join(block(index, value) for index, value in measured.items()), opaque(fields)
    request = bytes.fromhex("11e001ff") + nonce + b"\0"
    head = bytes.fromhex("11600000") + bytes([len(measured)]) + len(record).to_bytes(3, "little")
    return request + head + record + bytes(range(32)) + len(data).to_bytes(2, "little") + data


def report(
    chip: Chip, nonce: Nonce, fields: Mapping[int, bytes], measured: Mapping[int, bytes] = GOOD_MEASUREMENTS
) -> bytes:
    """What a device answers."""
    unsigned = unsigned_report(nonce, fields, measured)
    return unsigned + raw_signature(chip.leaf.key, unsigned)


ARCHITECTURES = {"GH100": Architecture.HOPPER, "GB100": Architecture.BLACKWELL, "LS_10": Architecture.LS10}


def answer(
    chip: Chip, nonce: Nonce, fields: Mapping[int, bytes], measured: Mapping[int, bytes] = GOOD_MEASUREMENTS
) -> DeviceAnswer:
    return DeviceAnswer(ARCHITECTURES[chip.word], nonce, report(chip, nonce, fields, measured), chip.certificate)


@dataclass(frozen=True)
class Machine:
    """GPUs, the switches between them, and a policy that accepts exactly these."""

    gpus: tuple[Chip, ...]
    switches: tuple[Chip, ...] = ()
    measured: Mapping[int, bytes] = field(default_factory=lambda: GOOD_MEASUREMENTS)

    @classmethod
    def build(cls, gpus: int = 1, switches: int = 0) -> Machine:
        return cls(
            tuple(Chip.make(number=number) for number in range(gpus)),
            tuple(Chip.make("LS_10", number=number) for number in range(switches)),
        )

    def fields(self, chip: Chip) -> dict[int, bytes]:
        """The opaque data of one of the devices."""
        if chip.word == "LS_10":
            return switch_fields(chip, self.gpus)
        return ppcie_fields(self.switches) if self.switches else gpu_fields()

    def answers(self, nonce: Nonce) -> tuple[list[DeviceAnswer], list[DeviceAnswer]]:
        gpus, switches = (
            [answer(chip, nonce, self.fields(chip), self.measured) for chip in chips]
            for chips in (self.gpus, self.switches)
        )
        return gpus, switches

    def answer(self, nonce: Nonce) -> DeviceEvidence:
        return encode_devices(*self.answers(nonce))

    @cached_property
    def policy(self) -> GpuPolicy:
        switches = SwitchPolicy(len(self.switches), (SWITCH_VBIOS,)) if self.switches else None
        return GpuPolicy(
            count=len(self.gpus),
            architectures=(Architecture.HOPPER,),
            driver_versions=(DRIVER,),
            vbios_versions=(GPU_VBIOS,),
            mode=Mode.PPCIE if switches else Mode.SPT,
            switches=switches,
        )

    def collateral(self, now: datetime = NOW) -> dict[CollateralKey, bytes]:
        """Everything that the policy asks for: manifests, and answers about all that can be revoked."""
        found = dict(MANIFESTS)
        for chip in (*self.gpus, *self.switches):
            found |= not_revoked(chip.parties[1:], now)
        return found | not_revoked(AUTHORITY.parties, now)


def golden(*blocks: int) -> dict[int, list[bytes]]:
    return {index: [b"\x01" * 48, measurement(index)] for index in blocks}


def manifest_key(name: str) -> CollateralKey:
    return CollateralKey(CollateralKind.GPU_RIM, name)


MANIFESTS = {
    manifest_key(GPU_MANIFESTS[0]): sign(swid(version=DRIVER, golden=golden(*DRIVER_BLOCKS))),
    manifest_key(GPU_MANIFESTS[1]): sign(swid(version=GPU_VBIOS, golden=golden(*VBIOS_BLOCKS))),
    manifest_key(SWITCH_MANIFEST): sign(
        swid(version=SWITCH_VBIOS, golden=golden(*VBIOS_BLOCKS), product="LS10", edition="SWITCH")
    ),
}


def not_revoked(chain: Sequence[Party], now: datetime = NOW) -> dict[CollateralKey, bytes]:
    start, end = now - timedelta(hours=1), now + timedelta(hours=23)
    return {
        ocsp.key(party.certificate, issuer.certificate): ocsp_answer(
            party.certificate, issuer, this_update=start, next_update=end
        )
        for party, issuer in pairwise(chain)
    }
