"""The manifests for a device are found by what it says, and every value in them counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from attestation.errors import EvidenceError
from attestation.gpu.abi import parse_gpu, parse_switch
from attestation.gpu.device import Basis, read_gpus, read_switches
from attestation.gpu.evidence import Devices
from attestation.gpu.reference import NVDEC0_BLOCK, compare, compare_floors, manifests, references
from attestation.gpu.rim import Floor, Rim
from attestation.types import CollateralKey, CollateralKind, Nonce
from tests.attestation.gpu import forge
from tests.attestation.gpu.forge import GPU_MANIFESTS, MANIFESTS, NOW, ROOTS, Chip, manifest_key, measurement
from tests.attestation.gpu.forge_rim import AUTHORITY, rim_authority, sign, swid
from tests.pki import END

NONCE = Nonce(bytes(32))
SWITCH = Chip.make("LS_10")


def _gpu(word: str = "GH100", **fields: bytes) -> Any:
    (device,) = read_gpus(Devices((forge.answer(Chip.make(word), NONCE, forge.gpu_fields(**fields)),)))
    return device


def _switch() -> Any:
    answer = forge.answer(SWITCH, NONCE, forge.switch_fields(SWITCH, []))
    (device,) = read_switches(Devices((), (answer,)))
    return device


def test_manifests_are_asked_for_by_their_published_names() -> None:
    assert [manifest.id for manifest in manifests(_gpu())] == [
        "NV_GPU_DRIVER_GH100_590.12",
        "NV_GPU_VBIOS_G520_0200_885_9600A50001",
    ]
    assert [manifest.id for manifest in manifests(_gpu("GB100"))] == [
        "NV_GPU_CC_DRIVER_GB100_590.12",
        "NV_GPU_VBIOS_G520_0200_885_9600A50001",
    ]
    assert [manifest.id for manifest in manifests(_switch())] == ["NV_SWITCH_BIOS_5612_0002_890_9610730001"]
    assert manifests(_switch())[0].key == CollateralKey(CollateralKind.GPU_RIM, forge.SWITCH_MANIFEST)


def _references(device: Any, collateral: Mapping[CollateralKey, bytes]) -> tuple[Rim, ...]:
    return references(device, Basis(collateral, NONCE, ROOTS, NOW))


def test_authentic_manifests_for_a_device_are_read() -> None:
    driver, vbios = _references(_gpu(), MANIFESTS)
    assert set(driver.measurements) == set(forge.DRIVER_BLOCKS)
    assert set(vbios.measurements) == set(forge.VBIOS_BLOCKS)
    (bios,) = _references(_switch(), MANIFESTS)
    assert bios.edition == "SWITCH"


def _instead(**manifest: Any) -> Mapping[CollateralKey, bytes]:
    said = {"version": forge.DRIVER, "golden": forge.golden(*forge.DRIVER_BLOCKS), **manifest}
    return {**MANIFESTS, manifest_key(GPU_MANIFESTS[0]): sign(swid(**said))}


_GOOD = MANIFESTS[manifest_key(GPU_MANIFESTS[0])]
NOT_FOR_US = {
    "none": ({}, "no reference values NV_GPU_DRIVER_GH100_590.12 are at hand"),
    "of another version": (_instead(version="545.00"), "GH100_590.12: is for GH100 GPU 545.00"),
    "of another chip": (_instead(product="GB100"), "is for GB100 GPU 590.12"),
    "of a switch": (_instead(edition="SWITCH"), "is for GH100 SWITCH 590.12"),
    "for the VBIOS": (
        {**MANIFESTS, manifest_key(GPU_MANIFESTS[0]): MANIFESTS[manifest_key(GPU_MANIFESTS[1])]},
        "is for GH100 GPU 96.00.A5.00.01",
    ),
    "changed": (
        {manifest_key(GPU_MANIFESTS[0]): _GOOD.replace(b"590.12", b"590.13")},
        "NV_GPU_DRIVER_GH100_590.12: the RIM is not what was signed",
    ),
    "signed by somebody else": (
        {
            manifest_key(GPU_MANIFESTS[0]): sign(
                swid(version=forge.DRIVER, golden=forge.golden(8)), authority=rim_authority()
            )
        },
        "pinned root",
    ),
}


@pytest.mark.parametrize(("collateral", "reason"), NOT_FOR_US.values(), ids=NOT_FOR_US)
def test_manifests_that_are_not_for_the_device_are_refused(
    collateral: Mapping[CollateralKey, bytes], reason: str
) -> None:
    with pytest.raises(EvidenceError, match=reason):
        _references(_gpu(), collateral)


def test_a_bad_manifest_stays_bad_and_a_good_one_ages() -> None:
    for _ in range(2):
        with pytest.raises(EvidenceError, match="not what was signed"):
            _references(_gpu(), NOT_FOR_US["changed"][0])
    _references(_gpu(), MANIFESTS)
    with pytest.raises(EvidenceError, match="expired"):
        references(_gpu(), Basis(MANIFESTS, NONCE, ROOTS, END.replace(year=END.year + 1)))


def _rim(golden: Mapping[int, set[bytes]], floors: Mapping[int, Floor] | None = None) -> Rim:
    chain = tuple(party.certificate for party in AUTHORITY.parties)
    allowed = {index: frozenset(values) for index, values in golden.items()}
    return Rim("id", "1", allowed, floors or {}, chain, END, "GH100", "GPU")


def _report(measured: Mapping[int, bytes], *, nvdec0: bytes = b"\x55") -> Any:
    return parse_gpu(forge.unsigned_report(NONCE, forge.gpu_fields(NVDEC0_STATUS=nvdec0), measured) + bytes(96))


A, B = bytes([1]) * 48, bytes([2]) * 48


def test_measurements_that_are_allowed_are_accepted() -> None:
    compare(_report({1: A, 2: B, 3: measurement(3)}), [_rim({1: {A}}), _rim({2: {A, B}})])


DIFFERING = {
    "another value": ({1: B}, [_rim({1: {A}})], "1 of 1 differ: 1$"),
    "a value of another block": ({1: B, 2: A}, [_rim({1: {A}, 2: {B}})], "2 of 2 differ: 1, 2$"),
    "no value": ({1: A}, [_rim({1: {A}}), _rim({2: {B}})], "1 of 2 differ: 2$"),
    "a value cut short": ({1: A[:47]}, [_rim({1: {A}})], "1 of 1 differ: 1$"),
    "two manifests of one block": ({1: A}, [_rim({1: {A}}), _rim({1: {A}})], "speak of one measurement"),
}


@pytest.mark.parametrize(("measured", "rims", "reason"), DIFFERING.values(), ids=DIFFERING)
def test_other_measurements_are_refused(measured: Mapping[int, bytes], rims: list[Rim], reason: str) -> None:
    with pytest.raises(EvidenceError, match=reason):
        compare(_report(measured), rims)


def test_a_decoder_that_is_off_was_not_measured() -> None:
    compare(_report({1: A, NVDEC0_BLOCK: bytes(48)}), [_rim({1: {A}, NVDEC0_BLOCK: {B}})])


def test_a_decoder_that_is_on_must_measure_as_all_else() -> None:
    with pytest.raises(EvidenceError, match=r"1 of 2 differ: 36$"):
        compare(_report({1: A, NVDEC0_BLOCK: bytes(48)}, nvdec0=b"\xaa"), [_rim({1: {A}, NVDEC0_BLOCK: {B}})])


def test_a_switch_has_no_decoder_that_could_be_off() -> None:
    data = forge.unsigned_report(NONCE, forge.switch_fields(SWITCH, []), {NVDEC0_BLOCK: bytes(48)})
    with pytest.raises(EvidenceError, match=r"differ: 36$"):
        compare(parse_switch(data + bytes(96)), [_rim({NVDEC0_BLOCK: {B}})])


def _saying(**svns: bytes) -> Any:
    """A report in the versioned layout. svns: by the type of their field, such as `t37`."""
    fields = {int(name[1:]): value for name, value in svns.items()}
    said = forge.nvdaod(forge.gpu_fields() | fields, value_types=dict.fromkeys(fields, 0x87))
    return parse_gpu(forge.unsigned_report(NONCE, said, {}) + bytes(96))


def _floors(**floors: int) -> Rim:
    """By name and type, such as `FSP_37`."""
    return _rim({1: {A}}, {int(name.split("_")[1]): Floor(name, least) for name, least in floors.items()})


def test_a_security_version_that_is_high_enough_is_accepted() -> None:
    report = _saying(t37=b"\x05\0", t40=b"\xff\xff")
    for rims in (
        [_floors(FSP_37=5)],
        [_floors(FSP_37=0)],
        [_floors(FSP_37=4, NEW_40=65535)],
        [_rim({1: {A}})],
        [],
    ):
        compare_floors(report, rims)
    compare_floors(report, [_floors(FSP_37=5), _floors(NEW_40=1)])
    compare_floors(_saying(t0=b"\x01\0"), [_floors(NONE_0=1)])


def _legacy(kind: int, value: bytes) -> Any:
    return parse_gpu(forge.unsigned_report(NONCE, forge.gpu_fields() | {kind: value}, {}) + bytes(96))


def _of_value_type(value_type: int) -> Any:
    said = forge.nvdaod(forge.gpu_fields() | {40: b"\x05\0"}, value_types={40: value_type})
    return parse_gpu(forge.unsigned_report(NONCE, said, {}) + bytes(96))


BELOW: Mapping[str, tuple[Any, list[Rim], str]] = {
    "below": (
        _saying(t37=b"\x05\0"),
        [_floors(FSP_37=6)],
        r"^FSP_37 \(type 37\) is 5; the reference values ask for 6 or more$",
    ),
    "below in the low byte": (_saying(t37=b"\x05\1"), [_floors(FSP_37=0x106)], "is 261; .* 262 or more$"),
    "below more than there can be": (_saying(t37=b"\xff\xff"), [_floors(FSP_37=65536)], "is 65535; .* 65536 or more$"),
    "missing": (
        _saying(),
        [_floors(FSP_37=0)],
        r"^FSP_37 \(type 37\) is not reported in the opaque data \(NVDAOD\); the reference values ask for 0 or more$",
    ),
    "of an unknown type": (_saying(t40=b"\x05\0"), [_floors(NEW_40=6)], r"^NEW_40 \(type 40\) is 5; .* 6 or more$"),
    "of another value type": (_of_value_type(0x86), [_floors(NEW_40=5)], "not reported in the opaque data .NVDAOD.;"),
    "of one byte": (_saying(t40=b"\x05"), [_floors(NEW_40=5)], "not reported"),
    "of four bytes": (_saying(t40=b"\x05\0\0\0"), [_floors(NEW_40=5)], "not reported"),
    "in the legacy layout": (
        _legacy(37, b"\x05\0"),
        [_floors(FSP_37=5)],
        "not reported in the opaque data .legacy layout.;",
    ),
    "one of two": (_saying(t37=b"\x05\0", t40=b"\x04\0"), [_floors(FSP_37=5, NEW_40=5)], r"^NEW_40 [^;]*; [^;]*$"),
    "one of each manifest": (
        _saying(t37=b"\x04\0", t40=b"\x04\0"),
        [_floors(FSP_37=5), _floors(NEW_40=5)],
        r"^FSP_37 [^;]*; [^;]*; NEW_40 [^;]*; [^;]*$",
    ),
    "a switch, which reports none": (
        parse_switch(forge.unsigned_report(NONCE, forge.switch_fields(SWITCH, []), {}) + bytes(96)),
        [_floors(FSP_37=0)],
        "not reported in the opaque data .legacy layout.;",
    ),
}


@pytest.mark.parametrize(("report", "rims", "reason"), BELOW.values(), ids=BELOW)
def test_a_security_version_that_is_not_is_refused(report: Any, rims: list[Rim], reason: str) -> None:
    with pytest.raises(EvidenceError, match=reason):
        compare_floors(report, rims)


CONFLICTS = {
    "by type": [_floors(FSP_37=5), _floors(OTHER_37=5)],
    "by name": [_rim({}, {37: Floor("FSP", 5)}), _rim({}, {40: Floor("FSP", 5)})],
    "by both": [_floors(FSP_37=5), _floors(FSP_37=5)],
}


@pytest.mark.parametrize("rims", CONFLICTS.values(), ids=CONFLICTS)
def test_two_manifests_that_speak_of_one_security_version_are_refused(rims: list[Rim]) -> None:
    with pytest.raises(EvidenceError, match="speak of one security version"):
        compare_floors(_saying(t37=b"\x05\0", t40=b"\x05\0"), rims)
