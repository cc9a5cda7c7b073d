"""Is each device a genuine one, of the kind that it claims, and did it answer us? One line for each question.

1. report        it can be read
2. nonce         it answers the nonce that commits to this statement
3. certificates  the chain is NVIDIA's, to its pinned root
4. signature     the device signed the report
5. architecture  it is of the generation that it claims, and that the policy accepts
6. firmware      the digest in the report is the one that the chain certifies
7. hardware      the chip is one that the policy names
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from attestation.errors import EvidenceError
from attestation.gpu.chain import verify_chain, verify_signature
from attestation.gpu.device import AnyDevice, Basis, D, each
from attestation.gpu.evidence import Architecture, Kind
from attestation.types import Check, Nonce, skipped


def identity(
    kind: Kind,
    devices: Sequence[D],
    basis: Basis,
    *,
    architectures: Collection[Architecture],
    require_fwid: bool,
    hardware_ids: Collection[str] | None,
) -> Iterator[Check]:
    """The lines about the devices of a kind."""
    yield each(f"{kind} report", devices, _check_report, "can be read")
    yield each(f"{kind} nonce", devices, lambda device: _check_nonce(device, basis.nonce), "our nonce")
    yield each(f"{kind} certificates", devices, lambda device: _check_chain(device, basis), "to NVIDIA's root")
    yield each(f"{kind} signature", devices, _check_signature, "signed by the device")
    yield each(
        f"{kind} architecture",
        devices,
        lambda device: _check_architecture(device, architectures),
        "as claimed, and as the policy accepts",
    )
    yield _firmware(f"{kind} firmware", devices, required=require_fwid)
    yield _hardware(f"{kind} hardware", devices, hardware_ids)


def _check_report(device: AnyDevice) -> None:
    if isinstance(device.read_report, EvidenceError):
        raise EvidenceError(str(device.read_report))


def _check_nonce(device: AnyDevice, expected: Nonce) -> None:
    if device.report.spdm.nonce != expected:
        raise EvidenceError("answers another nonce than ours")
    if device.answer.nonce != expected:
        raise EvidenceError("answers our nonce, but claims to answer another")


def _check_chain(device: AnyDevice, basis: Basis) -> None:
    if isinstance(device.read_chain, EvidenceError):
        raise EvidenceError(str(device.read_chain))
    verify_chain(device.read_chain, basis.roots, basis.now)


def _check_signature(device: AnyDevice) -> None:
    verify_signature(device.chain, device.report.spdm)


def _check_architecture(device: AnyDevice, accepted: Collection[Architecture]) -> None:
    found = device.chain.architecture
    if device.answer.arch is not found:
        raise EvidenceError(f"claims to be {device.answer.arch}, and is {found}")
    if found not in accepted:
        raise EvidenceError(f"{found}; the policy accepts {', '.join(sorted(accepted))}")


def _firmware(name: str, devices: Sequence[D], *, required: bool) -> Check:
    reporting = [device for device in devices if _reports_firmware(device)]
    if not required and not reporting:
        return skipped(name, "no report has the digest, and the policy does not ask for it")

    def check(device: D) -> None:
        if device.report.fwid is None:
            raise EvidenceError("its report does not have the digest of its firmware")
        if device.report.fwid != device.chain.fwid:
            raise EvidenceError("its report has another digest than its chain certifies")

    return each(name, devices if required else reporting, check, "as certified")


def _reports_firmware(device: AnyDevice) -> bool:
    return not isinstance(device.read_report, EvidenceError) and device.read_report.fwid is not None


def _hardware(name: str, devices: Sequence[D], accepted: Collection[str] | None) -> Check:
    if accepted is None:
        return skipped(name, "the policy does not ask which chips these are")

    def check(device: D) -> None:
        if device.chain.chip_key not in accepted:
            raise EvidenceError(f"chip {device.chain.chip_key} is none that the policy names")

    return each(name, devices, check, "chips that the policy names")
