"""Each check fails by itself, none is left out, and what the policy does not ask is skipped."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.gpu import nras
from attestation.gpu.appraise import appraise, needs, questions
from attestation.gpu.evidence import Architecture, DeviceAnswer, Kind, encode_devices
from attestation.gpu.nras import NrasPolicy
from attestation.gpu.ocsp import OcspPolicy
from attestation.gpu.policy import GpuPolicy, Mode, SwitchPolicy
from attestation.types import Appraisal, CheckStatus, CollateralKey, CollateralKind, DeviceEvidence, Nonce
from tests.attestation.gpu import forge, forge_rim
from tests.attestation.gpu.forge import (
    NOW,
    ROOTS,
    VERSIONED,
    Chip,
    Machine,
    gpu_fields,
    manifest,
    manifest_key,
    nvdaod,
)
from tests.attestation.gpu.forge_rim import floor

NONCE = Nonce(bytes(range(32)))
OTHER_NONCE = Nonce(bytes(32))

ONE = Machine.build()
PPCIE = Machine.build(gpus=2, switches=2)
(CHIP,) = ONE.gpus
GOOD, COLLATERAL = ONE.answer(NONCE), ONE.collateral()
PPCIE_COLLATERAL = PPCIE.collateral()
GPUS, SWITCHES = PPCIE.answers(NONCE)
PPCIE_GOOD = encode_devices(GPUS, SWITCHES)
SWITCH_POLICY = SwitchPolicy(2, (forge.SWITCH_VBIOS,))

GPU_LINES = [
    "gpu report",
    "gpu nonce",
    "gpu certificates",
    "gpu signature",
    "gpu architecture",
    "gpu firmware",
    "gpu hardware",
    "gpu driver",
    "gpu vbios",
    "gpu reference values",
    "gpu measurements",
    "gpu security versions",
    "gpu mode",
]
SWITCH_LINES = [
    "switch report",
    "switch nonce",
    "switch certificates",
    "switch signature",
    "switch architecture",
    "switch firmware",
    "switch hardware",
    "switch vbios",
    "switch reference values",
    "switch measurements",
    "switch security versions",
]
BEFORE = ["devices", "gpu count", "switch count", "devices distinct"]


def _appraise(
    devices: DeviceEvidence = GOOD,
    policy: GpuPolicy = ONE.policy,
    collateral: Mapping[CollateralKey, bytes] = COLLATERAL,
    **changes: Any,
) -> Appraisal:
    return appraise(devices, policy, collateral, **{"nonce": NONCE, "roots": ROOTS, "now": NOW, **changes})


def _names(appraisal: Appraisal, status: CheckStatus) -> list[str]:
    return [check.name for check in appraisal.checks if check.status is status]


def _failed(appraisal: Appraisal) -> set[str]:
    return set(_names(appraisal, CheckStatus.FAIL))


def test_a_gpu_within_the_policy_is_accepted() -> None:
    appraisal = _appraise()
    lines = [*BEFORE, *GPU_LINES, "gpu topology", "gpu revocation", "rim revocation", "nras"]
    assert [check.name for check in appraisal.checks] == lines
    assert _failed(appraisal) == set()
    assert _names(appraisal, CheckStatus.SKIP) == ["gpu hardware", "gpu security versions", "gpu topology", "nras"]
    assert appraisal.reported is None


def test_a_gpu_with_a_driver_that_writes_the_versioned_layout_is_accepted() -> None:
    machine = Machine.build(versioned=True)
    appraisal = _appraise(machine.answer(NONCE), machine.policy, machine.collateral())
    assert _failed(appraisal) == set()
    assert _names(appraisal, CheckStatus.SKIP) == ["gpu hardware", "gpu topology", "nras"]
    assert appraisal.claims["gpu_fsp_ucode_svn"] == "5"


def test_gpus_with_such_a_driver_and_switches_are_accepted() -> None:
    machine = Machine.build(gpus=2, switches=2, versioned=True)
    appraisal = _appraise(machine.answer(NONCE), machine.policy, machine.collateral())
    assert _failed(appraisal) == set()
    assert "2 of 2" in next(check.detail for check in appraisal.checks if check.name == "gpu security versions")


def test_a_byte_behind_a_report_changes_nothing() -> None:
    assert _appraise(encode_devices([replace(_ANSWER, evidence=_REPORT + b"\0")])) == _appraise()


def test_gpus_with_switches_within_the_policy_are_accepted() -> None:
    appraisal = _appraise(PPCIE_GOOD, PPCIE.policy, PPCIE_COLLATERAL)
    after = ["gpu topology", "gpu revocation", "switch revocation", "rim revocation", "nras"]
    assert [check.name for check in appraisal.checks] == [*BEFORE, *GPU_LINES, *SWITCH_LINES, *after]
    assert _failed(appraisal) == set()
    assert _names(appraisal, CheckStatus.SKIP) == [
        "gpu hardware",
        "gpu security versions",
        "switch firmware",
        "switch hardware",
        "switch security versions",
        "nras",
    ]
    assert "2 of 2" in next(check.detail for check in appraisal.checks if check.name == "gpu signature")


def test_a_blackwell_is_accepted() -> None:
    chip = Chip.make("GB100")
    evidence = _device(chip, gpu_fields(FEATURE_FLAG=b"\x01\0", PROTECTED_PCIE_STATUS=None))
    golden = forge.golden(*forge.DRIVER_BLOCKS), forge.golden(*forge.VBIOS_BLOCKS)
    manifests = {
        f"NV_GPU_CC_DRIVER_GB100_{forge.DRIVER}": (forge.DRIVER, golden[0]),
        forge.GPU_MANIFESTS[1]: (forge.GPU_VBIOS, golden[1]),
    }
    collateral = {
        manifest_key(name): forge_rim.sign(forge_rim.swid(version=version, golden=values, product="GB100"))
        for name, (version, values) in manifests.items()
    }
    collateral |= forge.not_revoked(chip.parties[1:]) | forge.not_revoked(forge_rim.AUTHORITY.parties)
    policy = replace(ONE.policy, architectures=(Architecture.BLACKWELL,), mode=Mode.MPT)
    assert _failed(_appraise(evidence, policy, collateral)) == set()


def test_a_policy_that_asks_everything_leaves_nothing_to_skip() -> None:
    machine = Machine.build(gpus=2, switches=2, versioned=True)
    policy = replace(
        machine.policy,
        hardware_ids=tuple(chip.hardware_id for chip in machine.gpus),
        switches=replace(SWITCH_POLICY, hardware_ids=tuple(chip.hardware_id for chip in machine.switches)),
        nras=_NRAS,
    )
    appraisal = _appraise(machine.answer(NONCE), policy, machine.collateral() | _nras_says(gpu=2, switch=2))
    assert _failed(appraisal) == set()
    # What no switch reports, and no reference values of switches ask for.
    assert _names(appraisal, CheckStatus.SKIP) == ["switch firmware", "switch security versions"]


_NRAS = NrasPolicy(
    hwmodels=("GH100 A01 GSP BROM",),
    driver_versions=("550.144.03",),
    vbios_versions=("96.00.5E.00.01",),
    switch_hwmodels=("LS_10 A01 SOE BROM",),
    switch_bios_versions=("96.10.55.00.01",),
)


def _nras_says(nonce: Nonce = NONCE, **counts: int) -> dict[CollateralKey, bytes]:
    kinds: tuple[Kind, ...] = ("gpu", "switch")
    answers = {
        nras.key(kind, NONCE): forge_rim.nras_answer(nonce, kind=kind, count=counts[kind])
        for kind in kinds
        if kind in counts
    }
    return {**answers, nras.KEYS: forge_rim.jwks()}


def _device(chip: Chip, said: forge.Said, **changes: Any) -> DeviceEvidence:
    answer = forge.answer(chip, changes.pop("signed_nonce", NONCE), said, changes.pop("measured", ONE.measured))
    return encode_devices([replace(answer, **changes)])


def _flipped(data: bytes, at: int) -> bytes:
    """One bit of a byte, counted from the end when negative."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _ppcie(
    gpus: Mapping[int, DeviceAnswer] | None = None, switches: Mapping[int, DeviceAnswer] | None = None
) -> DeviceEvidence:
    """The evidence of the bigger machine with the answers of some devices replaced."""
    return encode_devices(
        [(gpus or {}).get(number, answer) for number, answer in enumerate(GPUS)],
        [(switches or {}).get(number, answer) for number, answer in enumerate(SWITCHES)],
    )


def _without(*names: str) -> dict[CollateralKey, bytes]:
    """All collateral of both machines but that of some names."""
    return {key: data for key, data in (COLLATERAL | PPCIE_COLLATERAL).items() if key.name not in names}


@dataclass(frozen=True)
class _Case:
    """What fails when one thing is otherwise."""

    fails: set[str]
    devices: DeviceEvidence = GOOD
    policy: GpuPolicy | None = None
    collateral: Mapping[CollateralKey, bytes] | None = None
    told: str = ""


_ANSWER = ONE.answers(NONCE)[0][0]
_REPORT = _ANSWER.evidence
_OTHER_REPORT = forge.report(CHIP, OTHER_NONCE, gpu_fields())
_SAID = nvdaod(gpu_fields() | VERSIONED)
_STRANGER = forge.device_authority()
_FOREIGN = Chip.make(authority=_STRANGER)
_UNREAD_REPORT = {
    "gpu report",
    "gpu nonce",
    "gpu signature",
    "gpu firmware",
    "gpu driver",
    "gpu vbios",
    "gpu reference values",
    "gpu measurements",
    "gpu mode",
    "rim revocation",
}
_UNREAD_CHAIN = {
    "devices distinct",
    "gpu certificates",
    "gpu signature",
    "gpu architecture",
    "gpu firmware",
    "gpu reference values",
    "gpu measurements",
    "gpu revocation",
    "rim revocation",
}

_UNREAD_SWITCH = {
    "switch report",
    "switch nonce",
    "switch signature",
    "switch vbios",
    "switch reference values",
    "switch measurements",
    "gpu topology",
    "rim revocation",
}

ONE_GPU = {
    "no device evidence": _Case({"devices"}, DeviceEvidence(b""), told="no device evidence; the policy asks for 1"),
    "no form": _Case({"devices"}, DeviceEvidence(b"{}"), told="Field required"),
    "another nonce": _Case({"gpu nonce"}, ONE.answer(OTHER_NONCE), told="another nonce than ours"),
    "our nonce signed, another claimed": _Case(
        {"gpu nonce"}, _device(CHIP, gpu_fields(), nonce=OTHER_NONCE), told="claims to answer another"
    ),
    "our nonce claimed, another signed": _Case({"gpu nonce"}, _device(CHIP, gpu_fields(), signed_nonce=OTHER_NONCE)),
    "our nonce written over another": _Case(
        {"gpu signature"},
        encode_devices([replace(_ANSWER, evidence=_OTHER_REPORT[:4] + NONCE + _OTHER_REPORT[36:])]),
        told="does not verify",
    ),
    "a flipped bit of a signature": _Case(
        {"gpu signature"}, encode_devices([replace(_ANSWER, evidence=_flipped(_REPORT, -1))])
    ),
    "a flipped bit of a measurement": _Case(
        {"gpu signature"}, encode_devices([replace(_ANSWER, evidence=_flipped(_REPORT, 37 + 8 + 55 * 20 + 10))])
    ),
    "a flipped bit of a measurement that is compared": _Case(
        {"gpu signature", "gpu measurements"},
        encode_devices([replace(_ANSWER, evidence=_flipped(_REPORT, 37 + 8 + 10))]),
    ),
    "a report that is none": _Case(
        _UNREAD_REPORT, encode_devices([replace(_ANSWER, evidence=b"none")]), told="SPDM 1.1 request"
    ),
    "a report cut short": _Case(_UNREAD_REPORT, encode_devices([replace(_ANSWER, evidence=_REPORT[:-1])])),
    "a chain that is none": _Case(_UNREAD_CHAIN, encode_devices([replace(_ANSWER, certificate=b"none")])),
    "a chain cut short": _Case(
        _UNREAD_CHAIN, encode_devices([replace(_ANSWER, certificate=forge.pem(CHIP.parties[:4]))])
    ),
    "a chain to another root": _Case(
        {"gpu certificates", "gpu revocation"}, _device(_FOREIGN, gpu_fields()), told="pinned root"
    ),
    "the chain of another chip": _Case(
        {"gpu signature"},
        _device(CHIP, gpu_fields(), certificate=PPCIE.gpus[1].certificate),
        told="does not verify with the device's key",
    ),
    "another architecture than claimed": _Case(
        {"gpu architecture"}, _device(CHIP, gpu_fields(), arch=Architecture.BLACKWELL), told="and is HOPPER"
    ),
    "an architecture that is not accepted": _Case(
        {"gpu architecture"},
        policy=replace(ONE.policy, architectures=(Architecture.BLACKWELL,)),
        told="HOPPER; the policy accepts BLACKWELL",
    ),
    "another firmware than certified": _Case(
        {"gpu firmware"}, _device(CHIP, gpu_fields(FWID=bytes(48))), told="another digest than its chain certifies"
    ),
    "firmware that is not certified": _Case({"gpu firmware"}, _device(CHIP.boot(fwid=None), gpu_fields())),
    "firmware that is not reported": _Case(
        {"gpu firmware"}, _device(CHIP, gpu_fields(FWID=None)), told="does not have the digest"
    ),
    "another chip than named": _Case(
        {"gpu hardware"}, policy=replace(ONE.policy, hardware_ids=("ab" * 32,)), told=CHIP.hardware_id
    ),
    "another driver than named": _Case(
        {"gpu driver"},
        policy=replace(ONE.policy, driver_versions=("545.00",)),
        told="590.12; the policy accepts 545.00",
    ),
    "another VBIOS than named": _Case(
        {"gpu vbios"},
        policy=replace(ONE.policy, vbios_versions=("96.00.5E.00.01",)),
        told="96.00.A5.00.01; the policy accepts 96.00.5E.00.01",
    ),
    "a driver without a manifest": _Case(
        {"gpu reference values", "gpu measurements", "rim revocation"},
        _device(CHIP, gpu_fields(DRIVER_VERSION=b"591.00\0")),
        replace(ONE.policy, driver_versions=("591.00",)),
        told="no reference values NV_GPU_DRIVER_GH100_591.00",
    ),
    "no manifest": _Case(
        {"gpu reference values", "gpu measurements", "rim revocation"}, collateral=_without(*forge.GPU_MANIFESTS)
    ),
    "no manifest in place of one": _Case(
        {"gpu reference values", "gpu measurements", "rim revocation"},
        collateral={**COLLATERAL, manifest_key(forge.GPU_MANIFESTS[1]): b"<none/>"},
    ),
    "a measurement that no manifest allows": _Case(
        {"gpu measurements"},
        _device(CHIP, gpu_fields(), measured={**ONE.measured, 22: bytes(48)}),
        told="1 of 7 differ: 22",
    ),
    "a measurement that is missing": _Case(
        {"gpu measurements"},
        _device(CHIP, gpu_fields(), measured={1: forge.measurement(1)}),
        told="5 of 7 differ: 2, 8, 9, 22, 23",
    ),
    "a decoder that is on": _Case(
        {"gpu measurements"}, _device(CHIP, gpu_fields(NVDEC0_STATUS=b"\xaa")), told="1 of 7 differ: 36"
    ),
    "a security version below the reference values": _Case(
        {"gpu security versions"},
        _device(CHIP, _SAID),
        collateral=COLLATERAL | manifest(floor(37, 6, name="FSP_UCODE_MIN_SVN")),
        told="GPU 0: FSP_UCODE_MIN_SVN (type 37) is 5; the reference values ask for 6 or more",
    ),
    "a security version below those of the VBIOS": _Case(
        {"gpu security versions"},
        _device(CHIP, _SAID),
        collateral=COLLATERAL | manifest(floor(37, 6), name=forge.GPU_MANIFESTS[1]),
        told="is 5; the reference values ask for 6",
    ),
    "a security version of which two manifests speak": _Case(
        {"gpu security versions"},
        _device(CHIP, _SAID),
        collateral=COLLATERAL | manifest(floor(37, 0)) | manifest(floor(37, 0), name=forge.GPU_MANIFESTS[1]),
        told="two sets of reference values speak of one security version",
    ),
    "a security version that is missing": _Case(
        {"gpu security versions"},
        _device(CHIP, _SAID),
        collateral=COLLATERAL | manifest(floor(40, 0)),
        told="FIELD_40_MIN_SVN (type 40) is not reported in the opaque data (NVDAOD)",
    ),
    "a driver that reports no security versions": _Case(
        {"gpu security versions"},
        collateral=COLLATERAL | manifest(floor(37, 0)),
        told="is not reported in the opaque data (legacy layout)",
    ),
    "a floor that is none": _Case(
        {"gpu reference values", "gpu measurements", "rim revocation"},
        _device(CHIP, _SAID),
        collateral=COLLATERAL | manifest(floor(37, "5x")),
        told="NV_GPU_DRIVER_GH100_590.12: the RIM has a floor that is not the number",
    ),
    "a security version in another form": _Case(
        _UNREAD_REPORT,
        _device(CHIP, nvdaod(gpu_fields() | VERSIONED, value_types={37: 0x86})),
        told="the opaque data (NVDAOD) has FSP_UCODE_SVN in a form",
    ),
    "opaque data of another version": _Case(
        _UNREAD_REPORT,
        _device(CHIP, _SAID.replace(b"NVDAOD\0\0\2", b"NVDAOD\0\0\3")),
        told="the opaque data (NVDAOD) is of version 3, and we know only 2",
    ),
    "another mode": _Case(
        {"gpu mode"}, _device(CHIP, gpu_fields(FEATURE_FLAG=b"\x01\0")), told="in mode mpt; the policy asks for spt"
    ),
    "no revocation answers": _Case({"gpu revocation", "rim revocation"}, collateral=forge.MANIFESTS),
    "two GPUs in place of one": _Case(
        {"gpu count"}, Machine((CHIP, PPCIE.gpus[1])).answer(NONCE), collateral=PPCIE_COLLATERAL | COLLATERAL
    ),
    "a switch that nobody asked for": _Case(
        {"switch count"},
        encode_devices([_ANSWER], SWITCHES[:1]),
        told="1; the policy asks for 0",
    ),
    "only a switch": _Case(
        {"gpu count", "switch count"}, encode_devices([], SWITCHES[:1]), told="0; the policy asks for 1"
    ),
    "no answer of NRAS": _Case({"nras gpu answer"}, policy=replace(ONE.policy, nras=NrasPolicy())),
    "an answer of NRAS to another nonce": _Case(
        {"nras gpu nonce"},
        policy=replace(ONE.policy, nras=NrasPolicy()),
        collateral=COLLATERAL | _nras_says(OTHER_NONCE, gpu=1),
    ),
}


_GPU, _SWITCH = PPCIE.gpus[0], PPCIE.switches[0]
_ELSEWHERE = Chip.make(number=77)
_SPT = {"FEATURE_FLAG": b"\0\0", "PROTECTED_PCIE_STATUS": b"\x55"}


def _gpu(chip: Chip = _GPU, /, **fields: bytes | None) -> DeviceAnswer:
    return forge.answer(chip, NONCE, forge.ppcie_fields(PPCIE.switches, **fields))


def _switch(measured: Mapping[int, bytes] = PPCIE.measured, /, **fields: bytes | None) -> DeviceAnswer:
    return forge.answer(_SWITCH, NONCE, forge.switch_fields(_SWITCH, PPCIE.gpus, **fields), measured)


WITH_SWITCHES = {
    "one GPU for two": _Case(
        {"devices distinct", "gpu topology"}, _ppcie({1: GPUS[0]}), told="GPU 1: the same device as GPU 0"
    ),
    "one GPU for two, booted anew": _Case(
        {"devices distinct", "gpu topology"}, _ppcie({1: _gpu(_GPU.boot())}), told="GPU 1: the same device as GPU 0"
    ),
    "a GPU fewer": _Case(
        {"gpu count", "gpu topology"}, encode_devices(GPUS[:1], SWITCHES), told="1; the policy asks for 2"
    ),
    "a GPU of another capture": _Case(
        {"gpu nonce"}, _ppcie({1: PPCIE.answers(OTHER_NONCE)[0][1]}), told="GPU 1: answers another nonce"
    ),
    "a switch of another capture": _Case(
        {"switch nonce"}, _ppcie(switches={0: PPCIE.answers(OTHER_NONCE)[1][0]}), told="switch 0: answers another nonce"
    ),
    "a GPU of another machine": _Case(
        {"gpu topology"},
        _ppcie({1: _gpu(_ELSEWHERE)}),
        collateral=PPCIE_COLLATERAL | forge.not_revoked(_ELSEWHERE.parties[1:]),
        told="switch 0, switch 1: its links lead elsewhere than to exactly these GPUs",
    ),
    "a GPU of which nobody says whether it is revoked": _Case(
        {"gpu topology", "gpu revocation"}, _ppcie({1: _gpu(_ELSEWHERE)}), told="GPU 1: GH100 A01 GSP BROM: no OCSP"
    ),
    "reports under each other's chains": _Case(
        {"gpu signature"},
        _ppcie({n: replace(GPUS[n], evidence=GPUS[1 - n].evidence) for n in (0, 1)}),
        told="all 2: the signature does not verify",
    ),
    "a switch in place of a GPU": _Case(
        _UNREAD_REPORT | {"devices distinct", "gpu architecture", "gpu topology"},
        _ppcie({1: replace(SWITCHES[0], arch=Architecture.HOPPER)}),
        told="GPU 1: claims to be HOPPER, and is LS10",
    ),
    "no switches": _Case(
        {"switch count", "gpu topology"}, encode_devices(GPUS), told="switch count: 0; the policy asks for 2"
    ),
    "a link elsewhere": _Case(
        {"gpu topology"},
        _ppcie({0: forge.answer(_GPU, NONCE, forge.ppcie_fields(PPCIE.switches[:1]))}),
        told="GPU 0: its links lead elsewhere",
    ),
    "a GPU in another mode": _Case({"gpu mode"}, _ppcie({0: _gpu(**_SPT)}), told="GPU 0: in mode spt"),
    "other firmware of a switch": _Case(
        {"switch firmware"}, _ppcie(switches={0: _switch(FWID=bytes(48))}), told="switch 0: its report has another"
    ),
    "another BIOS of a switch": _Case(
        {"switch vbios", "switch reference values", "switch measurements", "rim revocation"},
        _ppcie(switches={0: _switch(VBIOS_VERSION=b"96.10.55.00.01")}),
        told="no reference values NV_SWITCH_BIOS_5612_0002_890_9610550001",
    ),
    "another measurement of a switch": _Case(
        {"switch measurements"},
        _ppcie(switches={0: _switch({**PPCIE.measured, 2: bytes(48)})}),
        told="switch 0: 1 of 3 differ: 2",
    ),
    "another signature of a switch": _Case(
        {"switch signature"},
        _ppcie(switches={0: replace(SWITCHES[0], evidence=_flipped(SWITCHES[0].evidence, -1))}),
        told="switch 0: the signature does not verify",
    ),
    "another switch than named": _Case(
        {"switch hardware"},
        PPCIE_GOOD,
        replace(PPCIE.policy, switches=replace(SWITCH_POLICY, hardware_ids=("ab" * 32, "cd" * 32))),
        told=_SWITCH.hardware_id,
    ),
    "no manifest of the switch": _Case(
        {"switch reference values", "switch measurements", "rim revocation"},
        PPCIE_GOOD,
        collateral=_without(forge.SWITCH_MANIFEST),
    ),
    "a driver of one GPU that reports no security versions": _Case(
        {"gpu security versions"},
        _ppcie(gpus={0: forge.answer(PPCIE.gpus[0], NONCE, nvdaod(forge.ppcie_fields(PPCIE.switches) | VERSIONED))}),
        collateral=PPCIE_COLLATERAL | manifest(floor(37, 5)),
        told="gpu security versions: GPU 1: FIELD_37_MIN_SVN (type 37) is not reported",
    ),
    "a security version that no switch reports": _Case(
        {"switch security versions"},
        PPCIE_GOOD,
        collateral=PPCIE_COLLATERAL | manifest(floor(37, 0), name=forge.SWITCH_MANIFEST),
        told="all 2: FIELD_37_MIN_SVN (type 37) is not reported",
    ),
    "a switch in a layout of GPUs": _Case(
        _UNREAD_SWITCH,
        _ppcie(
            switches={
                0: forge.answer(PPCIE.switches[0], NONCE, nvdaod(forge.switch_fields(PPCIE.switches[0], PPCIE.gpus)))
            }
        ),
        told="switch 0: the opaque data (NVDAOD) of a switch is in a layout that only GPUs are known to write",
    ),
    "an answer of NRAS about the GPUs only": _Case(
        {"nras switch answer"},
        PPCIE_GOOD,
        replace(PPCIE.policy, nras=NrasPolicy()),
        collateral=PPCIE_COLLATERAL | _nras_says(gpu=2),
    ),
    "an answer of NRAS about one GPU of two": _Case(
        {"nras gpu devices"},
        PPCIE_GOOD,
        replace(PPCIE.policy, nras=NrasPolicy()),
        collateral=PPCIE_COLLATERAL | _nras_says(gpu=1, switch=2),
    ),
}


@pytest.mark.parametrize("case", ONE_GPU.values(), ids=ONE_GPU)
def test_one_thing_that_is_otherwise_fails_its_own_lines(case: _Case) -> None:
    _assert_fails(case, case.policy or ONE.policy)


@pytest.mark.parametrize("case", WITH_SWITCHES.values(), ids=WITH_SWITCHES)
def test_one_thing_that_is_otherwise_among_many_devices_fails_its_own_lines(case: _Case) -> None:
    _assert_fails(case, case.policy or PPCIE.policy)


def _assert_fails(case: _Case, policy: GpuPolicy) -> None:
    appraisal = _appraise(case.devices, policy, _without() if case.collateral is None else case.collateral)
    assert _failed(appraisal) == case.fails
    assert case.told in "; ".join(f"{check.name}: {check.detail}" for check in appraisal.checks if check.failed)
    assert all(check.detail.isprintable() and len(check.detail) < 2000 for check in appraisal.checks)


def test_every_line_fails_somewhere() -> None:
    lines = {check.name for check in _appraise(PPCIE_GOOD, PPCIE.policy, PPCIE_COLLATERAL).checks} - {"nras"}
    failing = {name for case in (*ONE_GPU.values(), *WITH_SWITCHES.values()) for name in case.fails}
    assert lines - failing == {"switch certificates", "switch architecture", "switch revocation"}


def test_a_switch_that_cannot_be_read_fails_its_own_lines() -> None:
    evidence = _ppcie(switches={0: replace(SWITCHES[0], evidence=b"none")})
    assert _failed(_appraise(evidence, PPCIE.policy, PPCIE_COLLATERAL)) == _UNREAD_SWITCH


def test_a_switch_that_is_a_gpu_fails_its_architecture() -> None:
    evidence = _ppcie(switches={0: replace(SWITCHES[0], certificate=CHIP.certificate)})
    assert {"switch signature", "switch architecture"} <= _failed(_appraise(evidence, PPCIE.policy, _without()))


def test_a_switch_of_another_authority_fails_its_certificates() -> None:
    chip = Chip.make("LS_10", authority=_STRANGER)
    evidence = _ppcie(switches={0: forge.answer(chip, NONCE, forge.switch_fields(chip, PPCIE.gpus))})
    fails = {"switch certificates", "switch revocation"}
    assert _failed(_appraise(evidence, PPCIE.policy, PPCIE_COLLATERAL)) == fails


@pytest.mark.parametrize("root", ["gpu_device", "gpu_rim"])
def test_only_the_roots_passed_in_are_believed(root: str) -> None:
    fails = {
        "gpu_device": {"gpu certificates", "gpu revocation"},
        "gpu_rim": {"gpu reference values", "gpu measurements", "rim revocation"},
    }
    assert _failed(_appraise(roots=replace(ROOTS, **{root: frozenset()}))) == fails[root]


def test_old_drivers_may_keep_their_firmware_to_themselves_if_the_policy_allows() -> None:
    policy = replace(ONE.policy, require_fwid=False)
    appraisal = _appraise(_device(CHIP, gpu_fields(FWID=None)), policy)
    assert _failed(appraisal) == set()
    assert "gpu firmware" in _names(appraisal, CheckStatus.SKIP)


def test_firmware_that_is_reported_counts_even_where_it_need_not_be() -> None:
    policy = replace(ONE.policy, require_fwid=False)
    assert "gpu firmware" in _names(_appraise(policy=policy), CheckStatus.PASS)
    assert _failed(_appraise(_device(CHIP, gpu_fields(FWID=bytes(48))), policy)) == {"gpu firmware"}


def test_what_nobody_knows_to_be_revoked_is_skipped_if_the_policy_allows() -> None:
    policy = replace(ONE.policy, ocsp=OcspPolicy(allow_missing=True))
    appraisal = _appraise(policy=policy, collateral=forge.MANIFESTS)
    assert _failed(appraisal) == set()
    assert {"gpu revocation", "rim revocation"} <= set(_names(appraisal, CheckStatus.SKIP))


def test_a_verdict_lasts_until_the_first_answer_ends() -> None:
    assert _appraise().valid_until == NOW + timedelta(hours=23)
    policy = replace(ONE.policy, nras=NrasPolicy())
    assert _appraise(policy=policy, collateral=COLLATERAL | _nras_says(gpu=1)).valid_until == NOW + timedelta(hours=1)


def test_a_verdict_lasts_no_longer_than_a_certificate() -> None:
    end = NOW + timedelta(minutes=5)
    assert _appraise(_device(CHIP.boot(end=end), gpu_fields())).valid_until == end
    assert _failed(_appraise(_device(CHIP.boot(end=end), gpu_fields()), now=end + timedelta(seconds=1))) == {
        "gpu certificates",
        "gpu revocation",
    }


def test_claims_are_stable_facts() -> None:
    claims = _appraise(PPCIE_GOOD, PPCIE.policy, PPCIE_COLLATERAL).claims
    assert claims == {
        "gpu_count": "2",
        "gpu_chip": "GH100",
        "gpu_driver_version": "590.12",
        "gpu_vbios_version": "96.00.A5.00.01",
        "gpu_hardware_id": ", ".join(sorted(chip.hardware_id for chip in PPCIE.gpus)),
        "switch_count": "2",
        "switch_vbios_version": "96.10.73.00.01",
        "switch_hardware_id": ", ".join(sorted(chip.hardware_id for chip in PPCIE.switches)),
    }
    assert (
        appraise(
            PPCIE.answer(OTHER_NONCE), PPCIE.policy, PPCIE_COLLATERAL, nonce=OTHER_NONCE, roots=ROOTS, now=NOW
        ).claims
        == claims
    )


@pytest.mark.parametrize("name", ["another nonce", "a flipped bit of a signature", "a chain to another root"])
def test_what_is_not_authentic_claims_nothing(name: str) -> None:
    assert _appraise(ONE_GPU[name].devices).claims == {}


def test_gpus_of_both_layouts_may_stand_in_one_machine() -> None:
    versioned = forge.answer(PPCIE.gpus[0], NONCE, nvdaod(forge.ppcie_fields(PPCIE.switches) | VERSIONED))
    appraisal = _appraise(_ppcie(gpus={0: versioned}), PPCIE.policy, PPCIE_COLLATERAL)
    assert _failed(appraisal) == set()
    assert appraisal.claims["gpu_fsp_ucode_svn"] == "5"


def test_a_security_version_of_0_is_claimed_too() -> None:
    first = nvdaod(gpu_fields(FSP_UCODE_SVN=b"\0\0"))
    assert _appraise(_device(CHIP, first)).claims["gpu_fsp_ucode_svn"] == "0"


def test_everything_that_is_looked_up_is_asked_for() -> None:
    for devices, machine in ((GOOD, ONE), (PPCIE_GOOD, PPCIE)):
        policy = replace(machine.policy, nras=NrasPolicy())
        published = machine.collateral() | _nras_says(gpu=len(machine.gpus), switch=len(machine.switches))
        at_hand: dict[CollateralKey, bytes] = {}
        for _ in range(3):
            wanted = needs(devices, policy, at_hand, nonce=NONCE, roots=ROOTS, now=NOW)
            assert len(set(wanted)) == len(wanted)
            at_hand = {key: published[key] for key in wanted}
        assert _failed(_appraise(devices, policy, at_hand)) == set()


def test_nvidia_is_asked_about_each_kind_of_device_and_only_where_the_policy_says_so() -> None:
    assert questions(PPCIE_GOOD, PPCIE.policy, nonce=NONCE) == {}
    asking = replace(PPCIE.policy, nras=NrasPolicy())
    asked = questions(PPCIE_GOOD, asking, nonce=NONCE)
    answers = dict(zip(("gpu", "switch"), PPCIE.answers(NONCE), strict=True))
    for kind, arch in (("gpu", "HOPPER"), ("switch", "LS10")):
        question = json.loads(asked[CollateralKey(CollateralKind.GPU_NRAS, f"{kind}/{NONCE.hex()}")])
        assert (question["nonce"], question["arch"]) == (NONCE.hex(), arch)
        chains = [base64.b64decode(device["certificate"]) for device in question["evidence_list"]]
        assert chains == [answer.certificate for answer in answers[kind]]
    assert questions(DeviceEvidence(b"junk"), asking, nonce=NONCE) == {}


def test_manifests_are_asked_for_first() -> None:
    wanted = needs(GOOD, ONE.policy, {}, nonce=NONCE, roots=ROOTS, now=NOW)
    assert [key.name for key in wanted[:2]] == list(forge.GPU_MANIFESTS)
    assert [key.kind for key in wanted[2:]] == [CollateralKind.GPU_OCSP] * 3


def test_nothing_is_needed_for_what_cannot_be_read() -> None:
    assert needs(DeviceEvidence(b"none"), ONE.policy, {}, nonce=NONCE, roots=ROOTS, now=NOW) == ()
    evidence = encode_devices([replace(_ANSWER, evidence=b"none", certificate=b"none")])
    assert needs(evidence, ONE.policy, {}, nonce=NONCE, roots=ROOTS, now=NOW) == ()


@given(st.integers(0, len(_REPORT) - 1), st.integers(1, 255))
@settings(max_examples=60)
def test_no_change_of_a_report_is_accepted(at: int, change: int) -> None:
    changed = _REPORT[:at] + bytes([_REPORT[at] ^ change]) + _REPORT[at + 1 :]
    assert _failed(_appraise(encode_devices([replace(_ANSWER, evidence=changed)])))


@given(st.binary(max_size=64))
def test_whatever_comes_is_judged(data: bytes) -> None:
    assert _failed(_appraise(DeviceEvidence(data))) == {"devices"}
