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
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.collateral.roots import Roots, fingerprint
from attestation.gpu import ocsp
from attestation.gpu.evidence import Architecture, DeviceAnswer, encode_devices
from attestation.gpu.opaque import Field
from attestation.gpu.policy import GpuPolicy, Mode, SwitchPolicy
from attestation.types import CollateralKey, CollateralKind, DeviceEvidence, Nonce
from tests.attestation.gpu.forge_rim import AUTHORITY, NOW, floor, ocsp_answer, raw_signature, sign, swid
from tests.pki import Party, issue

__all__ = ["NOW", "NVIDIA", "ROOTS", "Chip", "Machine", "gpu_fields", "report", "switch_fields"]

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
    root = issue("Test Device Identity CA")
    identity = issue("Test GH100 Identity", root)
    provisioners = {word: issue(f"Test {word} Provisioner ICA 1", identity) for word in ("GH100", "GB100", "LS_10")}
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
        brom = issue(f"{word} A01 {part} BROM", authority.provisioners[word], serial_number=f"41{pdi.hex().upper()}")
        return cls(word, pdi, brom, brom, authority).boot(**leaf)

    def boot(self, *, fwid: bytes | None = FWID, name: str | None = None, **certificate: Any) -> Chip:
        """The same chip with a new firmware key. fwid: None certifies none. certificate: as `certify` takes it."""
        part = "FSP" if self.word == "LS_10" else "GSP"
        return replace(
            self,
            leaf=issue(
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
    """Opaque data in the legacy layout."""
    return b"".join(
        kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value for kind, value in fields.items()
    )


NVDAOD_HEADER = b"NVDAOD" + bytes([0, 0, 2, 0, 0, 0])
VALUE_TYPES = {
    **dict.fromkeys((4, 11, 14, 15, 16, 17, 18, 19), 0x82),
    13: 0x83,
    12: 0x84,
    **dict.fromkeys((21, 36), 0x85),
    **dict.fromkeys((3, 6, 34), 0x86),
    37: 0x87,
    20: 0x01,
}
"""Of each field in the one published transcript."""


def nvdaod(
    fields: Mapping[int, bytes], *, header: bytes = NVDAOD_HEADER, value_types: Mapping[int, int] | None = None
) -> bytes:
    """Opaque data in the versioned layout. value_types: where they are not those of a good report."""
    kinds = {**dict.fromkeys(fields, 0x82), **VALUE_TYPES, **(value_types or {})}
    entries = ((kind, kinds[kind], len(value), value) for kind, value in fields.items())
    return header + b"".join(
        b"".join(number.to_bytes(2, "little") for number in head) + value for *head, value in entries
    )


Said = Mapping[int, bytes] | bytes
"""Fields for the legacy layout, or opaque data as they are."""

FSP_UCODE_SVN = 5
VERSIONED = {int(Field.OPAQUE_VERSION): b"\0\x02", int(Field.FSP_UCODE_SVN): FSP_UCODE_SVN.to_bytes(2, "little")}
"""What else a GPU says in the versioned layout: 512 where its version once stood."""


def unsigned_report(nonce: Nonce, said: Said, measured: Mapping[int, bytes]) -> bytes:
    """The request, and the response up to its signature."""
    record = b"".join(block(index, value) for index, value in measured.items())
    data = said if isinstance(said, bytes) else opaque(said)
    request = bytes.fromhex("11e001ff") + nonce + b"\0"
    head = bytes.fromhex("11600000") + bytes([len(measured)]) + len(record).to_bytes(3, "little")
    return request + head + record + bytes(range(32)) + len(data).to_bytes(2, "little") + data


def report(chip: Chip, nonce: Nonce, said: Said, measured: Mapping[int, bytes] = GOOD_MEASUREMENTS) -> bytes:
    """What a device answers."""
    unsigned = unsigned_report(nonce, said, measured)
    return unsigned + raw_signature(chip.leaf.key, unsigned)


ARCHITECTURES = {"GH100": Architecture.HOPPER, "GB100": Architecture.BLACKWELL, "LS_10": Architecture.LS10}


def answer(chip: Chip, nonce: Nonce, said: Said, measured: Mapping[int, bytes] = GOOD_MEASUREMENTS) -> DeviceAnswer:
    return DeviceAnswer(ARCHITECTURES[chip.word], nonce, report(chip, nonce, said, measured), chip.certificate)


@dataclass(frozen=True)
class Machine:
    """GPUs, the switches between them, and a policy that accepts exactly these.

    versioned: whether its driver is one that writes the versioned layout, and has a manifest with a floor.
    """

    gpus: tuple[Chip, ...]
    switches: tuple[Chip, ...] = ()
    measured: Mapping[int, bytes] = field(default_factory=lambda: GOOD_MEASUREMENTS)
    versioned: bool = False

    @classmethod
    def build(cls, gpus: int = 1, switches: int = 0, *, versioned: bool = False) -> Machine:
        return cls(
            tuple(Chip.make(number=number) for number in range(gpus)),
            tuple(Chip.make("LS_10", number=number) for number in range(switches)),
            versioned=versioned,
        )

    def said(self, chip: Chip) -> Said:
        """The opaque data of one of the devices."""
        if chip.word == "LS_10":
            return switch_fields(chip, self.gpus)
        fields = ppcie_fields(self.switches) if self.switches else gpu_fields()
        return nvdaod(fields | VERSIONED) if self.versioned else fields

    def answers(self, nonce: Nonce) -> tuple[list[DeviceAnswer], list[DeviceAnswer]]:
        gpus, switches = (
            [answer(chip, nonce, self.said(chip), self.measured) for chip in chips]
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
        found = MANIFESTS | (manifest(floor(37, FSP_UCODE_SVN)) if self.versioned else {})
        for chip in (*self.gpus, *self.switches):
            found |= not_revoked(chip.parties[1:], now)
        return found | not_revoked(AUTHORITY.parties, now)


def golden(*blocks: int) -> dict[int, list[bytes]]:
    return {index: [b"\x01" * 48, measurement(index)] for index in blocks}


def manifest_key(name: str) -> CollateralKey:
    return CollateralKey(CollateralKind.GPU_RIM, name)


_MANIFESTS = {
    GPU_MANIFESTS[0]: (DRIVER, DRIVER_BLOCKS, "GH100", "GPU"),
    GPU_MANIFESTS[1]: (GPU_VBIOS, VBIOS_BLOCKS, "GH100", "GPU"),
    SWITCH_MANIFEST: (SWITCH_VBIOS, VBIOS_BLOCKS, "LS10", "SWITCH"),
}


def manifest(*floors: str, name: str = GPU_MANIFESTS[0]) -> dict[CollateralKey, bytes]:
    """One of the manifests; with floors, as `floor` writes them, in the form of newer ones."""
    version, blocks, product, edition = _MANIFESTS[name]
    said = swid(version=version, golden=golden(*blocks), product=product, edition=edition, floors=floors or None)
    return {manifest_key(name): sign(said)}


MANIFESTS = {key: data for name in _MANIFESTS for key, data in manifest(name=name).items()}


def not_revoked(chain: Sequence[Party], now: datetime = NOW) -> dict[CollateralKey, bytes]:
    start, end = now - timedelta(hours=1), now + timedelta(hours=23)
    return {
        ocsp.key(party.certificate, issuer.certificate): ocsp_answer(
            party.certificate, issuer, this_update=start, next_update=end
        )
        for party, issuer in pairwise(chain)
    }
