"""What does a GPU or an NVSwitch say of itself? Bytes to fields.

A report is an SPDM 1.1 exchange (DSP0274): the request, and the response whose signature covers both.

::

    GET_MEASUREMENTS   11 E0 01 FF   nonce (32)   slot (1)                          signed, of every measurement
    MEASUREMENTS       11 60 00 00   blocks (1)   length (3)   record (length)
                       nonce of the device (32)   length (2)   opaque data (length)   signature (96)

    record, per block  index (1)   specification (1) = 1   size (2)   { type (1)   size (2)   value (size) }

Numbers are little-endian; the signature is r || s, big-endian. Of what the opaque data hold, see `opaque.py`. The forms
of single fields were read from NVIDIA's verifiers and from real reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from attestation.errors import EvidenceError
from attestation.gpu.opaque import Field, Layout, OpaqueData, parse_opaque
from attestation.gpu.reader import Reader
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
_SWITCH_BIOS = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")

Pdi = bytes
"""A chip's own number for the fabric (per-device identifier), 8 bytes, as its certificate spells it."""


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

    measurements: values by index, from 1.
    signed: what `signature` (r || s, 96 bytes) is over.
    """

    nonce: Nonce
    measurements: Mapping[int, bytes]
    opaque: OpaqueData
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class GpuReport:
    """What a GPU says of itself.

    nvdec0: whether its first video decoder is on; when it is off, nothing was measured of it.
    fwid: digest of the firmware that holds the signing key; None from old drivers, which leave it out.
    feature_flag, protected_pcie: None from drivers that do not know them.
    switch_pdis: the switches that its links lead to.
    fsp_ucode_svn: security version of its security processor's microcode; None in the legacy layout, and from drivers
        that leave it out.
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
    fsp_ucode_svn: int | None


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
    if opaque.layout is Layout.LEGACY:
        _check_version(opaque)
    elif Field.FEATURE_FLAG not in opaque.values:
        raise opaque.missing(Field.FEATURE_FLAG)
    nvdec0 = opaque.switched(Field.NVDEC0_STATUS)
    if nvdec0 is None:
        raise opaque.missing(Field.NVDEC0_STATUS)
    return GpuReport(
        spdm=spdm,
        driver_version=opaque.word(Field.DRIVER_VERSION),
        vbios_version=_gpu_vbios(opaque),
        project=opaque.word(Field.PROJECT),
        project_sku=opaque.word(Field.PROJECT_SKU),
        chip_sku=opaque.word(Field.CHIP_SKU),
        nvdec0=nvdec0,
        fwid=opaque.sized(Field.FWID, FWID_BYTES),
        feature_flag=_feature_flag(opaque),
        protected_pcie=opaque.switched(Field.PROTECTED_PCIE_STATUS),
        switch_pdis=frozenset(pdi[::-1] for pdi in _gpu_pdis(opaque)),
        fsp_ucode_svn=_fsp_ucode_svn(opaque),
    )


def parse_switch(data: bytes) -> SwitchReport:
    """Read the report of an NVSwitch. Raises EvidenceError."""
    spdm = _parse_spdm(data)
    opaque = spdm.opaque
    if opaque.layout is not Layout.LEGACY:
        raise EvidenceError(f"{opaque.layout} of a switch is in a layout that only GPUs are known to write")
    version = opaque.word(Field.VBIOS_VERSION)
    if not _SWITCH_BIOS.fullmatch(version):
        raise opaque.unknown_form(Field.VBIOS_VERSION)
    # Eight places for GPUs, then which of them each link leads to.
    gpus = opaque.sized(Field.GPU_PDIS, _GPU_LISTS_BYTES) or b""
    return SwitchReport(
        spdm=spdm,
        vbios_version=version,
        fwid=opaque.sized(Field.FWID, FWID_BYTES),
        pdi=opaque.sized(Field.PDI, PDI_BYTES),
        gpu_pdis=frozenset(_pdis(gpus[: _GPU_SLOTS * PDI_BYTES])),
    )


def _parse_spdm(data: bytes) -> SpdmReport:
    reader = Reader(data, "the report")
    reader.expect(_REQUEST_HEAD, "an SPDM 1.1 request for every measurement, signed")
    nonce = Nonce(reader.take(NONCE_BYTES))
    reader.expect(_SLOT, "of certificate slot 0")
    reader.expect(_RESPONSE_HEAD, "followed by SPDM 1.1 measurements of certificate slot 0")
    blocks = reader.number(1)
    measurements = _measurements(reader.take(reader.number(3)), blocks)
    reader.take(NONCE_BYTES)  # the device's own, which makes its signature unpredictable and tells us nothing
    opaque = parse_opaque(reader.take(reader.number(2)))
    signed = data[: reader.offset]
    signature = reader.take(SIGNATURE_BYTES)
    # Some drivers append a zero. What follows the signature is dropped: the device signed nothing of it and no check
    # reads it, while the digest of the evidence, which `report_data` holds, binds every byte to what the machine sent.
    return SpdmReport(nonce, measurements, opaque, signed, signature)


def _measurements(record: bytes, blocks: int) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    reader = Reader(record, "the measurement record")
    for _ in range(blocks):
        index, specification = reader.number(1), reader.number(1)
        if specification != _DMTF:
            raise EvidenceError(f"measurement {index} is not in DMTF's form")
        block = Reader(reader.take(reader.number(2)), f"measurement {index}")
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


def _check_version(opaque: OpaqueData) -> None:
    """With a header the version stands there, and whatever this field holds does not count: real reports say 512."""
    version = opaque.number(Field.OPAQUE_VERSION)
    if version is not None and version > _MAX_OPAQUE_VERSION:
        raise EvidenceError(f"{opaque.layout} is of version {version}, which is later than we know")


def _feature_flag(opaque: OpaqueData) -> FeatureFlag | None:
    number = opaque.number(Field.FEATURE_FLAG)
    if number is None:
        return None
    try:
        return FeatureFlag(number)
    except ValueError:
        raise opaque.unknown_form(Field.FEATURE_FLAG) from None


def _gpu_vbios(opaque: OpaqueData) -> str:
    """`96.00.5E.00.01` is the number 0x0196005E00: the last part stands before the first."""
    value = opaque.sized(Field.VBIOS_VERSION, 8)
    if value is None:
        raise opaque.missing(Field.VBIOS_VERSION)
    if any(value[5:]):
        raise opaque.unknown_form(Field.VBIOS_VERSION)
    return ".".join(f"{part:02X}" for part in (*value[3::-1], value[4]))


def _gpu_pdis(opaque: OpaqueData) -> Iterator[Pdi]:
    data = opaque.values.get(Field.PDI, b"")
    if len(data) % PDI_BYTES:
        raise opaque.unknown_form(Field.PDI)
    return _pdis(data)


def _pdis(data: bytes) -> Iterator[Pdi]:
    parts = (data[at : at + PDI_BYTES] for at in range(0, len(data), PDI_BYTES))
    return (part for part in parts if part not in _NO_PDI)


def _fsp_ucode_svn(opaque: OpaqueData) -> int | None:
    if opaque.layout is Layout.LEGACY or Field.FSP_UCODE_SVN not in opaque.values:
        return None  # a field of that number without a value type says nothing
    svn = opaque.security_version(Field.FSP_UCODE_SVN)
    if svn is None:
        raise opaque.unknown_form(Field.FSP_UCODE_SVN)
    return svn
