"""Are the GPUs of a machine, and the switches between them, what the policy asks for?

One line of the result speaks of all devices of a kind, and names those that fail::

    devices                             the evidence can be read
    gpu count, switch count             exactly as many as the policy says
    devices distinct                    none stands there twice                      topology.py
    gpu report .. hardware, switch ..   each is genuine, and answered us             identity.py
    gpu driver                          a version that the policy names              reference.py
    gpu vbios .. measurements, switch ..  what runs on each is what NVIDIA signed    reference.py
    gpu, switch security versions       none is below the least that NVIDIA signed   reference.py
    gpu mode, gpu topology              secrets are safe on their way between GPUs   topology.py
    gpu, switch, rim revocation         no certificate is revoked                    revocation.py
    nras ..                             NVIDIA's own verdict, when the policy asks   nras.py

Left out, because no verifier far away can check it: that confidential computing is on, and the developers' tools are
off. No signed field says so; the "secure boot" and "debug status" of NVIDIA's verifiers are derived from equal
measurements. NVML says it inside the guest. So the measured guest must ask there before it serves, and refuse
otherwise: then whoever trusts the guest's measurement knows it.

What binds a GPU to the machine is the nonce, and no hardware: Hopper has no such link. That a GPU is in the machine,
rather than reached from it, rests on the measured guest too, which collected the evidence itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from attestation.collateral.roots import Roots
from attestation.errors import EvidenceError
from attestation.gpu import nras
from attestation.gpu.abi import GpuReport, SwitchReport
from attestation.gpu.device import AnyDevice, Basis, Device, read_gpus, read_switches
from attestation.gpu.evidence import SWITCH_ARCHITECTURES, DeviceAnswer, Kind, parse_devices
from attestation.gpu.identity import identity
from attestation.gpu.ocsp import OcspVerdict
from attestation.gpu.policy import GpuPolicy, Mode
from attestation.gpu.reference import driver, manifests, measurements, references
from attestation.gpu.revocation import chip_links, revocation, signer_links
from attestation.gpu.revocation import needs as needs_of_revocation
from attestation.gpu.topology import distinct, mode, topology
from attestation.types import (
    Appraisal,
    Check,
    CheckStatus,
    Collateral,
    CollateralKey,
    DeviceEvidence,
    Nonce,
    failed,
    judged,
    passed,
    skipped,
)


@dataclass(frozen=True, slots=True)
class _Machine:
    gpus: tuple[Device[GpuReport], ...]
    switches: tuple[Device[SwitchReport], ...]

    @property
    def devices(self) -> tuple[AnyDevice, ...]:
        return (*self.gpus, *self.switches)

    @property
    def kinds(self) -> Mapping[Kind, int]:
        """How many there are of each kind that there is."""
        counts: dict[Kind, int] = {"gpu": len(self.gpus), "switch": len(self.switches)}
        return {kind: count for kind, count in counts.items() if count}


def _read(devices: DeviceEvidence) -> _Machine:
    answers = parse_devices(devices)
    return _Machine(read_gpus(answers), read_switches(answers))


def appraise(
    devices: DeviceEvidence, policy: GpuPolicy, collateral: Collateral, *, nonce: Nonce, roots: Roots, now: datetime
) -> Appraisal:
    """Judge device evidence.

    nonce: the one that devices must have signed, `statement.gpu_nonce`. now: an aware datetime.
    """
    if not devices:
        return Appraisal((failed("devices", f"no device evidence; the policy asks for {policy.count} GPUs"),), None)
    try:
        machine = _read(devices)
    except EvidenceError as exc:
        return Appraisal((failed("devices", str(exc)),), None)
    basis = Basis(collateral, nonce, roots, now)
    revocations = tuple(_revocations(machine, policy, basis))
    checks = (
        passed("devices", f"{len(machine.gpus)} GPUs and {len(machine.switches)} switches answered"),
        *_checks(machine, policy, basis),
        *(verdict.check for verdict in revocations),
        *_nras(machine, policy, basis),
    )
    return Appraisal(checks, None, _claims(machine, checks), _valid_until(machine, policy, basis, revocations))


def needs(
    devices: DeviceEvidence, policy: GpuPolicy, collateral: Collateral, *, nonce: Nonce, roots: Roots, now: datetime
) -> tuple[CollateralKey, ...]:
    """The keys that `appraise` will look up, given the same.

    First manifests; the revocation of their signers once they are at hand and authentic, hence `roots` and `now`.
    """
    try:
        machine = _read(devices)
    except EvidenceError:
        return ()
    manifest_keys: list[CollateralKey] = []
    for device in machine.devices:
        with suppress(EvidenceError):
            manifest_keys += [manifest.key for manifest in manifests(device)]
    revocation_keys = needs_of_revocation(machine.devices, Basis(collateral, nonce, roots, now))
    nras_keys = nras.needs(machine.kinds, nonce) if policy.nras is not None else ()
    return tuple(dict.fromkeys((*manifest_keys, *revocation_keys, *nras_keys)))


def questions(devices: DeviceEvidence, policy: GpuPolicy, *, nonce: Nonce) -> Mapping[CollateralKey, bytes]:
    """What to send NRAS for the verdicts that `appraise` will look up; nothing, unless the policy asks for them."""
    if policy.nras is None:
        return {}
    try:
        answers = parse_devices(devices)
    except EvidenceError:
        return {}
    kinds: Mapping[Kind, Sequence[DeviceAnswer]] = {"gpu": answers.gpus, "switch": answers.switches}
    return {nras.key(kind, nonce): nras.request(kind, found, nonce) for kind, found in kinds.items() if found}


def _checks(machine: _Machine, policy: GpuPolicy, basis: Basis) -> Iterator[Check]:
    gpus, switches = machine.gpus, machine.switches
    yield _count("gpu count", len(gpus), policy.count)
    yield _count("switch count", len(switches), policy.switches.count if policy.switches else 0)
    yield distinct(machine.devices)
    yield from identity(
        "gpu",
        gpus,
        basis,
        architectures=policy.architectures,
        require_fwid=policy.require_fwid,
        hardware_ids=policy.hardware_ids,
    )
    yield driver(gpus, policy.driver_versions)
    yield from measurements("gpu", gpus, basis, vbios_versions=policy.vbios_versions)
    yield mode(gpus, policy.mode)
    if policy.switches is not None:
        yield from identity(
            "switch",
            switches,
            basis,
            architectures=SWITCH_ARCHITECTURES,
            require_fwid=False,  # no switch reports it
            hardware_ids=policy.switches.hardware_ids,
        )
        yield from measurements("switch", switches, basis, vbios_versions=policy.switches.vbios_versions)
    if policy.mode is Mode.PPCIE:
        yield topology(gpus, switches)
    else:
        yield skipped("gpu topology", f"in mode {policy.mode} nothing goes over links in the clear")


def _count(name: str, found: int, expected: int) -> Check:
    return judged(name, found == expected, f"{found}, as the policy says", f"{found}; the policy asks for {expected}")


def _revocations(machine: _Machine, policy: GpuPolicy, basis: Basis) -> Iterator[OcspVerdict]:
    yield revocation("gpu revocation", machine.gpus, chip_links, basis, policy.ocsp)
    if policy.switches is not None:
        yield revocation("switch revocation", machine.switches, chip_links, basis, policy.ocsp)
    yield revocation("rim revocation", machine.devices, signer_links, basis, policy.ocsp)


def _nras(machine: _Machine, policy: GpuPolicy, basis: Basis) -> Iterator[Check]:
    if policy.nras is None:
        yield skipped("nras", "the policy does not ask for NVIDIA's own verdict")
        return
    for kind, count in machine.kinds.items():
        yield from nras.judge(basis.collateral, policy.nras, kind=kind, nonce=basis.nonce, count=count, now=basis.now)


_AUTHENTICATING = ("nonce", "certificates", "signature", "architecture")


def _claims(machine: _Machine, checks: Iterable[Check]) -> Mapping[str, str]:
    """What the devices say of themselves; nothing, unless all of them are authentic."""
    asked = {f"{kind} {line}" for kind in machine.kinds for line in _AUTHENTICATING}
    if asked - {check.name for check in checks if check.status is CheckStatus.PASS}:
        return {}
    gpus, switches = machine.gpus, machine.switches
    claims = {
        "gpu_count": [str(len(gpus))],
        "gpu_chip": [gpu.chain.chip for gpu in gpus],
        "gpu_driver_version": [gpu.report.driver_version for gpu in gpus],
        "gpu_vbios_version": [gpu.report.vbios_version for gpu in gpus],
        "gpu_fsp_ucode_svn": [str(svn) for gpu in gpus if (svn := gpu.report.fsp_ucode_svn) is not None],
        "gpu_hardware_id": [gpu.chain.chip_key for gpu in gpus],
        "switch_count": [str(len(switches))],
        "switch_vbios_version": [switch.report.vbios_version for switch in switches],
        "switch_hardware_id": [switch.chain.chip_key for switch in switches],
    }
    return {name: ", ".join(sorted(set(values))) for name, values in claims.items() if values}


def _valid_until(
    machine: _Machine, policy: GpuPolicy, basis: Basis, revocations: Iterable[OcspVerdict]
) -> datetime | None:
    """The earliest end of what was found; what was not found failed its own line."""
    ends = [verdict.valid_until for verdict in revocations]
    if policy.nras is not None:
        ends += [nras.expires_at(basis.collateral, kind, basis.nonce) for kind in machine.kinds]
    for device in machine.devices:
        with suppress(EvidenceError):
            ends.append(device.chain.valid_until)
            ends += [reference.valid_until for reference in references(device, basis)]
    return min((end for end in ends if end is not None), default=None)
