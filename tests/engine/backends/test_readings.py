"""What model servers say of themselves, read over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.null_speech import NullTranscriber
from core.errors import BackendError
from engine.backends.readings import read_metrics
from engine.backends.vllm.transcriber import AttachedVllm
from engine.speech.observer import Sample
from tests.engine.backends.vllm.fake_vllm import FakeVllm

COUNTED = """\
# HELP vllm:num_preemptions_total Preemptions.
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="canary"} 2.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="canary"} 5.0
vllm:request_params_n_bucket{le="1.0",request_id="canary"} 1.0
process_resident_memory_bytes 1.0
"""
READ = (Sample("vllm:num_preemptions_total", 2.0), Sample("vllm:request_success_total", 5.0, "stop"))


@asynccontextmanager
async def attached(fake: FakeVllm, socket: Path) -> AsyncIterator[AttachedVllm]:
    transcriber = AttachedVllm("served", uds=socket)
    async with fake.listening(socket):
        await transcriber.start()
        try:
            yield transcriber
        finally:
            await transcriber.close()


async def test_a_servers_metrics_are_read_and_what_may_not_be_published_is_left_behind(tmp_path: Path) -> None:
    async with attached(FakeVllm(metrics=COUNTED), tmp_path / "api.sock") as transcriber:
        readings = await read_metrics(transcriber, ["served"])
    assert readings == {"served": READ}
    assert "canary" not in repr(readings)


async def test_a_server_that_has_gone_is_left_out(tmp_path: Path) -> None:
    socket = tmp_path / "api.sock"
    async with attached(FakeVllm(metrics=COUNTED), socket) as transcriber:
        socket.unlink()
        assert await read_metrics(transcriber, ["served"]) == {}


@pytest.mark.parametrize("said", ["vllm:num_preemptions_total canary\n", "", "\n" * 99, "canary"])
async def test_a_server_that_says_nothing_that_can_be_read_is_left_out(tmp_path: Path, said: str) -> None:
    async with attached(FakeVllm(metrics=said), tmp_path / "api.sock") as transcriber:
        assert await read_metrics(transcriber, ["served"]) == {}


async def test_a_server_that_does_not_answer_in_time_is_left_out() -> None:
    class Deaf(NullTranscriber):
        async def metrics(self, model: str) -> tuple[Sample, ...]:
            await asyncio.Event().wait()
            raise AssertionError

    assert await read_metrics(Deaf(), ["null"], timeout_s=0.01) == {}


async def test_one_servers_failure_is_not_anothers() -> None:
    class Half(NullTranscriber):
        async def metrics(self, model: str) -> tuple[Sample, ...]:
            if model == "broken":
                raise BackendError("the vLLM server is not running")
            return READ

    assert await read_metrics(Half(), ["broken", "whole"]) == {"whole": READ}


async def test_a_backend_that_counts_nothing_contributes_nothing() -> None:
    assert await read_metrics(NullTranscriber(), ["null"]) == {}
