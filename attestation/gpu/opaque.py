"""What does a report say beside its measurements? Its opaque data, in either of NVIDIA's two layouts.

::

    legacy   per field   type (2)   size (2)   value (size)

    NVDAOD   header      "NVDAOD"   profile (2) = 0   major (1) = 2   minor (1)   patch (1)   padding (1)
             per field   type (2)   value type (2)   size (2)   value (size)

The first six bytes say which: drivers of CUDA 13.5 and later write the second. Numbers are little-endian. (NVIDIA's
pages "Opaque Data Format" and "Opaque Data", its verifiers, and real reports.)

Unknown fields are kept and passed over, since drivers add some from release to release; a known field in an unknown
form, or another version of the whole, is refused. Value types are numbered as SPDM's DMTFSpecMeasurementValueType
(DSP0274). Only that of security versions decides anything, so that no field of another meaning is taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from attestation.errors import EvidenceError
from attestation.gpu.reader import Reader

MAGIC: Final = b"NVDAOD"
SECURITY_VERSION: Final = 0x87
"""The value type of a security version number (SVN)."""

_PROFILE: Final = 0
_MAJOR: Final = 2
_SVN_BYTES: Final = 2
_WORD = re.compile(rb"[0-9A-Za-z]{1,16}(\.[0-9A-Za-z]{1,16}){0,5}")


class Field(IntEnum):
    """Types of opaque data that are read here."""

    DRIVER_VERSION = 3
    VBIOS_VERSION = 6
    NVDEC0_STATUS = 11
    CHIP_SKU = 15
    PROJECT = 17
    PROJECT_SKU = 18
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    PDI = 22
    """Of a switch: its own. Of a GPU: that of the switch at the other end of each link."""
    GPU_PDIS = 26
    OPAQUE_VERSION = 34
    FEATURE_FLAG = 36
    FSP_UCODE_SVN = 37


class Layout(StrEnum):
    """How opaque data is laid out; as text, what reasons of a refusal call it."""

    LEGACY = "the opaque data (legacy layout)"
    NVDAOD = "the opaque data (NVDAOD)"


@dataclass(frozen=True, slots=True)
class OpaqueData:
    """What a device says in fields of its own, by their type.

    value_types: what kind of value each field holds; empty in the legacy layout, which does not say.
    """

    layout: Layout
    values: Mapping[int, bytes]
    value_types: Mapping[int, int]

    def missing(self, field: Field) -> EvidenceError:
        return EvidenceError(f"{self.layout} has no {field.name}")

    def unknown_form(self, field: Field) -> EvidenceError:
        return EvidenceError(f"{self.layout} has {field.name} in a form that we do not know")

    def sized(self, field: Field, size: int) -> bytes | None:
        """A value of exactly `size` bytes, if there is one."""
        value = self.values.get(field)
        if value is not None and len(value) != size:
            raise self.unknown_form(field)
        return value

    def word(self, field: Field) -> str:
        """Text, padded with zeros: part of the names under which reference values are published."""
        value = self.values.get(field)
        if value is None:
            raise self.missing(field)
        if not _WORD.fullmatch(text := value.rstrip(b"\x00")):
            raise self.unknown_form(field)
        return text.decode("ascii")

    def number(self, field: Field) -> int | None:
        value = self.sized(field, 2)
        return None if value is None else int.from_bytes(value, "little")

    def switched(self, field: Field) -> bool | None:
        """AA is on and 55 is off: their complements, so that no few flipped bits turn one into the other."""
        value = self.values.get(field)
        if value is None:
            return None
        if value not in (b"\xaa", b"\x55"):
            raise self.unknown_form(field)
        return value == b"\xaa"

    def security_version(self, kind: int) -> int | None:
        """The number in a field of any type, also one unknown here; None unless the field says that it is an SVN."""
        value = self.values.get(kind, b"")
        if self.value_types.get(kind) != SECURITY_VERSION or len(value) != _SVN_BYTES:
            return None
        return int.from_bytes(value, "little")


def parse_opaque(data: bytes) -> OpaqueData:
    """Read the opaque data of a response. Raises EvidenceError."""
    layout = Layout.NVDAOD if data.startswith(MAGIC) else Layout.LEGACY
    values: dict[int, bytes] = {}
    value_types: dict[int, int] = {}
    reader = Reader(data, layout)
    if layout is Layout.NVDAOD:
        _take_header(reader)
    while reader:
        kind = reader.number(2)
        if kind in values:
            raise EvidenceError(f"{layout} has field {kind} twice")
        if layout is Layout.NVDAOD:
            value_types[kind] = reader.number(2)
        values[kind] = reader.take(reader.number(2))
    return OpaqueData(layout, values, value_types)


def _take_header(reader: Reader) -> None:
    reader.take(len(MAGIC))
    profile, major = reader.number(2), reader.number(1)
    reader.take(3)  # minor version and patch, which change no layout, and padding
    if profile != _PROFILE:
        raise EvidenceError(f"{Layout.NVDAOD} has profile {profile}, and we know only {_PROFILE}")
    if major != _MAJOR:
        raise EvidenceError(f"{Layout.NVDAOD} is of version {major}, and we know only {_MAJOR}")
