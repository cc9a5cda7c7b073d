"""What an app says of a live session waits for its frames in bounded memory."""

from __future__ import annotations

import asyncio

import pytest

from proxy.sealed.live import MAX_WAITING_BYTES, Spoken
from tests.waiting import until_settled


@pytest.mark.parametrize("length", [0, 1, 1_000])
async def test_no_more_is_taken_of_an_app_than_there_is_memory_for(length: int) -> None:
    spoken = Spoken()
    for _ in range(MAX_WAITING_BYTES // (100 + length)):  # an empty event takes more than 100 bytes of memory
        spoken.event(bytes(length))
    async with asyncio.TaskGroup() as group:
        room = group.create_task(spoken.room())
        await until_settled()
        assert not room.done()
        while spoken.waiting_frames:
            spoken.frame()
