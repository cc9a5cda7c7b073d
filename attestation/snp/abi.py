"""Which byte means what? The SEV-SNP attestation report.

The report (AMD 56860, ATTESTATION_REPORT; read through published implementations), 1184 bytes, little endian::

    000 version (4)        004 guest_svn (4)           008 policy (8)           010 family_id (16)
    020 image_id (16)      030 vmpl (4)                034 signature_algo (4)   038 current_tcb (8)
    040 platform_info (8)  048 key_info (4)            04C reserved (4)         050 report_data (64)
    090 measurement (48)   0C0 host_data (32)          0E0 id_key_digest (48)   110 author_key_digest (48)
    140 report_id (32)     160 report_id_ma (32)       180 reported_tcb (8)
    188 family, model, stepping (3; reserved before version 3)                  18B reserved (21)
    1A0 chip_id (64)       1E0 committed_tcb (8)
    1E8 current build, minor, major, reserved (4)      1EC committed build, minor, major, reserved (4)
    1F0 launch_tcb (8)     1F8 launch_mit_vector (8; reserved before version 5)
    200 current_mit_vector (8; likewise)               208 reserved (152)
    2A0 R (72)             2E8 S (72)                  330 reserved (368)       signed: 000 to 2A0

Refused: another length, a reserved byte that is not zero (in the versions whose layout is known), another signature
algorithm, a signing key that is none, and a processor that is none of those below. What a newer version may have put
into reserved places is not looked at; whether a newer version is accepted is the policy's question.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag, StrEnum
from typing import Annotated, Final, NamedTuple

from pydantic import Field

from attestation.errors import EvidenceError
from attestation.types import ReportData
from core.program.validation import STRICT

REPORT_BYTES: Final = 0x4A0
SIGNED_BYTES: Final = 0x2A0
OLDEST_VERSION: Final = 2
NEWEST_VERSION: Final = 5
"""The newest version whose layout is known here."""


_RESERVED: Final = (
    (0x04C, 0x050, NEWEST_VERSION),
    (0x188, 0x18B, 2),
    (0x18B, 0x1A0, NEWEST_VERSION),
    (0x1EB, 0x1EC, NEWEST_VERSION),
    (0x1EF, 0x1F0, NEWEST_VERSION),
    (0x1F8, 0x208, 4),
    (0x208, 0x2A0, NEWEST_VERSION),
)
"""From where, to where, and in versions up to which bytes are zero."""

_AZURE_ENVELOPE: Final = b"HCLA"

_ECDSA_P384_SHA384: Final = 1
_SCALAR_BYTES: Final = 48


class Product(StrEnum):
    """A line of processors with one root key, as AMD's certificates call it."""

    MILAN = "Milan"
    GENOA = "Genoa"
    """Bergamo and Siena too, which have the same root key."""
    TURIN = "Turin"

    @property
    def has_fmc(self) -> bool:
        """Whether its TCB counts the version of the first mutable code."""
        return self is Product.TURIN

    @property
    def hardware_id_bytes(self) -> int:
        """How much of the 64 bytes of a chip id is used; the rest is zero."""
        return 8 if self is Product.TURIN else 64


_CPUIDS: Final = (
    (0x19, range(0x10), Product.MILAN),
    (0x19, range(0x10, 0x20), Product.GENOA),
    (0x19, range(0xA0, 0xB0), Product.GENOA),
    (0x1A, range(0x12), Product.TURIN),
)
"""Families and models."""


class SigningKey(StrEnum):
    """Whose key signed a report: the chip's own (VCEK), or one that AMD lent to a cloud (VLEK)."""

    VCEK = "vcek"
    VLEK = "vlek"


_SIGNING_KEYS: Final = {0: SigningKey.VCEK, 1: SigningKey.VLEK}


class GuestPolicy(IntFlag):
    """What the guest was launched to allow or to require. Bits 0 to 15 are the ABI version that it asks for."""

    SMT = 1 << 16
    RESERVED_ONE = 1 << 17
    MIGRATE_MA = 1 << 18
    DEBUG = 1 << 19
    SINGLE_SOCKET = 1 << 20
    CXL = 1 << 21
    AES_256_XTS = 1 << 22
    RAPL_DISABLED = 1 << 23
    CIPHERTEXT_HIDING = 1 << 24
    PAGE_SWAP_DISABLED = 1 << 25


def told(flags: IntFlag) -> str:
    """Flags as a number and by the names that a policy has for them."""
    names = [flag.name.lower() for flag in flags if flag.name and flag is not GuestPolicy.RESERVED_ONE]
    return f"{int(flags):#x}: {', '.join(names) or 'nothing'}"


class PlatformInfo(IntFlag):
    """What the platform has in force. Unknown bits are kept and are no reason to refuse."""

    SMT = 1 << 0
    TSME = 1 << 1
    ECC = 1 << 2
    RAPL_DISABLED = 1 << 3
    CIPHERTEXT_HIDING = 1 << 4
    ALIAS_CHECK = 1 << 5
    TIO = 1 << 7


PatchLevel = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True, slots=True)
class Tcb:
    """TCB_VERSION: how new each part of the platform's firmware is. Only Turin and later count `fmc`."""

    __pydantic_config__ = STRICT

    bootloader: PatchLevel
    tee: PatchLevel
    snp: PatchLevel
    microcode: PatchLevel
    fmc: PatchLevel | None = None

    def __str__(self) -> str:
        return ", ".join(f"{part} {level}" for part, level in self._levels().items())

    def encode(self) -> bytes:
        """The 8 bytes of a report."""
        data = bytearray(8)
        for part, level in self._levels().items():
            data[_TCB_PLACES[self.fmc is not None][part]] = level
        return bytes(data)

    def older_than(self, other: Tcb) -> tuple[str, ...]:
        """The parts that are older than in `other`, told in words; all of them when the layouts differ."""
        if (self.fmc is None) is not (other.fmc is None):
            return ("another layout",)
        levels, others = self._levels(), other._levels()
        return tuple(f"{part} {levels[part]} < {others[part]}" for part in levels if levels[part] < others[part])

    def _levels(self) -> dict[str, int]:
        return {part: getattr(self, part) for part in _TCB_PLACES[self.fmc is not None]}


_TCB_PLACES: Final = {
    False: {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7},
    True: {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7},
}


class FirmwareVersion(NamedTuple):
    """The version of the SNP firmware's ABI, and its build."""

    major: int
    minor: int
    build: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


@dataclass(frozen=True, slots=True)
class SnpReport:
    """An attestation report that was read and not yet believed.

    product: by family and model of the processor; None in version 2, which does not name them.
    signed: the bytes under the signature (r, s).
    """

    version: int
    policy: GuestPolicy
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: Tcb
    platform_info: PlatformInfo
    author_key_enabled: bool
    chip_key_masked: bool
    signing_key: SigningKey
    report_data: ReportData
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id_ma: bytes
    reported_tcb: Tcb
    product: Product | None
    chip_id: bytes
    committed_tcb: Tcb
    current_version: FirmwareVersion
    committed_version: FirmwareVersion
    launch_tcb: Tcb
    launch_mitigations: int
    current_mitigations: int
    signed: bytes
    r: int
    s: int

    @property
    def hardware_id(self) -> bytes:
        """The used part of the chip id."""
        return self.chip_id if self.product is None else self.chip_id[: self.product.hardware_id_bytes]


def is_report(data: bytes) -> bool:
    """Whether these are meant to be a report, or Azure's envelope around one: by length, as a report has no mark."""
    return len(data) == REPORT_BYTES or data.startswith(_AZURE_ENVELOPE)


def parse_report(data: bytes) -> SnpReport:
    """Read an attestation report. Raises EvidenceError."""
    if data.startswith(_AZURE_ENVELOPE):
        raise EvidenceError(
            "Azure's envelope around a report: it speaks of Microsoft's paravisor, and not of the software that runs "
            "above it; Azure is not supported"
        )
    if len(data) != REPORT_BYTES:
        raise EvidenceError(f"the report has {len(data)} bytes instead of {REPORT_BYTES}")
    version = _u32(data, 0x000)
    _refuse_format(data, version)
    product = _product(data, version)
    fmc = product is not None and product.has_fmc
    key_info = _u32(data, 0x048)
    return SnpReport(
        version=version,
        policy=_guest_policy(_u64(data, 0x008)),
        family_id=data[0x010:0x020],
        image_id=data[0x020:0x030],
        vmpl=_u32(data, 0x030),
        current_tcb=parse_tcb(data[0x038:0x040], fmc=fmc),
        platform_info=PlatformInfo(_u64(data, 0x040)),
        author_key_enabled=bool(key_info & 1),
        chip_key_masked=bool(key_info & 2),
        signing_key=_signing_key(key_info),
        report_data=ReportData(data[0x050:0x090]),
        measurement=data[0x090:0x0C0],
        host_data=data[0x0C0:0x0E0],
        id_key_digest=data[0x0E0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id_ma=data[0x160:0x180],
        reported_tcb=parse_tcb(data[0x180:0x188], fmc=fmc),
        product=product,
        chip_id=data[0x1A0:0x1E0],
        committed_tcb=parse_tcb(data[0x1E0:0x1E8], fmc=fmc),
        current_version=_firmware(data[0x1E8:0x1EB]),
        committed_version=_firmware(data[0x1EC:0x1EF]),
        launch_tcb=parse_tcb(data[0x1F0:0x1F8], fmc=fmc),
        launch_mitigations=_u64(data, 0x1F8),
        current_mitigations=_u64(data, 0x200),
        signed=data[:SIGNED_BYTES],
        r=_scalar(data[0x2A0:0x2E8]),
        s=_scalar(data[0x2E8:0x330]),
    )


def parse_tcb(data: bytes, *, fmc: bool) -> Tcb:
    """Read the 8 bytes of a TCB_VERSION. Raises EvidenceError.

    fmc: whether the product counts the version of its first mutable code, which moves the other parts.
    """
    places = _TCB_PLACES[fmc]
    if len(data) != 8 or any(level for place, level in enumerate(data) if place not in places.values()):
        raise EvidenceError("a TCB version is not 8 bytes, or counts a part that is not known")
    return Tcb(**{part: data[place] for part, place in places.items()})


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _u64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")


def _refuse_format(data: bytes, version: int) -> None:
    if version < OLDEST_VERSION:
        raise EvidenceError(f"the report is of version {version}, older than {OLDEST_VERSION}")
    for start, end, last_version in _RESERVED:
        if version <= last_version and any(data[start:end]):
            raise EvidenceError(f"reserved bytes of the report are not zero, at {start:#05x}")
    if (algorithm := _u32(data, 0x034)) != _ECDSA_P384_SHA384:
        raise EvidenceError(f"the report names the signature algorithm {algorithm}, not ECDSA with P-384 and SHA-384")
    if any(data[0x330:]):
        raise EvidenceError("reserved bytes after the signature are not zero")


def _guest_policy(value: int) -> GuestPolicy:
    if value >> 26 or not value & GuestPolicy.RESERVED_ONE:
        raise EvidenceError(f"the guest policy {value:#x} has reserved bits that are not as they must be")
    return GuestPolicy(value)


def _signing_key(key_info: int) -> SigningKey:
    key = _SIGNING_KEYS.get(key_info >> 2)  # bits 2 to 4; those above are reserved and zero
    if key is None:
        raise EvidenceError(f"key_info {key_info:#x}: the report is not signed, or by a key that is not known")
    return key


def _product(data: bytes, version: int) -> Product | None:
    if version < 3:
        return None
    family, model = data[0x188], data[0x189]
    for known_family, models, product in _CPUIDS:
        if family == known_family and model in models:
            return product
    raise EvidenceError(f"the processor, family {family:#04x} model {model:#04x}, is none that is known")


def _firmware(data: bytes) -> FirmwareVersion:
    return FirmwareVersion(major=data[2], minor=data[1], build=data[0])


def _scalar(data: bytes) -> int:
    if any(data[_SCALAR_BYTES:]):
        raise EvidenceError("the signature is larger than P-384 allows")
    return int.from_bytes(data, "little")
