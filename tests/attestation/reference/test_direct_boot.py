"""RTMR1 and RTMR2 follow from kernel, command line and initrd, in each way in which they are known to be measured."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import SourceFileError
from attestation.reference.direct_boot import (
    as_qemu_hands_over,
    authenticode_sha384,
    candidates,
    rtmr1_of,
    rtmr2_of,
)
from tests.attestation.reference.forge import PE_AT, kernel

KERNEL = kernel()
OPTIONAL = PE_AT + 24
CHECKSUM = OPTIONAL + 64
SECURITY = OPTIONAL + 112 + 8 * 4


def sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


# --- Authenticode


def test_the_digest_of_a_pe_file_leaves_out_checksum_and_signatures() -> None:
    headers = KERNEL[:CHECKSUM] + KERNEL[CHECKSUM + 4 : SECURITY] + KERNEL[SECURITY + 8 : 0x400]
    assert authenticode_sha384(KERNEL) == sha384(headers + KERNEL[0x400:0x3000] + KERNEL[0x3000:])


def test_a_signature_changes_nothing() -> None:
    signature = b"\x10\x00\x00\x00\x00\x02\x02\x00" + b"signed!!"
    signed = bytearray(KERNEL + signature)
    struct.pack_into("<II", signed, SECURITY, len(KERNEL), len(signature))
    struct.pack_into("<I", signed, CHECKSUM, 0x1234)
    assert authenticode_sha384(bytes(signed)) == authenticode_sha384(KERNEL)


@given(st.integers(0, len(KERNEL) - 1))
def test_every_other_byte_changes_it(place: int) -> None:
    if CHECKSUM <= place < CHECKSUM + 4 or SECURITY <= place < SECURITY + 8:
        return
    changed = KERNEL[:place] + bytes([KERNEL[place] ^ 1]) + KERNEL[place + 1 :]
    with contextlib.suppress(SourceFileError):
        assert authenticode_sha384(changed) != authenticode_sha384(KERNEL)


PE_FAULTS = {
    "nothing": (b"", "cut short"),
    "text": (b"x" * 100, "not a PE file"),
    "no PE header": (KERNEL.replace(b"PE\0\0", b"NE\0\0"), "not a PE file"),
    "another form": (KERNEL[:OPTIONAL] + b"\x07\x01" + KERNEL[OPTIONAL + 2 :], "no known form"),
    "headers beyond the file": (KERNEL[: OPTIONAL + 60] + b"\xff" * 4 + KERNEL[OPTIONAL + 64 :], "headers"),
    "headers that end too early": (KERNEL[: OPTIONAL + 60] + bytes(4) + KERNEL[OPTIONAL + 64 :], "headers"),
    "a section beyond the file": (KERNEL[:0x2800], "a section of the PE file"),
    "cut in the headers": (KERNEL[: OPTIONAL + 64], "cut short"),
    "an odd size": (KERNEL + b"1234", "multiple of 8"),
}


@pytest.mark.parametrize(("image", "fault"), PE_FAULTS.values(), ids=PE_FAULTS.keys())
def test_what_is_no_pe_file_is_refused(image: bytes, fault: str) -> None:
    with pytest.raises(SourceFileError, match=f"kernel: .*{fault}"):
        authenticode_sha384(image)


# --- QEMU


@dataclass(frozen=True)
class Header:
    """What QEMU may have written into a setup header."""

    loader: int
    flags: int
    initrd_at: int
    initrd_size: int
    heap_end: int
    command_line_at: int

    @classmethod
    def of(cls, image: bytes) -> Header:
        return cls(
            image[0x210],
            image[0x211],
            *struct.unpack_from("<II", image, 0x218),
            *struct.unpack_from("<II", image, 0x224),
        )


def test_qemu_writes_loader_heap_command_line_and_initrd() -> None:
    handed = as_qemu_hands_over(KERNEL, 5_000_000)
    end = 0x8000_0000 - 0x28000 - 1  # what is below 4 GiB, without what is kept for ACPI
    assert Header.of(handed) == Header(0xB0, 0x81, (end - 5_000_000) // 4096 * 4096, 5_000_000, 0xFE00, 0x20000)
    same = bytearray(handed)
    for start, stop in ((0x210, 0x212), (0x218, 0x220), (0x224, 0x22C)):
        same[start:stop] = KERNEL[start:stop]
    assert same == KERNEL


def test_without_an_initrd_no_place_of_one_is_written() -> None:
    assert Header.of(as_qemu_hands_over(KERNEL, 0)) == Header(0xB0, 0x81, 0, 0, 0xFE00, 0x20000)


def test_a_kernel_that_is_loaded_low_has_its_own_places() -> None:
    assert Header.of(as_qemu_hands_over(kernel(flags=0), 0)) == Header(0xB0, 0x80, 0, 0, 0x9E00, 0x9A000)


def test_a_kernel_may_want_its_initrd_lower() -> None:
    for image, initrd_max in (
        (kernel(above_4g=False), 0x37FF_FFFF),
        (kernel(protocol=0x20B, initrd_max=0x1FFF_FFFF), 0x1FFF_FFFF),
    ):
        assert Header.of(as_qemu_hands_over(image, 4096)).initrd_at == (initrd_max - 4096) // 4096 * 4096


@pytest.mark.parametrize(
    "image", [b"", bytes(0x4000), kernel(protocol=0x205), KERNEL[:0x800], KERNEL.replace(b"HdrS", b"hdrs")]
)
def test_what_is_no_linux_kernel_is_refused(image: bytes) -> None:
    with pytest.raises(SourceFileError, match="no Linux kernel"):
        as_qemu_hands_over(image, 0)


def test_an_initrd_that_qemu_would_not_load_is_refused() -> None:
    with pytest.raises(SourceFileError, match="larger than what QEMU loads"):
        as_qemu_hands_over(KERNEL, 0x8000_0000)


# --- registers


def test_the_registers_are_extended_event_by_event() -> None:
    register = bytes(48)
    for event in (
        authenticode_sha384(KERNEL),
        sha384(b"Calling EFI Application from Boot Option"),
        sha384(b"\0\0\0\0"),
        sha384(b"Exit Boot Services Invocation"),
        sha384(b"Exit Boot Services Returned with Success"),
    ):
        register = sha384(register + event)
    assert rtmr1_of(KERNEL) == register
    line = sha384(bytes(48) + sha384(b"a\0 \0b\0\0\0"))
    assert rtmr2_of("a b", None) == line
    assert rtmr2_of("a b", b"initrd") == sha384(line + sha384(b"initrd"))


def test_there_are_four_candidates_with_an_initrd_and_two_without() -> None:
    four = candidates(KERNEL, "quiet", b"initrd")
    assert len({(one.rtmr1, one.rtmr2) for one in four}) == 4
    assert {one.rtmr1 for one in four} == {rtmr1_of(KERNEL), rtmr1_of(as_qemu_hands_over(KERNEL, 6))}
    assert {one.rtmr2 for one in four} == {rtmr2_of(line, b"initrd") for line in ("quiet", "quiet initrd=initrd")}
    two = candidates(KERNEL, "quiet", None)
    assert len({(one.rtmr1, one.rtmr2) for one in two}) == 2
    assert {one.rtmr2 for one in two} == {rtmr2_of("quiet", None)}
    assert len({one.how for one in (*four, *two)}) == 4


@pytest.mark.parametrize(
    ("image", "line", "initrd"),
    [(kernel(code=b"other"), "quiet", b"initrd"), (KERNEL, "quiet ", b"initrd"), (KERNEL, "quiet", b"initrD")],
)
def test_another_kernel_line_or_initrd_has_no_candidate_in_common(image: bytes, line: str, initrd: bytes) -> None:
    known = {(one.rtmr1, one.rtmr2) for one in candidates(KERNEL, "quiet", b"initrd")}
    assert known.isdisjoint({(one.rtmr1, one.rtmr2) for one in candidates(image, line, initrd)})
