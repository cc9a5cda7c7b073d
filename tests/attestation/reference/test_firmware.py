"""MRTD is what the TDX module measures of a firmware, in both orders of hosts; a file that is none is refused."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import SourceFileError
from attestation.reference.firmware import MAX_MEMORY_BYTES, PageOrder, mrtd, table_of, tdx_sections
from tests.attestation.reference.forge import (
    ACCEPTED_LATER,
    EXTENDS,
    FOOTER,
    SEV_ES_RESET,
    TDX_METADATA,
    TDX_SECTIONS,
    TdxSection,
    firmware,
)

DEBIAN = "7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773"
"""OVMF.fd of Debian's ovmf 2022.11-6+deb12u2."""
DEBIAN_MRTD = {
    PageOrder.AT_ONCE: "4c7206f0f483c524f12c366c711e9049030a8d47c471ee5a"
    "a9c4999a08de4057fb887fed0744d5631a212967fb231c47",
    PageOrder.LATER: "acccbcc870a381adab0d3919d90a7f268ac3b0364771f202ed4bb4e892d045b33db3b32e6924cba830a724eed443f7e1",
}


@pytest.mark.parametrize("order", PageOrder)
def test_the_mrtd_of_debians_firmware(order: PageOrder) -> None:
    path = Path(os.environ.get("SOTTOVOCE_OVMF") or "/usr/share/ovmf/OVMF.fd")
    if not path.is_file() or hashlib.sha256(image := path.read_bytes()).hexdigest() != DEBIAN:
        pytest.skip("needs OVMF.fd of Debian's ovmf 2022.11-6+deb12u2, at its place or where SOTTOVOCE_OVMF says")
    assert mrtd(image, order).hex() == DEBIAN_MRTD[order]


def records(image: bytes, sections: tuple[TdxSection, ...], order: PageOrder) -> Iterator[bytes]:
    """What the TDX module is given, written out as Intel's specification has it."""
    for section in sections:
        content = image[section.offset : section.offset + section.size].ljust(section.memory, b"\0")
        added, extended = [], []
        for page in range(0, section.memory, 4096):
            added.append(b"MEM.PAGE.ADD\0\0\0\0" + struct.pack("<Q", section.address + page) + bytes(104))
            chunks = [
                b"MR.EXTEND\0\0\0\0\0\0\0"
                + struct.pack("<Q", section.address + at)
                + bytes(104)
                + content[at : at + 256]
                for at in range(page, page + 4096, 256)
            ]
            extended.append(b"".join(chunks) if section.attributes & EXTENDS else b"")
            if section.attributes & ACCEPTED_LATER:
                added[-1] = b""
        if order is PageOrder.LATER:
            yield from added
            yield from extended
        else:
            for pair in zip(added, extended, strict=True):
                yield from pair


@pytest.mark.parametrize("order", PageOrder)
def test_mrtd_is_the_digest_of_what_the_module_is_given(order: PageOrder) -> None:
    image = firmware(content=bytes(range(1, 251)))
    assert mrtd(image, order) == hashlib.sha384(b"".join(records(image, TDX_SECTIONS, order))).digest()


def test_the_orders_of_hosts_differ_where_a_section_of_several_pages_is_measured() -> None:
    assert mrtd(firmware(), PageOrder.AT_ONCE) != mrtd(firmware(), PageOrder.LATER)
    one_page = (TdxSection(0, 0x1000, 0xFFFF_F000, 0x1000, EXTENDS),)
    assert mrtd(firmware(one_page), PageOrder.AT_ONCE) == mrtd(firmware(one_page), PageOrder.LATER)


def test_only_what_is_measured_and_where_it_lies_changes_it() -> None:
    known = mrtd(firmware())
    image = bytearray(firmware())
    image[0x1000] ^= 1
    assert mrtd(bytes(image)) != known
    image = bytearray(firmware())
    image[0x4000] ^= 1  # in no section
    assert mrtd(bytes(image)) == known
    moved = (*TDX_SECTIONS[:2], TdxSection(0, 0, 0x80_A000, 0x2000, kind=2), TDX_SECTIONS[3])
    assert mrtd(firmware(moved)) != known
    assert mrtd(firmware((*TDX_SECTIONS[:3],))) == known  # what is accepted later is not measured


def test_the_table_is_read_from_its_end() -> None:
    table = table_of(firmware())
    assert table[uuid.UUID(SEV_ES_RESET).bytes_le] == struct.pack("<I", 0x80_B004)
    assert [section.memory_bytes for section in tdx_sections(firmware())] == [0x2000, 0x1000, 0x2000, 0x1000]


def _without_footer() -> bytes:
    return firmware().replace(uuid.UUID(FOOTER).bytes_le, bytes(16))


def _with_entry_size(size: int) -> bytes:
    image, guid = firmware(), uuid.UUID(SEV_ES_RESET).bytes_le
    at = image.index(guid)
    return image[: at - 2] + struct.pack("<H", size) + image[at:]


def _with_offset(offset: int) -> bytes:
    image = firmware()
    at = image.index(uuid.UUID(TDX_METADATA).bytes_le)
    return image[: at - 6] + struct.pack("<I", offset) + image[at - 2 :]


def _with(old: bytes, new: bytes) -> bytes:
    image = firmware()
    assert image.count(old) == 1
    return image.replace(old, new)


FAULTS = {
    "nothing": (b"", "too short"),
    "text": (b"x" * 100, "it takes the whole OVMF.fd"),
    "no footer": (_without_footer(), "no table of GUIDs"),
    "an entry of nothing": (_with_entry_size(0), "longer than its table"),
    "an entry beyond the table": (_with_entry_size(60_000), "longer than its table"),
    "no word of TDX": (firmware(None), "does not say how to launch it under TDX"),
    "a description before the file": (_with_offset(2**31), "not in the file"),
    "a description after the file": (_with_offset(0), "not in the file"),
    "a description elsewhere": (_with_offset(0x1000), "no known form"),
    "another version": (
        _with(b"TDVF" + struct.pack("<II", 16 + 32 * 4, 1), b"TDVF" + struct.pack("<II", 16 + 32 * 4, 2)),
        "no known form",
    ),
    "too many sections": (
        _with(b"TDVF" + struct.pack("<III", 144, 1, 4), b"TDVF" + struct.pack("<III", 144, 1, 2**31)),
        "no known form",
    ),
    "a section beyond the file": (firmware((TdxSection(0x7000, 0x2000, 0, 0x2000, EXTENDS),)), "not in the file"),
    "more content than memory": (firmware((TdxSection(0, 0x2000, 0, 0x1000, EXTENDS),)), "whole pages"),
    "half a page": (firmware((TdxSection(0, 0, 0, 0x800),)), "whole pages"),
    "between pages": (firmware((TdxSection(0, 0, 0x800, 0x1000),)), "whole pages"),
    "a terabyte": (firmware((TdxSection(0, 0, 0, MAX_MEMORY_BYTES + 0x1000),)), "larger than any firmware"),
}


@pytest.mark.parametrize(("image", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_what_is_no_firmware_for_tdx_is_refused(image: bytes, fault: str) -> None:
    with pytest.raises(SourceFileError, match=f"firmware: .*{fault}"):
        mrtd(image)


@given(st.binary(max_size=400), st.integers(0, 400))
def test_any_end_of_a_file_is_read_or_refused(tail: bytes, place: int) -> None:
    image = firmware()
    changed = image[: -400 + place] + tail
    with contextlib.suppress(SourceFileError):
        assert len(mrtd(changed)) == 48
