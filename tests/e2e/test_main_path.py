"""The shipped programs, the real checkpoint, real sockets: what a user does with them, and what they leave behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import openai
import pytest
import pytest_asyncio

from tests.e2e.conftest import TRANSCRIPTIONS, form
from tests.e2e.processes import POLICY, RECORDING, SAID, Program, engine, proxy, until_ready
from tests.requirements import need_program
from tests.waiting import GIVE_UP_S

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@dataclass(slots=True)
class Programs:
    engine: Program
    proxy: Program

    @property
    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.proxy.url}/v1", api_key="x", max_retries=0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def programs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Programs]:
    logs = tmp_path_factory.mktemp("logs")
    async with engine(logs / "engine") as behind, proxy(logs / "proxy", behind.url) as front:
        await until_ready(front)
        yield Programs(behind, front)


async def test_the_openai_sdk_gets_the_words(programs: Programs) -> None:
    async with programs.client as client:
        with RECORDING.open("rb") as file:
            answer = await client.audio.transcriptions.create(model="nano", file=file)
    assert answer.text == SAID


async def test_the_openai_sdk_streams_the_words(programs: Programs) -> None:
    async with programs.client as client:
        with RECORDING.open("rb") as file:
            stream = await client.audio.transcriptions.create(model="nano", file=file, stream=True)
        events = [event async for event in stream]
    assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == SAID
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == SAID
    assert events[-1].usage is not None


async def test_the_openai_sdk_lists_and_retrieves_models(programs: Programs) -> None:
    async with programs.client as client:
        assert [model.id async for model in client.models.list()] == ["nano"]
        assert (await client.models.retrieve("nano")).object == "model"


async def test_the_openai_sdk_raises_the_error_of_the_engine(programs: Programs) -> None:
    async with programs.client as client:
        with pytest.raises(openai.NotFoundError) as raised:
            await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"RIFF"))
    assert raised.value.code == "model_not_found"
    assert raised.value.request_id


async def test_the_tools_show_what_was_verified(programs: Programs) -> None:
    attest = shutil.which("sottovoce-attest", path=str(Path(sys.executable).parent))
    assert attest is not None
    process = await asyncio.create_subprocess_exec(
        attest, "verify", programs.engine.url, "--policy", str(POLICY), "--json", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    checks = {check["name"]: check["status"] for check in json.loads(output)["checks"]}
    assert checks["binding"] == "pass"
    assert checks["machine"] == "skip"


async def test_a_worker_that_is_killed_costs_its_requests_and_comes_back(programs: Programs) -> None:
    worker = _child(programs.engine.process.pid, "faster_whisper.worker")
    os.kill(worker, signal.SIGKILL)
    async with asyncio.timeout(GIVE_UP_S), aiohttp.ClientSession() as session:
        while True:
            data = form(RECORDING.read_bytes())
            async with session.post(programs.proxy.url + TRANSCRIPTIONS, data=data) as response:
                if response.status == 200:
                    assert (await response.json())["text"] == SAID
                    break
                assert response.status == 503
            await asyncio.sleep(0.1)
    assert _child(programs.engine.process.pid, "faster_whisper.worker") != worker
    assert b'"process": "the faster-whisper worker"' in programs.engine.printed()


async def test_no_process_of_the_engine_may_dump_core(programs: Programs) -> None:
    pids = [programs.engine.process.pid, _child(programs.engine.process.pid, "faster_whisper.worker")]
    for pid in pids:
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max core file size\s+0\s+0", limits)


async def test_sigterm_ends_both_programs_in_order(tmp_path: Path) -> None:
    async with engine(tmp_path / "engine") as behind, proxy(tmp_path / "proxy", behind.url) as front:
        await until_ready(front)
        assert await front.stop() == 0
        assert await behind.stop() == 0
        assert b"draining" in front.printed()
        assert b"draining" in behind.printed()
        assert b"Traceback" not in front.printed() + behind.printed()


async def test_no_process_of_the_engine_creates_a_file(tmp_path: Path) -> None:
    need_program("strace")
    trace = tmp_path / "trace"
    tracer = ("strace", "-f", "-qq", "-e", "trace=openat,open,creat,memfd_create,mkdir,mkdirat", "-o", str(trace))
    async with engine(tmp_path / "engine", prefix=tracer) as behind, proxy(tmp_path / "proxy", behind.url) as front:
        await until_ready(front)
        ready = len(trace.read_text().splitlines())
        async with aiohttp.ClientSession() as session:
            for fields in ({}, {"stream": "true"}, {"response_format": "verbose_json"}):
                data = form(RECORDING.read_bytes(), **fields)
                async with session.post(front.url + TRANSCRIPTIONS, data=data) as response:
                    assert response.status == 200
                    await response.read()
        os.kill(_child(behind.process.pid, "sottovoce-engine"), signal.SIGTERM)
        await behind.process.wait()
    during = trace.read_text().splitlines()[ready:]
    assert during, "the trace must have seen the requests being served"
    created = [line for line in during if re.search(r"O_CREAT|O_TMPFILE|creat\(|memfd_create|mkdir", line)]
    # A POSIX semaphore is a counter in memory that happens to have a name (sem_overview(7)).
    assert [line for line in created if "/dev/shm/sem." not in line] == []


def _child(pid: int, name: str) -> int:
    """The descendant process whose command line has `name` in it."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if name in Path(f"/proc/{child}/cmdline").read_text():
            return int(child)
    raise AssertionError(f"no {name} below {pid}")
