"""Summaries by a model, with the shipped programs and a real vLLM: from a job to what the model wrote about it.

The model has learnt nothing (`tests/checkpoints/instruct.py`), so that what it writes is noise. That it is JSON of the
schema all the same, of no more than the length that was asked for, is vLLM's doing: nothing else can be sampled.
"""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from attestation.bundle import parse_bundle
from attestation.statement import LoadedModel, parse_statement
from core.program.http.client import open_unix_session
from engine.backends.digest import weights_digest
from engine.summaries.prompts import CHARS_PER_TOPIC, CHARS_PER_WORD
from engine.summaries.types import DEFAULT_TOPICS, DEFAULT_WORDS
from proxy.jobs.vault import KeyFile
from tests.e2e.processes import CHECKPOINT, POLICY, RECORDING, SAID, Program, program, proxy, until_ready
from tests.e2e.test_memory import descendants
from tests.engine.backends.vllm.real_vllm import LIMIT_S, find_vllm, server_of, telling
from tests.engine.backends.vllm.test_served import listens_to_this_machine_alone
from tests.engine.summaries.test_prompts import HOSTILE
from tests.places import ROOT
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

CONTEXT = 8_192
CANARY = "the canary sings at midnight"


@dataclass(frozen=True, slots=True)
class Served:
    """printed: all that vLLM has printed."""

    engine: Program
    proxy: Program
    session: aiohttp.ClientSession
    checkpoint: Path
    printed: Path

    async def summarise(self, **body: Any) -> tuple[int, Any]:
        async with self.session.post("/v1/summaries", json=body) as answer:
            return answer.status, await answer.json()


async def made(directory: Path) -> Path:
    """The model, written by the Python of vLLM's environment."""
    maker = (str(find_vllm().with_name("python")), str(ROOT / "tests/checkpoints/instruct.py"), str(directory))
    process = await asyncio.create_subprocess_exec(*maker, stdout=DEVNULL, stderr=PIPE)
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()[-2000:]
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    place = tmp_path_factory.mktemp("summaries")
    checkpoint, printed = await made(place / "instruct"), place / "printed"
    vllm = telling(find_vllm(), place, printed)
    policy = place / "policy.toml"
    policy.write_text(f'{POLICY.read_text()}\n[statement]\nallow_options = ["allow_vllm_program"]\n')
    KeyFile.make(place / "jobs.key")
    serve = (
        *("serve", "--insecure-evidence", "--model", f"nano={CHECKPOINT}", "--allow-vllm-program", str(vllm)),
        *(
            "--instruct-model",
            f"noise={checkpoint}",
            "--instruct-context",
            str(CONTEXT),
            "--instruct-cpu-cache-gib",
            "1",
        ),
    )
    jobs = ("--jobs", "--jobs-dir", str(place / "kept"), "--jobs-key", str(place / "jobs.key"))
    async with program("sottovoce-engine", serve, place / "engine.log") as behind:
        try:
            await until_ready(behind, LIMIT_S)
        except (AssertionError, TimeoutError):
            pytest.fail((behind.printed() + printed.read_bytes()).decode(errors="replace")[-10_000:])
        async with (
            proxy(place / "proxy.log", behind.url, *jobs, policy=policy) as front,
            aiohttp.ClientSession(front.url, timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session,
        ):
            await until_ready(front, LIMIT_S)
            yield Served(behind, front, session, checkpoint, printed)
            await front.stop()
        await behind.stop()


def check(summary: str, topics: list[str], words: int = DEFAULT_WORDS, most: int = DEFAULT_TOPICS) -> None:
    assert 0 < len(summary) <= words * CHARS_PER_WORD
    assert 0 < len(topics) <= most
    assert all(0 < len(topic) <= CHARS_PER_TOPIC for topic in topics)


async def test_a_job_has_a_summary_that_the_engines_model_wrote(served: Served) -> None:
    form = aiohttp.FormData({"summary": "true"})
    form.add_field("file", RECORDING.read_bytes(), filename="hello.wav")
    async with served.session.post("/v1/jobs", data=form) as answer:
        assert answer.status == 201, await answer.text()
        job = (await answer.json())["id"]

    async def is_over() -> bool:
        async with served.session.get(f"/v1/jobs/{job}") as answer:
            return str((await answer.json())["status"]) in ("completed", "failed")

    await until(is_over, give_up_s=LIMIT_S)
    async with served.session.get(f"/v1/jobs/{job}/result") as answer:
        result = await answer.json()
    assert result["text"] == SAID
    assert (result["summary_method"], result["summary_model"]) == ("model", "noise")
    check(result["summary"], result["topics"])


async def test_models_and_the_statement_say_what_writes(served: Served) -> None:
    async with served.session.get("/v1/models/nano") as answer:
        assert (await answer.json())["summaries"] == "noise"
    async with served.session.get("/attestation/bundle") as answer:
        statement = parse_statement(parse_bundle(await answer.read()).document.statement)
    assert statement.instruct_model == "noise"
    (loaded,) = statement.config.components[-1].models
    assert loaded == LoadedModel("noise", weights_digest(served.checkpoint))


async def test_a_transcript_longer_than_the_context_is_read_in_parts(served: Served) -> None:
    said = [f"We spoke about garden number {number} and its door." for number in range(400)]
    segments = [{"text": text, "speaker": f"Speaker {index % 2 + 1}"} for index, text in enumerate(said)]
    status, told = await served.summarise(segments=segments, language="en", max_words=20, max_topics=2)
    assert status == 200, told
    check(told["summary"], told["topics"], 20, 2)
    assert told["usage"]["input_tokens"] > 2 * CONTEXT, "a token is a byte"
    assert told["model"] == "noise"


async def test_what_is_said_cannot_change_what_the_answer_is(served: Served) -> None:
    status, told = await served.summarise(text=" ".join(HOSTILE), max_words=5, max_topics=1)
    assert status == 200, told
    assert told.keys() == {"object", "model", "summary", "topics", "usage"}
    check(told["summary"], told["topics"], 5, 1)


async def test_one_transcript_has_one_summary(served: Served) -> None:
    first, second = [await served.summarise(text="Good morning.", max_words=5, max_topics=1) for _ in range(2)]
    assert first == second


async def test_nothing_of_a_transcript_is_printed_or_written_to_a_file(served: Served) -> None:
    private = server_of(served.engine).private

    def files() -> dict[Path, int]:
        found = [path for path in private.rglob("*") if path.is_file()]
        return {path: path.stat().st_mtime_ns for path in found if not path.name.startswith("vllm_dist_")}

    before = files()
    status, _ = await served.summarise(text=CANARY, max_words=5, max_topics=1)
    assert status == 200
    refused, _ = await served.summarise(text=CANARY, max_words=1000)
    assert refused == 400
    assert files() == before
    assert served.printed.read_bytes(), "it is captured at all"
    for printed in (served.printed.read_bytes(), served.engine.printed(), served.proxy.printed()):
        assert CANARY.encode() not in printed
        assert SAID.encode() not in printed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees the sockets of processes that hide")
async def test_nothing_of_it_listens_to_another_machine(served: Served) -> None:
    assert len(descendants(served.engine.process.pid)) > 2, "an API server and an engine among them"
    listens_to_this_machine_alone(served.engine.process.pid)


async def test_no_cache_is_shared_between_requests(served: Served) -> None:
    async with served.session.get(f"{served.engine.status_url}/metrics") as answer:
        assert "sottovoce_engine_instruct_model_ready 1.0" in await answer.text()
    socket = server_of(served.engine).socket
    async with (
        open_unix_session(socket, connect_timeout_s=5, idle_timeout_s=60) as session,
        session.get("http://vllm/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    hits = [line for line in lines if "cache_hits_total" in line and not line.startswith("#")]
    assert hits, "it counts them"
    assert {float(line.rsplit(maxsplit=1)[1]) for line in hits} == {0.0}
