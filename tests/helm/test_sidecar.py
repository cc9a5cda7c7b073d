"""Does the sidecar do for an application's pod what it should, and do its arguments start a proxy?"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import helm_python as helm
import kubernetes_validate
import pytest

from tests.e2e.processes import POLICY, free_port
from tests.helm.chart import Object, pods, the
from tests.helm.kube_play import pod
from tests.helm.sidecar import application
from tests.places import ROOT


def _pod(sidecar: Object | None = None) -> Any:
    ((_, spec),) = pods(application(sidecar))
    return spec


def test_the_sidecar_starts_before_the_application_and_ends_after_it() -> None:
    (sidecar,) = _pod()["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert [each["name"] for each in _pod()["containers"]] == ["application"]


def test_the_application_waits_for_an_attested_engine_or_does_not() -> None:
    (waiting,) = _pod()["initContainers"]
    assert waiting["startupProbe"]["httpGet"]["path"] == waiting["readinessProbe"]["httpGet"]["path"] == "/readyz"
    (other,) = _pod({"waitForEngine": False})["initContainers"]
    assert other["startupProbe"]["httpGet"]["path"] == "/livez"
    assert "readinessProbe" not in other


def test_an_engine_must_be_named() -> None:
    with pytest.raises(helm.HelmError, match=r"sidecar\.engines is needed"):
        application({"engines": []})


def test_ports_secrets_and_roots_are_the_pods_own() -> None:
    spec = _pod(
        {
            "port": 9000,
            "statusPort": 9001,
            "apiKey": {"secret": "engine-key"},
            "ca": {"configMap": "company-ca"},
            "settings": {"policy_signer": ["ed25519:" + 64 * "a"], "min_policy_version": 7},
            "egressProxy": {"url": "http://egress.example:3128"},
        }
    )
    (sidecar,) = spec["initContainers"]
    assert {
        "--listen=127.0.0.1:9000",
        "--status-listen=0.0.0.0:9001",
        "--api-key=@/etc/sottovoce/api-key/api-key",
        "--ca-file=/etc/sottovoce/ca/ca.crt",
        "--min-policy-version=7",
    } <= set(sidecar["args"])
    assert [volume["name"] for volume in spec["volumes"]] == [
        "sottovoce-policy",
        "sottovoce-api-key",
        "sottovoce-ca",
        "sottovoce-state",
        "sottovoce-tmp",
    ]
    assert {variable["name"]: variable["value"] for variable in sidecar["env"]}["HTTPS_PROXY"].endswith(":3128")


def test_sidecars_are_found_by_their_monitor() -> None:
    (deployment,) = application()
    monitor = the({"monitoring": {"podMonitor": True}}, "PodMonitor", "sottovoce-sidecar")["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"] for port in _pod()["initContainers"][0]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports


def test_podman_is_given_an_ordinary_container() -> None:
    config, alone = pod("localhost/proxy:1", POLICY.read_text(), {"engines": ["http://127.0.0.1:8800"]})
    kubernetes_validate.validate(config, "1.33", strict=True)
    kubernetes_validate.validate(alone, "1.33", strict=True)
    assert "initContainers" not in alone["spec"]
    (container,) = alone["spec"]["containers"]
    assert container["image"] == "localhost/proxy:1"
    assert "--engine=http://127.0.0.1:8800" in container["args"]
    assert not any("probe" in key.lower() for key in container)


@asynccontextmanager
async def _running(arguments: list[str], directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    log = directory / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("sottovoce")), *arguments, stdout=output, stderr=output, cwd=ROOT
        )
    try:
        async with asyncio.timeout(60):
            while b'"serving"' not in log.read_bytes():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.02)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_arguments_of_the_sidecar_start_a_proxy_that_a_kubelet_can_ask(tmp_path: Path) -> None:
    port, status_port, nobody = free_port(), free_port(), free_port()
    (sidecar,) = _pod({"engines": [f"http://127.0.0.1:{nobody}"], "port": port, "statusPort": status_port})[
        "initContainers"
    ]
    places = {"/etc/sottovoce/policy/policy.toml": str(POLICY), "/var/lib/sottovoce": str(tmp_path / "lib")}
    arguments = sidecar["args"]
    for inside, here in places.items():
        arguments = [argument.replace(inside, here) for argument in arguments]
    async with _running([*sidecar["command"][1:], *arguments], tmp_path) as process, aiohttp.ClientSession() as session:
        as_kubelet = {"Host": f"10.1.2.3:{status_port}"}
        answers = {}
        for path in ("livez", "readyz", "metrics"):
            async with session.get(f"http://127.0.0.1:{status_port}/{path}", headers=as_kubelet) as response:
                answers[path] = response.status
        assert answers == {"livez": 200, "readyz": 503, "metrics": 200}
        async with session.get(f"http://127.0.0.1:{port}/v1/models") as response:
            assert response.status in (502, 503)  # refused, or not yet asked
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


def test_the_script_for_podman_prints_what_podman_reads() -> None:
    given = {"--image": "localhost/proxy:1", "--engine": "http://127.0.0.1:8800", "--policy": str(POLICY)}
    told = subprocess.run(
        [sys.executable, "-m", "tests.helm.kube_play", *(word for pair in given.items() for word in pair)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert told.stdout.count("apiVersion: v1") == 2
