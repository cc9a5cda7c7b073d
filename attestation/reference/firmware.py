"""What does the TDX module measure of a firmware, before anything runs? MRTD, from the file that QEMU is given.

At the end of an OVMF stands a table of what launches need to know of it, read backwards::

    ... [ data   length u16   guid (16) ]   [ length u16   96b582de-... (16) ]   32 bytes

each length counting its whole entry, the last one the whole table. The entry e47a6535-... holds how far from the end
the description of the sections begins::

    "TDVF"   length u32   version u32 (1)   count u32
    count x  [ data_offset u32   data_size u32   address u64   memory_size u64   type u32   attributes u32 ]

For each section in this order, and each of its pages of 4096 bytes, the host adds the page, and lets the module extend
MRTD with its content. MRTD is the SHA-384 of all of these records (Intel TDX Module Base Architecture, section 12.2)::

    "MEM.PAGE.ADD" to 16 bytes   address u64   zeros to 128                     without attribute 2, "accepted later"
    "MR.EXTEND" to 16 bytes      address u64   zeros to 128   the 256 bytes     with attribute 1, of every 256 bytes

QEMU 8 added all pages of a section before it extended with any; from QEMU 9 on each is extended as soon as it is added.
MRTD depends on neither the memory nor the processors of the machine. The file is the whole of what `-bios` is given
(`OVMF.fd`), and not `OVMF_CODE.fd` of the same build.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from attestation.errors import SourceFileError

PAGE_BYTES: Final = 4096
CHUNK_BYTES: Final = 256
MAX_MEMORY_BYTES: Final = 256 * 1024 * 1024
"""Of all sections; real ones have some 2 MiB."""

_AFTER_TABLE_BYTES: Final = 32
_FOOTER: Final = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
_TDX_METADATA: Final = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
_ENTRY_TAIL: Final = struct.Struct("<H16s")
_HEADER: Final = struct.Struct("<4sIII")
_SECTION: Final = struct.Struct("<IIQQII")
_MAX_SECTIONS: Final = 64

_EXTENDS: Final = 1
_IS_ACCEPTED_LATER: Final = 2


class PageOrder(StrEnum):
    """When a host lets the module measure a page that it has added."""

    AT_ONCE = "at-once"
    """QEMU from 9 on."""
    LATER = "later"
    """QEMU 8, after all pages of the section."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the firmware in the guest's memory. content: what it holds from its beginning on, then zeros."""

    content: bytes
    address: int
    memory_bytes: int
    attributes: int

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """(address, content) of each page."""
        for start in range(0, self.memory_bytes, PAGE_BYTES):
            yield self.address + start, self.content[start : start + PAGE_BYTES].ljust(PAGE_BYTES, b"\x00")


def table_of(firmware: bytes) -> dict[bytes, bytes]:
    """What a firmware says for launches: data by GUID, little endian. Raises SourceFileError."""
    end = len(firmware) - _AFTER_TABLE_BYTES
    if end < _ENTRY_TAIL.size:
        raise SourceFileError("firmware: too short for an OVMF")
    size, guid = _ENTRY_TAIL.unpack(firmware[end - _ENTRY_TAIL.size : end])
    if guid != _FOOTER or not _ENTRY_TAIL.size <= size <= end:
        raise SourceFileError("firmware: no table of GUIDs at its end; it takes the whole OVMF.fd")
    table, left = {}, firmware[end - size : end - _ENTRY_TAIL.size]
    while left:
        if len(left) < _ENTRY_TAIL.size:
            raise SourceFileError("firmware: a table of GUIDs that is cut short")
        size, guid = _ENTRY_TAIL.unpack(left[-_ENTRY_TAIL.size :])
        if not _ENTRY_TAIL.size <= size <= len(left):
            raise SourceFileError("firmware: an entry that is longer than its table")
        table[guid] = left[-size : -_ENTRY_TAIL.size]
        left = left[:-size]
    return table


def tdx_sections(firmware: bytes) -> tuple[Section, ...]:
    """The sections that a TDX host loads, in its order. Raises SourceFileError."""
    offset = table_of(firmware).get(_TDX_METADATA)
    if offset is None or len(offset) < 4:
        raise SourceFileError("firmware: it does not say how to launch it under TDX")
    start = len(firmware) - int.from_bytes(offset[-4:], "little")
    if start < 0 or start + _HEADER.size > len(firmware):
        raise SourceFileError("firmware: the description for TDX is not in the file")
    mark, _, version, count = _HEADER.unpack_from(firmware, start)
    end = start + _HEADER.size + count * _SECTION.size
    if mark != b"TDVF" or version != 1 or count > _MAX_SECTIONS or end > len(firmware):
        raise SourceFileError("firmware: a description for TDX of no known form")
    described = _SECTION.iter_unpack(firmware[start + _HEADER.size : end])
    sections = tuple(_section(firmware, fields) for fields in described)
    if sum(section.memory_bytes for section in sections) > MAX_MEMORY_BYTES:
        raise SourceFileError("firmware: sections larger than any firmware")
    return sections


def _section(firmware: bytes, fields: tuple[int, ...]) -> Section:
    offset, size, address, memory, _, attributes = fields
    if offset + size > len(firmware) or size > memory or address % PAGE_BYTES or memory % PAGE_BYTES:
        raise SourceFileError("firmware: a section that is not in the file, or not of whole pages")
    return Section(firmware[offset : offset + size], address, memory, attributes)


def mrtd(firmware: bytes, order: PageOrder = PageOrder.AT_ONCE) -> bytes:
    """MRTD, 48 bytes. Raises SourceFileError."""
    measured = hashlib.sha384()
    for section in tdx_sections(firmware):
        # One pass over all of its pages at once, or two: first what adds them, then what extends with them.
        passes = ((_add, _extend),) if order is PageOrder.AT_ONCE else ((_add,), (_extend,))
        for acts in passes:
            for address, content in section.pages():
                for act in acts:
                    measured.update(act(section, address, content))
    return measured.digest()


def _add(section: Section, address: int, _: bytes) -> bytes:
    return b"" if section.attributes & _IS_ACCEPTED_LATER else _record(b"MEM.PAGE.ADD", address)


def _extend(section: Section, address: int, content: bytes) -> bytes:
    if not section.attributes & _EXTENDS:
        return b""
    starts = range(0, PAGE_BYTES, CHUNK_BYTES)
    return b"".join(_record(b"MR.EXTEND", address + start) + content[start : start + CHUNK_BYTES] for start in starts)


def _record(call: bytes, address: int) -> bytes:
    return (call.ljust(16, b"\x00") + address.to_bytes(8, "little")).ljust(128, b"\x00")
