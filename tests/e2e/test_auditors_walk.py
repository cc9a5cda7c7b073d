"""An auditor's walk: from the chart's values to initdata, to a policy, to an engine that it accepts.

The commands are those of docs/kubernetes.md as they stand: `sottovoce-attest` is ours, Helm is Helm as a library,
and for genpolicy stands tests/helm/genpolicy.py. The engine is the shipped program with the arguments of the pod that
was rendered, in a guest of Confidential Containers that bears what the pod gives it. Whatever of the pod is changed,
its image, an argument, the initdata by one byte, a parameter of the kernel or the number of processors, the policy
refuses, and the auditor is told without any engine.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio
import yaml

from attestation.reference.initdata import parse_annotation, parse_initdata
from attestation.reference.launch_digest import BootFiles, launch_digests
from core.program.run import ExitCode
from tests.attestation.guest import fake_coco
from tests.attestation.guest.fake_coco import FakeCoco, chain
from tests.attestation.reference.forge import firmware, kernel
from tests.e2e.forged import AMD, beside, offline, refusal, transcribed
from tests.e2e.processes import CHECKPOINT, SAID, Program, program, proxy, until_ready
from tests.helm.chart import Object, merged
from tests.helm.generated import GUIDE
from tests.places import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("logging_as_it_was"),
]

CHOSEN, INSTALLED, WRITTEN, AUDITED = re.findall(
    r"```sh\n(.*?)```", GUIDE.read_text().partition("### From values to a policy")[2].partition("\n### ")[0], re.DOTALL
)
"""The commands of the guide: what was chosen, what the operator does, who writes the policy, and who audits it."""

RENDERED, WRITTEN = WRITTEN.split("sottovoce-attest", 1)
AGAIN, AUDITED = AUDITED.split("sottovoce-attest", 1)
"""Rendered, and then asked: in between a machine starts that the tests make up."""

VALUES: Final[Object] = {
    "engine": {
        "models": [{"name": "nano", "path": "/models/nano", "aliases": ["whisper-1"]}],
        "settings": {"offline_collateral": True},
    }
}
"""Beside the preset: a model that is at hand, and what the tests' vendor does not publish."""

ROOTS = f'\n[insecure_roots]\nsnp = ["{next(iter(AMD.roots.snp))}"]\n'
"""What alone is not as in the field: who vouches for the processor is made up."""


@dataclass(frozen=True)
class Desk:
    """Somebody's directory, in which the guide's commands run. chosen: other words in what was chosen."""

    directory: Path
    values: Object = field(default_factory=dict)
    chosen: tuple[str, str] = ("", "")

    async def run(self, commands: str, *, code: int = 0) -> str:
        """What they print, beside this process's servers. The values are the guide's and, in one more file, ours."""
        (self.directory / "values.yaml").write_text(yaml.safe_dump(merged(VALUES, self.values)))
        preamble = CHOSEN.replace(*self.chosen) + 'values="$values -f values.yaml"\n'
        told = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-euo", "pipefail", "-c", preamble + commands],
            cwd=self.directory,
            env={"PATH": f"{self.directory / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "COLUMNS": "400"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert told.returncode == code, told.stdout
        return told.stdout

    def pod(self) -> Any:
        """The engine's pod as it is installed."""
        found = yaml.safe_load_all((self.directory / "pod.yaml").read_text())
        (workload,) = (each for each in found if each["kind"] == "StatefulSet")
        return workload["spec"]["template"]

    def publish(self, other: Desk) -> None:
        """What an operator and a policy's author publish."""
        for name in ("initdata.b64", "policy.toml"):
            (other.directory / name).write_bytes((self.directory / name).read_bytes())


def _desk(directory: Path, **changed: Any) -> Desk:
    """A directory with the chart, the node's files, and the programs that the guide names."""
    (directory / "bin").mkdir(parents=True)
    (directory / "helm").symlink_to(ROOT / "helm")
    for name, module in {"helm": "tests.helm.helm_command", "genpolicy": "tests.helm.genpolicy"}.items():
        script = directory / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        script.chmod(0o755)
    (directory / "bin" / "sottovoce-attest").symlink_to(Path(sys.executable).with_name("sottovoce-attest"))
    (directory / "AMDSEV.fd").write_bytes(firmware())
    (directory / "vmlinuz").write_bytes(kernel())
    return Desk(directory, **changed)


@dataclass(frozen=True)
class Guest:
    """What the hardware reports of the machine that a pod is, with its own reading of the pod."""

    measurement: bytes
    host_data: bytes

    @classmethod
    def boot(cls, pod: Any, directory: Path) -> Guest:
        """Kata adds its own parameters to the pod's, and one processor. /proc/cmdline is written down."""
        annotations = {
            name.rpartition(".")[2]: value for name, value in pod["metadata"]["annotations"].items()
        }  # io.katacontainers.config.hypervisor.*
        command_line = f"tsc=reliable {annotations['kernel_params']}"
        (directory / "cmdline").write_text(command_line + "\n")
        (container,) = pod["spec"]["containers"]
        files = BootFiles(directory / "AMDSEV.fd", directory / "vmlinuz", None, command_line)
        (launch,) = launch_digests(files, vcpus=[int(container["resources"]["limits"]["cpu"]) + 1])
        return cls(launch.digest, parse_annotation(annotations["cc_init_data"]).host_data)

    def report(self, report_data: bytes = bytes(64)) -> bytes:
        return AMD.report(report_data, measurement=self.measurement, host_data=self.host_data)


async def _installed(desk: Desk) -> Guest:
    """What the operator does, and what starts of it."""
    await desk.run(INSTALLED + RENDERED)
    return Guest.boot(desk.pod(), desk.directory)


async def _policy(desk: Desk, guest: Guest) -> Path:
    """The policy, written as the guide says; beside it, who vouches."""
    (desk.directory / "measured.json").write_bytes(guest.report())
    told = await desk.run("sottovoce-attest" + WRITTEN)
    assert "OPEN" not in told, told
    path = desk.directory / "policy.toml"
    path.write_text(path.read_text() + ROOTS)
    return path


@asynccontextmanager
async def _running(desk: Desk, guest: Guest, policy: Path) -> AsyncIterator[Program]:
    """The shipped program with the pod's arguments, in the guest."""
    coco = FakeCoco(
        report=guest.report,
        certificates=chain(vcek=AMD.vek(guest.report()), ask=AMD.ask().der(), ark=AMD.ark().der()),
    )
    _, collateral, _ = beside(desk.directory / "collateral", AMD, None)
    places = {
        "/models/nano": str(CHECKPOINT),
        "/etc/sottovoce/policy/policy.toml": str(policy),
        "/var/lib/sottovoce/collateral": collateral,
    }
    (container,) = desk.pod()["spec"]["containers"]
    arguments = [each for each in container["args"] if not re.match("--(status-)?listen=", each)]
    for inside, here in places.items():
        arguments = [argument.replace(inside, here) for argument in arguments]
    command = [*container["command"], *arguments]
    async with fake_coco.serving(coco):
        log = desk.directory / "engine"
        async with program(command[0], [*command[1:], f"--coco-url={coco.url}"], log) as running:
            await until_ready(running)
            yield running


@dataclass(frozen=True)
class Deployment:
    """What was published, and the engine that runs from it."""

    desk: Desk
    policy: Path
    engine: Program


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    desk = _desk(tmp_path_factory.mktemp("walk") / "published")
    guest = await _installed(desk)
    policy = await _policy(desk, guest)
    async with _running(desk, guest, policy) as behind:
        yield Deployment(desk, policy, behind)


async def test_the_policy_of_the_guide_accepts_the_engine_of_the_chart(deployment: Deployment, tmp_path: Path) -> None:
    async with (
        proxy(tmp_path / "proxy", deployment.engine.url, *offline(tmp_path), policy=deployment.policy) as front,
        aiohttp.ClientSession() as session,
    ):
        await until_ready(front)
        status, answer = await transcribed(session, front)
    assert (status, answer["text"]) == (200, SAID)


CHANGES: Final[dict[str, tuple[dict[str, Any], str, str]]] = {
    "another image": ({"chosen": ("sha256:0", "sha256:1")}, "snp host data", "OPEN: registry.example"),
    "another argument": (
        {"values": {"engine": {"settings": {"max_requests": 7}}}},
        "snp host data",
        "OPEN: --max-requests=7 is not an argument",
    ),
    "another parameter of the kernel": (
        {"values": {"engine": {"confidential": {"kernelParams": "agent.guest_components_rest_api=all debug"}}}},
        "snp measurement",
        "DIFFERS: snp.measurements",
    ),
    "another number of processors": (
        {
            "values": {"engine": {"resources": {"requests": {"cpu": "4"}, "limits": {"cpu": "4"}}}},
            "chosen": ("vcpus=9", "vcpus=5"),
        },
        "snp measurement",
        "DIFFERS: snp.measurements",
    ),
}
"""(what is changed, the check that refuses it, what an auditor is told at least)."""


@contextmanager
def _one_more_byte(desk: Desk) -> Iterator[None]:
    """Initdata that says the same, in other bytes."""
    path = desk.directory / "initdata.b64"
    annotation = path.read_text()
    toml = parse_annotation(annotation).toml + b"\n"
    path.write_text(parse_initdata(toml).annotate())
    yield
    path.write_text(annotation)


@pytest.mark.parametrize(("change", "check"), [each[:2] for each in CHANGES.values()], ids=CHANGES.keys())
async def test_whatever_is_changed_the_engine_is_refused(
    deployment: Deployment, tmp_path: Path, change: dict[str, Any], check: str
) -> None:
    """It is an engine that its own operator's policy accepts."""
    desk = _desk(tmp_path / "changed", **change)
    guest = await _installed(desk)
    async with _running(desk, guest, await _policy(desk, guest)) as behind:
        refused = set(await refusal(tmp_path, behind, deployment.policy))
    assert check in refused
    assert refused <= {"snp host data", "snp measurement"}


async def test_one_more_byte_of_initdata_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    desk = _desk(tmp_path / "changed")
    await desk.run(INSTALLED)
    with _one_more_byte(desk):
        await desk.run(RENDERED)
        guest = Guest.boot(desk.pod(), desk.directory)
        async with _running(desk, guest, await _policy(desk, guest)) as behind:
            assert set(await refusal(tmp_path, behind, deployment.policy)) == {"snp host data"}


async def _audit(deployment: Deployment, desk: Desk, *, code: int) -> str:
    """What an auditor is told, who has the published files and the values at this desk."""
    deployment.desk.publish(desk)
    await desk.run(AGAIN + "cp audited.yaml pod.yaml")
    Guest.boot(desk.pod(), desk.directory)
    vendor = deployment.desk.directory / "collateral"
    asked = f"{deployment.engine.url} --offline-collateral --collateral-dir {vendor} --state-dir state"
    return await desk.run("sottovoce-attest" + AUDITED.replace("https://engine.example", asked), code=code)


async def test_an_auditor_comes_to_the_same_and_the_engine_too(deployment: Deployment, tmp_path: Path) -> None:
    told = await _audit(deployment, _desk(tmp_path / "auditor"), code=0)
    assert "OPEN" not in told
    assert "the policy says what these files give" in told


@pytest.mark.parametrize(("change", "sentence"), [each[::2] for each in CHANGES.values()], ids=CHANGES.keys())
async def test_an_auditor_is_told_of_the_change(
    deployment: Deployment, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    desk = _desk(tmp_path / "auditor", **change)
    differs = sentence.startswith("DIFFERS")
    assert sentence in await _audit(deployment, desk, code=ExitCode.REFUSED if differs else 0)


async def test_an_auditor_is_told_of_other_initdata(deployment: Deployment, tmp_path: Path) -> None:
    with _one_more_byte(deployment.desk):
        told = await _audit(deployment, _desk(tmp_path / "auditor"), code=ExitCode.REFUSED)
    assert "DIFFERS: snp.host_data" in told
