"""How much work does an engine have, how soon does it answer, and is it worth a try? Of one engine, by what was seen.

An engine that gave no answer is set aside for a while, longer each time, or for as long as it asked for; what it is
given after that shows whether it is back. Its latency is what the last answers took to begin, once they could: it
falls by half every `HALF_LIFE_S`, so that an engine that was slow is tried again (peak EWMA, as Finagle has it).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Final

MAX_RETRY_AFTER_S: Final = 60.0
DEFAULT_RETRY_AFTER_S: Final = 5.0
FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 30.0
HALF_LIFE_S: Final = 10.0
STEP_S: Final = 0.1
"""Latencies that differ by less are the same: an engine begins to answer in milliseconds and works for seconds."""


@dataclass(slots=True)
class Health:
    """Times are seconds of one monotonic clock.

    in_flight: requests and live sessions that it has of us. is_back: whether it answered after it once gave no answer.
    """

    in_flight: int = 0
    failures: int = 0
    is_back: bool = False
    aside_until_s: float = 0.0
    retry_after_s: float = DEFAULT_RETRY_AFTER_S
    _latency_s: float = 0.0
    _latency_at_s: float = 0.0

    def is_aside(self, now_s: float) -> bool:
        return now_s < self.aside_until_s

    def failed(self, retry_after_s: float | None, now_s: float) -> None:
        """It gave a request no answer. retry_after_s: what it said of when it would."""
        pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing
        self.retry_after_s = DEFAULT_RETRY_AFTER_S if retry_after_s is None else min(retry_after_s, MAX_RETRY_AFTER_S)
        self.aside_until_s = now_s + (pause_s if retry_after_s is None else self.retry_after_s)
        self.failures += 1
        self.is_back = False

    def answered(self, after_s: float, now_s: float) -> None:
        """It answers, and began so soon after it had all of a request."""
        self.is_back = self.is_back or self.failures > 0
        self.failures, self.aside_until_s = 0, 0.0
        self._latency_s, self._latency_at_s = max(after_s, self.latency_s(now_s)), now_s

    def latency_s(self, now_s: float) -> float:
        return self._latency_s * math.exp2((self._latency_at_s - now_s) / HALF_LIFE_S)

    def cost(self, now_s: float) -> int:
        """What one more request would wait for, to compare engines by."""
        return (self.in_flight + 1) * (1 + int(self.latency_s(now_s) / STEP_S))
