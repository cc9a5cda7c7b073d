"""The shipped programs on machines with evidence of the real formats, signed by vendors that the tests made up.

The machine under the engine's process is `tests.e2e.forged_hardware`. A policy that names the made-up roots accepts it,
one that believes the real vendors does not. Nobody asks a vendor: the engine has a directory of collateral and the
certificates of its machine, and the proxies have what the engine delivers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from attestation.gpu.evidence import DeviceAnswer
from attestation.policy import INSECURE_ROOTS_WARNING
from attestation.types import Nonce
from core.program.run import ExitCode
from tests.attestation.gpu import forge
from tests.attestation.gpu.forge import DRIVER
from tests.attestation.snp.forge import MEASUREMENT, ForgedAmd
from tests.attestation.tdx.forge import ForgedIntel
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
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

OTHER_NONCE = Nonce(bytes(range(32)))


@dataclass
class Forged:
    """Implements `tests.e2e.forged_hardware.Hardware`. captured: the nonce that the GPUs answer, whatever is asked."""

    vendor: ForgedAmd | ForgedIntel
    gpus: forge.Machine | None = None
    captured: Nonce | None = None

    def describe(self) -> tuple[str, bytes, int]:
        gpus = len(self.gpus.gpus) if self.gpus else 0
        if isinstance(self.vendor, ForgedAmd):
            return "sev_guest", self.vendor.table(self.vendor.report()), gpus
        return "tdx_guest", b"", gpus

    def report(self, inblob: bytes) -> bytes:
        return self.vendor.report(inblob) if isinstance(self.vendor, ForgedAmd) else self.vendor.quote(inblob)

    def gpu_report(self, gpu: int, nonce: Nonce) -> bytes:
        return self._gpus(self.captured or nonce)[gpu].evidence

    def gpu_chain(self, gpu: int) -> bytes:
        return self._gpus(OTHER_NONCE)[gpu].certificate

    def _gpus(self, nonce: Nonce) -> list[DeviceAnswer]:
        assert self.gpus is not None
        return self.gpus.answers(nonce)[0]


@asynccontextmanager
async def running(directory: Path, machine: Forged, policy: Path, *, wait: bool = True) -> AsyncIterator[Program]:
    """The engine's program on a machine, held to a policy. wait: until it is ready."""
    (directory / "tsm").mkdir()
    collateral = beside(directory / "collateral", machine.vendor, machine.gpus)
    evidence = ("--tsm-path", str(directory / "tsm"), "--policy", str(policy), *collateral)
    prefix = (sys.executable, "-m", "tests.e2e.forged_hardware", str(directory / "hardware"))
    with answering(machine, directory / "hardware"):
        async with engine(directory / "engine", evidence=evidence, prefix=prefix, wait=wait) as behind:
            yield behind


@dataclass(frozen=True, slots=True)
class Whole:
    """An SNP machine with a GPU, the engine on it, and a proxy that accepted it."""

    machine: Forged
    policy: Path
    engine: Program
    proxy: Program
    session: aiohttp.ClientSession


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    directory = tmp_path_factory.mktemp("snp")
    machine = Forged(AMD, GPUS)
    policy = written(directory / "policy.toml", SNP_RULES + GPU_RULES, "snp", "gpu_device", "gpu_rim")
    async with (
        running(directory, machine, policy) as behind,
        proxy(directory / "proxy", behind.url, *offline(directory), policy=policy) as front,
        aiohttp.ClientSession() as session,
    ):
        await until_ready(front)
        yield Whole(machine, policy, behind, front, session)


# --- SEV-SNP with a GPU


async def test_a_machine_that_the_policy_names_is_accepted_and_hears(whole: Whole) -> None:
    status, answer = await transcribed(whole.session, whole.proxy)
    assert (status, answer["text"]) == (200, SAID)


async def test_the_proxy_tells_every_check_what_the_machine_is_and_that_the_roots_are_not_the_vendors(
    whole: Whole,
) -> None:
    report = await attestation(whole.session, whole.proxy)
    assert (report["state"], report["ready"], report["insecure"]) == ("attested", True, True)
    assert report["warning"] == INSECURE_ROOTS_WARNING
    lines = {check["name"]: check["status"] for check in report["engine"]["checks"]}
    assert set(lines.values()) == {"pass", "skip"}
    made = ("snp root", "snp signature", "snp revocation", "binding", "gpu certificates", "gpu nonce", "rim revocation")
    assert {lines[name] for name in made} == {"pass"}
    claims = report["engine"]["claims"]
    assert (claims["product"], claims["measurement"]) == ("Milan", MEASUREMENT.hex())
    assert (claims["gpu_count"], claims["gpu_driver_version"]) == ("1", DRIVER)


async def test_a_bundle_verifies_again_without_a_network_and_not_under_the_vendors_roots(
    whole: Whole, tmp_path: Path
) -> None:
    async with whole.session.get(whole.proxy.url + "/attestation/bundle") as response:
        (tmp_path / "bundle").write_bytes(await response.read())
    assert await verified(tmp_path / "bundle", whole.policy) == (ExitCode.ACCEPTED, set())
    code, failing = await verified(tmp_path / "bundle", written(tmp_path / "policy", SNP_RULES + GPU_RULES))
    assert (code, {"snp root", "gpu certificates"} <= failing) == (ExitCode.REFUSED, True)


async def verified(bundle: Path, policy: Path) -> tuple[int, set[str]]:
    """How `sottovoce-attest verify` ends, and the checks that it says failed."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("sottovoce-attest")),
        *("verify", str(bundle), "--policy", str(policy), "--json"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, {check["name"] for check in json.loads(output)["checks"] if check["status"] == "fail"}


async def test_under_the_vendors_roots_the_engine_is_refused_and_gets_nothing(whole: Whole, tmp_path: Path) -> None:
    before = await received_bytes(whole)
    policy = written(tmp_path / "policy", SNP_RULES + GPU_RULES)
    async with proxy(tmp_path / "proxy", whole.engine.url, *offline(tmp_path), policy=policy) as front:
        report = await decided(whole.session, front)
        status, answer = await transcribed(whole.session, front)
        async with whole.session.get(front.status_url + "/readyz") as response:
            assert response.status == 503
    assert (report["state"], report["engine"]) == ("refused", None)
    failing = {check["name"] for check in report["last_attempt"]["checks"] if check["status"] == "fail"}
    assert failing >= {"snp root", "gpu certificates"}
    assert (status, answer["error"]["code"]) == (502, "attestation_refused")
    assert await received_bytes(whole) == before


async def decided(session: aiohttp.ClientSession, front: Program) -> dict[str, Any]:
    """What a proxy says once it has asked its engine."""
    report: dict[str, Any] = {}

    async def has_asked() -> bool:
        with suppress(aiohttp.ClientError):
            report.update(await attestation(session, front))
        return bool(report.get("last_attempt"))

    await until(has_asked)
    return report


async def received_bytes(whole: Whole) -> str:
    async with whole.session.get(whole.engine.status_url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return next(line for line in lines if line.startswith("sottovoce_engine_received_bytes_total"))


async def test_a_proxy_that_was_told_to_ends_with_10_when_the_engine_is_refused(whole: Whole, tmp_path: Path) -> None:
    policy = written(tmp_path / "policy", SNP_RULES + GPU_RULES)
    options = (*offline(tmp_path), "--exit-if-refused")
    async with proxy(tmp_path / "proxy", whole.engine.url, *options, policy=policy) as front:
        assert await front.process.wait() == ExitCode.REFUSED


async def test_a_gpu_of_another_capture_is_refused_by_its_nonce_alone(whole: Whole, tmp_path: Path) -> None:
    whole.machine.captured = OTHER_NONCE
    try:
        assert set(await refusal(tmp_path, whole.engine, whole.policy)) == {"gpu nonce"}
    finally:
        whole.machine.captured = None


async def test_a_gpu_that_the_policy_does_not_speak_of_is_refused(whole: Whole, tmp_path: Path) -> None:
    assert set(await refusal(tmp_path, whole.engine, written(tmp_path / "policy", SNP_RULES, "snp"))) == {"devices"}


# --- vendors who cannot be asked


class Vendors:
    """The way to every vendor, as `HTTPS_PROXY` names it. It takes each question and never answers."""

    def __init__(self) -> None:
        self.asked = 0

    @asynccontextmanager
    async def hanging(self) -> AsyncIterator[dict[str, str]]:
        """The variables of a program that asks them so."""
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            yield {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "NO_PROXY": "127.0.0.1"}

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        await reader.read()
        writer.close()


def own(directory: Path) -> tuple[str, ...]:
    """Of a proxy that asks vendors, and has had nothing of them yet."""
    return "--collateral-dir", str(directory / "collateral"), "--state-dir", str(directory / "state")


async def test_vendors_who_hang_are_not_needed_for_an_engine_that_delivers_what_they_say(
    whole: Whole, tmp_path: Path
) -> None:
    async with (
        Vendors().hanging() as variables,
        proxy(tmp_path / "log", whole.engine.url, *own(tmp_path), policy=whole.policy, variables=variables) as front,
    ):
        await until_ready(front)
        status, answer = await transcribed(whole.session, front)
    assert (status, answer["text"]) == (200, SAID)


async def test_where_a_policy_asks_a_vendor_who_hangs_apps_get_one_clear_error_and_the_engine_nothing(
    whole: Whole, tmp_path: Path
) -> None:
    before = await received_bytes(whole)
    rules = SNP_RULES + GPU_RULES + "[gpu.nras]\n"  # NVIDIA's own verdict, which no engine delivers
    policy, vendors = written(tmp_path / "policy", rules, "snp", "gpu_device", "gpu_rim"), Vendors()
    async with (
        vendors.hanging() as variables,
        proxy(tmp_path / "log", whole.engine.url, *own(tmp_path), policy=policy, variables=variables) as front,
    ):
        report = await decided(whole.session, front)
        status, answer = await transcribed(whole.session, front)
    assert vendors.asked
    assert report["state"] == "refused"
    failing = {check["name"] for check in report["last_attempt"]["checks"] if check["status"] == "fail"}
    assert failing == {"nras gpu answer"}
    assert (status, answer["error"]["code"]) == (502, "attestation_refused")
    assert await received_bytes(whole) == before


# --- TDX


async def test_a_tdx_machine_is_accepted_by_its_policy_and_refused_without_a_gpu_or_under_other_rules(
    tmp_path: Path,
) -> None:
    policy = written(tmp_path / "policy", TDX_RULES, "tdx")
    with_gpu = written(tmp_path / "gpu", TDX_RULES + GPU_RULES, "tdx")
    vendors = written(tmp_path / "vendors", TDX_RULES)
    snp = written(tmp_path / "snp", SNP_RULES)
    async with running(tmp_path, Forged(INTEL), policy) as behind, aiohttp.ClientSession() as session:
        async with proxy(tmp_path / "proxy", behind.url, *offline(tmp_path), policy=policy) as front:
            await until_ready(front)
            status, answer = await transcribed(session, front)
            lines = (await attestation(session, front))["engine"]["checks"]
        assert (status, answer["text"]) == (200, SAID)
        assert {check["status"] for check in lines if check["name"] in ("tdx root", "tdx authenticity")} == {"pass"}
        assert set(await refusal(tmp_path, behind, with_gpu)) == {"devices"}
        assert "tdx root" in await refusal(tmp_path, behind, vendors)
        assert set(await refusal(tmp_path, behind, snp)) == {"evidence kind"}


# --- engines that do not meet their own policy


OTHER_IMAGE = SNP_RULES.replace(MEASUREMENT.hex(), "ab" * 48)


@pytest.mark.parametrize(
    ("machine", "rules", "roots", "failing"),
    [
        pytest.param(
            Forged(AMD),
            OTHER_IMAGE + "[statement]\nrequire_api_keys = true\n",
            ("snp",),
            ["snp measurement", "api keys"],
            id="another image, and no API keys",
        ),
        pytest.param(Forged(AMD), SNP_RULES + GPU_RULES, ("snp",), ["devices"], id="no GPU"),
        pytest.param(Forged(INTEL), TDX_RULES, (), ["tdx root"], id="the vendors' roots"),
    ],
)
async def test_an_engine_that_its_own_policy_refuses_ends_with_10_and_every_reason(
    tmp_path: Path, machine: Forged, rules: str, roots: tuple[str, ...], failing: list[str]
) -> None:
    policy = written(tmp_path / "policy", rules, *roots)
    async with running(tmp_path, machine, policy, wait=False) as behind:
        assert await behind.process.wait() == ExitCode.REFUSED
    told = [json.loads(line) for line in behind.printed().splitlines()]
    assert [entry["check"] for entry in told if entry["event"] == "self_check_failed"] == failing
    assert told[-1]["event"] == "not_serving"
