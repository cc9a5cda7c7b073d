from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from attestation.errors import EvidenceError, FetchError, RefusedError
from attestation.gpu.evidence import MAX_GPUS, Architecture, DeviceAnswer, parse_devices
from attestation.guest.devices import AttachedDevices
from attestation.guest.nvml import MultiGpuMode
from attestation.types import Nonce
from core.program.validation import decode_base64
from tests.attestation.guest.fake_nvml import IN_ORDER, FakeNvml
from tests.vectors import vector

NONCE = Nonce(bytes(range(32)))
PPCIE = replace(IN_ORDER, multi_gpu_mode=MultiGpuMode.PPCIE)


@dataclass
class Switches:
    """Answers as `nvattest` does; asked: the nonces so far."""

    answers: Sequence[bytes] = (b"switch 0", b"switch 1")
    asked: list[Nonce] = field(default_factory=list)

    async def __call__(self, nonce: Nonce) -> list[DeviceAnswer]:
        self.asked.append(nonce)
        return [DeviceAnswer(Architecture.LS10, nonce, answer, b"chain") for answer in self.answers]


async def test_all_gpus_answer_over_one_nonce_in_the_drivers_order() -> None:
    devices = parse_devices(await AttachedDevices(FakeNvml(gpus=3)).collect(NONCE))
    assert devices.gpus == tuple(
        DeviceAnswer(Architecture.HOPPER, NONCE, b"report %d over " % gpu + NONCE, b"chain %d" % gpu)
        for gpu in range(3)
    )
    assert devices.switches == ()


@pytest.mark.parametrize(("number", "architecture"), [(9, Architecture.HOPPER), (10, Architecture.BLACKWELL)])
async def test_the_generation_of_a_gpu_is_named(number: int, architecture: Architecture) -> None:
    devices = parse_devices(await AttachedDevices(FakeNvml(generation=number)).collect(NONCE))
    assert {gpu.arch for gpu in devices.gpus} == {architecture}


@pytest.mark.parametrize("number", [8, 11, 13, 0xFFFFFFFF])
async def test_a_generation_without_rules_is_refused(number: int) -> None:
    with pytest.raises(FetchError, match=f"architecture {number}"):
        await AttachedDevices(FakeNvml(generation=number)).collect(NONCE)


# --- the state that no device signs


FAULTY = {
    "gpu environment": replace(IN_ORDER, environment=1),
    "gpu confidential computing": replace(IN_ORDER, cc_feature=0),
    "gpu developer tools": replace(IN_ORDER, dev_tools_mode=1),
    "gpu links": replace(IN_ORDER, multi_gpu_mode=9),
}


@pytest.mark.parametrize("name", FAULTY)
async def test_nothing_is_collected_in_a_state_that_is_not_in_order(name: str) -> None:
    nvml = FakeNvml(settings=FAULTY[name], failing={"report"})
    with pytest.raises(RefusedError, match=name) as refused:
        await AttachedDevices(nvml).collect(NONCE)
    assert [check.name for check in refused.value.checks if check.failed] == [name]


async def test_the_state_is_looked_at_before_every_collection() -> None:
    nvml = FakeNvml()
    devices = AttachedDevices(nvml)
    await devices.collect(NONCE)
    nvml.settings = FAULTY["gpu developer tools"]
    with pytest.raises(RefusedError):
        await devices.collect(NONCE)


# --- switches


async def test_switches_are_asked_over_the_same_nonce_where_the_gpus_rely_on_them() -> None:
    switches = Switches()
    devices = parse_devices(await AttachedDevices(FakeNvml(settings=PPCIE), switches=switches).collect(NONCE))
    assert [switch.evidence for switch in devices.switches] == [b"switch 0", b"switch 1"]
    assert switches.asked == [NONCE]


@pytest.mark.parametrize("mode", [MultiGpuMode.NONE, MultiGpuMode.NVLE])
async def test_switches_are_not_asked_in_another_mode(mode: MultiGpuMode) -> None:
    switches = Switches()
    nvml = FakeNvml(settings=replace(IN_ORDER, multi_gpu_mode=mode))
    assert parse_devices(await AttachedDevices(nvml, switches=switches).collect(NONCE)).switches == ()
    assert switches.asked == []


async def test_without_the_switches_there_is_no_evidence_where_the_gpus_rely_on_them() -> None:
    async def fail(_: Nonce) -> list[DeviceAnswer]:
        raise FetchError("nvattest: no such program")

    with pytest.raises(FetchError, match="no such program"):
        await AttachedDevices(FakeNvml(settings=PPCIE), switches=fail).collect(NONCE)


# --- drivers


@pytest.mark.parametrize("call", ["state", "count", "architecture", "report", "certificates"])
async def test_one_call_that_fails_fails_the_collection(call: str) -> None:
    with pytest.raises(FetchError, match=call):
        await AttachedDevices(FakeNvml(failing={call})).collect(NONCE)


@pytest.mark.parametrize("nvml", [FakeNvml(gpus=MAX_GPUS + 1), FakeNvml(sign=lambda _gpu, _nonce: bytes(8193))])
async def test_what_no_verifier_could_read_is_not_handed_out(nvml: FakeNvml) -> None:
    with pytest.raises(EvidenceError):
        await AttachedDevices(nvml).collect(NONCE)


async def test_gpus_that_are_gone_give_no_evidence() -> None:
    with pytest.raises(EvidenceError, match="no device"):
        await AttachedDevices(FakeNvml(gpus=0)).collect(NONCE)


async def test_a_gpu_that_hangs_is_given_up() -> None:
    gate = threading.Event()
    nvml = FakeNvml(sign=lambda _gpu, _nonce: bytes(gate.wait()))
    try:
        with pytest.raises(FetchError, match="NVML did not answer in time"):
            await AttachedDevices(nvml, deadline_s=0.05).collect(NONCE)
    finally:
        gate.set()


async def test_gpus_are_let_to_work_when_told() -> None:
    nvml = FakeNvml()
    await AttachedDevices(nvml).collect(NONCE)
    assert not nvml.accepting
    await AttachedDevices(nvml).admit()
    assert nvml.accepting


async def test_gpus_that_cannot_be_let_to_work_are_told() -> None:
    with pytest.raises(FetchError, match="accept_work"):
        await AttachedDevices(FakeNvml(failing={"accept_work"})).admit()


async def test_real_evidence_of_eight_gpus_and_four_switches_is_carried_as_it_is() -> None:
    gpus = json.loads(vector("nvidia/nvtrust_ppcie_8xH100_590_12_evidence.json"))
    switches = json.loads(vector("nvidia/nvtrust_ppcie_4xLS10_evidence.json"))
    reports, chains = ([decode_base64(gpu[name]) for gpu in gpus] for name in ("evidence", "certificate"))
    nvml = FakeNvml(sign=lambda gpu, _: reports[gpu], chain=chains.__getitem__, gpus=8, settings=PPCIE)
    asked = Switches([decode_base64(switch["evidence"]) for switch in switches])
    nonce = Nonce(bytes.fromhex(gpus[0]["nonce"]))
    devices = parse_devices(await AttachedDevices(nvml, switches=asked).collect(nonce))
    assert [gpu.evidence for gpu in devices.gpus] == reports
    assert [gpu.certificate for gpu in devices.gpus] == chains
    assert [switch.evidence for switch in devices.switches] == list(asked.answers)
