"""What does the processor measure when it launches an SEV-SNP guest? The launch digest, by the library of VirTEE.

Covered are the firmware, and, in a firmware that has a place for their hashes, the kernel, the initrd and the command
line; then the first state of each processor: so their number and model count, and the SEV features, and what starts the
guest. Not covered are memory, disks, devices, HOST_DATA, the guest policy and the ID block.

`sevsnpmeasure` is loaded when it is needed, and nowhere else (the extra `reference`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from attestation.errors import SourceFileError

DEFAULT_CPU: Final = "EPYC-v4"
"""What Kata Containers gives to its guests."""
SEV_FEATURES: Final = 0x1
"""SNP alone, as QEMU and Kata launch."""
MAX_VCPUS: Final = 512


class Vmm(StrEnum):
    """What starts the guest, and so sets the first state of its processors."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What a guest is booted with. kernel: None where the firmware finds something to boot by itself."""

    firmware: Path
    kernel: Path | None
    initrd: Path | None
    command_line: str


@dataclass(frozen=True, slots=True)
class LaunchDigest:
    """The digest of a guest with so many processors of a model, 48 bytes."""

    vcpus: int
    cpu: str
    digest: bytes


def launch_digests(
    files: BootFiles,
    *,
    vcpus: Sequence[int],
    cpus: Sequence[str] = (DEFAULT_CPU,),
    features: int = SEV_FEATURES,
    vmm: Vmm = Vmm.QEMU,
) -> tuple[LaunchDigest, ...]:
    """The digests of all shapes of a guest. Raises SourceFileError."""
    try:
        from sevsnpmeasure import guest, vcpu_types, vmm_types  # noqa: PLC0415 - only whoever writes a policy needs it
    except ImportError:
        raise SourceFileError(
            "computing launch digests takes the extra `reference`: pip install 'sottovoce[reference]'"
        ) from None
    signatures: dict[str, int] = vcpu_types.CPU_SIGS
    if unknown := [cpu for cpu in cpus if cpu not in signatures]:
        raise SourceFileError(f"CPU model {unknown[0]} is not known; known are {', '.join(signatures)}")
    kind = {Vmm.QEMU: vmm_types.VMMType.QEMU, Vmm.EC2: vmm_types.VMMType.ec2, Vmm.GCE: vmm_types.VMMType.gce}[vmm]

    kernel, initrd = (str(path) if path else "" for path in (files.kernel, files.initrd))
    boot = (str(files.firmware), kernel, initrd, files.command_line, features, "", kind)

    def digest(count: int, cpu: str) -> bytes:
        return _measured(lambda: guest.snp_calc_launch_digest(count, signatures[cpu], *boot))

    return tuple(LaunchDigest(count, cpu, digest(count, cpu)) for cpu in cpus for count in vcpus)


def _measured(measure: Callable[[], bytes]) -> bytes:
    try:
        return measure()
    except OSError as exc:
        raise SourceFileError(f"{exc.filename}: {exc.strerror}") from exc
    # What the library makes of a file that is not what it expects.
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as exc:
        if "SNP_KERNEL_HASHES" in str(exc):
            raise SourceFileError(
                "firmware: this OVMF has no place for the hashes of kernel, initrd and command line "
                "(SNP_KERNEL_HASHES), so that its launch digest names none of them; it takes OVMF built as AmdSevX64"
            ) from exc
        raise SourceFileError(f"firmware: not an OVMF that launches SEV-SNP guests ({exc})") from exc
