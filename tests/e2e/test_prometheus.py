"""A real Prometheus, set up by `examples/prometheus.yaml`, scrapes the programs, and every panel shows something.

Everything that the dashboard shows is made to happen: requests that succeed and fail, an engine that is refused, a file
that is none. Only vLLM is told of by its words alone.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml
from aiohttp import web

from docs.generate import DOCS
from engine.app import EngineParts
from engine.backends.choose import Backend
from engine.speech.observer import Sample
from proxy.app import running_proxy
from proxy.jobs.vault import KeyFile
from tests.e2e.conftest import Whole, proxy_settings, whole_path
from tests.e2e.forged import SNP_RULES, written
from tests.e2e.processes import RECORDING, Program
from tests.e2e.test_evidence_sources import POD_RULES, in_a_pod, pod
from tests.engine.fakes import FakeTranscriber, scripted
from tests.places import ROOT
from tests.requirements import need
from tests.test_docs import TEXTS
from tests.waiting import until

pytestmark = pytest.mark.slow

WHERE: Final = "Prometheus: apt-get install prometheus"
EXAMPLE: Final = ROOT / "examples" / "prometheus.yaml"
ALERTS: Final = ROOT / "helm" / "files" / "alerts.yaml"
DASHBOARD: Final = json.loads((ROOT / "helm" / "files" / "dashboard.json").read_text())
SAID_BY_VLLM: Final = (
    Sample("vllm:num_requests_running", 3),
    Sample("vllm:num_requests_waiting", 1),
    Sample("vllm:kv_cache_usage_perc", 0.5),
)
"""As its `/metrics` has it; `tests/engine/backends/vllm` asks a real one."""


def queries() -> Iterator[tuple[str, str]]:
    """Every panel's title, and what it asks with every namespace chosen."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$namespace", ".*")


@dataclass(frozen=True, slots=True)
class Prometheus:
    url: str
    session: aiohttp.ClientSession

    async def get(self, path: str, **parameters: str) -> Any:
        async with self.session.get(f"{self.url}/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def values(self, query: str) -> list[float]:
        """What an expression comes to, of every series; nothing of those that are no number."""
        found = [float(series["value"][1]) for series in (await self.get("query", query=query))["result"]]
        return [value for value in found if not math.isnan(value)]


@asynccontextmanager
async def prometheus(directory: Path, targets: Mapping[str, Sequence[str]]) -> AsyncIterator[Prometheus]:
    """Prometheus with the configuration of the example, but for where the programs are and how long it waits."""
    need(shutil.which("prometheus") is not None, WHERE)
    configuration = yaml.safe_load(EXAMPLE.read_text())
    configuration["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    configuration["rule_files"] = [str((EXAMPLE.parent / name).resolve()) for name in configuration["rule_files"]]
    for job in configuration["scrape_configs"]:
        (static,) = job["static_configs"]
        static["targets"] = list(targets[job["job_name"]])
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    log = directory / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={directory}/prometheus.yaml",
            f"--storage.tsdb.path={directory}/data",
            "--web.listen-address=127.0.0.1:0",
            stdout=output,
            stderr=output,
        )

    def address() -> str:
        assert process.returncode is None, log.read_text()
        said = re.search(r'msg="Listening on" address=(\S+)', log.read_text())
        return said.group(1) if said else ""

    try:
        await until(address)
        async with aiohttp.ClientSession() as session:
            yield Prometheus(f"http://{address()}", session)
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def everything(directory: Path) -> AsyncIterator[tuple[Whole, Mapping[str, Sequence[str]]]]:
    """Two engines, one of them attested by hardware; three proxies: one has jobs, one refuses its engine."""
    for name in ("model", "pod", "state", "log"):
        (directory / name).mkdir()
    KeyFile.make(directory / "jobs.key")
    jobs: dict[str, Any] = {"jobs": True, "jobs_dir": directory / "jobs", "jobs_key": directory / "jobs.key"}
    parts = EngineParts(backend=Backend(FakeTranscriber(script=scripted("hello"))), window_s=3_600)
    attested, vendors = written(directory / "attested", POD_RULES, "snp"), written(directory / "vendors", SNP_RULES)
    async with AsyncExitStack() as stack:
        whole = await stack.enter_async_context(whole_path(directory / "model", parts=parts))
        shipped: Program = await stack.enter_async_context(in_a_pod(directory / "pod", pod(), attested))
        options: dict[str, Any] = {"offline_collateral": True, "state_dir": directory / "state"}
        fronts = [
            whole.proxy,
            await stack.enter_async_context(
                running_proxy(proxy_settings(shipped.url, policy=attested, **options, **jobs))
            ),
            await stack.enter_async_context(running_proxy(proxy_settings(whole.middle.url, policy=vendors, **options))),
        ]
        yield (
            whole,
            {
                "sottovoce-proxy": [str(front.status_address) for front in fronts],
                "sottovoce-engine": [str(whole.engine.status_address), shipped.status_url.removeprefix("http://")],
            },
        )


async def use(whole: Whole) -> None:
    """One request of each kind that the dashboard tells apart, and the end of a window."""
    recording = RECORDING.read_bytes()
    assert (await whole.transcribe(recording)).status == 200
    assert (await whole.transcribe(b"no recording")).status == 400
    assert (await whole.transcribe(recording, language="no language")).status == 400
    refusals = [web.Response(status=501)]
    whole.middle.on_request = lambda _: refusals.pop() if refusals else None
    assert (await whole.transcribe(recording, stream="true")).status == 200
    async with whole.session.get(f"{whole.url}/nothing") as response:
        assert response.status == 404
    status, _ = await whole.middle.post(whole.middle.targets[-1], b"not sealed")
    assert status == 422
    whole.engine.state.telemetry.close_window({"nano": SAID_BY_VLLM})


async def test_every_panel_of_the_dashboard_shows_what_a_real_prometheus_scraped(tmp_path: Path) -> None:
    (tmp_path / "prometheus").mkdir()
    async with everything(tmp_path) as (whole, targets), prometheus(tmp_path / "prometheus", targets) as server:

        async def is_complete() -> bool:
            await use(whole)  # again and again, since a rate is of what happened between two scrapes
            for title, query in queries():
                if (title, query) in empty and await server.values(query):
                    empty.remove((title, query))
            return not empty

        empty = list(queries())
        assert len(empty) > 40
        with suppress(TimeoutError):
            await until(is_complete, give_up_s=60.0)
        assert empty == []
        await until(lambda: _all_answer(server, sum(map(len, targets.values()))))
        assert (await server.get("label/namespace/values")) == ["here"]
        await _rules_are_evaluated(server)


async def _all_answer(server: Prometheus, count: int) -> bool:
    return await server.values("up") == [1] * count


async def _rules_are_evaluated(server: Prometheus) -> None:
    written_down = [rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    states: dict[str, tuple[str, str]] = {}

    async def the_insecure_are_told() -> bool:
        groups = (await server.get("rules", type="alert"))["groups"]
        states.update({rule["name"]: (rule["health"], rule["state"]) for group in groups for rule in group["rules"]})
        insecure = {states[name] for name in ("SottovoceProxyInsecure", "SottovoceEngineInsecureEvidence")}
        return insecure == {("ok", "firing")} and all(health == "ok" for health, _ in states.values())

    with suppress(TimeoutError):
        await until(the_insecure_are_told, give_up_s=60.0)
    assert {name: health for name, (health, _) in states.items()} == dict.fromkeys(written_down, "ok")
    assert {states[name][1] for name in ("SottovoceProxyInsecure", "SottovoceEngineInsecureEvidence")} == {"firing"}


COMMANDS: Final = [
    line for line in TEXTS[DOCS / "operate" / "observability.md"].splitlines() if line.startswith("promtool")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_promtool_accepts_what_it_is_shown_in_the_document(command: str) -> None:
    need(shutil.which("promtool") is not None, WHERE)
    told = subprocess.run(command.split(), capture_output=True, text=True, check=False, cwd=ROOT)
    assert told.returncode == 0, told.stdout + told.stderr


def test_the_document_shows_the_example_and_the_alerts() -> None:
    assert {command.split()[-1] for command in COMMANDS} == {str(path.relative_to(ROOT)) for path in (EXAMPLE, ALERTS)}
