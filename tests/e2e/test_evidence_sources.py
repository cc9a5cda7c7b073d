"""The shipped engine in a container, with evidence from Confidential Containers' API or dstack's agent, and a proxy.

Nothing of the programs is replaced, but for NVML where there is a GPU. Behind the API and the socket are the protocols
of those agents, byte for byte, and evidence of the real formats, under roots that only the policies here believe.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from attestation.gpu.evidence import DeviceAnswer
from attestation.types import Nonce
from core.program.run import ExitCode
from tests.attestation.guest import fake_coco, fake_dstack
from tests.attestation.guest.fake_coco import FakeCoco, chain
from tests.attestation.guest.fake_dstack import FakeDstack, scale
from tests.e2e.forged import (
    AMD,
    GPU_RULES,
    GPUS,
    INTEL,
    SNP_RULES,
    TDX_RULES,
    attestation,
    beside,
    offline,
    refusal,
    transcribed,
    written,
)
from tests.e2e.forged_hardware import answering
from tests.e2e.processes import SAID, Program, engine, proxy, until_ready

pytestmark = pytest.mark.slow

HOST_DATA = bytes(range(32))
OTHER_NONCE = Nonce(bytes(32))
POD_RULES = SNP_RULES.replace("[snp]", f'[snp]\nhost_data = ["{HOST_DATA.hex()}"]')
"""For a pod whose initdata has that digest."""


def pod(**changes: Any) -> FakeCoco:
    """The agent of an SNP guest that accepts that policy."""
    report = AMD.report()
    certificates = chain(vcek=AMD.vek(report), ask=AMD.ask().der(), ark=AMD.ark().der())
    honest: dict[str, Any] = {
        "report": lambda data: AMD.report(data, host_data=HOST_DATA),
        "certificates": certificates,
    }
    return FakeCoco(**honest | changes)


def with_gpu(nonce: Nonce | None = None, **changes: Any) -> FakeCoco:
    """The same with a GPU, which answers `nonce` whatever is asked."""

    def devices(asked: Nonce) -> Sequence[DeviceAnswer]:
        return GPUS.answers(nonce or asked)[0]

    return pod(**{"additional_tees": ("nvidia",), "devices": devices} | changes)


@asynccontextmanager
async def in_a_pod(
    directory: Path, coco: FakeCoco, policy: Path, *options: str, gpu: bool = False, wait: bool = True
) -> AsyncIterator[Program]:
    """The engine's program where that API is served. gpu: whether NVML is in the container, and counts one."""
    async with fake_coco.serving(coco):
        collateral = beside(directory / "collateral", AMD if coco.tee != "tdx" else INTEL, GPUS if gpu else None)
        evidence = ("--coco-url", coco.url, "--policy", str(policy), *collateral, *options)
        if not gpu:
            async with engine(directory / "engine", evidence=evidence, wait=wait) as behind:
                yield behind
            return
        prefix = (sys.executable, "-m", "tests.e2e.forged_hardware", str(directory / "hardware"))
        with answering(_Nvml(), directory / "hardware"):
            evidence += ("--evidence-from", "coco")
            async with engine(directory / "engine", evidence=evidence, prefix=prefix, wait=wait) as behind:
                yield behind


class _Nvml:
    """Implements `tests.e2e.forged_hardware.Hardware`: a GPU of which NVML tells the state, and gives no evidence."""

    def describe(self) -> tuple[str, bytes, int]:
        return "nobody", b"", 1

    def report(self, inblob: bytes) -> bytes:
        raise NotImplementedError

    def gpu_report(self, gpu: int, nonce: Nonce) -> bytes:
        raise NotImplementedError

    def gpu_chain(self, gpu: int) -> bytes:
        raise NotImplementedError


async def said_by(front: Program) -> tuple[str, dict[str, str]]:
    """What is heard through a proxy, and what it says of each check."""
    await until_ready(front)
    async with aiohttp.ClientSession() as session:
        status, answer = await transcribed(session, front)
        report = await attestation(session, front)
    assert status == 200, answer
    return answer["text"], {check["name"]: check["detail"] for check in report["engine"]["checks"]}


# --- accepted


async def test_a_pod_of_confidential_containers_is_found_accepted_and_hears(tmp_path: Path) -> None:
    policy = written(tmp_path / "policy", POD_RULES, "snp")
    async with in_a_pod(tmp_path, pod(), policy) as behind:
        async with proxy(tmp_path / "proxy", behind.url, *offline(tmp_path), policy=policy) as front:
            said, checks = await said_by(front)
        assert said == SAID
        assert checks["evidence source"] == "handed out by coco"
        assert HOST_DATA.hex() in checks["snp host data"]
        other = POD_RULES.replace(HOST_DATA.hex(), "ab" * 32)
        assert set(await refusal(tmp_path, behind, written(tmp_path / "other", other, "snp"))) == {"snp host data"}
        only_kernel = POD_RULES + '[statement]\nevidence_from = ["configfs"]\n'
        assert await refusal(tmp_path, behind, written(tmp_path / "kernel", only_kernel, "snp")) == {
            "evidence source": "handed out by coco; the policy accepts configfs"
        }


async def test_a_pod_with_a_gpu_is_accepted(tmp_path: Path) -> None:
    policy = written(tmp_path / "policy", POD_RULES + GPU_RULES, "snp", "gpu_device", "gpu_rim")
    async with (
        in_a_pod(tmp_path, with_gpu(), policy, gpu=True) as behind,
        proxy(tmp_path / "proxy", behind.url, *offline(tmp_path), policy=policy) as front,
    ):
        said, checks = await said_by(front)
    assert said == SAID
    assert {"gpu nonce", "gpu certificates", "gpu measurements"} <= checks.keys()


async def test_a_tdx_pod_is_accepted(tmp_path: Path) -> None:
    policy = written(tmp_path / "policy", TDX_RULES, "tdx")
    async with (
        in_a_pod(tmp_path, FakeCoco(tee="tdx", report=INTEL.quote), policy) as behind,
        proxy(tmp_path / "proxy", behind.url, *offline(tmp_path), policy=policy) as front,
    ):
        assert (await said_by(front))[0] == SAID


@pytest.mark.parametrize(
    ("agent", "rules", "root"),
    [
        pytest.param(FakeDstack(quote=INTEL.quote), TDX_RULES, "tdx", id="tdx"),
        pytest.param(FakeDstack(attest=lambda data: scale(AMD.report(data))), SNP_RULES, "snp", id="snp"),
    ],
)
async def test_a_container_of_dstack_is_accepted(tmp_path: Path, agent: FakeDstack, rules: str, root: str) -> None:
    policy = written(tmp_path / "policy", rules, root)
    vendor = INTEL if root == "tdx" else AMD
    collateral = beside(tmp_path / "collateral", vendor, None, everything=True)
    async with fake_dstack.serving(agent, tmp_path / "dstack.sock") as path:
        evidence = ("--evidence-from", "dstack", "--dstack-socket", str(path), "--policy", str(policy), *collateral)
        async with (
            engine(tmp_path / "engine", evidence=evidence) as behind,
            proxy(tmp_path / "proxy", behind.url, *offline(tmp_path), policy=policy) as front,
        ):
            said, checks = await said_by(front)
    assert said == SAID
    assert checks["evidence source"] == "handed out by dstack"


# --- refused, each lie by its own check


def lying(**fields: int | bytes) -> Callable[[bytes], bytes]:
    return lambda data: AMD.report(data, **{"host_data": HOST_DATA} | fields)


LIES: dict[str, tuple[FakeCoco, ExitCode, str]] = {
    "another image": (pod(report=lying(measurement=bytes(48))), ExitCode.REFUSED, "snp measurement"),
    "another initdata": (pod(report=lying(host_data=bytes(32))), ExitCode.REFUSED, "snp host data"),
    "a guest that may be debugged": (pod(report=lying(policy=0x20000 | 1 << 19)), ExitCode.REFUSED, "snp guest policy"),
    "certificates of another chip": (
        pod(
            certificates=chain(
                vcek=AMD.vek(AMD.report(chip_id=bytes(range(64)))), ask=AMD.ask().der(), ark=AMD.ark().der()
            )
        ),
        ExitCode.REFUSED,
        "snp vek identity",
    ),
    "a signature of somebody else": (
        pod(report=lambda data: AMD.report(data, host_data=HOST_DATA)[:0x2A0] + AMD.report()[0x2A0:]),
        ExitCode.REFUSED,
        "snp signature",
    ),
    "a report over other data": (
        pod(report=lambda _: AMD.report(bytes(64), host_data=HOST_DATA)),
        ExitCode.REFUSED,
        "the report carries other report_data than was asked for",
    ),
    "evidence that an agent made up": (pod(tee="sample"), ExitCode.INTERNAL, "`sample` evidence"),
    "an API that gives no evidence": (
        pod(tee=None, feature="resource"),
        ExitCode.INTERNAL,
        "it takes agent.guest_components_rest_api=all",
    ),
}


@pytest.mark.parametrize(("coco", "code", "told"), LIES.values(), ids=LIES.keys())
async def test_a_lie_of_the_api_keeps_the_engine_from_serving(
    tmp_path: Path, coco: FakeCoco, code: ExitCode, told: str
) -> None:
    policy = written(tmp_path / "policy", POD_RULES, "snp")
    async with in_a_pod(tmp_path, coco, policy, wait=False) as behind:
        assert await behind.process.wait() == code
    entries = [json.loads(line) for line in behind.printed().splitlines()]
    assert entries[-1]["event"] == "not_serving"
    failed = [entry["check"] for entry in entries if entry["event"] == "self_check_failed"]
    assert failed == [told] or (failed == [] and told in entries[-1]["detail"])


GPU_LIES: dict[str, tuple[FakeCoco, ExitCode, str]] = {
    "a GPU of another capture": (with_gpu(OTHER_NONCE), ExitCode.REFUSED, "devices answered another nonce"),
    "a GPU too many": (
        with_gpu(devices=lambda nonce: GPUS.answers(nonce)[0] * 2),
        ExitCode.REFUSED,
        "evidence of 2 GPUs, and NVML counts 1",
    ),
}


@pytest.mark.parametrize(("coco", "code", "told"), GPU_LIES.values(), ids=GPU_LIES.keys())
async def test_a_lie_about_gpus_keeps_the_engine_from_serving(
    tmp_path: Path, coco: FakeCoco, code: ExitCode, told: str
) -> None:
    policy = written(tmp_path / "policy", POD_RULES + GPU_RULES, "snp", "gpu_device", "gpu_rim")
    async with in_a_pod(tmp_path, coco, policy, gpu=True, wait=False) as behind:
        assert await behind.process.wait() == code
    assert told in json.loads(behind.printed().splitlines()[-1])["detail"]


async def test_a_stock_pod_says_in_one_sentence_what_is_missing(tmp_path: Path) -> None:
    policy = written(tmp_path / "policy", POD_RULES, "snp")
    places = ("--tsm-path", str(tmp_path / "tsm"), "--dstack-socket", str(tmp_path / "dstack.sock"))
    evidence = (*places, "--coco-url", "http://127.0.0.1:1", "--policy", str(policy))
    async with engine(tmp_path / "engine", evidence=evidence, wait=False) as behind:
        assert await behind.process.wait() == ExitCode.INTERNAL
    told = json.loads(behind.printed().splitlines()[-1])["detail"]
    for name in ("/sys/kernel/config", "agent.guest_components_rest_api=all", f"{tmp_path}/dstack.sock"):
        assert name in told
