"""Firmware and kernels made up, with what launches read of them and nothing that runs."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

FOUR_GIB = 1 << 32

FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
TDX_METADATA = "e47a6535-984a-4798-865e-4685a7bf8ec2"
SEV_METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
SEV_HASH_TABLE = "7255371f-3a3b-4b04-927b-1da6efa8d454"
SEV_ES_RESET = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"

SNP_SEC_MEM, SNP_SECRETS, CPUID, SVSM_CAA, KERNEL_HASHES = 1, 2, 3, 4, 0x10
EXTENDS, ACCEPTED_LATER = 1, 2


@dataclass(frozen=True)
class TdxSection:
    offset: int
    size: int
    address: int
    memory: int
    attributes: int = 0
    kind: int = 0


TDX_SECTIONS = (
    TdxSection(0x1000, 0x2000, 0xFFFF_1000, 0x2000, EXTENDS),
    TdxSection(0, 0x800, 0xFFFF_0000, 0x1000, EXTENDS, kind=1),
    TdxSection(0, 0, 0x80_9000, 0x2000, kind=2),
    TdxSection(0, 0, 0x81_0000, 0x1000, ACCEPTED_LATER, kind=3),
)
SEV_SECTIONS = (
    (0x80_0000, 0x9000, SNP_SEC_MEM),
    (0x80_D000, 0x1000, SNP_SECRETS),
    (0x80_E000, 0x1000, CPUID),
    (0x81_0000, 0x1000, KERNEL_HASHES),
)
HASHES_AT = 0x81_0C00
RESET_AT = 0x80_B004


def firmware(
    tdx: Sequence[TdxSection] | None = TDX_SECTIONS,
    sev: Sequence[tuple[int, int, int]] | None = SEV_SECTIONS,
    *,
    content: bytes = b"code",
    size: int = 0x8000,
    hashes_at: int = HASHES_AT,
    reset_at: int = RESET_AT,
) -> bytes:
    """An OVMF that says how to launch it. content: what its first pages hold, over and over."""
    parts: dict[str, bytes] = {}
    if tdx is not None:
        entries = [struct.pack("<IIQQII", s.offset, s.size, s.address, s.memory, s.kind, s.attributes) for s in tdx]
        parts[TDX_METADATA] = struct.pack("<4sIII", b"TDVF", 16 + 32 * len(tdx), 1, len(tdx)) + b"".join(entries)
    if sev is not None:
        sections = b"".join(struct.pack("<III", *section) for section in sev)
        parts[SEV_METADATA] = struct.pack("<4sIII", b"ASEV", 16 + len(sections), 1, len(sev)) + sections
    plain = {SEV_ES_RESET: struct.pack("<I", reset_at), SEV_HASH_TABLE: struct.pack("<II", hashes_at, 0x400)}
    table_bytes = 22 * len(parts) + sum(18 + len(data) for data in plain.values()) + 18
    described, offsets = b"".join(parts.values()), {}
    place = 32 + table_bytes + len(described)
    for guid, data in parts.items():
        offsets[guid] = struct.pack("<I", place)
        place -= len(data)
    table = b"".join(data + _tail(18 + len(data), guid) for guid, data in {**plain, **offsets}.items())
    tail = described + table + _tail(table_bytes, FOOTER) + bytes(32)
    body = (content * (size // len(content) + 1))[: size - len(tail)]
    return body + tail


def _tail(size: int, guid: str) -> bytes:
    return struct.pack("<H", size) + uuid.UUID(guid).bytes_le


PE_AT = 0x40
SETUP_AT = 0x1F1


def kernel(
    *,
    protocol: int = 0x20F,
    flags: int = 1,
    above_4g: bool = True,
    initrd_max: int = 0x7FFF_FFFF,
    code: bytes = b"linux",
) -> bytes:
    """A Linux kernel with the setup header of a boot protocol, and the headers of a PE file of two sections."""
    image = bytearray(0x4000)
    image[0:2], image[0x3C:0x40] = b"MZ", PE_AT.to_bytes(4, "little")
    image[PE_AT : PE_AT + 4] = b"PE\0\0"
    struct.pack_into("<HH12xHH", image, PE_AT + 4, 0x8664, 2, 0xA0, 0x206)
    optional = PE_AT + 24
    struct.pack_into("<H", image, optional, 0x20B)
    struct.pack_into("<I", image, optional + 60, 0x400)  # SizeOfHeaders
    struct.pack_into("<I", image, optional + 64, 0xDEAD_BEEF)  # CheckSum
    table = optional + 0xA0
    # Out of order in the table, as the digest must not take them.
    for number, (start, size) in enumerate(((0x2000, 0x1000), (0x400, 0x1C00))):
        struct.pack_into("<8sIIII", image, table + 40 * number, b".text", size, start, size, start)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, protocol)
    image[0x211] = flags
    struct.pack_into("<I", image, 0x22C, initrd_max)
    struct.pack_into("<H", image, 0x236, 0x40 if above_4g else 0)
    image[0x2000 : 0x2000 + len(code)] = code
    return bytes(image)
