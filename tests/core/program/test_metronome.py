from __future__ import annotations

import asyncio

from core.program.metronome import Steady
from tests.waiting import time_passes


async def test_ticks_are_due_one_period_after_the_other() -> None:
    loop = asyncio.get_running_loop()
    metronome, began = Steady(0.01), loop.time()
    for _ in range(5):
        await metronome.beat()
    assert loop.time() - began >= 0.05


async def test_ticks_that_were_missed_are_not_made_up_for() -> None:
    metronome = Steady(1_000.0)
    time_passes(5_000.0)
    await metronome.beat()
    beating = asyncio.get_running_loop().create_task(metronome.beat())
    await asyncio.sleep(0.01)
    assert not beating.done()
    time_passes(1_000.0)
    await beating
