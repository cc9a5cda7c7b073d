"""What does evidence say of its machine? Read, and not judged: for people who look, and who write a policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from attestation.document import AttestationDocument
from attestation.errors import EvidenceError
from attestation.evidence import KINDS
from attestation.gpu.abi import GpuReport
from attestation.gpu.device import AnyDevice, read_gpus, read_switches
from attestation.gpu.evidence import parse_devices
from attestation.gpu.topology import mode_of
from attestation.statement import Component
from attestation.types import DeviceEvidence, Evidence


def describe(document: AttestationDocument) -> Mapping[str, str]:
    """What machine and devices say of themselves, by name. Nothing of it is authentic before it was verified."""
    evidence = replace(document.evidence, collateral=document.collateral)
    return {**describe_machine(evidence), **describe_devices(document.device_evidence)}


def describe_machine(evidence: Evidence) -> Mapping[str, str]:
    """What a report says of its machine, by name."""
    try:
        rules = KINDS[evidence.kind]
        reported = rules.reported(evidence.report).hex()
        return {**rules.describe(evidence.report, evidence.collateral), "report data": reported}
    except EvidenceError as exc:
        return {"report": f"cannot be read: {exc}"}


def describe_component(component: Component) -> Mapping[str, str]:
    """What an engine confesses of a process that sees plaintext, by name."""
    models = "; ".join(f"{model.id} {model.weights_sha256}" for model in component.models)
    return {
        component.name: " ".join(component.arguments) + (" (attached)" if component.attached else ""),
        f"{component.name} plugins": " ".join(component.plugins) or "none",
        f"{component.name} models": models or "none",
    }


def describe_devices(evidence: DeviceEvidence) -> Mapping[str, str]:
    """What devices say of themselves, by the name of each."""
    if not evidence:
        return {}
    try:
        devices = parse_devices(evidence)
    except EvidenceError as exc:
        return {"devices": f"cannot be read: {exc}"}
    found: tuple[AnyDevice, ...] = (*read_gpus(devices), *read_switches(devices))
    return {device.name: ", ".join(dict.fromkeys(_facts(device))) for device in found}


def _facts(device: AnyDevice) -> Iterator[str]:
    """What a policy asks of a device; of what cannot be read, why."""
    for read in (_versions, _mode, _hardware):
        try:
            yield read(device)
        except EvidenceError as exc:
            yield str(exc)


def _versions(device: AnyDevice) -> str:
    report = device.report
    driver = f"driver {report.driver_version}, " if isinstance(report, GpuReport) else ""
    return f"{device.answer.arch}, {driver}VBIOS {report.vbios_version}"


def _mode(device: AnyDevice) -> str:
    return f"mode {mode_of(device)}" if isinstance(device.report, GpuReport) else "no mode of its own"


def _hardware(device: AnyDevice) -> str:
    return f"hardware id {device.chain.chip_key}"
