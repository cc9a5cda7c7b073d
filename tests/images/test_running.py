"""Real speech through both images, as restricted as a cluster runs them, and with no network but their own loopback."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.images.archives import IMAGES, NAMES, find, unpack
from tests.places import ROOT
from tests.requirements import need_program, need_weights
from tests.waiting import until

RESTRICTED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")

# For root in a container or a machine without systemd too.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
"""

CONFINEMENT = """
import json, pathlib
told = [
    dict(line.split(":\\t", 1) for line in path.read_text().splitlines() if ":\\t" in line)
    for path in pathlib.Path("/proc").glob("[0-9]*/status")
]
wanted = ("Name", "Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
print(json.dumps([{key: one[key] for key in wanted} for one in told]))
"""

INSIDE = """
import importlib, json, pathlib, ssl, sysconfig
faults = []
for path in pathlib.Path(sysconfig.get_path("stdlib"), "lib-dynload").glob("*.so"):
    try:
        importlib.import_module(path.name.partition(".")[0])
    except ImportError as exc:
        faults.append(str(exc))
try:
    pathlib.Path("/opt/sottovoce/planted").touch()
except OSError as exc:
    refused = exc.strerror
roots = ssl.create_default_context().cert_store_stats()["x509_ca"]
print(json.dumps({"faults": faults, "roots": roots, "refused": refused}))
"""

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@dataclass(frozen=True, slots=True)
class Podman:
    """Runs images of the store in which `make image` built them."""

    configuration: Path

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        driver = "vfs" if (IMAGES / "store" / "vfs-images").exists() else "overlay"
        places = (f"--root={IMAGES / 'store'}", f"--runroot={IMAGES / 'run'}", f"--storage-driver={driver}")
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CONTAINERS_CONF": str(self.configuration)}
        return subprocess.run(
            ["podman", *places, *arguments], capture_output=True, text=True, check=False, env=environment
        )

    def inside(self, container: str, *command: str) -> str:
        ended = self("exec", container, *command)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout


def image(name: str) -> str:
    version = unpack(find(name)).config["config"]["Labels"]["org.opencontainers.image.version"]
    return f"localhost/sottovoce-{name}:{version}"


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    """podman; where the kernel lets it start nothing, the tests are skipped."""
    need_program("podman")
    need_program("runc")
    configuration = tmp_path_factory.mktemp("podman") / "containers.conf"
    configuration.write_text(CONFIGURATION)
    found = Podman(configuration)
    started = found("run", "--rm", "--network=none", *RESTRICTED, image("proxy"), "--version")
    if started.returncode:
        pytest.skip(f"podman cannot start a container here: {started.stderr.strip().splitlines()[-1]}")
    return found


@dataclass(frozen=True, slots=True)
class Pair:
    """A proxy and an engine that run in containers, by the names of these."""

    podman: Podman
    proxy: str
    engine: str

    def is_ready(self) -> bool:
        ended = [name for name in (self.engine, self.proxy) if not self._runs(name)]
        assert ended == [], "".join(self.podman("logs", name).stderr for name in ended)
        return self.podman("exec", self.proxy, "sottovoce", "status").returncode == 0

    def _runs(self, name: str) -> bool:
        return self.podman("inspect", "--format={{.State.Running}}", name).stdout.strip() == "true"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(podman: Podman) -> AsyncIterator[Pair]:
    weights = need_weights("whisper-base").resolve()
    running = Pair(podman, *(f"sottovoce-{name}-{uuid.uuid4().hex[:8]}" for name in NAMES))
    engine = (
        f"--name={running.engine}",
        "--network=none",
        f"--volume={weights}:/models/whisper-base:ro",
        image("engine"),
    )
    serve = (
        "serve",
        "--insecure-evidence",
        "--model=whisper-base=/models/whisper-base",
        "--alias=whisper-1=whisper-base",
    )
    proxy = (
        f"--name={running.proxy}",
        f"--network=container:{running.engine}",
        f"--volume={ROOT / 'examples'}:/examples:ro",
        image("proxy"),
    )
    relay = ("proxy", "--engine=http://127.0.0.1:8800", "--policy=/examples/insecure-policy.toml")
    try:
        for arguments in ((*engine, *serve), (*proxy, *relay)):
            started = podman("run", "--detach", *RESTRICTED, *arguments)
            assert started.returncode == 0, started.stderr
        await until(running.is_ready)
        yield running
    finally:
        for name in (running.proxy, running.engine):
            podman("rm", "--force", "--time=0", name)


async def test_real_speech_is_transcribed(pair: Pair) -> None:
    text = pair.podman.inside(pair.proxy, "sottovoce", "transcribe", "/examples/kennedy.flac")
    assert "ask not what your country can do for you, ask what you can do for your country" in text


async def test_no_process_is_privileged_or_can_become_so(pair: Pair) -> None:
    for container in (pair.proxy, pair.engine):
        told = json.loads(pair.podman.inside(container, "/opt/sottovoce/bin/python3", "-I", "-c", CONFINEMENT))
        assert len(told) > 1
        for process in told:
            assert set(process["Uid"].split()) == {"65532"}
            assert int(process["CapEff"], 16) == int(process["CapBnd"], 16) == 0
            assert (process["NoNewPrivs"], process["Seccomp"]) == ("1", "2")


async def test_libraries_and_roots_are_whole_and_nothing_can_be_planted(pair: Pair) -> None:
    for container in (pair.proxy, pair.engine):
        told = json.loads(pair.podman.inside(container, "/opt/sottovoce/bin/python3", "-I", "-c", INSIDE))
        assert told["faults"] == []
        assert told["roots"] > 100
        assert told["refused"] == "Read-only file system"


async def test_evidence_is_judged_in_the_image(pair: Pair) -> None:
    assert "PASSED" in pair.podman.inside(pair.proxy, "sottovoce-attest", "selftest")


async def test_both_end_in_good_order_when_told_to(pair: Pair) -> None:
    for container in (pair.proxy, pair.engine):
        assert pair.podman("stop", "--time=60", container).returncode == 0
        assert pair.podman("inspect", "--format={{.State.ExitCode}}", container).stdout.strip() == "0"
