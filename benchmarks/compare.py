"""What does confidentiality cost beside what people would use instead? All sides in one run, in turns.

::

    python -m benchmarks.compare                                all of it, seven minutes on a quiet machine
    python -m benchmarks.compare --short                        what `make bench` runs, under two minutes
    python -m benchmarks.compare --json new.json --svg plots    figures as data, and pictures of them
    python -m benchmarks.compare --size "25 MiB" --concurrency 64 --side sealed

The last is measured of one side at a time alone, since each keeps some 7 GB of it.

Bodies of four sizes, at three concurrencies, answered whole and as a stream, through each of `benchmarks.beside`.
Speech is null, so that what is measured is the path. With one request at a time the sides take turns request by
request, and what is added is the median of paired differences: machines drift, pairs drift together. With more they
take turns by time. A request's CPU time and memory are those of all processes of its side, the application's among
them. Memory is the most they held beyond what they hold idle, for each request in flight; it is told only where more
is in flight than ever before in the run, since what was freed stays with a process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import beside, plots
from benchmarks.beside import NGINX, SIDES, Side
from benchmarks.load import Batch, Caller, FailedError, Question, cpu_s, family, forget_peaks, in_flight, resident_bytes
from benchmarks.overhead import CONTENT_TYPE, KIB, MIB, PATH, form
from benchmarks.sealing import Sealing, measure
from core.channel.kem import available_kems

FORMAT = 1
SIZES = {"10 KB": 10_000, "100 KB": 100_000, "1 MiB": MIB, "25 MiB": 25 * MIB}
FIELDS = (("response_format", "json"),)  # LiteLLM's proxy would ask for more by itself
STREAM = (*FIELDS, ("stream", "true"))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. for_s: at each place, of each side, in each of `rounds`; pairs: at most, one at a time.

    most_bytes: in flight at a time, of several sides: each keeps several times as much.
    """

    sizes: tuple[str, ...] = tuple(SIZES)
    concurrencies: tuple[int, ...] = (1, 8, 64)
    streamed: tuple[bool, ...] = (False, True)
    rounds: int = 3
    for_s: float = 2.0
    pairs: int = 150
    sealings: int = 30
    most_bytes: int = 512 * MIB


SHORT = Plan(sizes=("10 KB", "100 KB", "25 MiB"), concurrencies=(1, 8), rounds=2, for_s=0.4, pairs=30, sealings=10)


@dataclass(frozen=True, slots=True)
class Cell:
    """A side's figures for one kind of load; None where none of its requests was answered as asked for.

    added_ms: over the same requests through nginx, one at a time.
    """

    side: str
    body: str
    concurrency: int
    streamed: bool
    requests: int
    failed: int
    why: str
    median_ms: float | None
    p99_ms: float | None
    requests_per_s: float | None
    cpu_ms: float | None
    memory_bytes: int | None
    added_ms: float | None = None


@dataclass(slots=True)
class _Running:
    """A side while it is measured. idle_bytes: what its processes hold when nothing is asked."""

    side: Side
    idle_bytes: int = 0
    pids: tuple[int, ...] = ()
    batch: Batch = field(default_factory=Batch)

    def question(self, body: bytes, *, streamed: bool) -> Question:
        return Question.post(self.side.url, PATH, body, CONTENT_TYPE, streamed=streamed)


async def measured(plan: Plan, names: Sequence[str]) -> list[Cell]:
    """Every cell of the plan, told as it is done."""
    async with AsyncExitStack() as stack:
        sides = [_Running(await stack.enter_async_context(SIDES[name]())) for name in names]
        await _warm(sides)
        cells: list[Cell] = []
        most_bytes = 0
        for body in plan.sizes:
            for streamed in plan.streamed:
                data = form(SIZES[body], *(STREAM if streamed else FIELDS))
                for concurrency in plan.concurrencies:
                    in_flight_bytes = SIZES[body] * concurrency
                    if in_flight_bytes > plan.most_bytes and len(sides) > 1:
                        continue
                    found = await _cell(plan, sides, data, body, concurrency, streamed=streamed)
                    if in_flight_bytes <= most_bytes:
                        found = [replace(cell, memory_bytes=None) for cell in found]
                    most_bytes = max(most_bytes, in_flight_bytes)
                    print("\n".join(_line(cell) for cell in found), flush=True)
                    cells += found
    return cells


async def _warm(sides: Sequence[_Running]) -> None:
    for running in sides:
        for streamed in (False, True):
            warming = running.question(form(10_000, *(STREAM if streamed else FIELDS)), streamed=streamed)
            await in_flight(Batch(), running.side.url, warming, at_a_time=2, for_s=0.2)
        running.pids = family(running.side.pids)
        running.idle_bytes = resident_bytes(running.pids)


async def _cell(
    plan: Plan, sides: Sequence[_Running], data: bytes, body: str, concurrency: int, *, streamed: bool
) -> list[Cell]:
    for running in sides:
        running.batch = Batch()
        running.pids = family(running.side.pids)
        forget_peaks(running.pids)
    before = [cpu_s(running.pids) for running in sides]
    questions = [running.question(data, streamed=streamed) for running in sides]
    if concurrency == 1:
        await _in_pairs(plan, sides, questions)
    else:
        await _in_turns(plan, sides, questions, concurrency)
    used = [cpu_s(running.pids) - begun for running, begun in zip(sides, before, strict=True)]
    floor = next((running.batch.times_s for running in sides if running.side.name == NGINX), [])
    return [
        _figures(running, body, concurrency, floor if concurrency == 1 else [], streamed=streamed, cpu=cpu)
        for running, cpu in zip(sides, used, strict=True)
    ]


async def _in_pairs(plan: Plan, sides: Sequence[_Running], questions: Sequence[Question]) -> None:
    """One request at a time, each side in turn, the first of them another one each time."""
    callers = [Caller(running.side.url) for running in sides]
    until = time.perf_counter() + len(sides) * plan.rounds * plan.for_s
    order = list(range(len(sides)))
    for _ in range(plan.pairs):
        for number in order:
            batch = sides[number].batch
            if len(batch.failures) > 1:  # it will not be answered the next time either
                continue
            try:
                took_s = await callers[number].ask(questions[number])
            except (FailedError, OSError) as exc:
                batch.failures.append(str(exc))
                continue
            batch.times_s.append(took_s)
            batch.elapsed_s += took_s
        order.append(order.pop(0))
        if time.perf_counter() > until:
            break
    for caller in callers:
        caller.close()


async def _in_turns(plan: Plan, sides: Sequence[_Running], questions: Sequence[Question], concurrency: int) -> None:
    order = list(range(len(sides)))
    for _ in range(plan.rounds):
        for number in order:
            running = sides[number]
            if not running.batch.failures:
                await in_flight(
                    running.batch, running.side.url, questions[number], at_a_time=concurrency, for_s=plan.for_s
                )
        order.append(order.pop(0))


def _figures(
    running: _Running, body: str, concurrency: int, floor: Sequence[float], *, streamed: bool, cpu: float
) -> Cell:
    batch = running.batch
    peak = resident_bytes(running.pids, "VmHWM") - running.idle_bytes
    times_ms = sorted(1000 * each for each in batch.times_s)
    answered = len(times_ms)
    paired = [1000 * (mine - theirs) for mine, theirs in zip(batch.times_s, floor, strict=False)]
    return Cell(
        side=running.side.name,
        body=body,
        concurrency=concurrency,
        streamed=streamed,
        requests=answered,
        failed=len(batch.failures),
        why=batch.failures[0] if batch.failures else "",
        median_ms=statistics.median(times_ms) if answered else None,
        p99_ms=times_ms[min(answered - 1, answered * 99 // 100)] if answered else None,
        requests_per_s=answered / batch.elapsed_s if answered else None,
        cpu_ms=1000 * cpu / answered if answered else None,
        memory_bytes=max(0, peak) // concurrency if answered else None,
        added_ms=statistics.median(paired) if paired and running.side.name != NGINX else None,
    )


# --- what is told


COLUMNS = ("median ms", "P99 ms", "added ms", "a second", "CPU ms", "MiB each", "of")
HEAD = f"{'body':>7} {'':8} {'conc.':>5} {'side':<8}" + "".join(f" {name:>10}" for name in COLUMNS)


def _line(cell: Cell) -> str:
    kind = "streamed" if cell.streamed else "whole"
    memory = None if cell.memory_bytes is None else cell.memory_bytes / MIB
    numbers = (cell.median_ms, cell.p99_ms, cell.added_ms, cell.requests_per_s, cell.cpu_ms, memory)
    told = "".join(f" {'-' if number is None else f'{number:.2f}':>10}" for number in numbers)
    failed = f"  {cell.failed} failed: {cell.why[:60]}" if cell.failed else ""
    return f"{cell.body:>7} {kind:8} {cell.concurrency:>5} {cell.side:<8}{told} {cell.requests:>10}{failed}"


def _sealings(sealings: Sequence[Sealing]) -> Iterator[str]:
    yield "\nseal and open beside AES-256-GCM, ms of a core\n"
    yield f"{'KEM':<20}{'body':>12} {'channel':>9} {'cipher':>9} {'one copy':>9} {'channel / both':>15}"
    for each in sealings:
        numbers = f"{each.channel_ms:>9.2f} {each.cipher_ms:>9.2f} {each.copy_ms:>9.2f} {each.ratio:>15.2f}"
        yield f"{each.kem:<20}{each.body_bytes / KIB:>8.0f} KiB {numbers}"


def machine() -> dict[str, Any]:
    """Where the figures are of. load: of the minute before; a busy machine's figures are worth little."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("sottovoce", "aiohttp", "cryptography")},
    }


def as_json(where: dict[str, Any], cells: Sequence[Cell], sealings: Sequence[Sealing]) -> dict[str, Any]:
    """The form that `benchmarks.regression` reads."""
    return {
        "format": FORMAT,
        **where,
        "cells": [asdict(cell) for cell in cells],
        "sealing": [asdict(each) for each in sealings],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    plan = SHORT if given.short else Plan()
    plan = replace(
        plan,
        sizes=tuple(given.size or plan.sizes),
        concurrencies=tuple(given.concurrency or plan.concurrencies),
    )
    where = machine()
    lacking = {name: beside.missing(name) for name in given.side or SIDES}
    names = [name for name, what in lacking.items() if not what]
    print(
        f"{where['date']}, {where['machine']}, {where['cores']} cores, load {where['load']}, Python {where['python']}"
    )
    for name, what in lacking.items():
        if what:
            print(f"{name} is not measured: it wants {what}")
    print(f"\n{HEAD}", flush=True)
    cells = asyncio.run(measured(plan, names))
    sealings = [measure(kem, SIZES[body], plan.sealings) for kem in available_kems() for body in plan.sizes]
    print("\n".join(_sealings(sealings)))
    if given.json:
        given.json.write_text(json.dumps(as_json(where, cells, sealings), indent=1) + "\n")
    if given.svg:
        given.svg.mkdir(parents=True, exist_ok=True)
        for name, picture in plots.pictures([asdict(cell) for cell in cells]).items():
            (given.svg / f"{name}.svg").write_text(picture)
    if any(cell.failed and cell.side == beside.SEALED for cell in cells):
        sys.exit("requests through the proxy failed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare")
    parser.add_argument("--short", action="store_true", help="a short version")
    parser.add_argument("--side", action="append", choices=SIDES, help="only these")
    parser.add_argument("--size", action="append", choices=SIZES, help="only these bodies")
    parser.add_argument("--concurrency", action="append", type=int, help="only so many at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--svg", type=Path, metavar="DIRECTORY", help="write pictures there")
    return parser


if __name__ == "__main__":
    main()
