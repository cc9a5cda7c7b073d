"""How much work something is, in processor time of this thread alone: what else the machine does is not counted."""

from __future__ import annotations

import time
from collections.abc import Callable


def processor_s(work: Callable[[], object]) -> float:
    """The least of three times."""
    return min(_once_s(work) for _ in range(3))


def _once_s(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began
