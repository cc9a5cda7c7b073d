"""What does a request cost because of its KEM? A key drawn, a request sealed and opened, and the bytes on the wire.

Everything that is done once a request is timed: encapsulation, key schedule and the export for the answer on the one
side, decapsulation and the same on the other. Both KEMs take turns, so that a busy machine is unfair to neither.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from core.channel.kem import Kem, PrivateKey
from core.channel.keyconfig import GatewayKey
from core.channel.ohttp import RequestOpener, RequestSealer

T = TypeVar("T")

TIMES = 2_000


@dataclass(frozen=True, slots=True)
class _Times:
    """Milliseconds of each step."""

    draw: list[float] = field(default_factory=list)
    seal: list[float] = field(default_factory=list)
    open: list[float] = field(default_factory=list)


def main() -> None:
    keys = {kem: GatewayKey.generate((), kem) for kem in Kem}
    times = {kem: _Times() for kem in Kem}
    for _ in range(TIMES):
        for kem, key in keys.items():
            _round(kem, key, times[kem])
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}\n")
    print(f"{'median ms':<20} {'draw a key':>11} {'seal':>7} {'open':>7} {'header bytes':>13}")
    for kem, taken in times.items():
        draw, seal, opened = (statistics.median(part) for part in (taken.draw, taken.seal, taken.open))
        print(f"{kem.name:<20} {draw:>11.3f} {seal:>7.3f} {opened:>7.3f} {7 + kem.nenc:>13}")


def _round(kem: Kem, key: GatewayKey, times: _Times) -> None:
    _timed(times.draw, lambda: PrivateKey.generate(kem))
    sealer = _timed(times.seal, lambda: RequestSealer(key.config))
    _timed(times.open, lambda: RequestOpener([key]).feed(sealer.header))


def _timed(times_ms: list[float], act: Callable[[], T]) -> T:
    begun = time.perf_counter()
    result = act()
    times_ms.append((time.perf_counter() - begun) * 1000)
    return result


if __name__ == "__main__":
    main()
