"""How many frames go up at this tick, so that their times do not tell what is said?

====================== ============ ================= =========================== ====================================
                       audio comes  silence, no       more than 200 ms wait (a    after a minute without audio
                                    microphone        file, chunks of a second)
====================== ============ ================= =========================== ====================================
`strict`               1            1                 1                           1
`constant`             1            1                 what waits, at most 4       1 every tenth, until something waits
`insecure-off`         what waits   1 every tenth     what waits                  1 every tenth
====================== ============ ================= =========================== ====================================

A tick is LIVE_PERIOD_S (`core.channel.gateway`). All frames have one size, whatever is chosen.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

BACKLOG_FRAMES: Final = 2
BURST_FRAMES: Final = 4
QUIET_TICKS: Final = 600
SLOW_TICKS: Final = 10


class Shaping(StrEnum):
    """What the times of frames may show."""

    STRICT = "strict"
    CONSTANT = "constant"
    OFF = "insecure-off"


class Pace:
    """The pace of one session. Its first tick is the one after the session was opened."""

    def __init__(self, shaping: Shaping) -> None:
        self._shaping = shaping
        self._ticks = 0
        self._quiet_ticks = 0

    def frames(self, waiting: int, *, spoken: bool) -> int:
        """How many to send now. waiting: as many could be filled; spoken: whether audio came since the last tick."""
        self._ticks += 1
        self._quiet_ticks = 0 if spoken or waiting else self._quiet_ticks + 1
        slow = int(self._ticks % SLOW_TICKS == 0)
        match self._shaping:
            case Shaping.STRICT:
                return 1
            case Shaping.OFF:
                return waiting or slow
            case _ if waiting > BACKLOG_FRAMES:
                return min(waiting, BURST_FRAMES)
            case _:
                return slow if self._quiet_ticks > QUIET_TICKS else 1
