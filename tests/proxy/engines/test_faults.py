"""Engines that are killed, stopped, replaced, hostile, as processes: the app gets a right answer or one clear error."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from proxy.app import RunningProxy, running_proxy
from proxy.engines.pool import Member
from proxy.settings import ProxySettings
from tests.apart import Apart
from tests.proxy.conftest import url_of
from tests.proxy.engines.processes import (
    ANSWERS,
    GARBAGE,
    HOLDS_ANSWER,
    HOLDS_STREAM,
    HOLDS_UPLOAD,
    MISMATCH,
    OTHER,
    EngineProcess,
    engine_process,
)
from tests.proxy.fake_engine import DELTA, TRANSCRIPT
from tests.waiting import time_passes, until, until_settled

AUDIO = bytes(range(256)) * 4000
WHOLE = f"complete {hashlib.sha256(AUDIO).hexdigest()}"
IDLE_S = 600.0
"""Nobody waits for so long: a test that wants a time-out has the time pass."""


@dataclass
class Two:
    """A proxy between an app and two engines, of which the first gets requests as long as it may."""

    proxy: RunningProxy
    app: aiohttp.ClientSession
    first: EngineProcess
    second: EngineProcess

    def member(self, engine: EngineProcess) -> Member:
        return next(each for each in self.proxy.service.sender.engines.members if each.way.url == engine.url)

    async def ask(self) -> tuple[int, bytes]:
        async with self.app.post("/v1/audio/transcriptions", data=AUDIO) as response:
            return response.status, await response.read()

    async def code(self) -> tuple[int, str]:
        status, body = await self.ask()
        return status, json.loads(body)["error"]["code"]

    def metric(self, name: str, **labels: str) -> float:
        return self.proxy.service.sender.telemetry.registry.get_sample_value(f"sottovoce_proxy_{name}", labels) or 0.0


@asynccontextmanager
async def two(policy: Path, first: str, second: str = ANSWERS, *, at: Apart | None = None) -> AsyncIterator[Two]:
    """at: where the first engine is, if not on this machine."""
    async with engine_process(first, at=at) as one, engine_process(second) as other:
        settings = ProxySettings.model_validate(
            {
                "engine": (one.url, other.url),
                "policy": policy,
                "listen": ("127.0.0.1:0",),
                "status_listen": "127.0.0.1:0",
                "idle_timeout_s": IDLE_S,
                "insecure_remote_engine": at is not None,
            }
        )
        endless = aiohttp.ClientTimeout(total=None)
        async with running_proxy(settings) as proxy, aiohttp.ClientSession(url_of(proxy), timeout=endless) as app:
            both = Two(proxy, app, one, other)
            await until(lambda: len(proxy.service.sender.engines.held) == (2 if OTHER not in (first, second) else 1))
            both.member(other).health.in_flight += 1000
            yield both
        await _give_up_sending()


async def _give_up_sending() -> None:
    """Let go of what was closed and not yet sent: to an engine that is cut off, TCP tries for a quarter of an hour."""
    for each in gc.get_objects():
        if issubclass(type(each), asyncio.Transport) and each.is_closing() and each.get_write_buffer_size():
            each.abort()
    await until_settled()


async def answered(both: Two) -> None:
    status, body = await both.ask()
    assert (status, json.loads(body)) == (200, {"text": TRANSCRIPT})


def _has_said(engine: EngineProcess, word: str) -> bool:
    return word in engine.said


@pytest.mark.parametrize(("behaviour", "moment"), [(HOLDS_UPLOAD, "uploading"), (HOLDS_ANSWER, "working")])
async def test_what_an_engine_was_killed_over_another_answers(policy: Path, behaviour: str, moment: str) -> None:
    async with two(policy, behaviour) as both, asyncio.TaskGroup() as group:
        asking = group.create_task(answered(both))
        await until(lambda: moment in both.first.said)
        await both.first.kill()
        await asking
        assert WHOLE in both.second.said
        await answered(both)  # and nobody waits for the dead one
        assert both.member(both.first).health.in_flight == 0


async def test_a_stream_whose_engine_is_killed_ends_in_an_error_and_the_next_is_answered(policy: Path) -> None:
    async with two(policy, HOLDS_STREAM) as both, both.app.post("/v1/audio/transcriptions", data=AUDIO) as response:
        assert await response.content.readexactly(len(DELTA)) == DELTA
        await both.first.kill()
        rest = await response.content.read()
        assert rest.startswith(b"event: error\n")
        assert b'"stream_truncated"' in rest
        assert b"[DONE]" not in rest
        assert WHOLE not in both.second.said
        await answered(both)


async def test_when_every_engine_is_killed_over_it_the_app_is_told_once(policy: Path) -> None:
    async with two(policy, HOLDS_ANSWER, HOLDS_ANSWER) as both, asyncio.TaskGroup() as group:
        asking = group.create_task(both.code())
        for engine in (both.first, both.second):
            await until(partial(_has_said, engine, "working"))
            await engine.kill()
        assert await asking == (502, "stream_truncated")
        assert both.metric("retries_total", reason="lost") == 1
        assert await both.code() == (503, "engine_unavailable")


async def test_an_engine_that_is_stopped_while_it_works_is_given_up_for_another(policy: Path) -> None:
    async with two(policy, HOLDS_ANSWER) as both, asyncio.TaskGroup() as group:
        asking = group.create_task(answered(both))
        await until(lambda: "working" in both.first.said)
        both.first.send(signal.SIGSTOP)
        await until_settled()
        time_passes(IDLE_S + 1)
        await asking
        assert WHOLE in both.second.said
        await answered(both)


async def test_an_engine_that_is_stopped_before_it_is_asked_is_given_up_for_another(policy: Path) -> None:
    async with two(policy, ANSWERS) as both, asyncio.TaskGroup() as group:
        both.first.send(signal.SIGSTOP)
        asking = group.create_task(answered(both))
        await until(lambda: both.member(both.first).health.in_flight == 1)
        uploaded = both.proxy.service.sender.telemetry.registry
        await until_settled(lambda: uploaded.get_sample_value("sottovoce_proxy_request_bytes_total"))
        time_passes(IDLE_S + 1)
        await asking
        assert WHOLE in both.second.said
        assert WHOLE not in both.first.said


async def test_an_engine_that_comes_back_as_another_gets_nothing_that_it_could_open(policy: Path) -> None:
    async with two(policy, ANSWERS) as both:
        await answered(both)
        await both.first.kill()
        async with engine_process(OTHER, both.first.port) as impostor:
            for _ in range(5):
                both.member(both.first).health.aside_until_s = 0.0  # it is tried whenever it may be
                await answered(both)
            await until(lambda: "attested" in impostor.said)
            await both.second.kill()
            status, code = await both.code()
            assert (status, code) in {
                (502, "attestation_refused"),
                (503, "engine_unavailable"),
                (503, "no_attested_engine"),
            }
            assert not [word for word in impostor.said if word.startswith("complete")]


async def test_an_engine_that_answers_garbage_costs_the_app_nothing(policy: Path) -> None:
    async with two(policy, GARBAGE) as both:
        for _ in range(5):
            both.member(both.first).health.aside_until_s = 0.0
            await answered(both)
        assert both.metric("retries_total", reason="lost") == 5


async def test_where_all_answer_garbage_the_app_is_told_so(policy: Path) -> None:
    async with two(policy, GARBAGE, GARBAGE) as both:
        assert await both.code() == (502, "upstream_protocol_error")


async def test_a_flood_of_mismatches_costs_the_app_nothing_and_few_verifications(policy: Path) -> None:
    async with two(policy, MISMATCH) as both:
        for _ in range(20):
            await answered(both)
        assert both.first.said.count("attested") <= 2
        assert both.second.said.count("attested") == 1


async def test_where_all_say_mismatch_the_app_is_told_so(policy: Path) -> None:
    async with two(policy, MISMATCH, MISMATCH) as both:
        status, _ = await both.code()
        assert status in {502, 503}
        assert max(engine.said.count("attested") for engine in (both.first, both.second)) <= 2
