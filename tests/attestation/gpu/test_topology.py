"""One device cannot stand for two, and in protected PCIe every link must lead to a device that was judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from attestation.gpu.device import read_gpus, read_switches
from attestation.gpu.evidence import DeviceAnswer, Devices
from attestation.gpu.policy import Mode
from attestation.gpu.topology import distinct, mode, topology
from attestation.types import Check, Nonce
from tests.attestation.gpu import forge
from tests.attestation.gpu.forge import NVIDIA, Chip, Machine, pem
from tests.pki import issue

NONCE = Nonce(bytes(32))
MACHINE = Machine.build(gpus=2, switches=2)
GPUS, SWITCHES = MACHINE.gpus, MACHINE.switches
FOREIGN_GPU, FOREIGN_SWITCH = Chip.make(number=50), Chip.make("LS_10", number=50)


def _answer(chip: Chip, fields: Mapping[int, bytes] | None = None) -> DeviceAnswer:
    return forge.answer(chip, NONCE, MACHINE.said(chip) if fields is None else fields)


def _distinct(*chips: Chip) -> Check:
    return distinct(read_gpus(Devices(tuple(_answer(chip) for chip in chips))))


def test_different_devices_are_distinct() -> None:
    assert not _distinct(*GPUS).failed


def test_one_device_twice_is_told() -> None:
    check = _distinct(GPUS[0], GPUS[1], GPUS[0])
    assert check.failed
    assert check.detail == "GPU 2: the same device as GPU 0"


def test_a_chip_that_booted_anew_is_the_same_device() -> None:
    assert "GPU 1: the same device as GPU 0" in _distinct(GPUS[0], GPUS[0].boot()).detail


def test_a_firmware_key_under_two_chips_is_the_same_device() -> None:
    twin = replace(GPUS[1], leaf=issue("GH100 A01 GSP FMC LF", GPUS[1].brom, ca=None, key=GPUS[0].leaf.key))
    assert "GPU 1: the same device as GPU 0" in _distinct(GPUS[0], twin).detail


def test_a_device_without_a_chain_is_not_taken_for_another() -> None:
    answers = (_answer(GPUS[0]), replace(_answer(GPUS[1]), certificate=b"none"))
    assert distinct(read_gpus(Devices(answers))).detail == "GPU 1: its chain cannot be read"


OFF, ON = b"\x55", b"\xaa"
MODES = {
    "the flag says spt": ("GH100", {"FEATURE_FLAG": b"\0\0", "PROTECTED_PCIE_STATUS": OFF}, Mode.SPT),
    "the flag says mpt": ("GH100", {"FEATURE_FLAG": b"\x01\0", "PROTECTED_PCIE_STATUS": OFF}, Mode.MPT),
    "the flag says ppcie": ("GH100", {"FEATURE_FLAG": b"\x02\0", "PROTECTED_PCIE_STATUS": ON}, Mode.PPCIE),
    "the flag alone": ("GB100", {"FEATURE_FLAG": b"\x01\0", "PROTECTED_PCIE_STATUS": None}, Mode.MPT),
    "an older driver in ppcie": ("GH100", {"FEATURE_FLAG": None, "PROTECTED_PCIE_STATUS": ON}, Mode.PPCIE),
    "an older driver in spt": ("GH100", {"FEATURE_FLAG": None, "PROTECTED_PCIE_STATUS": OFF}, Mode.SPT),
    "the oldest driver": ("GH100", {"FEATURE_FLAG": None, "PROTECTED_PCIE_STATUS": None}, Mode.SPT),
}


def _mode(word: str, fields: Mapping[str, bytes | None], expected: Mode) -> Check:
    return mode(read_gpus(Devices((_answer(Chip.make(word), forge.gpu_fields(**fields)),))), expected)


@pytest.mark.parametrize(("word", "fields", "expected"), MODES.values(), ids=MODES)
def test_the_mode_is_the_one_reported(word: str, fields: Mapping[str, bytes | None], expected: Mode) -> None:
    for asked in Mode:
        check = _mode(word, fields, asked)
        assert check.failed == (asked is not expected)
        if check.failed:
            assert check.detail == f"GPU 0: in mode {expected}; the policy asks for {asked}"


@pytest.mark.parametrize(
    "fields",
    [
        {"FEATURE_FLAG": b"\0\0", "PROTECTED_PCIE_STATUS": ON},
        {"FEATURE_FLAG": b"\x01\0", "PROTECTED_PCIE_STATUS": ON},
        {"FEATURE_FLAG": b"\x02\0", "PROTECTED_PCIE_STATUS": OFF},
    ],
)
@pytest.mark.parametrize("asked", Mode)
def test_a_contradiction_is_no_mode(fields: Mapping[str, bytes], asked: Mode) -> None:
    assert "at the same time the contrary" in _mode("GH100", fields, asked).detail


@pytest.mark.parametrize("asked", Mode)
def test_a_blackwell_that_does_not_say_is_in_no_mode(asked: Mode) -> None:
    check = _mode("GB100", {"FEATURE_FLAG": None, "PROTECTED_PCIE_STATUS": None}, asked)
    assert check.failed
    assert "does not report its mode" in check.detail


def _topology(gpus: Sequence[DeviceAnswer], switches: Sequence[DeviceAnswer]) -> Check:
    devices = Devices(tuple(gpus), tuple(switches))
    return topology(read_gpus(devices), read_switches(devices))


GOOD_GPUS, GOOD_SWITCHES = MACHINE.answers(NONCE)


def test_devices_that_are_all_linked_are_accepted() -> None:
    check = _topology(GOOD_GPUS, GOOD_SWITCHES)
    assert not check.failed
    assert check.detail.startswith("2 GPUs and 2 switches, each linked to all of the others")


def test_a_bigger_machine_is_accepted() -> None:
    assert not _topology(*Machine.build(gpus=8, switches=4).answers(NONCE)).failed


def _gpu(*switches: Chip, **fields: bytes | None) -> DeviceAnswer:
    return _answer(GPUS[0], forge.ppcie_fields(switches, **fields))


def _switch(*gpus: Chip, **fields: bytes | None) -> DeviceAnswer:
    return _answer(SWITCHES[0], forge.switch_fields(SWITCHES[0], gpus, **fields))


_NAMELESS = issue("GH100 A01 GSP BROM", NVIDIA.provisioners["GH100"])

MISLED = {
    "a GPU linked to a switch that is not there": (
        [_gpu(*SWITCHES, FOREIGN_SWITCH), GOOD_GPUS[1]],
        GOOD_SWITCHES,
        "GPU 0: its links lead elsewhere",
    ),
    "a GPU not linked to one of the switches": (
        [_gpu(SWITCHES[0]), GOOD_GPUS[1]],
        GOOD_SWITCHES,
        "GPU 0: its links lead elsewhere",
    ),
    "a GPU without links": ([_gpu(PDI=None), GOOD_GPUS[1]], GOOD_SWITCHES, "GPU 0: its links lead elsewhere"),
    "a switch linked to a GPU that is not there": (
        GOOD_GPUS,
        [_switch(*GPUS, FOREIGN_GPU), GOOD_SWITCHES[1]],
        "switch 0: its links lead elsewhere than to exactly these GPUs",
    ),
    "a switch not linked to one of the GPUs": (
        GOOD_GPUS,
        [_switch(GPUS[1]), GOOD_SWITCHES[1]],
        "switch 0: its links lead elsewhere than to exactly these GPUs",
    ),
    "a switch that does not say its links": (
        GOOD_GPUS,
        [_switch(*GPUS, GPU_PDIS=None), GOOD_SWITCHES[1]],
        "switch 0: its links lead elsewhere",
    ),
    "a switch that takes another's name": (
        GOOD_GPUS,
        [_switch(*GPUS, PDI=SWITCHES[1].pdi), GOOD_SWITCHES[1]],
        "switch 0: names itself otherwise",
    ),
    "a switch without a name": (GOOD_GPUS, [_switch(*GPUS, PDI=None), GOOD_SWITCHES[1]], "switch 0: names itself"),
    "a GPU of another machine": (
        [GOOD_GPUS[0], _answer(FOREIGN_GPU, forge.ppcie_fields(SWITCHES))],
        GOOD_SWITCHES,
        "switch 0, switch 1: its links lead elsewhere",
    ),
    "a switch of another machine": (
        GOOD_GPUS,
        [GOOD_SWITCHES[0], _answer(FOREIGN_SWITCH, forge.switch_fields(FOREIGN_SWITCH, GPUS))],
        "GPU 0, GPU 1: its links lead elsewhere",
    ),
    "one GPU fewer than the switches join": (GOOD_GPUS[:1], GOOD_SWITCHES, "switch 0, switch 1: its links lead"),
    "no switch": (GOOD_GPUS, [], "all 2: its links lead elsewhere"),
    "a GPU that cannot be read": (
        [replace(GOOD_GPUS[0], evidence=b"none"), GOOD_GPUS[1]],
        GOOD_SWITCHES,
        "GPU 0: its report cannot be read",
    ),
    "a chain that cannot be read": (
        [replace(GOOD_GPUS[0], certificate=b"none"), GOOD_GPUS[1]],
        GOOD_SWITCHES,
        "GPU 0: its chain cannot be read",
    ),
    "a chip without a certified number": (
        [replace(GOOD_GPUS[0], certificate=pem((GPUS[0].leaf, _NAMELESS, *GPUS[0].parties[2:]))), GOOD_GPUS[1]],
        GOOD_SWITCHES,
        "GPU 0: its certificate does not say its number",
    ),
}


@pytest.mark.parametrize(("gpus", "switches", "reason"), MISLED.values(), ids=MISLED)
def test_links_that_lead_elsewhere_are_told(
    gpus: Sequence[DeviceAnswer], switches: Sequence[DeviceAnswer], reason: str
) -> None:
    check = _topology(gpus, switches)
    assert check.failed
    assert reason in check.detail
