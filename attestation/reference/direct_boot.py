"""What does a TDX guest measure of a kernel that its host boots directly? RTMR1 and RTMR2, as far as files tell.

A register is extended event by event, r = SHA384(r || d), from zeros::

    RTMR1   d = Authenticode SHA-384 of the kernel, a PE file; then SHA-384 of each of
            "Calling EFI Application from Boot Option", 00000000, "Exit Boot Services Invocation",
            "Exit Boot Services Returned with Success"
    RTMR2   d = SHA-384 of the command line in UTF-16LE with a final NUL; then, if there is one, of the initrd

Two things no file tells. QEMU writes into the header of the kernel that it hands over the way for older firmware, and
not the way that OVMF from 2025.05 on takes; what it writes depends on the initrd's size, and not on the memory where
that is 2 GiB or at least 2.75 GiB. And with an initrd OVMF adds ` initrd=initrd` to the command line, or does not. So
there are up to four candidates, all of the same kernel, command line and initrd, and of nothing else: which one a
machine has, its first boot tells. (dstack, dstack-mr; VirTEE, tdx-measure; QEMU, hw/i386/x86-common.c.)
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from attestation.errors import SourceFileError

_PE32_PLUS: Final = 0x20B
_PE32: Final = 0x10B
_SECURITY_DIRECTORY: Final = 4

_EVENTS_AFTER_KERNEL: Final = (
    b"Calling EFI Application from Boot Option",
    bytes(4),
    b"Exit Boot Services Invocation",
    b"Exit Boot Services Returned with Success",
)

_BELOW_4_GIB: Final = 0x8000_0000
"""What QEMU's q35 puts below the hole for devices, of 2 GiB or at least 2.75 GiB."""
_ACPI_BYTES: Final = 0x28000
_OLD_INITRD_MAX: Final = 0x37FF_FFFF
_CAN_BE_LOADED_ABOVE_4_GIB: Final = 0x40


@dataclass(frozen=True, slots=True)
class CodeCandidate:
    """What a machine may measure of one kernel, command line and initrd. how: by which ways of QEMU and firmware."""

    rtmr1: bytes
    rtmr2: bytes
    how: str


def candidates(kernel: bytes, command_line: str, initrd: bytes | None) -> tuple[CodeCandidate, ...]:
    """What machines measure, in all ways that are known. Raises SourceFileError."""
    kernels = {
        "the kernel as its file is": kernel,
        "the kernel as QEMU changes its header": as_qemu_hands_over(kernel, len(initrd or b"")),
    }
    lines = {"the command line as it is": command_line}
    if initrd is not None:
        lines["the command line with initrd=initrd"] = f"{command_line} initrd=initrd"
    return tuple(
        CodeCandidate(rtmr1_of(image), rtmr2_of(line, initrd), f"{how}, {which}")
        for how, image in kernels.items()
        for which, line in lines.items()
    )


def rtmr1_of(kernel: bytes) -> bytes:
    """RTMR1 of a guest that was handed this kernel, 48 bytes. Raises SourceFileError."""
    return _extended([authenticode_sha384(kernel), *(hashlib.sha384(event).digest() for event in _EVENTS_AFTER_KERNEL)])


def rtmr2_of(command_line: str, initrd: bytes | None) -> bytes:
    """RTMR2 of a guest with this command line and initrd, 48 bytes."""
    events = [f"{command_line}\0".encode("utf-16-le"), *([initrd] if initrd is not None else [])]
    return _extended(hashlib.sha384(event).digest() for event in events)


def _extended(digests: Iterable[bytes]) -> bytes:
    register = bytes(48)
    for digest in digests:
        register = hashlib.sha384(register + digest).digest()
    return register


def authenticode_sha384(image: bytes) -> bytes:
    """The digest by which PE files are signed (Microsoft, Windows Authenticode Portable Executable Signature Format).

    Left out are the checksum, the place of the signatures, and the signatures. Raises SourceFileError.
    """
    return hashlib.sha384(b"".join(signed_parts(image))).digest()


def signed_parts(image: bytes) -> Iterator[bytes]:
    """What the Authenticode digest of a PE file is over. Raises SourceFileError."""
    try:
        yield from _signed_parts(image)
    except struct.error:
        raise SourceFileError("kernel: a PE file that is cut short") from None


def _signed_parts(image: bytes) -> Iterator[bytes]:
    (header,) = struct.unpack_from("<I", image, 0x3C)
    if image[:2] != b"MZ" or image[header : header + 4] != b"PE\0\0":
        raise SourceFileError("kernel: not a PE file, as which firmware starts it")
    if len(image) % 8:  # signing tools fill it up, firmware does not
        raise SourceFileError("kernel: a PE file whose size is no multiple of 8, of which digests differ")
    section_count, optional_bytes = struct.unpack_from("<H12xH", image, header + 6)
    optional = header + 24
    (magic,) = struct.unpack_from("<H", image, optional)
    if magic not in (_PE32, _PE32_PLUS):
        raise SourceFileError("kernel: a PE file of no known form")
    checksum = optional + 64
    directory = optional + (112 if magic == _PE32_PLUS else 96) + 8 * _SECURITY_DIRECTORY
    (headers_end,) = struct.unpack_from("<I", image, optional + 60)
    _, signatures_bytes = struct.unpack_from("<II", image, directory)
    if not directory + 8 <= headers_end <= len(image):
        raise SourceFileError("kernel: the headers of the PE file are not in the file")
    yield image[:checksum]
    yield image[checksum + 4 : directory]
    yield image[directory + 8 : headers_end]
    table = optional + optional_bytes
    hashed = headers_end
    for start, size in sorted(_raw_data(image, table, section_count)):
        if start + size > len(image):
            raise SourceFileError("kernel: a section of the PE file is not in the file")
        yield image[start : start + size]
        hashed += size
    yield image[hashed : max(len(image) - signatures_bytes, hashed)]


def _raw_data(image: bytes, table: int, count: int) -> Iterator[tuple[int, int]]:
    """(start, size) in the file of each section that has any bytes there."""
    for number in range(count):
        size, start = struct.unpack_from("<II", image, table + 40 * number + 16)
        if size:
            yield start, size


def as_qemu_hands_over(kernel: bytes, initrd_bytes: int) -> bytes:
    """A kernel with what QEMU writes into its setup header (Linux, Documentation/arch/x86/boot.rst).

    Raises SourceFileError for one older than boot protocol 2.06, or none at all.
    """
    if len(kernel) < 0x1000 or kernel[0x202:0x206] != b"HdrS" or (protocol := _u16(kernel, 0x206)) < 0x206:
        raise SourceFileError("kernel: no Linux kernel with a boot protocol from 2.06 on")
    changed = bytearray(kernel)
    real_mode, command_line = (0x10000, 0x20000) if kernel[0x211] & 1 else (0x90000, 0x9A000)
    changed[0x210] = 0xB0  # a boot loader of QEMU's
    changed[0x211] |= 0x80  # there is a heap
    changed[0x224:0x228] = (command_line - real_mode - 0x200).to_bytes(4, "little")
    changed[0x228:0x22C] = command_line.to_bytes(4, "little")
    if initrd_bytes:
        end = min(_initrd_max(kernel, protocol), _BELOW_4_GIB - _ACPI_BYTES - 1)
        if initrd_bytes >= end:
            raise SourceFileError("initrd: larger than what QEMU loads")
        changed[0x218:0x21C] = ((end - initrd_bytes) & ~0xFFF).to_bytes(4, "little")
        changed[0x21C:0x220] = initrd_bytes.to_bytes(4, "little")
    return bytes(changed)


def _initrd_max(kernel: bytes, protocol: int) -> int:
    if protocol >= 0x20C and _u16(kernel, 0x236) & _CAN_BE_LOADED_ABOVE_4_GIB:
        return 0xFFFF_FFFF
    return int.from_bytes(kernel[0x22C:0x230], "little") if protocol < 0x20C else _OLD_INITRD_MAX


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")
