"""Does the sidecar that the chart renders transcribe in a container, without a cluster? `podman kube play` runs it."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import yaml

from tests.e2e.conftest import TRANSCRIPTIONS, form
from tests.e2e.processes import POLICY, RECORDING, SAID, engine, free_port
from tests.helm.kube_play import pod
from tests.places import ROOT
from tests.requirements import need, need_program
from tests.waiting import GIVE_UP_S

pytestmark = pytest.mark.slow

IMAGE = Path(os.environ.get("SOTTOVOCE_TEST_PROXY_IMAGE") or ROOT / "build" / "images" / "sottovoce-proxy.tar")
"""The proxy's image as an archive."""

CONFIGURATION = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
"""
"""Of podman: nothing that a container, in which tests may run themselves, does not let it do."""


@dataclass(frozen=True)
class Podman:
    """podman with a store of its own, which goes with the directory."""

    directory: Path

    async def run(self, *arguments: str, given: str = "") -> tuple[int, str]:
        """Exit code and everything that was printed."""
        process = await asyncio.create_subprocess_exec(
            *("podman", "--root", str(self.directory / "store"), "--runroot", str(self.directory / "run")),
            *("--storage-driver", "vfs", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "CONTAINERS_CONF": str(self.directory / "containers.conf")},
        )
        printed, _ = await process.communicate(given.encode())
        return await process.wait(), printed.decode()

    async def done(self, *arguments: str, given: str = "") -> str:
        code, printed = await self.run(*arguments, given=given)
        assert code == 0, printed
        return printed


@pytest.fixture
async def podman() -> AsyncIterator[Podman]:
    """In a directory with a short name: podman takes no others for what runs."""
    with tempfile.TemporaryDirectory() as name:
        yield await _podman(Path(name))


async def _podman(directory: Path) -> Podman:
    need_program("podman")
    need(IMAGE.exists(), f"the proxy's image at {IMAGE}, which `make image` builds")
    runtime = 'runtime = "runc"\n' if shutil.which("runc") or Path("/usr/sbin/runc").exists() else ""
    (directory / "containers.conf").write_text(CONFIGURATION + runtime)
    podman = Podman(directory)
    code, printed = await podman.run("pod", "create", "--network", "host", "probe")
    if code != 0:  # the machine's kernel, or what it runs in, refuses: nothing that could be installed
        pytest.skip(f"podman cannot make a pod here: {printed.strip().splitlines()[-1]}")
    await podman.done("pod", "rm", "probe")
    return podman


@asynccontextmanager
async def _playing(podman: Podman, given: str) -> AsyncIterator[None]:
    await podman.done("kube", "play", "--network=host", "--log-driver=k8s-file", "-", given=given)
    try:
        yield
    finally:
        await podman.run("kube", "down", "-", given=given)


async def _until_ready(session: aiohttp.ClientSession, url: str, podman: Podman) -> None:
    try:
        async with asyncio.timeout(GIVE_UP_S):
            while True:
                try:
                    async with session.get(url) as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
    except TimeoutError:
        _, printed = await podman.run("logs", "sottovoce-sidecar-sottovoce")
        raise AssertionError(printed) from None


async def test_the_rendered_sidecar_transcribes(podman: Podman, tmp_path: Path) -> None:
    image = (await podman.done("load", "--quiet", "--input", str(IMAGE))).strip().rpartition(" ")[2]
    port, status_port = free_port(), free_port()
    async with engine(tmp_path / "engine") as behind, aiohttp.ClientSession() as session:
        sidecar = {"engines": [behind.url], "port": port, "statusPort": status_port}
        given = yaml.safe_dump_all(pod(image, POLICY.read_text(), sidecar))
        async with _playing(podman, given):
            await _until_ready(session, f"http://127.0.0.1:{status_port}/readyz", podman)
            url = f"http://127.0.0.1:{port}{TRANSCRIPTIONS}"
            async with session.post(url, data=form(RECORDING.read_bytes())) as response:
                assert (response.status, (await response.json())["text"]) == (200, SAID)
