"""Does a device run what the policy names, and did it measure what NVIDIA says of that? Its reference values.

Under which ids NVIDIA's service publishes them (read from its verifiers)::

    NV_GPU_DRIVER_GH100_{driver}          NV_GPU_CC_DRIVER_{chip}_{driver}   of Hopper, and of Blackwell
    NV_GPU_VBIOS_{project}_{project SKU}_{chip SKU}_{VBIOS without dots}
    NV_SWITCH_BIOS_5612_0002_890_{BIOS without dots}                         of the one switch there is

A manifest says nothing of its id, so chip, kind and version in it are compared with the report; of several that NVIDIA
signed for one version, any counts as long as it has not expired. Every value that a manifest holds must have been
measured; NVIDIA publishes some for about half of the blocks of a report, and the rest is left uncompared, as by its own
verifiers. Every floor that it holds must be reached by the security version that the report tells, which only reports
with versioned opaque data do. No manifest for Blackwell was at hand when this was written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from attestation.errors import EvidenceError
from attestation.gpu import rim
from attestation.gpu.abi import GpuReport, Report, SwitchReport
from attestation.gpu.device import AnyDevice, Basis, D, Device, each
from attestation.gpu.evidence import Architecture, Kind
from attestation.types import Check, CollateralKey, CollateralKind, skipped

NVDEC0_BLOCK: Final = 36
"""The first video decoder's measurement (index 35 in a manifest), which is absent while it is off."""

_SWITCH_BOARD: Final = "5612_0002_890"

_read = lru_cache(maxsize=16)(rim.read)
"""One verification asks for the same manifest several times: for its signers, and for each device."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which manifest is for a device: the id that it is published under, and what it must say of itself."""

    id: str
    product: str
    edition: str
    version: str

    @property
    def key(self) -> CollateralKey:
        return CollateralKey(CollateralKind.GPU_RIM, self.id)


def manifests(device: AnyDevice) -> tuple[Manifest, ...]:
    """The manifests for a device. Raises EvidenceError when its report or chain cannot be read."""
    report, chain = device.report, device.chain
    vbios = report.vbios_version.replace(".", "").upper()
    if isinstance(report, SwitchReport):
        return (Manifest(f"NV_SWITCH_BIOS_{_SWITCH_BOARD}_{vbios}", chain.chip, "SWITCH", report.vbios_version),)
    kind = "DRIVER" if chain.architecture is Architecture.HOPPER else "CC_DRIVER"
    board = f"{report.project}_{report.project_sku}_{report.chip_sku}".upper()
    return (
        Manifest(f"NV_GPU_{kind}_{chain.chip}_{report.driver_version}", chain.chip, "GPU", report.driver_version),
        Manifest(f"NV_GPU_VBIOS_{board}_{vbios}", chain.chip, "GPU", report.vbios_version),
    )


def references(device: AnyDevice, basis: Basis) -> tuple[rim.Rim, ...]:
    """The manifests for a device, authentic. Raises EvidenceError when one is missing or is not."""
    return tuple(_reference(manifest, basis) for manifest in manifests(device))


def _reference(manifest: Manifest, basis: Basis) -> rim.Rim:
    data = basis.collateral.get(manifest.key)
    if data is None:
        raise EvidenceError(f"no reference values {manifest.id} are at hand")
    try:
        found = _read(data, roots=basis.roots, now=basis.now)
    except EvidenceError as exc:
        raise EvidenceError(f"{manifest.id}: {exc}") from None
    if (found.product, found.edition, found.version) != (manifest.product, manifest.edition, manifest.version):
        raise EvidenceError(f"{manifest.id}: is for {found.product} {found.edition} {found.version}")
    return found


def driver(gpus: Sequence[Device[GpuReport]], accepted: Collection[str]) -> Check:
    """Whether every GPU is driven by a version that the policy names, as it says itself."""

    def check(gpu: Device[GpuReport]) -> None:
        _check_version(gpu.report.driver_version, accepted)

    return each("gpu driver", gpus, check, "a version that the policy names")


def measurements(kind: Kind, devices: Sequence[D], basis: Basis, *, vbios_versions: Collection[str]) -> Iterator[Check]:
    """The lines about the firmware of a kind of devices, and what it measured."""

    def check_vbios(device: D) -> None:
        _check_version(device.report.vbios_version, vbios_versions)

    def check_references(device: D) -> None:
        references(device, basis)

    def check_measurements(device: D) -> None:
        try:
            found = references(device, basis)
        except EvidenceError:
            raise EvidenceError("nothing to compare with") from None
        compare(device.report, found)

    yield each(f"{kind} vbios", devices, check_vbios, "a version that the policy names")
    yield each(f"{kind} reference values", devices, check_references, "at hand, and authentic")
    yield each(f"{kind} measurements", devices, check_measurements, "as the reference values say")
    yield _security_versions(f"{kind} security versions", devices, basis)


def _check_version(version: str, accepted: Collection[str]) -> None:
    if version not in accepted:
        raise EvidenceError(f"{version}; the policy accepts {', '.join(accepted)}")


def _security_versions(name: str, devices: Sequence[D], basis: Basis) -> Check:
    """About those devices for which there are floors; one without reference values fails the lines above."""

    def with_floors(device: D) -> Sequence[rim.Rim]:
        try:
            return [manifest for manifest in references(device, basis) if manifest.floors]
        except EvidenceError:
            return ()

    def check(device: D) -> None:
        compare_floors(device.report, with_floors(device))

    concerned = [device for device in devices if with_floors(device)]
    if not concerned:
        return skipped(name, "no reference values at hand ask for any")
    return each(name, concerned, check, "none below the reference values")


def compare(report: Report, manifests: Sequence[rim.Rim]) -> None:
    """Raise EvidenceError unless every measurement is one of those that the manifests allow.

    A measurement that two manifests speak of is refused: which of them it should satisfy nobody says.
    """
    indices = [index for manifest in manifests for index in manifest.measurements]
    if len(set(indices)) != len(indices):
        raise EvidenceError("two sets of reference values speak of one measurement")
    if differing := sorted(_differing(report, manifests)):
        raise EvidenceError(f"{len(differing)} of {len(indices)} differ: {', '.join(map(str, differing))}")


def _differing(report: Report, manifests: Sequence[rim.Rim]) -> Iterator[int]:
    unmeasured = NVDEC0_BLOCK if isinstance(report, GpuReport) and not report.nvdec0 else None
    for manifest in manifests:
        for index, allowed in manifest.measurements.items():
            if index != unmeasured and report.spdm.measurements.get(index) not in allowed:
                yield index


def compare_floors(report: Report, manifests: Sequence[rim.Rim]) -> None:
    """Raise EvidenceError unless every security version is at least what the manifests ask for.

    Two manifests that speak of one, by its type or by its name, are refused as with measurements.
    """
    floors = [(kind, floor) for manifest in manifests for kind, floor in manifest.floors.items()]
    kinds, names = {kind for kind, _ in floors}, {floor.name for _, floor in floors}
    if len(kinds) < len(floors) or len(names) < len(floors):
        raise EvidenceError("two sets of reference values speak of one security version")
    if faults := tuple(fault for kind, floor in floors if (fault := _below(report, kind, floor))):
        raise EvidenceError("; ".join(faults))


def _below(report: Report, kind: int, floor: rim.Floor) -> str | None:
    opaque = report.spdm.opaque
    svn = opaque.security_version(kind)
    if svn is not None and svn >= floor.min_svn:
        return None
    found = f"not reported in {opaque.layout}" if svn is None else f"{svn}"
    return f"{floor.name} (type {kind}) is {found}; the reference values ask for {floor.min_svn} or more"
