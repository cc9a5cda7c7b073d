from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from core.program.scheduler import PATIENCE, FairScheduler, Share, Urgency


class Clips:
    """Takes slots for named clips; notes the order in which they got them."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.release: dict[str, asyncio.Event] = {}

    async def hear(self, share: Share, name: str) -> None:
        self.release[name] = asyncio.Event()
        async with share:
            self.order.append(name)
            await self.release[name].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_free_slot_is_given_at_once() -> None:
    scheduler = FairScheduler(1)
    async with scheduler.share():
        assert scheduler.waiting == 0


async def test_files_take_turns_whatever_they_have_waiting() -> None:
    scheduler, clips = FairScheduler(1), Clips()
    long, short = scheduler.share(), scheduler.share()
    async with asyncio.TaskGroup() as group:
        for name in ("long 1", "long 2", "long 3", "long 4"):
            group.create_task(clips.hear(long, name))
        await settle()
        for name in ("short 1", "short 2"):
            group.create_task(clips.hear(short, name))
        await settle()
        assert scheduler.waiting == 5
        for released in range(6):
            clips.release[clips.order[released]].set()
            await settle()
    assert clips.order == ["long 1", "short 1", "long 2", "short 2", "long 3", "long 4"]


async def test_a_new_file_does_not_overtake_one_that_waits() -> None:
    scheduler, clips = FairScheduler(1), Clips()
    old = scheduler.share()
    async with asyncio.TaskGroup() as group:
        for name in ("old 1", "old 2"):
            group.create_task(clips.hear(old, name))
        await settle()
        group.create_task(clips.hear(scheduler.share(), "new"))
        await settle()
        for released in ("old 1", "old 2", "new"):
            clips.release[released].set()
            await settle()
    assert clips.order == ["old 1", "old 2", "new"]


@pytest.mark.parametrize("slots", [1, 2, 3, 7])
@pytest.mark.parametrize("waiting", [1, 5, 200])
async def test_a_short_file_beside_a_long_one_waits_for_at_most_one_clip(slots: int, waiting: int) -> None:
    scheduler, clips = FairScheduler(slots), Clips()
    long = scheduler.share()
    async with asyncio.TaskGroup() as group:
        for number in range(slots + waiting):
            group.create_task(clips.hear(long, f"long {number}"))
        await settle()
        under_way = len(clips.order)
        group.create_task(clips.hear(scheduler.share(), "short"))
        await settle()
        ended = 0
        while "short" not in clips.order:
            clips.release[clips.order[ended]].set()
            ended += 1
            await settle()
        # Begun between its asking and its turn, beside those that were under way.
        assert clips.order.index("short") - under_way <= 1
        assert ended <= 2
        for event in clips.release.values():
            event.set()
        while len(clips.order) < slots + waiting + 1:
            await settle()
            for event in clips.release.values():
                event.set()


async def test_a_file_that_was_not_waiting_when_a_slot_came_free_does_not_fall_behind() -> None:
    scheduler, clips = FairScheduler(1), Clips()
    long, short = scheduler.share(), scheduler.share()
    async with asyncio.TaskGroup() as group:
        for name in ("long 1", "long 2", "long 3"):
            group.create_task(clips.hear(long, name))
        group.create_task(clips.hear(short, "short 1"))
        await settle()
        for released in ("long 1", "short 1"):
            clips.release[released].set()
            await settle()
        group.create_task(clips.hear(short, "short 2"))
        await settle()
        for released in ("long 2", "short 2", "long 3"):
            clips.release[released].set()
            await settle()
    assert clips.order == ["long 1", "short 1", "long 2", "short 2", "long 3"]


async def test_no_more_clips_than_slots_are_heard_at_once() -> None:
    scheduler, clips = FairScheduler(2), Clips()
    async with asyncio.TaskGroup() as group:
        for name in "abcd":
            group.create_task(clips.hear(scheduler.share(), name))
        await settle()
        assert clips.order == ["a", "b"]
        for event in clips.release.values():
            event.set()


async def test_a_cancelled_clip_leaves_the_queue() -> None:
    scheduler, clips = FairScheduler(1), Clips()
    share = scheduler.share()
    async with asyncio.TaskGroup() as group:
        group.create_task(clips.hear(share, "first"))
        await settle()
        given_up = group.create_task(clips.hear(share, "given up"))
        await settle()
        given_up.cancel()
        await settle()
        assert scheduler.waiting == 0
        clips.release["first"].set()
    async with share:
        assert clips.order == ["first"]


async def test_a_slot_given_to_a_clip_that_is_cancelled_in_the_same_moment_is_not_lost() -> None:
    scheduler, clips = FairScheduler(1), Clips()
    share = scheduler.share()
    async with asyncio.TaskGroup() as group:
        group.create_task(clips.hear(share, "first"))
        await settle()
        unlucky = group.create_task(clips.hear(share, "unlucky"))
        last = group.create_task(clips.hear(share, "last"))
        await settle()
        clips.release["first"].set()
        await asyncio.sleep(0)  # "first" hands its slot to "unlucky", who has not woken up
        unlucky.cancel()
        await settle()
        assert clips.order[-1] == "last"
        clips.release["last"].set()
    assert last.done()


async def test_a_clip_cancelled_just_before_its_turn_is_passed_over() -> None:
    scheduler, clips = FairScheduler(1), Clips()
    share = scheduler.share()
    async with asyncio.TaskGroup() as group:
        group.create_task(clips.hear(share, "first"))
        await settle()
        unlucky = group.create_task(clips.hear(share, "unlucky"))
        group.create_task(clips.hear(share, "last"))
        await settle()
        clips.release["first"].set()
        unlucky.cancel()  # both happen before any of them runs
        await settle()
        assert clips.order == ["first", "last"]
        clips.release["last"].set()


async def test_a_failing_clip_gives_its_slot_back() -> None:
    scheduler = FairScheduler(1)
    with pytest.raises(ZeroDivisionError):
        async with scheduler.share():
            raise ZeroDivisionError
    async with scheduler.share():
        pass


def test_a_backend_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="slot"):
        FairScheduler(0)


async def test_callers_take_turns_however_many_files_they_have() -> None:
    scheduler, clips = FairScheduler(1), Clips()
    first = scheduler.share("many")
    many = [scheduler.share("many") for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        group.create_task(clips.hear(first, "many 0"))
        await settle()
        single = scheduler.share("single")
        for number, share in enumerate(many, 1):
            group.create_task(clips.hear(share, f"many {number}"))
        for number in range(2):
            group.create_task(clips.hear(single, f"single {number}"))
        await settle()
        for released in range(6):
            clips.release[clips.order[released]].set()
            await settle()
    assert clips.order == ["many 0", "many 1", "single 0", "many 2", "single 1", "many 3"]


async def test_a_caller_is_forgotten_with_its_last_file() -> None:
    scheduler = FairScheduler(1)
    share = scheduler.share("somebody")
    assert len(scheduler._callers) == 1
    del share
    assert len(scheduler._callers) == 0


async def test_what_was_spoken_goes_before_files() -> None:
    scheduler, clips = FairScheduler(1), Clips()
    file, spoken = scheduler.share("caller"), scheduler.share("caller", Urgency.SPOKEN)
    async with asyncio.TaskGroup() as group:
        for name in ("file 1", "file 2"):
            group.create_task(clips.hear(file, name))
        await settle()
        group.create_task(clips.hear(spoken, "spoken"))
        await settle()
        for released in range(3):
            clips.release[clips.order[released]].set()
            await settle()
    assert clips.order == ["file 1", "spoken", "file 2"]


async def test_files_get_on_however_many_speak() -> None:
    scheduler, clips = FairScheduler(1), Clips()
    file, spoken = scheduler.share(), scheduler.share(None, Urgency.SPOKEN)
    async with asyncio.TaskGroup() as group:
        for number in range(3 * PATIENCE):
            group.create_task(clips.hear(spoken, f"spoken {number}"))
        await settle()
        group.create_task(clips.hear(file, "file"))
        await settle()
        for released in range(3 * PATIENCE + 1):
            clips.release[clips.order[released]].set()
            await settle()
    assert clips.order.index("file") == PATIENCE + 1


@pytest.mark.parametrize(("slots", "idle"), [(1, [True, False]), (2, [True, False, False]), (3, [True, True, False])])
async def test_it_is_idle_while_a_slot_is_free_and_of_several_one_more(slots: int, idle: list[bool]) -> None:
    scheduler = FairScheduler(slots)
    found = [scheduler.idle]
    async with AsyncExitStack() as held:
        for _ in idle[1:]:
            await held.enter_async_context(scheduler.share())
            found.append(scheduler.idle)
    assert found == idle
