"""What does evidence say of its machine? Read, and not judged: for people who look, and who write a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from attestation.document import AttestationDocument
from attestation.errors import EvidenceError
from attestation.gpu.abi import GpuReport, SwitchReport, parse_gpu, parse_switch
from attestation.gpu.evidence import parse_devices
from attestation.snp.abi import parse_report
from attestation.tdx.abi import parse_quote
from attestation.types import DeviceEvidence, Evidence, EvidenceKind


def describe(document: AttestationDocument) -> Mapping[str, str]:
    """What machine and devices say of themselves, by name. Nothing of it is authentic before it was verified."""
    return {**_read(document.evidence), **_read_devices(document.device_evidence)}


def _read(evidence: Evidence) -> Mapping[str, str]:
    try:
        match evidence.kind:
            case EvidenceKind.SNP:
                return _snp(evidence.report)
            case EvidenceKind.TDX:
                return _tdx(evidence.report)
    except EvidenceError as exc:
        return {"report": f"cannot be read: {exc}"}
    return {}  # development evidence has nothing to tell


def _snp(data: bytes) -> Mapping[str, str]:
    report = parse_report(data)
    return {
        "product": str(report.product or "only its certificate tells"),
        "measurement": report.measurement.hex(),
        "host data": report.host_data.hex(),
        "reported TCB": str(report.reported_tcb),
        "guest policy": f"{report.policy!r}",
        "platform info": f"{report.platform_info!r}",
        "VMPL": str(report.vmpl),
        "chip id": report.hardware_id.hex(),
    }


def _tdx(data: bytes) -> Mapping[str, str]:
    report = parse_quote(data).report
    values = {field.name: getattr(report, field.name) for field in fields(report)}
    return {name: value.hex() for name, value in values.items() if value is not None and name != "report_data"}


def _read_devices(evidence: DeviceEvidence) -> Mapping[str, str]:
    if not evidence:
        return {}
    try:
        devices = parse_devices(evidence)
        gpus = {f"GPU {number}": parse_gpu(gpu.evidence) for number, gpu in enumerate(devices.gpus)}
        switches = {f"switch {number}": parse_switch(one.evidence) for number, one in enumerate(devices.switches)}
    except EvidenceError as exc:
        return {"devices": f"cannot be read: {exc}"}
    return {name: _versions(report) for name, report in (gpus | switches).items()}


def _versions(report: GpuReport | SwitchReport) -> str:
    driver = f"driver {report.driver_version}, " if isinstance(report, GpuReport) else ""
    return f"{driver}VBIOS {report.vbios_version}"
