"""Real evidence, collected by others, gets the verdict that it deserves.

Where NVIDIA published no manifests or revocation answers with a capture, the lines that need them fail, and no others.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from attestation.collateral.roots import VENDOR_ROOTS
from attestation.errors import EvidenceError
from attestation.gpu import nras, rim
from attestation.gpu.abi import FeatureFlag, GpuReport, parse_gpu, parse_switch
from attestation.gpu.appraise import appraise, needs
from attestation.gpu.chain import read_chain, verify_chain, verify_signature
from attestation.gpu.evidence import Architecture, DeviceAnswer, Kind, encode_devices
from attestation.gpu.nras import NrasPolicy
from attestation.gpu.ocsp import OcspPolicy
from attestation.gpu.policy import GpuPolicy, Mode, SwitchPolicy
from attestation.gpu.reference import compare
from attestation.types import Appraisal, CheckStatus, CollateralKey, CollateralKind, Nonce
from tests.attestation.gpu.forge import nvdaod
from tests.vectors import vector

THEN = datetime(2025, 6, 1, tzinfo=UTC)
"""When the signers of all those manifests were in force."""

UNPUBLISHED = OcspPolicy(allow_missing=True)
"""No real revocation answer was at hand."""

WITHOUT_MANIFESTS = {"gpu reference values", "gpu measurements", "rim revocation"}


def _report(name: str) -> bytes:
    return bytes.fromhex(vector(f"nvidia/{name}").decode().strip())


def _chain(name: str) -> bytes:
    return vector(f"nvidia/{name}")


def _failed(appraisal: Appraisal) -> set[str]:
    return {check.name for check in appraisal.checks if check.failed}


def _rim(name: str) -> CollateralKey:
    return CollateralKey(CollateralKind.GPU_RIM, name)


def _appraise(
    answer: DeviceAnswer,
    policy: GpuPolicy,
    collateral: Mapping[CollateralKey, bytes],
    *,
    now: datetime = THEN,
    nonce: Nonce | None = None,
) -> Appraisal:
    devices = encode_devices([answer])
    return appraise(
        devices, policy, collateral, nonce=answer.nonce if nonce is None else nonce, roots=VENDOR_ROOTS, now=now
    )


def _answer(arch: Architecture, report: str, chain: str) -> DeviceAnswer:
    evidence = _report(report)
    return DeviceAnswer(arch, Nonce(evidence[4:36]), evidence, _chain(chain))


OLD_HOPPER = GpuPolicy(
    count=1,
    architectures=(Architecture.HOPPER,),
    driver_versions=("545.00", "535.86.09"),
    vbios_versions=("96.00.5E.00.01",),
    require_fwid=False,
    ocsp=UNPUBLISHED,
)


def _nvtrust() -> tuple[DeviceAnswer, dict[CollateralKey, bytes]]:
    answer = _answer(Architecture.HOPPER, "nvtrust_v1/attestationReport.txt", "nvtrust_v1/gpuAkCertChain.txt")
    return answer, {
        _rim("NV_GPU_DRIVER_GH100_545.00"): vector("nvidia/nvtrust_v1/Driver_RIM_test_no_gpu.swidtag"),
        _rim("NV_GPU_VBIOS_1010_0200_882_96005E0001"): vector(
            "nvidia/nvtrust_v1/1010_0200_882_96005E0001_test_no_gpu.swidtag"
        ),
    }


def test_a_whole_capture_of_a_hopper_is_accepted() -> None:
    answer, collateral = _nvtrust()
    assert answer.nonce.hex().startswith("4cff7f53")
    appraisal = _appraise(answer, OLD_HOPPER, collateral)
    assert _failed(appraisal) == set()
    skipped = {check.name for check in appraisal.checks if check.status is CheckStatus.SKIP}
    assert skipped == {
        "gpu firmware",
        "gpu hardware",
        "gpu security versions",
        "gpu topology",
        "gpu revocation",
        "rim revocation",
        "nras",
    }
    assert appraisal.claims["gpu_driver_version"] == "545.00"
    assert appraisal.valid_until is not None
    assert appraisal.valid_until.date().isoformat() == "2025-06-22"


def test_exactly_its_manifests_are_asked_for() -> None:
    answer, collateral = _nvtrust()
    wanted = needs(encode_devices([answer]), OLD_HOPPER, {}, nonce=answer.nonce, roots=VENDOR_ROOTS, now=THEN)
    assert {key for key in wanted if key.kind is CollateralKind.GPU_RIM} == set(collateral)
    assert len(wanted) == 5  # and whether the three certificates that NVIDIA issued are revoked


def test_it_has_no_digest_of_its_firmware_which_the_default_asks_for() -> None:
    answer, collateral = _nvtrust()
    assert _failed(_appraise(answer, replace(OLD_HOPPER, require_fwid=True), collateral)) == {"gpu firmware"}


def test_its_manifests_have_expired_since() -> None:
    answer, collateral = _nvtrust()
    appraisal = _appraise(answer, OLD_HOPPER, collateral, now=datetime(2025, 6, 23, tzinfo=UTC))
    assert _failed(appraisal) == WITHOUT_MANIFESTS


def test_it_does_not_answer_another_nonce() -> None:
    answer, collateral = _nvtrust()
    assert _failed(_appraise(answer, OLD_HOPPER, collateral, nonce=Nonce(bytes(32)))) == {"gpu nonce"}


def test_it_is_not_accepted_without_revocation_answers_by_default() -> None:
    answer, collateral = _nvtrust()
    appraisal = _appraise(answer, replace(OLD_HOPPER, ocsp=OcspPolicy()), collateral)
    assert _failed(appraisal) == {"gpu revocation", "rim revocation"}


def test_a_sample_with_a_manifest_for_its_vbios_only_fails_for_its_driver() -> None:
    answer = _answer(Architecture.HOPPER, "sdk_sample_hopperAttestationReport.txt", "sdk_sample_hopperCertChain.txt")
    vbios = {
        _rim("NV_GPU_VBIOS_1010_0200_882_96005E0001"): vector(
            "nvidia/rim/nvtrust_VBIOS_1010_0200_882_96005E0001_PROD.swidtag"
        )
    }
    appraisal = _appraise(answer, OLD_HOPPER, vbios)
    assert _failed(appraisal) == WITHOUT_MANIFESTS
    (check,) = [check for check in appraisal.checks if check.name == "gpu reference values"]
    assert "NV_GPU_DRIVER_GH100_535.86.09 are at hand" in check.detail


VBIOS_KEY = "NV_GPU_VBIOS_1010_0200_882_96005E0001"
BAD_MANIFESTS = {
    "changed": ("sdk_NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch.xml", "not what was signed"),
    "with another signature": ("sdk_incorrect_signature_driver_rim.xml", "does not verify"),
    "under another root": ("sdk_incorrect_cert_chain_driver_rim.xml", "pinned root"),
    "of another driver": ("sdk_NV_GPU_DRIVER_GH100_550.144.03.xml", "is for GH100 GPU 550.144.03"),
}


@pytest.mark.parametrize(("file", "told"), BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_bad_manifests_are_refused(file: str, told: str) -> None:
    _, good = _nvtrust()
    sample = _answer(Architecture.HOPPER, "sdk_sample_hopperAttestationReport.txt", "sdk_sample_hopperCertChain.txt")
    driver = {_rim("NV_GPU_DRIVER_GH100_535.86.09"): vector(f"nvidia/rim/{file}")}
    appraisal = _appraise(sample, OLD_HOPPER, good | driver)
    assert _failed(appraisal) == WITHOUT_MANIFESTS
    assert told in "; ".join(check.detail for check in appraisal.checks if check.name == "gpu reference values")


SAMPLE_MANIFESTS = {
    "published": ("nvtrust_VBIOS_1010_0200_882_96005E0001_PROD.swidtag", ""),
    "one value otherwise": (
        "sdk_NV_GPU_VBIOS_1010_0200_882_96005E0001_measurement_mismatch.xml",
        "1 of 12 differ: 10",
    ),
}


@pytest.mark.parametrize(("file", "told"), SAMPLE_MANIFESTS.values(), ids=SAMPLE_MANIFESTS)
def test_a_sample_measures_all_that_its_manifest_says(file: str, told: str) -> None:
    manifest = rim.read(vector(f"nvidia/rim/{file}"), roots=VENDOR_ROOTS, now=THEN)
    assert len(manifest.measurements) == 12
    report = parse_gpu(_report("sdk_sample_hopperAttestationReport.txt"))
    with pytest.raises(EvidenceError, match=told) if told else contextlib.nullcontext():
        compare(report, [manifest])


def test_measurements_that_an_authentic_manifest_of_that_version_does_not_allow_are_refused() -> None:
    answer, good = _nvtrust()
    other = vector("nvidia/rim/nvtrust_VBIOS_1010_0200_882_96005E0001_PROD.swidtag")
    appraisal = _appraise(answer, OLD_HOPPER, {**good, _rim(VBIOS_KEY): other})
    assert _failed(appraisal) == {"gpu measurements"}
    (check,) = [check for check in appraisal.checks if check.failed]
    assert check.detail == "GPU 0: 4 of 33 differ: 2, 3, 4, 10"


def test_a_blackwell_is_authentic() -> None:
    answer = _answer(
        Architecture.BLACKWELL, "sdk_sample_blackwellAttestationReport.txt", "sdk_sample_blackwellCertChain.txt"
    )
    policy = GpuPolicy(1, (Architecture.BLACKWELL,), ("575.32",), ("97.00.88.00.0F",), Mode.MPT, ocsp=UNPUBLISHED)
    # Its driver is too old to report a mode.
    assert _failed(_appraise(answer, policy, {})) == WITHOUT_MANIFESTS | {"gpu mode"}
    wanted = needs(encode_devices([answer]), policy, {}, nonce=answer.nonce, roots=VENDOR_ROOTS, now=THEN)
    assert [key.name for key in wanted[:2]] == [
        "NV_GPU_CC_DRIVER_GB100_575.32",
        "NV_GPU_VBIOS_G525_0220_886_970088000F",
    ]


AUTHENTIC = {
    "nvtrust": ("nvtrust_v1/attestationReport.txt", "nvtrust_v1/gpuAkCertChain.txt", "GH100"),
    "hopper": ("sdk_sample_hopperAttestationReport.txt", "sdk_sample_hopperCertChain.txt", "GH100"),
    "hopper, once expired": (
        "sdk_sample_hopperAttestationReportExpired.txt",
        "sdk_sample_hopperCertChainExpired.txt",
        "GH100",
    ),
    "hopper of the unit tests": ("sdk_ut_hopper_report.txt", "sdk_ut_hopper_certchain.txt", "GH100"),
    "blackwell": ("sdk_sample_blackwellAttestationReport.txt", "sdk_sample_blackwellCertChain.txt", "GB100"),
    "switch": ("sdk_sample_switchAttestationReport.txt", "sdk_sample_switchCertChain.txt", "LS10"),
}


@pytest.mark.parametrize(("report", "chain", "chip"), AUTHENTIC.values(), ids=AUTHENTIC)
def test_real_reports_are_authentic(report: str, chain: str, chip: str) -> None:
    found = read_chain(_chain(chain))
    verify_chain(found, VENDOR_ROOTS, THEN)
    parsed = (parse_switch if chip == "LS10" else parse_gpu)(_report(report))
    verify_signature(found, parsed.spdm)
    assert found.chip == chip
    assert found.valid_until.year == 9999
    assert parsed.fwid in (None, found.fwid)


FORGED = {
    "hopper": ("sdk_sample_hopperAttestationReportInvalidSignature.txt", "sdk_sample_hopperCertChain.txt", parse_gpu),
    "switch": (
        "sdk_sample_switchAttestationReportInvalidSignature.txt",
        "sdk_sample_switchCertChain.txt",
        parse_switch,
    ),
    "under another GPU's chain": (
        "sdk_sample_hopperAttestationReport.txt",
        "nvtrust_v1/gpuAkCertChain.txt",
        parse_gpu,
    ),
}


def test_a_byte_that_a_driver_appends_to_a_report_changes_nothing() -> None:
    answer, collateral = _nvtrust()
    longer = replace(answer, evidence=answer.evidence + b"\0")
    assert _appraise(longer, OLD_HOPPER, collateral) == _appraise(answer, OLD_HOPPER, collateral)


def _transcript() -> bytes:
    return _report("2026-10/sample_nvdaod_transcript.txt")


def test_a_report_in_the_versioned_layout_is_read() -> None:
    """Nobody published its chain, so that its signature is not looked at."""
    data = _transcript()
    report = parse_gpu(data)
    assert report.spdm.nonce.hex().startswith("50e4490d")
    assert (report.spdm.signed, report.spdm.signature) == (data[:4082], data[4082:])
    assert len(report.spdm.measurements) == 64
    assert (report.driver_version, report.vbios_version) == ("620.12", "96.00.D9.00.0F")
    assert (report.project, report.project_sku, report.chip_sku) == ("G520", "0201", "884")
    assert (report.nvdec0, report.protected_pcie, report.feature_flag) == (True, False, FeatureFlag.SPT)
    assert report.fwid is not None
    assert report.fwid.hex().startswith("0d7cde10")
    assert report.switch_pdis == frozenset()
    assert report.fsp_ucode_svn == 0


def test_the_forge_writes_the_versioned_layout_as_a_real_report_does() -> None:
    data = _transcript()
    opaque = parse_gpu(data).spdm.opaque
    assert list(opaque.values) == [6, 14, 15, 16, 17, 18, 19, 3, 4, 12, 13, 11, 37, 20, 21, 34, 36]
    assert nvdaod(opaque.values) == data[3599:4082]


def test_every_truncation_of_a_report_in_the_versioned_layout_is_refused() -> None:
    data = _transcript()
    for length in range(len(data)):
        with pytest.raises(EvidenceError):
            parse_gpu(data[:length])


def test_a_report_of_the_security_processor_is_authentic_and_has_no_opaque_data() -> None:
    verify_chain(read_chain(_chain("2026-10/blackwellFspCertChain.txt")), VENDOR_ROOTS, THEN)
    with pytest.raises(EvidenceError, match="has no NVDEC0_STATUS"):
        parse_gpu(_report("2026-10/blackwellFspAttestationReport.txt"))


NRAS_ANSWERS: Mapping[str, tuple[Kind, str, int, dict[str, str]]] = {
    "about a Hopper": (
        "gpu",
        "hopperClaimsv3_detached_eat.json",
        1749602000,
        {
            "signature": "may be of another day",
            "result": "overall: claims of version 3.0, and 4.0 was asked for",
        },
    ),
    "about a switch": (
        "switch",
        "switch_detached_eat.json",
        1751156000,
        {"signature": "may be of another day", "issuer": f"not issued by {nras.ISSUER}"},
    ),
}


@pytest.mark.parametrize(("kind", "file", "at", "faults"), NRAS_ANSWERS.values(), ids=NRAS_ANSWERS)
def test_an_old_answer_of_nras_is_read(kind: Kind, file: str, at: int, faults: Mapping[str, str]) -> None:
    """Its keys are of another day, and that about a switch was made by a service that is not the public one."""
    nonce = Nonce(bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb"))
    collateral = {nras.key(kind, nonce): vector(f"nvidia/2026-10/{file}"), nras.KEYS: b'{"keys": []}'}
    checks = nras.judge(collateral, NrasPolicy(), kind=kind, nonce=nonce, count=1, now=datetime.fromtimestamp(at, UTC))
    found = {check.name.removeprefix(f"nras {kind} "): check.detail for check in checks if check.failed}
    assert found.keys() == faults.keys()
    assert all(told in found[line] for line, told in faults.items())


@pytest.mark.parametrize(("report", "chain", "parse"), FORGED.values(), ids=FORGED)
def test_forged_reports_are_refused(report: str, chain: str, parse: Any) -> None:
    with pytest.raises(EvidenceError, match="does not verify with the device's key"):
        verify_signature(read_chain(_chain(chain)), parse(_report(report)).spdm)


def test_a_report_is_read_as_nvidia_reads_it() -> None:
    theirs: Any = json.loads(vector("nvidia/sdk_ut_spdm_parsed_output.json"))
    ours: GpuReport = parse_gpu(_report("sdk_ut_hopper_report.txt"))
    assert ours.spdm.signature == bytes.fromhex(theirs["Signature"].removeprefix("0x"))
    blocks = theirs["MeasurementRecord"]["MeasurementBlocks"]
    values = {int(index): block["DMTFSpecMeasurementValue"] for index, block in blocks.items()}
    assert {index: f"0x{value.hex()}" for index, value in ours.spdm.measurements.items()} == values
    assert ours.feature_flag is FeatureFlag.SPT


def _captured(name: str) -> list[DeviceAnswer]:
    elements: Any = json.loads(vector(f"nvidia/{name}"))
    return [
        DeviceAnswer(
            Architecture(element["arch"]),
            Nonce(bytes.fromhex(element["nonce"])),
            base64.b64decode(element["evidence"]),
            base64.b64decode(element["certificate"]),
        )
        for element in elements
    ]


HGX = GpuPolicy(
    count=8,
    architectures=(Architecture.HOPPER,),
    driver_versions=("590.12",),
    vbios_versions=("96.00.A5.00.01",),
    mode=Mode.PPCIE,
    switches=SwitchPolicy(4, ("96.10.73.00.01",)),
    ocsp=UNPUBLISHED,
)
HGX_WITHOUT_MANIFESTS = WITHOUT_MANIFESTS | {"switch reference values", "switch measurements"}


def _hgx() -> tuple[list[DeviceAnswer], list[DeviceAnswer]]:
    return _captured("nvtrust_ppcie_8xH100_590_12_evidence.json"), _captured("nvtrust_ppcie_4xLS10_evidence.json")


def _appraise_hgx(gpus: Sequence[DeviceAnswer], switches: Sequence[DeviceAnswer]) -> set[str]:
    devices = encode_devices(gpus, switches)
    nonce = Nonce(bytes.fromhex("4760e30534a0621357d458b1a7936551b5dc4cd1e69718adf7ed9fb0252a537e"))
    return _failed(appraise(devices, HGX, {}, nonce=nonce, roots=VENDOR_ROOTS, now=THEN))


def test_eight_gpus_and_four_switches_are_one_machine() -> None:
    assert _appraise_hgx(*_hgx()) == HGX_WITHOUT_MANIFESTS


def test_one_gpu_of_eight_twice_is_told() -> None:
    gpus, switches = _hgx()
    fails = HGX_WITHOUT_MANIFESTS | {"devices distinct", "gpu topology"}
    assert _appraise_hgx([gpus[0], gpus[0], *gpus[2:]], switches) == fails


def test_seven_of_eight_gpus_are_told() -> None:
    gpus, switches = _hgx()
    assert _appraise_hgx(gpus[:7], switches) == HGX_WITHOUT_MANIFESTS | {"gpu count", "gpu topology"}


def test_a_gpu_of_another_capture_is_told() -> None:
    gpus, switches = _hgx()
    answer = _answer(Architecture.HOPPER, "sdk_ut_hopper_report.txt", "sdk_ut_hopper_certchain.txt")
    fails = {"gpu nonce", "gpu driver", "gpu vbios", "gpu mode", "gpu topology"}
    assert _appraise_hgx([answer, *gpus[1:]], switches) == HGX_WITHOUT_MANIFESTS | fails


def test_a_switch_of_another_capture_is_told() -> None:
    gpus, switches = _hgx()
    other = _answer(Architecture.LS10, "sdk_sample_switchAttestationReport.txt", "sdk_sample_switchCertChain.txt")
    fails = {"switch nonce", "switch vbios", "gpu topology"}
    assert _appraise_hgx(gpus, [other, *switches[1:]]) == HGX_WITHOUT_MANIFESTS | fails
