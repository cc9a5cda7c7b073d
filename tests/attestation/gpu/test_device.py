"""One line speaks of all devices, and one that cannot be read fails by itself."""

from __future__ import annotations

import pytest

from attestation.errors import EvidenceError
from attestation.gpu.device import AnyDevice, each, read_gpus, read_switches
from attestation.gpu.evidence import Architecture, DeviceAnswer, Devices
from attestation.types import CheckStatus, Nonce
from tests.attestation.gpu import forge

NONCE = Nonce(bytes(32))
CHIP, SWITCH = forge.Chip.make(), forge.Chip.make("LS_10")
GOOD = forge.answer(CHIP, NONCE, forge.gpu_fields())
NOISE = DeviceAnswer(Architecture.HOPPER, NONCE, b"no report", b"no chain")


def _fail_odd(device: AnyDevice) -> None:
    if int(device.name.split()[1]) % 2:
        raise EvidenceError("is odd")


def test_devices_are_counted_as_the_driver_does() -> None:
    switch = forge.answer(SWITCH, NONCE, forge.switch_fields(SWITCH, [CHIP]))
    devices = Devices((GOOD, GOOD), (switch,))
    assert [device.name for device in read_gpus(devices)] == ["GPU 0", "GPU 1"]
    assert [device.name for device in read_switches(devices)] == ["switch 0"]
    assert read_gpus(devices)[0].report.driver_version == forge.DRIVER
    assert read_switches(devices)[0].report.pdi == SWITCH.pdi
    assert read_switches(devices)[0].chain.chip == "LS10"


def test_what_cannot_be_read_is_a_fault_of_that_device() -> None:
    good, noise = read_gpus(Devices((GOOD, NOISE)))
    assert good.report.spdm.nonce == NONCE
    assert good.chain.pdi == CHIP.pdi
    with pytest.raises(EvidenceError, match="its report cannot be read"):
        _ = noise.report
    with pytest.raises(EvidenceError, match="its chain cannot be read"):
        _ = noise.chain


def test_a_line_passes_when_every_device_does() -> None:
    check = each("gpu x", read_gpus(Devices((GOOD, GOOD))), lambda _: None, "good")
    assert (check.name, check.status, check.detail) == ("gpu x", CheckStatus.PASS, "good, 2 of 2")


def test_a_line_names_the_devices_that_fail() -> None:
    check = each("gpu x", read_gpus(Devices((GOOD,) * 4)), _fail_odd, "good")
    assert (check.status, check.detail) == (CheckStatus.FAIL, "GPU 1, GPU 3: is odd")


def test_a_line_gives_each_reason_once() -> None:
    def fail(device: AnyDevice) -> None:
        raise EvidenceError("is the first" if device.name == "GPU 0" else "is another")

    check = each("gpu x", read_gpus(Devices((GOOD,) * 3)), fail, "good")
    assert check.detail == "GPU 0: is the first; GPU 1, GPU 2: is another"


def test_a_line_says_when_all_fail() -> None:
    def fail(_: AnyDevice) -> None:
        raise EvidenceError("is bad")

    assert each("gpu x", read_gpus(Devices((GOOD,) * 3)), fail, "good").detail == "all 3: is bad"
    assert each("gpu x", read_gpus(Devices((GOOD,))), fail, "good").detail == "GPU 0: is bad"


def test_a_line_about_no_device_does_not_pass() -> None:
    assert each("gpu x", (), lambda _: None, "good").status is CheckStatus.SKIP
