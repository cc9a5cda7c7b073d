"""What must the GPUs of a machine prove? Reference values as frozen data: the table `[gpu]` of a policy.

::

    [gpu]
    count = 8                         # exactly so many GPUs
    architectures = ["HOPPER"]        # HOPPER, BLACKWELL
    driver_versions = ["590.12"]
    vbios_versions = ["96.00.A5.00.01"]

    # The rest of the lines and tables are optional; these are the defaults.
    mode = "spt"                      # spt, mpt or ppcie
    require_fwid = true
    # hardware_ids = ["<64 hex>"]     # without this line any chip that NVIDIA certified

    # [gpu.switches]                  # with mode "ppcie", and only with it
    # count = 4
    # vbios_versions = ["96.10.73.00.01"]
    # hardware_ids = ["<64 hex>"]

    [gpu.ocsp]
    allow_missing = false
    allow_unknown = false
    allow_certificate_hold = false
    allow_stale_s = 0

    # [gpu.nras]                      # with this table NVIDIA's own verdict is asked for too

That measurements equal NVIDIA's signed reference values, and that security versions reach them, has no option.
Reference values say that a version is genuine, not that it is without known faults, so the versions have no default:
whoever writes the policy names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from attestation.gpu.evidence import GPU_ARCHITECTURES, MAX_GPUS, MAX_SWITCHES, Architecture
from attestation.gpu.nras import NrasPolicy
from attestation.gpu.ocsp import OcspPolicy
from core.program.validation import STRICT, Sha256Hex

MAX_PPCIE_GPUS = 8
"""A switch names as many GPUs in its report."""

# `$` ends the text here, a final newline included: pydantic's patterns are those of Rust's regex crate.
_DriverVersion = Annotated[str, StringConstraints(pattern=r"^[0-9]{3,4}(\.[0-9]{1,4}){1,3}$")]
_VbiosVersion = Annotated[str, StringConstraints(pattern=r"^[0-9A-F]{2}(\.[0-9A-F]{2}){4}$")]
_VbiosVersions = Annotated[tuple[_VbiosVersion, ...], Field(min_length=1)]
_HardwareIds = Annotated[tuple[Sha256Hex, ...], Field(min_length=1)]


class Mode(StrEnum):
    """What protects secrets on their way between GPUs."""

    SPT = "spt"
    """Each GPU works by itself (single passthrough)."""
    MPT = "mpt"
    """They are linked, and encrypt what goes over the links (multiple passthrough; Blackwell)."""
    PPCIE = "ppcie"
    """They are linked in the clear, over switches that are attested too (protected PCIe; Hopper)."""


@dataclass(frozen=True, slots=True)
class SwitchPolicy:
    """Reference values for the NVSwitches between GPUs.

    hardware_ids: as of GPUs.
    """

    __pydantic_config__ = STRICT

    count: Annotated[int, Field(ge=1, le=MAX_SWITCHES)]
    vbios_versions: _VbiosVersions
    hardware_ids: _HardwareIds | None = None


@dataclass(frozen=True, slots=True)
class GpuPolicy:
    """Reference values for GPUs.

    count: of GPUs, exactly. driver_versions, vbios_versions: as their reports spell them.
    require_fwid: the report must repeat the digest of the firmware that signs it; old drivers (545, 535) do not.
    hardware_ids: the chips that are accepted, by the SHA-256 of the public key in the certificate of their boot ROM:
        what stays the same whatever firmware runs. None accepts every chip that NVIDIA certified.
    switches: None when there must be no switch evidence.
    nras: None when NVIDIA's own verdict is not asked for.

    Raises ValueError naming every contradiction.
    """

    __pydantic_config__ = STRICT

    count: Annotated[int, Field(ge=1, le=MAX_GPUS)]
    architectures: Annotated[tuple[Architecture, ...], Field(min_length=1)]
    driver_versions: Annotated[tuple[_DriverVersion, ...], Field(min_length=1)]
    vbios_versions: _VbiosVersions
    mode: Mode = Mode.SPT
    require_fwid: bool = True
    hardware_ids: _HardwareIds | None = None
    switches: SwitchPolicy | None = None
    ocsp: OcspPolicy = field(default_factory=OcspPolicy)
    nras: NrasPolicy | None = None

    def __post_init__(self) -> None:
        if faults := tuple(_faults(self)):
            raise ValueError("; ".join(faults))


def _faults(policy: GpuPolicy) -> Iterator[str]:
    for name in ("architectures", "driver_versions", "vbios_versions", "hardware_ids"):
        if getattr(policy, name) == ():
            yield f"{name} is empty, so that no GPU could be accepted"
    if foreign := set(policy.architectures) - GPU_ARCHITECTURES:
        yield f"architectures names {', '.join(sorted(foreign))}, which is no GPU"
    if policy.hardware_ids is not None and len(set(policy.hardware_ids)) < policy.count:
        yield f"hardware_ids names fewer chips than the {policy.count} that must be there"
    if policy.mode is Mode.PPCIE:
        yield from _ppcie_faults(policy)
    elif policy.switches is not None:
        yield f"switches are for mode ppcie; in mode {policy.mode} there are none to attest"


def _ppcie_faults(policy: GpuPolicy) -> Iterator[str]:
    if policy.count > MAX_PPCIE_GPUS:
        yield f"mode ppcie joins at most {MAX_PPCIE_GPUS} GPUs"
    if (switches := policy.switches) is None:
        yield "mode ppcie trusts switches, which the table switches must then describe"
        return
    if not switches.vbios_versions:
        yield "switches.vbios_versions is empty, so that no switch could be accepted"
    if switches.hardware_ids is not None and len(set(switches.hardware_ids)) < switches.count:
        yield f"switches.hardware_ids names fewer chips than the {switches.count} that must be there"
