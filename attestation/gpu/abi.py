"""What does a GPU or an NVSwitch say of itself? Bytes to fields.

A report is an SPDM 1.1 exchange (DSP0274): the request, and the response whose signature covers both.

::

    GET_MEASUREMENTS   11 E0 01 FF   nonce (32)   slot (1)                          signed, of every measurement
    MEASUREMENTS       11 60 00 00   blocks (1)   length (3)   record (length)
                       nonce of the device (32)   length (2)   opaque data (length)   signature (96)

    record, per block  index (1)   specification (1) = 1   size (2)   { type (1)   size (2)   value (size) }
    opaque, per field  type (2)    size (2)   value (size)

Numbers are little-endian; the signature is r || s, big-endian. Of the opaque data NVIDIA publishes no specification:
the fields and their forms were read from its verifiers and from real reports. Unknown fields are passed over, since
drivers add some from release to release; a known field in an unknown form, or a later version of the whole, is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from attestation.errors import EvidenceError
from attestation.types import NONCE_BYTES, Nonce

REQUEST_BYTES: Final = 37
SIGNATURE_BYTES: Final = 96
FWID_BYTES: Final = 48
PDI_BYTES: Final = 8

_REQUEST_HEAD: Final = bytes.fromhex("11e001ff")
_RESPONSE_HEAD: Final = bytes.fromhex("11600000")
_SLOT: Final = b"\x00"
"""Where a device keeps the chain that NVIDIA gave it."""
_DMTF: Final = 1

_GPU_LISTS_BYTES: Final = 128
_GPU_SLOTS: Final = 8
_NO_PDI: Final = frozenset({bytes(PDI_BYTES), b"\xff" * PDI_BYTES})
"""What stands where a link, or a place in a list, is not in use."""

_MAX_OPAQUE_VERSION: Final = 1
_WORD = re.compile(rb"[0-9A-Za-z]{1,16}(\.[0-9A-Za-z]{1,16}){0,5}")
_SWITCH_BIOS = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")

Pdi = bytes
"""A chip's own number for the fabric (per-device identifier), 8 bytes, as its certificate spells it."""


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


class FeatureFlag(IntEnum):
    """How a GPU shares its secrets with others."""

    SPT = 0
    """Single passthrough: with no other."""
    MPT = 1
    """Multiple passthrough: with others, over encrypted links."""
    PPCIE = 2
    """Protected PCIe: with others, over plain links and switches that are trusted too."""


@dataclass(frozen=True, slots=True)
class SpdmReport:
    """A request with its signed response.

    measurements: values by index, from 1. opaque: fields by type.
    signed: what `signature` (r || s, 96 bytes) is over.
    """

    nonce: Nonce
    measurements: Mapping[int, bytes]
    opaque: Mapping[int, bytes]
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class GpuReport:
    """What a GPU says of itself.

    nvdec0: whether its first video decoder is on; when it is off, nothing was measured of it.
    fwid: digest of the firmware that holds the signing key; None from old drivers, which leave it out.
    feature_flag, protected_pcie: None from drivers that do not know them.
    switch_pdis: the switches that its links lead to.
    """

    spdm: SpdmReport
    driver_version: str
    vbios_version: str
    project: str
    project_sku: str
    chip_sku: str
    nvdec0: bool
    fwid: bytes | None
    feature_flag: FeatureFlag | None
    protected_pcie: bool | None
    switch_pdis: frozenset[Pdi]


@dataclass(frozen=True, slots=True)
class SwitchReport:
    """What an NVSwitch says of itself. gpu_pdis: the GPUs that its links lead to."""

    spdm: SpdmReport
    vbios_version: str
    fwid: bytes | None
    pdi: Pdi | None
    gpu_pdis: frozenset[Pdi]


Report = GpuReport | SwitchReport


def parse_gpu(data: bytes) -> GpuReport:
    """Read the report of a GPU. Raises EvidenceError."""
    spdm = _parse_spdm(data)
    opaque = spdm.opaque
    if (version := _number(opaque, Field.OPAQUE_VERSION)) is not None and version > _MAX_OPAQUE_VERSION:
        raise EvidenceError(f"opaque data of version {version}, which is later than we know")
    nvdec0 = _switched(opaque, Field.NVDEC0_STATUS)
    if nvdec0 is None:
        raise EvidenceError(_missing(Field.NVDEC0_STATUS))
    return GpuReport(
        spdm=spdm,
        driver_version=_word(opaque, Field.DRIVER_VERSION),
        vbios_version=_gpu_vbios(opaque),
        project=_word(opaque, Field.PROJECT),
        project_sku=_word(opaque, Field.PROJECT_SKU),
        chip_sku=_word(opaque, Field.CHIP_SKU),
        nvdec0=nvdec0,
        fwid=_sized(opaque, Field.FWID, FWID_BYTES),
        feature_flag=_feature_flag(opaque),
        protected_pcie=_switched(opaque, Field.PROTECTED_PCIE_STATUS),
        switch_pdis=frozenset(pdi[::-1] for pdi in _pdis(opaque.get(Field.PDI, b""))),
    )


def parse_switch(data: bytes) -> SwitchReport:
    """Read the report of an NVSwitch. Raises EvidenceError."""
    spdm = _parse_spdm(data)
    version = _word(spdm.opaque, Field.VBIOS_VERSION)
    if not _SWITCH_BIOS.fullmatch(version):
        raise EvidenceError(_unknown_form(Field.VBIOS_VERSION))
    # Eight places for GPUs, then which of them each link leads to.
    gpus = _sized(spdm.opaque, Field.GPU_PDIS, _GPU_LISTS_BYTES) or b""
    return SwitchReport(
        spdm=spdm,
        vbios_version=version,
        fwid=_sized(spdm.opaque, Field.FWID, FWID_BYTES),
        pdi=_sized(spdm.opaque, Field.PDI, PDI_BYTES),
        gpu_pdis=frozenset(_pdis(gpus[: _GPU_SLOTS * PDI_BYTES])),
    )


class _Reader:
    """Takes bytes off the front; EvidenceError where there are too few."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.offset = 0

    def __bool__(self) -> bool:
        return self.offset < len(self._data)

    def take(self, size: int) -> bytes:
        taken = self._data[self.offset : self.offset + size]
        if len(taken) != size:
            raise EvidenceError(f"{self._what} is cut short")
        self.offset += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def expect(self, value: bytes, what: str) -> None:
        if self.take(len(value)) != value:
            raise EvidenceError(f"{self._what} is not {what}")


def _parse_spdm(data: bytes) -> SpdmReport:
    reader = _Reader(data, "the report")
    reader.expect(_REQUEST_HEAD, "an SPDM 1.1 request for every measurement, signed")
    nonce = Nonce(reader.take(NONCE_BYTES))
    reader.expect(_SLOT, "of certificate slot 0")
    reader.expect(_RESPONSE_HEAD, "followed by SPDM 1.1 measurements of certificate slot 0")
    blocks = reader.number(1)
    measurements = _measurements(reader.take(reader.number(3)), blocks)
    reader.take(NONCE_BYTES)  # the device's own, which makes its signature unpredictable and tells us nothing
    opaque = _opaque(reader.take(reader.number(2)))
    signed = data[: reader.offset]
    signature = reader.take(SIGNATURE_BYTES)
    if reader:
        raise EvidenceError("the report has bytes after its signature")
    return SpdmReport(nonce, measurements, opaque, signed, signature)


def _measurements(record: bytes, blocks: int) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    reader = _Reader(record, "the measurement record")
    for _ in range(blocks):
        index, specification = reader.number(1), reader.number(1)
        if specification != _DMTF:
            raise EvidenceError(f"measurement {index} is not in DMTF's form")
        block = _Reader(reader.take(reader.number(2)), f"measurement {index}")
        block.take(1)  # what was measured; the reference values say it by index
        value = block.take(block.number(2))
        if block:
            raise EvidenceError(f"measurement {index} has bytes after its value")
        if index in values or index == 0:
            raise EvidenceError(f"measurement {index} is there twice" if index else "measurements count from 1")
        values[index] = value
    if reader:
        raise EvidenceError("the measurement record has more blocks than it says")
    return values


def _opaque(data: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    reader = _Reader(data, "the opaque data")
    while reader:
        kind = reader.number(2)
        if kind in fields:
            raise EvidenceError(f"the opaque data has field {kind} twice")
        fields[kind] = reader.take(reader.number(2))
    return fields


def _missing(field: Field) -> str:
    return f"the opaque data has no {field.name}"


def _unknown_form(field: Field) -> str:
    return f"the opaque data has {field.name} in a form that we do not know"


def _sized(opaque: Mapping[int, bytes], field: Field, size: int) -> bytes | None:
    value = opaque.get(field)
    if value is not None and len(value) != size:
        raise EvidenceError(_unknown_form(field))
    return value


def _word(opaque: Mapping[int, bytes], field: Field) -> str:
    """Text, padded with zeros: part of the names under which reference values are published."""
    value = opaque.get(field)
    if value is None:
        raise EvidenceError(_missing(field))
    if not _WORD.fullmatch(text := value.rstrip(b"\x00")):
        raise EvidenceError(_unknown_form(field))
    return text.decode("ascii")


def _number(opaque: Mapping[int, bytes], field: Field) -> int | None:
    value = _sized(opaque, field, 2)
    return None if value is None else int.from_bytes(value, "little")


def _switched(opaque: Mapping[int, bytes], field: Field) -> bool | None:
    """AA is on and 55 is off: their complements, so that no few flipped bits turn one into the other."""
    value = opaque.get(field)
    if value is None:
        return None
    if value not in (b"\xaa", b"\x55"):
        raise EvidenceError(_unknown_form(field))
    return value == b"\xaa"


def _feature_flag(opaque: Mapping[int, bytes]) -> FeatureFlag | None:
    number = _number(opaque, Field.FEATURE_FLAG)
    if number is None:
        return None
    try:
        return FeatureFlag(number)
    except ValueError:
        raise EvidenceError(_unknown_form(Field.FEATURE_FLAG)) from None


def _gpu_vbios(opaque: Mapping[int, bytes]) -> str:
    """`96.00.5E.00.01` is the number 0x0196005E00: the last part stands before the first."""
    value = _sized(opaque, Field.VBIOS_VERSION, 8)
    if value is None:
        raise EvidenceError(_missing(Field.VBIOS_VERSION))
    if any(value[5:]):
        raise EvidenceError(_unknown_form(Field.VBIOS_VERSION))
    return ".".join(f"{part:02X}" for part in (*value[3::-1], value[4]))


def _pdis(data: bytes) -> Iterator[Pdi]:
    if len(data) % PDI_BYTES:
        raise EvidenceError(_unknown_form(Field.PDI))
    parts = (data[at : at + PDI_BYTES] for at in range(0, len(data), PDI_BYTES))
    return (part for part in parts if part not in _NO_PDI)
