from __future__ import annotations

import asyncio

import pytest

from engine.speech.scheduler import FairScheduler, Share


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
