"""Who may compute, and who is made to wait. `TURN_S` never runs out here unless a test says so."""

from __future__ import annotations

import asyncio

import pytest

from core.media import turns as module
from core.media.turns import Turn, Turns
from tests.waiting import GIVE_UP_S, until


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN_S", 3600.0)


class Decoder:
    """Implements `Computation`. computing: as it would be."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.computing = True
        self.told: list[str] = []
        turn.start(self)

    def pause(self) -> None:
        self.computing = False
        self.told.append("pause")

    def resume(self) -> None:
        self.computing = True
        self.told.append("resume")


class Desk:
    """Tasks that take a turn and hold it until they are let go."""

    def __init__(self, slots: int) -> None:
        self.turns = Turns(slots)
        self.order: list[str] = []
        self.held: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def take(self, name: str, turn: Turn) -> None:
        self.held[name] = asyncio.Event()
        self.tasks[name] = asyncio.get_running_loop().create_task(self._take(name, turn))
        await settle()

    async def _take(self, name: str, turn: Turn) -> None:
        async with turn.taken():
            self.order.append(name)
            await self.held[name].wait()

    async def let_go(self, name: str) -> None:
        self.held[name].set()
        async with asyncio.timeout(GIVE_UP_S):
            await self.tasks[name]
        await settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.wait([self.tasks[name]])
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_have_a_turn_than_there_are_slots() -> None:
    desk = Desk(2)
    for name in "abc":
        await desk.take(name, desk.turns.of(name))
    assert desk.order == ["a", "b"]
    await desk.let_go("a")
    assert desk.order == ["a", "b", "c"]


async def test_a_caller_with_many_files_has_no_more_turns_than_one_with_one() -> None:
    desk = Desk(1)
    for number in range(5):
        await desk.take(f"many {number}", desk.turns.of("many"))
    single = desk.turns.of("single")
    await desk.take("single 0", single)
    for name in ("many 0", "many 1", "single 0"):  # who comes counts as served just then
        await desk.let_go(name)
    await desk.take("single 1", single)
    for name in ("many 2", "single 1"):
        await desk.let_go(name)
    assert desk.order == ["many 0", "many 1", "single 0", "many 2", "single 1", "many 3"]


async def test_whose_turn_is_over_goes_on_until_somebody_needs_the_slot() -> None:
    desk = Desk(1)
    turn = desk.turns.of("a")
    await desk.take("a", turn)
    ahead = Decoder(turn)
    await desk.let_go("a")
    assert ahead.told == []
    await desk.take("b", desk.turns.of("b"))
    assert ahead.told == ["pause"]
    await desk.let_go("b")
    assert ahead.told == ["pause"]  # nobody wants anything of it
    await desk.take("a", turn)
    assert ahead.told == ["pause", "resume"]


async def test_a_slot_that_is_free_costs_nobody_a_pause() -> None:
    desk = Desk(2)
    turn = desk.turns.of("a")
    await desk.take("a", turn)
    ahead = Decoder(turn)
    await desk.let_go("a")
    await desk.take("b", desk.turns.of("b"))
    assert ahead.computing
    await desk.take("c", desk.turns.of("c"))
    assert not ahead.computing


async def test_no_more_compute_than_there_are_slots() -> None:
    desk = Desk(2)
    decoders = []
    turns = {name: desk.turns.of(name) for name in "abcde"}
    for round_number in range(3):
        for name, turn in turns.items():
            key = f"{name}{round_number}"
            await desk.take(key, turn)
            if not round_number:
                decoders.append(Decoder(turn))
            assert sum(decoder.computing for decoder in decoders) <= 2
            await desk.let_go(key)


async def test_a_turn_lasts_until_somebody_waits_and_it_has_lasted_long_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TURN_S", 0.0)
    desk = Desk(1)
    turn = desk.turns.of("slow")
    await desk.take("slow", turn)
    slow = Decoder(turn)
    await asyncio.sleep(0.01)
    assert slow.told == []
    await desk.take("short", desk.turns.of("short"))
    await until(lambda: "short" in desk.order)
    assert "pause" in slow.told


async def test_an_interrupted_turn_goes_on_later_and_its_task_does_not_know() -> None:
    desk = Desk(1)
    turn = desk.turns.of("slow")
    await desk.take("slow", turn)
    slow = Decoder(turn)
    await desk.take("short", desk.turns.of("short"))
    turn._expire()
    await settle()
    assert desk.order == ["slow", "short"]
    assert slow.told == ["pause"]
    assert not desk.tasks["slow"].done()
    await desk.let_go("short")
    assert slow.told == ["pause", "resume"]
    await desk.let_go("slow")
    async with desk.turns.of("next").taken():
        assert slow.told == ["pause", "resume", "pause"]


async def test_what_comes_while_its_turn_is_interrupted_ends_the_turn() -> None:
    desk = Desk(1)
    turn = desk.turns.of("slow")
    await desk.take("slow", turn)
    slow = Decoder(turn)
    await desk.take("short", desk.turns.of("short"))
    turn._expire()
    await settle()
    await desk.let_go("slow")  # the block was in the socket already
    assert desk.turns.scheduler.waiting == 0
    assert not slow.computing
    await desk.take("slow again", turn)
    await desk.let_go("short")
    assert desk.order == ["slow", "short", "slow again"]
    assert slow.computing


async def test_who_is_cancelled_in_an_interrupted_turn_leaves_nothing_behind() -> None:
    desk = Desk(1)
    turn = desk.turns.of("slow")
    await desk.take("slow", turn)
    Decoder(turn)
    await desk.take("short", desk.turns.of("short"))
    turn._expire()
    await settle()
    await desk.cancel("slow")
    assert desk.turns.scheduler.waiting == 0
    await desk.let_go("short")
    async with desk.turns.of("next").taken():
        assert len(desk.turns.holders) == 1
    assert not desk.turns.holders


async def test_who_is_cancelled_while_it_waits_takes_no_turn() -> None:
    desk = Desk(1)
    await desk.take("a", desk.turns.of("a"))
    await desk.take("b", desk.turns.of("b"))
    await desk.cancel("b")
    await desk.let_go("a")
    await desk.take("c", desk.turns.of("c"))
    assert desk.order == ["a", "c"]


async def test_who_is_cancelled_in_the_moment_of_its_turn_gives_it_back() -> None:
    desk = Desk(1)
    await desk.take("a", desk.turns.of("a"))
    await desk.take("b", desk.turns.of("b"))
    desk.held["a"].set()
    await desk.tasks["a"]
    desk.tasks["b"].cancel()  # granted, and not yet run
    await asyncio.wait([desk.tasks["b"]])
    await desk.take("c", desk.turns.of("c"))
    assert desk.order[-1] == "c"


async def test_what_is_begun_outside_a_turn_waits() -> None:
    decoder = Decoder(Turns(1).of("a"))
    assert decoder.told == ["pause"]


async def test_what_has_ended_is_not_told_anything() -> None:
    desk = Desk(1)
    turn = desk.turns.of("a")
    await desk.take("a", turn)
    decoder = Decoder(turn)
    await desk.let_go("a")
    turn.end()
    await desk.take("b", desk.turns.of("b"))
    assert decoder.told == []
