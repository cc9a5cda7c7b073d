"""The network between proxy and engine goes, and no socket is told: the app gets a right answer or one clear error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.apart import Apart, apart
from tests.proxy.engines.processes import ANSWERS, HOLDS_ANSWER, HOLDS_STREAM, HOLDS_UPLOAD
from tests.proxy.engines.test_faults import AUDIO, IDLE_S, WHOLE, answered, two
from tests.proxy.fake_engine import DELTA
from tests.waiting import time_passes, until, until_settled

Cut = Callable[[Apart], None]
CONNECT_S = 10.0
CUTS = pytest.mark.parametrize("cut", [Apart.pull, Apart.swallow], ids=["pulled", "swallowed"])


@pytest.fixture
def there() -> Iterator[Apart]:
    with apart() as machine:
        yield machine


@CUTS
@pytest.mark.parametrize(("behaviour", "moment"), [(HOLDS_UPLOAD, "uploading"), (HOLDS_ANSWER, "working")])
async def test_what_an_engine_was_cut_off_over_another_answers(
    policy: Path, there: Apart, cut: Cut, behaviour: str, moment: str
) -> None:
    async with two(policy, behaviour, at=there) as both, asyncio.TaskGroup() as group:
        asking = group.create_task(answered(both))
        await until(lambda: moment in both.first.said)
        cut(there)
        await until_settled()
        time_passes(IDLE_S + 1)
        await asking
        assert both.second.said.count(WHOLE) == 1
        assert both.member(both.first).health.in_flight == 0


@CUTS
async def test_a_stream_whose_engine_is_cut_off_ends_in_one_error(policy: Path, there: Apart, cut: Cut) -> None:
    async with (
        two(policy, HOLDS_STREAM, at=there) as both,
        both.app.post("/v1/audio/transcriptions", data=AUDIO) as response,
    ):
        assert await response.content.readexactly(len(DELTA)) == DELTA
        cut(there)
        await until_settled()
        time_passes(IDLE_S + 1)
        rest = await response.content.read()
        assert rest.startswith(b"event: error\n")
        assert rest.count(b"event: ") == 1
        assert b'"stream_truncated"' in rest
        assert b"[DONE]" not in rest
        assert WHOLE not in both.second.said


@CUTS
async def test_an_engine_that_was_cut_off_before_it_is_asked_is_given_up_and_comes_back(
    policy: Path, there: Apart, cut: Cut
) -> None:
    async with two(policy, ANSWERS, at=there) as both, asyncio.TaskGroup() as group:
        await answered(both)
        assert both.first.said.count(WHOLE) == 1
        cut(there)
        asking = group.create_task(answered(both))
        await until(lambda: both.member(both.first).health.in_flight == 1)
        await until_settled()
        time_passes(max(IDLE_S, CONNECT_S) + 1)
        await asking
        assert both.second.said.count(WHOLE) == 1
        (there.plug if cut is Apart.pull else there.pass_on)()
        both.member(both.first).health.aside_until_s = 0.0
        await answered(both)
        # What the kernel had when it was given up arrives after all: who broke off may do the work (ADR 14).
        assert both.first.said.count(WHOLE) in {2, 3}
        assert both.first.said.count("attested") == 1


async def test_an_engine_that_is_cut_off_for_a_moment_is_waited_for(policy: Path, there: Apart) -> None:
    async with two(policy, ANSWERS, at=there) as both, asyncio.TaskGroup() as group:
        there.swallow()
        asking = group.create_task(answered(both))
        await until(lambda: both.member(both.first).health.in_flight == 1)
        there.pass_on()
        await asking
        assert (both.first.said.count(WHOLE), both.second.said.count(WHOLE)) == (1, 0)
