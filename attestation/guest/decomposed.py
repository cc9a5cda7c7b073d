"""How is an SNP report put together again that an agent took apart?

Confidential Containers answers a report as the Rust crate `sev` (6.3.1) reads it, member by member in JSON, and not as
the processor signed it::

    version, guest_svn, policy, vmpl, sig_algo, plat_info, key_info            numbers
    family_id, image_id, report_data, measurement, host_data, id_key_digest,
    author_key_digest, report_id, report_id_ma, chip_id                        arrays of byte values
    current_tcb, reported_tcb, committed_tcb, launch_tcb                       {bootloader, tee, snp, microcode,
                                                                                fmc: null before Turin}
    cpuid_fam_id, cpuid_mod_id, cpuid_step                                     numbers, null before version 3
    current, committed                                                         {major, minor, build}
    launch_mit_vector, current_mit_vector                                      numbers, null before version 5
    signature                                                                  {r, s}: arrays of 72 byte values

The places are those of `attestation.snp.abi`. Nothing is lost but reserved bytes, which are zero there. Should a report
ever fill one, its signature no longer fits what is put together here, and every verifier refuses it.

A number beyond 2^53 is refused, which only a bit vector with such a bit could be: JSON does not carry it reliably.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import AfterValidator, Field, TypeAdapter

from attestation.snp.abi import REPORT_BYTES, Tcb
from core.program.validation import STRICT

_Byte = Annotated[int, Field(ge=0, le=255)]
_U32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
_U64 = Annotated[int, Field(ge=0, le=2**64 - 1)]


def _of(length: int) -> AfterValidator:
    def check(values: tuple[int, ...]) -> tuple[int, ...]:
        if len(values) != length:
            raise ValueError(f"must have {length} bytes")
        return values

    return AfterValidator(check)


_Bytes = tuple[_Byte, ...]
_Bytes16 = Annotated[_Bytes, _of(16)]
_Bytes32 = Annotated[_Bytes, _of(32)]
_Bytes48 = Annotated[_Bytes, _of(48)]
_Bytes64 = Annotated[_Bytes, _of(64)]
_Bytes72 = Annotated[_Bytes, _of(72)]


@dataclass(frozen=True, slots=True)
class _Version:
    __pydantic_config__ = STRICT
    major: _Byte
    minor: _Byte
    build: _Byte


@dataclass(frozen=True, slots=True)
class _Signature:
    __pydantic_config__ = STRICT
    r: _Bytes72
    s: _Bytes72


@dataclass(frozen=True, slots=True)
class DecomposedReport:
    """A report in its members, all of which must be there; one that is not known would be bytes that are lost."""

    __pydantic_config__ = STRICT

    version: _U32
    guest_svn: _U32
    policy: _U64
    family_id: _Bytes16
    image_id: _Bytes16
    vmpl: _U32
    sig_algo: _U32
    current_tcb: Tcb
    plat_info: _U64
    key_info: _U32
    report_data: _Bytes64
    measurement: _Bytes48
    host_data: _Bytes32
    id_key_digest: _Bytes48
    author_key_digest: _Bytes48
    report_id: _Bytes32
    report_id_ma: _Bytes32
    reported_tcb: Tcb
    cpuid_fam_id: _Byte | None
    cpuid_mod_id: _Byte | None
    cpuid_step: _Byte | None
    chip_id: _Bytes64
    committed_tcb: Tcb
    current: _Version
    committed: _Version
    launch_tcb: Tcb
    launch_mit_vector: _U64 | None
    current_mit_vector: _U64 | None
    signature: _Signature


DECOMPOSED: Final = TypeAdapter(DecomposedReport)

_PLACES: Final = {
    "version": (0x000, 4),
    "guest_svn": (0x004, 4),
    "policy": (0x008, 8),
    "family_id": (0x010, 16),
    "image_id": (0x020, 16),
    "vmpl": (0x030, 4),
    "sig_algo": (0x034, 4),
    "current_tcb": (0x038, 8),
    "plat_info": (0x040, 8),
    "key_info": (0x048, 4),
    "report_data": (0x050, 64),
    "measurement": (0x090, 48),
    "host_data": (0x0C0, 32),
    "id_key_digest": (0x0E0, 48),
    "author_key_digest": (0x110, 48),
    "report_id": (0x140, 32),
    "report_id_ma": (0x160, 32),
    "reported_tcb": (0x180, 8),
    "cpuid_fam_id": (0x188, 1),
    "cpuid_mod_id": (0x189, 1),
    "cpuid_step": (0x18A, 1),
    "chip_id": (0x1A0, 64),
    "committed_tcb": (0x1E0, 8),
    "current": (0x1E8, 3),
    "committed": (0x1EC, 3),
    "launch_tcb": (0x1F0, 8),
    "launch_mit_vector": (0x1F8, 8),
    "current_mit_vector": (0x200, 8),
    "signature": (0x2A0, 144),
}
"""Of each member its offset, and how many bytes it fills."""


def compose(report: DecomposedReport) -> bytes:
    """The report as the processor signed it."""
    data = bytearray(REPORT_BYTES)
    for member, (offset, size) in _PLACES.items():
        data[offset : offset + size] = _encoded(getattr(report, member), size)
    return bytes(data)


def _encoded(value: object, size: int) -> bytes:
    match value:
        case None:
            return bytes(size)
        case int():
            return value.to_bytes(size, "little")
        case tuple():
            return bytes(value)
        case Tcb():
            return value.encode()
        case _Version():
            return bytes((value.build, value.minor, value.major))
        case _Signature():
            return bytes(value.r + value.s)
        case _:
            raise TypeError(f"a member of a report is a {type(value).__name__}")
