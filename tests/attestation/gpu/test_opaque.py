"""Opaque data are read in both of their layouts, and no other version of them is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.gpu.opaque import MAGIC, SECURITY_VERSION, Layout, OpaqueData, parse_opaque
from tests.attestation.gpu import forge
from tests.attestation.gpu.forge import NVDAOD_HEADER, nvdaod

COUNTS = bytes.fromhex("00000000 01000000 04000000") + bytes(256 - 12)
TRANSCRIPT = {
    6: bytes.fromhex("00d900960f000000"),
    14: bytes.fromhex("35040000"),
    15: b"884" + bytes(6),
    16: b"0" + bytes(4),
    17: b"G520\0",
    18: b"0201\0",
    19: bytes(2),
    3: b"620.12\0",
    4: bytes.fromhex("8001000000000000"),
    12: COUNTS,
    13: bytes.fromhex("00c00100"),
    11: b"\xaa",
    37: bytes(2),
    20: forge.FWID,
    21: b"\x55",
    34: b"\0\x02",
    36: bytes(2),
}
"""The fields of the one published transcript, in its order, with another digest and other counts."""
DATA = nvdaod(TRANSCRIPT)


def test_the_legacy_layout_is_read() -> None:
    opaque = parse_opaque(bytes.fromhex("0300 0400 35 39 30 00  0b00 0100 55"))
    assert opaque == OpaqueData(Layout.LEGACY, {3: b"590\0", 11: b"\x55"}, {})


def test_the_versioned_layout_is_read() -> None:
    data = b"NVDAOD" + bytes.fromhex("0000 02000000  0300 8600 0400 35393000  2500 8700 0200 0501")
    assert parse_opaque(data) == OpaqueData(Layout.NVDAOD, {3: b"590\0", 37: b"\x05\x01"}, {3: 0x86, 37: 0x87})


def test_all_fields_of_a_transcript_are_read() -> None:
    opaque = parse_opaque(DATA)
    assert len(DATA) == 483
    assert opaque.values == TRANSCRIPT
    assert opaque.value_types == {kind: forge.VALUE_TYPES[kind] for kind in TRANSCRIPT}
    assert opaque.security_version(37) == 0


def test_there_may_be_no_fields() -> None:
    assert parse_opaque(b"") == OpaqueData(Layout.LEGACY, {}, {})
    assert parse_opaque(NVDAOD_HEADER) == OpaqueData(Layout.NVDAOD, {}, {})


OTHER_VERSIONS = {
    "profile 1": (6, 1, "NVDAOD.* has profile 1, and we know only 0$"),
    "profile 256": (7, 1, "NVDAOD.* has profile 256, and we know only 0$"),
    "version 0": (8, 0, "NVDAOD.* is of version 0, and we know only 2$"),
    "version 1": (8, 1, "NVDAOD.* is of version 1, and we know only 2$"),
    "version 3": (8, 3, "NVDAOD.* is of version 3, and we know only 2$"),
}


@pytest.mark.parametrize(("at", "value", "reason"), OTHER_VERSIONS.values(), ids=OTHER_VERSIONS)
def test_another_version_is_refused(at: int, value: int, reason: str) -> None:
    with pytest.raises(EvidenceError, match=reason):
        parse_opaque(_changed(at, value))


@pytest.mark.parametrize("at", range(len(MAGIC)))
@pytest.mark.parametrize("bit", range(8))
def test_another_magic_is_none_and_the_legacy_layout_does_not_fit(at: int, bit: int) -> None:
    with pytest.raises(EvidenceError, match="legacy layout"):
        parse_opaque(_changed(at, DATA[at] ^ 1 << bit))


@pytest.mark.parametrize("at", [9, 10, 11])
def test_minor_version_patch_and_padding_may_be_anything(at: int) -> None:
    assert parse_opaque(_changed(at, 0xFF)) == parse_opaque(DATA)


def _changed(at: int, value: int) -> bytes:
    return DATA[:at] + bytes([value]) + DATA[at + 1 :]


@pytest.mark.parametrize("length", range(len(MAGIC), len(NVDAOD_HEADER)))
def test_a_header_that_is_cut_short_is_refused(length: int) -> None:
    with pytest.raises(EvidenceError, match=r"NVDAOD.* is cut short"):
        parse_opaque(NVDAOD_HEADER[:length])


def test_a_field_that_is_cut_short_at_any_byte_is_refused() -> None:
    for data, layout in ((nvdaod({34: b"\0\x02"}), "NVDAOD"), (forge.opaque({34: b"\0\x02"}), "legacy layout")):
        start = len(data) - (8 if layout == "NVDAOD" else 6)
        for length in range(start + 1, len(data)):
            with pytest.raises(EvidenceError, match=f"{layout}.* is cut short"):
                parse_opaque(data[:length])


@pytest.mark.parametrize("data", [nvdaod({3: b"590"}), forge.opaque({3: b"590"})])
def test_a_value_past_the_end_is_refused(data: bytes) -> None:
    longer = data.replace(b"\x03\x00590", b"\x04\x00590")
    assert longer != data
    with pytest.raises(EvidenceError, match="cut short"):
        parse_opaque(longer)


def test_a_header_before_fields_of_the_legacy_layout_is_refused() -> None:
    for fields in (forge.gpu_fields(), TRANSCRIPT):
        with pytest.raises(EvidenceError, match=r"NVDAOD.* is cut short"):
            parse_opaque(NVDAOD_HEADER + forge.opaque(fields))


def test_a_field_that_is_there_twice_is_refused() -> None:
    again = {3: b"545.00\0"}
    with pytest.raises(EvidenceError, match=r"NVDAOD.* has field 3 twice"):
        parse_opaque(DATA + nvdaod(again, header=b""))
    with pytest.raises(EvidenceError, match=r"legacy layout.* has field 3 twice"):
        parse_opaque(forge.opaque(again) * 2)


NO_SECURITY_VERSION: Mapping[str, bytes] = {
    "missing": nvdaod({}),
    "of another value type": nvdaod({40: b"\x05\0"}, value_types={40: 0x86}),
    "of a value type with another high byte": nvdaod({40: b"\x05\0"}, value_types={40: 0x187}),
    "of one byte": nvdaod({40: b"\x05"}, value_types={40: SECURITY_VERSION}),
    "of four bytes": nvdaod({40: b"\x05\0\0\0"}, value_types={40: SECURITY_VERSION}),
    "of no bytes": nvdaod({40: b""}, value_types={40: SECURITY_VERSION}),
    "in the legacy layout": forge.opaque({40: b"\x05\0"}),
}


@pytest.mark.parametrize("data", NO_SECURITY_VERSION.values(), ids=NO_SECURITY_VERSION)
def test_what_does_not_say_that_it_is_a_security_version_is_none(data: bytes) -> None:
    assert parse_opaque(data).security_version(40) is None


def test_a_security_version_may_stand_in_a_field_of_any_type() -> None:
    opaque = parse_opaque(nvdaod({40: b"\x05\x01", 0: b"\x06\0"}, value_types={40: 0x87, 0: 0x87}))
    assert (opaque.security_version(40), opaque.security_version(0), opaque.security_version(41)) == (0x105, 6, None)


_FIELDS = st.dictionaries(st.integers(0, 0xFFFF), st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=8)


@given(_FIELDS)
def test_what_is_written_is_read(fields: Mapping[int, tuple[int, bytes]]) -> None:
    values = {kind: value for kind, (_, value) in fields.items()}
    value_types = {kind: value_type for kind, (value_type, _) in fields.items()}
    assert parse_opaque(nvdaod(values, value_types=value_types)) == OpaqueData(Layout.NVDAOD, values, value_types)
    assert parse_opaque(forge.opaque(values)) == OpaqueData(Layout.LEGACY, values, {})


@given(st.binary(max_size=60))
def test_whatever_stands_behind_a_header_is_read_or_refused(data: bytes) -> None:
    with suppress(EvidenceError):
        opaque = parse_opaque(NVDAOD_HEADER + data)
        assert nvdaod(opaque.values, value_types=opaque.value_types) == NVDAOD_HEADER + data
