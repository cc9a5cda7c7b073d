"""What grows with how much there is to do? Time and memory, from one to very many.

::

    python -m benchmarks.growth                                   all of it, some ten minutes on a quiet machine
    python -m benchmarks.growth --part keys                       one part
    python -m benchmarks.growth --json growth.json --svg plots    figures as data, and pictures of them

`crowd`: small requests at a time, through one proxy to one engine. `uploads`: the same with 25 MiB each. `pool`:
engines behind one proxy. `overload`: times as many small requests at a time as an engine admits, each place asking
again at once, whether it was answered or told to come again. `keys`: a million requests under one key, what an engine
remembers of them, and the key that follows. Speech is null. Memory is the most that a process has held.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.compare import machine
from benchmarks.load import Batch, Question, cpu_s, family, forget_peaks, in_flight, resident_bytes
from benchmarks.overhead import CONTENT_TYPE, MIB, PATH, form, server
from benchmarks.processes import proxy
from core.channel.kem import Kem
from engine.gateway.keyring import CLOCK_GRACE_S, KeyRing
from engine.gateway.replay import ReplaySet

CROWD = (1, 2, 4, 8, 16, 32, 64, 128, 256, 500)
UPLOADS = (1, 2, 4, 8, 16, 32)
ENGINES = (1, 2, 4, 8, 16)
ADMITTED = 8
OVERLOADS = (1, 2, 4, 8)
POOL_AT_A_TIME = 16
REQUESTS = 1_000_000
STEPS = 4
SMALL_BYTES = 10_000
POOL_BYTES = 100_000
FOR_S = 3.0
FIELDS = (("response_format", "json"),)
OPEN_FILES = 4_096


@dataclass(frozen=True, slots=True)
class Point:
    """One size of one part. Times are of what was answered.

    shed: how many were told to come again. proxy_mib, engine_mib: the most that they held; of several engines the mean.
    """

    part: str
    size: int
    requests: int
    shed: int
    failed: int
    why: str
    median_ms: float
    p99_ms: float
    requests_per_s: float
    cpu_ms: float
    proxy_mib: float
    engine_mib: float


@dataclass(frozen=True, slots=True)
class Remembered:
    """After so many requests under the keys of one engine.

    claim_us: of one request, the last step's mean. find_us: to find a key by its digest. epochs: how many live.
    """

    requests: int
    entry_bytes: float
    claim_us: float
    find_us: float
    epochs: int


async def measured(
    part: str, size: int, body_bytes: int, at_a_time: int, engines: int, *, admitted: int | None = None
) -> Point:
    """admitted: how many requests an engine takes at a time; more are shed."""
    numbers = () if admitted is None else (0, admitted)
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(server("engine", *numbers)) for _ in range(engines)]
        before = await stack.enter_async_context(proxy(*(engine.url for engine in started)))
        question = Question.post(before.url, PATH, form(body_bytes, *FIELDS), CONTENT_TYPE, streamed=False)
        await in_flight(Batch(), before.url, question, at_a_time=2, for_s=0.2)
        proxy_pids = family([before.process.pid])
        engine_pids = family(engine.process.pid for engine in started)
        pids = (*proxy_pids, *engine_pids)
        forget_peaks(pids)
        batch, begun = Batch(), cpu_s(pids)
        sheds = admitted is not None
        await in_flight(batch, before.url, question, at_a_time=at_a_time, for_s=FOR_S, sheds=sheds)
        used = cpu_s(pids) - begun
        times_ms = sorted(1000 * each for each in batch.times_s) or [0.0]
        return Point(
            part=part,
            size=size,
            requests=len(batch.times_s),
            shed=batch.shed,
            failed=len(batch.failures),
            why=batch.failures[0][:100] if batch.failures else "",
            median_ms=round(statistics.median(times_ms), 2),
            p99_ms=round(times_ms[min(len(times_ms) - 1, len(times_ms) * 99 // 100)], 2),
            requests_per_s=round(len(batch.times_s) / batch.elapsed_s, 1),
            cpu_ms=round(1000 * used / max(1, len(batch.times_s)), 2),
            proxy_mib=round(resident_bytes(proxy_pids, "VmHWM") / MIB, 1),
            engine_mib=round(resident_bytes(engine_pids, "VmHWM") / MIB / engines, 1),
        )


async def crowd() -> list[Point]:
    return [await _told(measured("crowd", size, SMALL_BYTES, size, 1)) for size in CROWD]


async def uploads() -> list[Point]:
    return [await _told(measured("uploads", size, 25 * MIB, size, 1)) for size in UPLOADS]


async def pool() -> list[Point]:
    return [await _told(measured("pool", size, POOL_BYTES, POOL_AT_A_TIME, size)) for size in ENGINES]


async def overload() -> list[Point]:
    return [
        await _told(measured("overload", size, SMALL_BYTES, size * ADMITTED, 1, admitted=ADMITTED))
        for size in OVERLOADS
    ]


async def _told(measuring: Awaitable[Point]) -> Point:
    point = await measuring
    print(_line(point), flush=True)
    return point


def keys() -> list[Remembered]:
    """Fill what one key remembers, past its cap."""
    ring = KeyRing(lambda *_: b"", lifetime_s=3_600, overlap_s=600, now=0.0, kems=[Kem.X25519_HKDF_SHA256])  # type: ignore[arg-type]
    held = ring.current(0.0).keys[0]
    found, before_bytes = [], _held_bytes()
    for step in range(1, STEPS + 1):
        claim_s = _claimed(held.replays, REQUESTS // STEPS)
        entry_bytes = (_held_bytes() - before_bytes) / (step * REQUESTS // STEPS)
        epochs = len(ring.live(1.0))
        begun = time.process_time()
        for _ in range(1_000):
            assert ring.find(held.key.config.path_digest, 1.0) is held
        find_us = (time.process_time() - begun) * 1000
        found.append(
            Remembered(
                step * REQUESTS // STEPS, round(entry_bytes, 1), round(claim_s * 1e6, 2), round(find_us, 2), epochs
            )
        )
        print(_remembered(found[-1]), flush=True)
    after_s = 1.0 + 600 + CLOCK_GRACE_S
    del held
    ring.expire(after_s)
    gc.collect()
    left_bytes = _held_bytes() - before_bytes
    print(f"one overlap and grace later: {len(ring.live(after_s))} epoch, {left_bytes:,} bytes more than before")
    return found


def _claimed(replays: ReplaySet, times: int) -> float:
    """Processor seconds of one claim. Encapsulated keys are random, 32 bytes long; drawing them is not counted."""
    took_s = 0.0
    for _ in range(0, times, 10_000):
        drawn = [os.urandom(32) for _ in range(10_000)]
        begun = time.process_time()
        assert all([replays.claim(enc) for enc in drawn])  # noqa: C419 - each of them is claimed
        took_s += time.process_time() - begun
    return took_s / times


def _held_bytes() -> int:
    return resident_bytes([os.getpid()])


def _line(point: Point) -> str:
    numbers = (point.median_ms, point.p99_ms, point.requests_per_s, point.cpu_ms, point.proxy_mib, point.engine_mib)
    failed = f"  {point.shed} shed" if point.shed else ""
    failed += f"  {point.failed} failed: {point.why}" if point.failed else ""
    return f"{point.part:<8}{point.size:>6}" + "".join(f"{number:>11.1f}" for number in numbers) + failed


def _remembered(each: Remembered) -> str:
    return (
        f"keys {each.requests:>9,} requests: {each.entry_bytes:.0f} bytes each, {each.claim_us:.2f} us to claim, "
        f"{each.find_us:.2f} us to find the key, {each.epochs} epochs"
    )


PARTS: dict[str, Callable[[], Awaitable[list[Point]]]] = {
    "crowd": crowd,
    "uploads": uploads,
    "pool": pool,
    "overload": overload,
}
ACROSS = {
    "crowd": "requests of 10 KB at a time",
    "uploads": "uploads of 25 MiB at a time",
    "pool": "engines in the pool",
    "overload": "times as many at a time as are admitted",
}


def pictures(points: Sequence[Point]) -> dict[str, str]:
    """SVG by name: time and memory of each part."""
    found = {}
    for part, across in ACROSS.items():
        if shown := [point for point in points if point.part == part]:
            times = {
                "median": [(float(point.size), point.median_ms) for point in shown],
                "99th percentile": [(float(point.size), point.p99_ms) for point in shown],
            }
            memory = {
                "proxy": [(float(point.size), point.proxy_mib) for point in shown],
                "each engine": [(float(point.size), point.engine_mib) for point in shown],
            }
            found[f"growth_{part}_time"] = plots.lines("milliseconds", across, times)
            found[f"growth_{part}_memory"] = plots.lines("MiB, the most that was held", across, memory)
    return found


def main(names: Sequence[str], to_json: Path | None, to_svg: Path | None) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    where: dict[str, Any] = machine()
    print(
        f"{where['date']}, {where['cores']} cores, {where['machine']}, Python {where['python']}, load {where['load']}\n"
    )
    remembered = keys() if "keys" in names else []
    names = [name for name in PARTS if name in names]
    if names:
        columns = ("median ms", "P99 ms", "a second", "CPU ms", "proxy MiB", "engine MiB")
        print(f"\n{'':8}{'':>6}" + "".join(f"{column:>11}" for column in columns))
    points = [point for name in names for point in asyncio.run(_awaited(PARTS[name]))]
    if to_json is not None:
        found = {"points": [asdict(point) for point in points], "keys": [asdict(each) for each in remembered]}
        to_json.write_text(json.dumps({**where, **found}, indent=1) + "\n")
    if to_svg is not None:
        to_svg.mkdir(parents=True, exist_ok=True)
        for name, svg in pictures(points).items():
            (to_svg / f"{name}.svg").write_text(svg)


async def _awaited(part: Callable[[], Awaitable[list[Point]]]) -> list[Point]:
    return await part()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=(*PARTS, "keys"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    main(options.part or (*PARTS, "keys"), options.json, options.svg)
