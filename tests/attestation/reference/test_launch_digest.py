"""Launch digests of SEV-SNP: what changes one, what does not, and that a real machine has what the library computes."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sevsnpmeasure.gctx import GCTX
from sevsnpmeasure.guest import snp_calc_launch_digest, snp_update_metadata_pages
from sevsnpmeasure.ovmf import OVMF
from sevsnpmeasure.sev_hashes import SevHashes
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vcpu_types import CPU_SIGS
from sevsnpmeasure.vmm_types import VMMType
from sevsnpmeasure.vmsa import VMSA

from attestation.errors import SourceFileError
from attestation.reference.launch_digest import BootFiles, LaunchDigest, Vmm, launch_digests
from tests.attestation.reference.forge import KERNEL_HASHES, SEV_SECTIONS, firmware, kernel
from tests.vectors import vector


@pytest.fixture
def files(tmp_path: Path) -> BootFiles:
    (tmp_path / "OVMF.fd").write_bytes(firmware())
    (tmp_path / "vmlinuz").write_bytes(kernel())
    (tmp_path / "initrd").write_bytes(b"initrd")
    return BootFiles(tmp_path / "OVMF.fd", tmp_path / "vmlinuz", tmp_path / "initrd", "quiet")


def digest(files: BootFiles, **options: Any) -> bytes:
    (one,) = launch_digests(files, **{"vcpus": (1,)} | options)
    assert len(one.digest) == 48
    return one.digest


def test_the_library_computes_what_a_real_machine_was_launched_with(tmp_path: Path) -> None:
    """dstack's attestation of a Milan: what it says it was launched with, and the measurement in its report."""
    attestation = bytes.fromhex(json.loads(vector("snp/dstack_snp_attestation.json"))["attestation"])
    said = re.search(rb'\\"measurement\\":\\"([A-Za-z0-9+/=]+)\\"', attestation)
    assert said
    launched = base64.b64decode(said[1])  # CBOR
    image = tmp_path / "OVMF.fd"
    sections = [(int.from_bytes(gpa), int.from_bytes(size), kind[-1]) for gpa, size, kind in _sections(launched)]
    image.write_bytes(firmware(None, sections, hashes_at=0x81_0C00, reset_at=0x80_B004))
    boot = SevHashes(str(image), str(image), _text(launched, b"cmdline"))
    boot.kernel_hash, boot.initrd_hash = _bytes(launched, b"kernel_hash", 32), _bytes(launched, b"initrd_hash", 32)
    context = GCTX(seed=_bytes(launched, b"ovmf_hash", 48))
    ovmf = OVMF(str(image))
    snp_update_metadata_pages(context, ovmf, boot, VMMType.QEMU)
    state = VMSA(SevMode.SEV_SNP, ovmf.sev_es_reset_eip(), CPU_SIGS["EPYC-v4"], 0x1, VMMType.QEMU)
    for page in state.pages(2):
        context.update_vmsa_page(page)
    assert context.ld() == attestation[4 + 0x90 : 4 + 0xC0]


def _sections(launched: bytes) -> list[tuple[bytes, bytes, bytes]]:
    form = rb"\xa3cgpa\x1a(.{4})dsize\x19(.{2})dtype(\x10|[\x00-\x17])"
    return re.findall(form, launched, re.DOTALL)


def _bytes(launched: bytes, name: bytes, size: int) -> bytes:
    start = launched.index(name) + len(name) + 2  # 58 and the length
    return launched[start : start + size]


def _text(launched: bytes, name: bytes) -> str:
    start = launched.index(name) + len(name)
    size = int.from_bytes(launched[start + 1 : start + 3])  # 79 and the length
    return launched[start + 3 : start + 3 + size].decode()


def test_the_digests_are_those_of_the_library_for_every_shape(files: BootFiles) -> None:
    found = launch_digests(files, vcpus=(1, 4), cpus=("EPYC-v4", "EPYC-Milan"), features=0x21)
    expected = [
        LaunchDigest(count, cpu, _by_the_library(files, count, CPU_SIGS[cpu], 0x21))
        for cpu in ("EPYC-v4", "EPYC-Milan")
        for count in (1, 4)
    ]
    assert list(found) == expected
    assert len({one.digest for one in found}) == 4


def _by_the_library(files: BootFiles, vcpus: int, signature: int, features: int) -> bytes:
    paths = (str(files.firmware), str(files.kernel), str(files.initrd))
    measured: bytes = snp_calc_launch_digest(vcpus, signature, *paths, files.command_line, features, "", VMMType.QEMU)
    return measured


def test_what_is_launched_changes_the_digest(files: BootFiles, tmp_path: Path) -> None:
    known = digest(files)
    (tmp_path / "other").write_bytes(kernel(code=b"other"))
    (tmp_path / "other.fd").write_bytes(firmware(content=b"CODE"))
    others = [
        digest(replace(files, kernel=tmp_path / "other")),
        digest(replace(files, initrd=tmp_path / "other")),
        digest(replace(files, initrd=None)),
        digest(replace(files, command_line="quiet ")),
        digest(replace(files, firmware=tmp_path / "other.fd")),
        digest(files, vcpus=(2,)),
        digest(files, cpus=("EPYC-Genoa",)),
        digest(files, features=0x21),
        digest(files, vmm=Vmm.EC2),
        digest(files, vmm=Vmm.GCE),
    ]
    assert known not in others
    assert len(set(others)) == len(others)
    assert digest(files) == known


def test_a_firmware_without_a_place_for_hashes_is_refused_in_one_sentence(files: BootFiles, tmp_path: Path) -> None:
    plain = [section for section in SEV_SECTIONS if section[2] != KERNEL_HASHES]
    (tmp_path / "OVMF.fd").write_bytes(firmware(sev=plain))
    with pytest.raises(SourceFileError, match=r"no place for the hashes .* it takes OVMF built as AmdSevX64$"):
        digest(files)
    assert digest(replace(files, kernel=None, initrd=None, command_line=""))


FAULTS = {
    "nothing": b"",
    "text": b"x" * 100,
    "no word of SEV": firmware(sev=None)[:-100],
    "a section of another kind": firmware(sev=[*SEV_SECTIONS, (0x82_0000, 0x1000, 9)]),
    "a page of hashes that is none": firmware(sev=[(0x81_0000, 0x800, KERNEL_HASHES)]),
}


@pytest.mark.parametrize("image", FAULTS.values(), ids=FAULTS.keys())
def test_what_is_no_firmware_for_sev_is_refused(files: BootFiles, image: bytes) -> None:
    files.firmware.write_bytes(image)
    with pytest.raises(SourceFileError, match="firmware: "):
        digest(files, vcpus=(2,))


def test_a_file_that_is_not_there_is_told(files: BootFiles, tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="absent: No such file"):
        digest(replace(files, kernel=tmp_path / "absent"))


def test_a_model_that_is_not_known_is_told_with_those_that_are(files: BootFiles) -> None:
    with pytest.raises(SourceFileError, match=r"CPU model EPYC-9 is not known; known are EPYC, .*EPYC-Genoa"):
        digest(files, cpus=("EPYC-v4", "EPYC-9"))
