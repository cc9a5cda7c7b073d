"""A run is done once for everybody who asks the same under one key, and for nobody who asks something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from engine.gateway.exchange import Answer, Events
from engine.gateway.runs import RUN_BYTES, Joined, KeyReusedError, Reading, RunName, Runs
from tests.engine.gateway.fake_application import Clock
from tests.waiting import until, until_settled

NAME = RunName("holder", "key")
ASKED, OTHER = b"a" * 32, b"b" * 32


@dataclass
class Work:
    """Work that is done when the test says so. begun, closed: how often."""

    status: int = 200
    error: Exception | None = None
    body: bytes = b"answer"
    may_be_kept: bool = True
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: int = 0
    closed: int = 0
    cancelled: int = 0

    async def __call__(self) -> Answer:
        self.begun += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return Answer(self.status, (("x", "y"),), self.body, may_be_kept=self.may_be_kept)

    def close(self) -> None:
        self.closed += 1


@dataclass
class Speech:
    """A stream of which the test says each event. An exception breaks it, nothing ends it."""

    said: asyncio.Queue[bytes | Exception | None] = field(default_factory=asyncio.Queue)
    begun: int = 0

    async def __call__(self) -> Answer:
        self.begun += 1
        return Answer(200, (), self._events())

    async def _events(self) -> Events:
        while (event := await self.said.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event


@pytest.fixture
async def make_runs() -> AsyncIterator[Callable[..., Runs]]:
    made: list[Runs] = []

    def make(**options: float | Clock | Callable[[Joined], None]) -> Runs:
        runs = Runs(**options)  # type: ignore[arg-type]
        made.append(runs)
        return runs

    yield make
    for runs in made:
        await runs.end()


MakeRuns = Callable[..., Runs]


def joined(runs: Runs, work: Work, digest: bytes = ASKED, name: RunName = NAME) -> Reading:
    return runs.join(name, digest, work, work.close)


async def replayed(reading: Reading) -> bool:
    return ("idempotent-replay", "true") in (await reading.answer()).headers


async def test_work_is_done_once_for_those_who_ask_during_and_after_it(make_runs: MakeRuns) -> None:
    outcomes: list[Joined] = []
    runs, work = make_runs(observe=outcomes.append), Work()
    first, second = joined(runs, work), joined(runs, work)
    assert work.closed == 1  # what the second held
    work.gate.set()
    answer = await first.answer()
    assert (answer.status, answer.headers, answer.body) == (200, (("x", "y"),), b"answer")
    assert [await replayed(first), await replayed(second)] == [False, True]
    third = joined(runs, work)
    assert await replayed(third)
    assert (await third.answer()).body == b"answer"
    await until(lambda: work.closed == 3)
    assert work.begun == 1
    assert outcomes == [Joined.STARTED, Joined.JOINED, Joined.REPLAYED]


async def test_what_may_not_be_kept_is_gone_once_it_is_answered(make_runs: MakeRuns) -> None:
    runs, work = make_runs(), Work(may_be_kept=False)
    first, second = joined(runs, work), joined(runs, work)
    work.gate.set()
    assert [await replayed(first), await replayed(second)] == [False, True]
    await until(lambda: work.closed == 2)
    assert runs.held_bytes == 0
    assert not await replayed(joined(runs, work))
    assert work.begun == 2


async def test_another_request_under_the_key_is_refused_during_and_after_the_first(make_runs: MakeRuns) -> None:
    outcomes: list[Joined] = []
    runs, work, other = make_runs(observe=outcomes.append), Work(), Work()
    reading = joined(runs, work)
    with pytest.raises(KeyReusedError):
        joined(runs, other, OTHER)
    work.gate.set()
    await reading.answer()
    with pytest.raises(KeyReusedError):
        joined(runs, other, OTHER)
    assert (other.begun, other.closed) == (0, 0)
    assert outcomes == [Joined.STARTED, Joined.REUSED, Joined.REUSED]


@pytest.mark.parametrize("name", [RunName("another holder", "key"), RunName("holder", "another key")])
async def test_a_key_is_its_holders_and_no_other_key(make_runs: MakeRuns, name: RunName) -> None:
    runs, work = make_runs(), Work()
    work.gate.set()
    for reading in (joined(runs, work), joined(runs, work, OTHER, name)):
        assert not await replayed(reading)
    assert work.begun == 2


async def test_a_stream_is_read_from_its_beginning_by_whoever_comes_later(make_runs: MakeRuns) -> None:
    runs, speech = make_runs(), Speech()
    first = runs.join(NAME, ASKED, speech, lambda: None)
    speech.said.put_nowait(b"1")
    speech.said.put_nowait(b"2")
    body = (await first.answer()).body
    assert not isinstance(body, bytes)
    assert [await anext(body), await anext(body)] == [b"1", b"2"]
    second = (await runs.join(NAME, ASKED, speech, lambda: None).answer()).body
    assert not isinstance(second, bytes)
    assert [await anext(second), await anext(second)] == [b"1", b"2"]
    speech.said.put_nowait(b"3")
    speech.said.put_nowait(None)
    assert [[event async for event in each] for each in (body, second)] == [[b"3"], [b"3"]]
    third = (await runs.join(NAME, ASKED, speech, lambda: None).answer()).body
    assert not isinstance(third, bytes)
    assert [event async for event in third] == [b"1", b"2", b"3"]
    assert speech.begun == 1


async def test_a_run_that_nobody_reads_goes_on_for_a_while_and_can_be_come_back_to(make_runs: MakeRuns) -> None:
    runs, work = make_runs(linger_s=3_600.0), Work()
    joined(runs, work).leave()
    await until_settled()
    back = joined(runs, work)
    work.gate.set()
    assert (await back.answer()).body == b"answer"
    assert (work.begun, work.cancelled) == (1, 0)


async def test_a_run_that_nobody_comes_back_to_is_stopped_and_forgotten(make_runs: MakeRuns) -> None:
    runs, work = make_runs(linger_s=0.0), Work()
    first, second = joined(runs, work), joined(runs, work)
    first.leave()
    await until_settled()
    assert work.cancelled == 0
    second.leave()
    await until(lambda: work.cancelled)
    await until(lambda: work.closed == 2)
    work.gate.set()
    assert not await replayed(joined(runs, work))
    assert work.begun == 2


async def test_what_is_done_after_its_reader_left_is_kept(make_runs: MakeRuns) -> None:
    runs, work = make_runs(linger_s=3_600.0), Work()
    joined(runs, work).leave()
    work.gate.set()
    await until(lambda: work.closed)
    assert await replayed(joined(runs, work))
    assert work.begun == 1


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_an_answer_that_waiting_mends_is_not_kept(make_runs: MakeRuns, status: int) -> None:
    runs, work = make_runs(), Work(status=status)
    work.gate.set()
    for _ in range(2):
        assert (await joined(runs, work).answer()).status == status
        await until_settled()
    assert work.begun == 2


async def test_a_fault_is_told_to_everybody_who_waits_and_is_not_kept(make_runs: MakeRuns) -> None:
    runs, work = make_runs(), Work(error=ValueError("canary"))
    readings = [joined(runs, work), joined(runs, work)]
    work.gate.set()
    for reading in readings:
        with pytest.raises(ValueError, match="canary"):
            await reading.answer()
    await until_settled()
    with pytest.raises(ValueError, match="canary"):
        await joined(runs, work).answer()
    assert work.begun == 2


async def test_a_stream_that_breaks_breaks_for_everybody_and_is_not_kept(make_runs: MakeRuns) -> None:
    runs, speech = make_runs(), Speech()
    bodies = [(await runs.join(NAME, ASKED, speech, lambda: None).answer()).body for _ in range(2)]
    speech.said.put_nowait(b"1")
    speech.said.put_nowait(ValueError("canary"))
    for body in bodies:
        assert not isinstance(body, bytes)
        assert await anext(body) == b"1"
        with pytest.raises(ValueError, match="canary"):
            await anext(body)
    await until_settled()
    await runs.join(NAME, ASKED, speech, lambda: None).answer()
    assert speech.begun == 2


async def test_an_answer_is_forgotten_after_its_time(make_runs: MakeRuns) -> None:
    clock = Clock()
    runs, work = make_runs(monotonic=clock, keep_s=600.0), Work()
    work.gate.set()
    await joined(runs, work).answer()
    await until(lambda: work.closed)
    clock.now += 599
    assert await replayed(joined(runs, work))
    clock.now += 1
    assert not await replayed(joined(runs, work, OTHER))


async def test_the_first_answers_make_room_for_the_last(make_runs: MakeRuns) -> None:
    runs = make_runs(max_bytes=2 * (RUN_BYTES + 1_000))
    names = [RunName("holder", f"key {number}") for number in range(3)]
    work = Work(body=bytes(1_000))
    work.gate.set()
    for number, name in enumerate(names):
        await joined(runs, work, name=name).answer()
        await until(lambda number=number: work.closed == number + 1)  # type: ignore[misc]
        assert runs.held_bytes <= 2 * (RUN_BYTES + 1_000)
    assert [await replayed(joined(runs, work, name=name)) for name in names[1:]] == [True, True]
    assert not await replayed(joined(runs, work, name=names[0]))


async def test_an_answer_larger_than_the_room_is_given_and_not_kept(make_runs: MakeRuns) -> None:
    runs, work = make_runs(max_bytes=RUN_BYTES), Work()
    work.gate.set()
    assert (await joined(runs, work).answer()).body == b"answer"
    await until(lambda: work.closed)
    assert runs.held_bytes == 0


async def test_at_the_end_everything_is_stopped_and_given_back() -> None:
    runs, begun, unbegun = Runs(), Work(), Work()
    joined(runs, begun)
    await until(lambda: begun.begun)
    joined(runs, unbegun, name=RunName("holder", "another"))
    await runs.end()
    assert (begun.cancelled, begun.closed, unbegun.begun, unbegun.closed) == (1, 1, 0, 1)
