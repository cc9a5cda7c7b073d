"""Has the path become slower? Two files of `benchmarks.compare`: `python -m benchmarks.regression OLD NEW`.

Machines differ and drift, so what is compared is what a side costs beside the same application without it, in its own
run: the ratio of a figure to the one of `direct`, and of sealing to the cipher. Exit codes: 0 none is worse by more
than the tolerance, 1 some are, 2 the files cannot be compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.beside import DIRECT, SEALED
from benchmarks.compare import FORMAT

SMALLER_IS_BETTER = ("median_ms", "cpu_ms", "memory_bytes")
LARGER_IS_BETTER = ("requests_per_s",)
TOLERANCE = 0.25
"""Runs of the same code on a machine of two cores differ by this much where each cell has but a few requests."""


@dataclass(frozen=True, slots=True)
class Change:
    """A figure of both files, as a ratio: by how much it is worse, 0.1 for a tenth; below 0 it is better."""

    name: str
    before: float
    after: float
    worse: float


def changes(before: Mapping[str, Any], after: Mapping[str, Any], side: str = SEALED) -> Iterator[Change]:
    """Every figure that both files have. Raises ValueError for files of another form."""
    if {before.get("format"), after.get("format")} != {FORMAT}:
        raise ValueError("these are not two files of this format")
    old, new = dict(_ratios(before, side)), dict(_ratios(after, side))
    for name, was in old.items():
        if (now := new.get(name)) is not None:
            yield Change(name, was, now, (was / now if name.endswith(LARGER_IS_BETTER) else now / was) - 1)


def _ratios(figures: Mapping[str, Any], side: str) -> Iterator[tuple[str, float]]:
    cells = {(cell["side"], cell["body"], cell["concurrency"], cell["streamed"]): cell for cell in figures["cells"]}
    for (name, *load), cell in cells.items():
        beside = cells.get((DIRECT, *load))
        if name != side or beside is None:
            continue
        body, concurrency, streamed = load
        for quantity in (*SMALLER_IS_BETTER, *LARGER_IS_BETTER):
            if cell[quantity] and beside[quantity]:
                yield (
                    f"{body} x {concurrency}{' streamed' if streamed else ''} {quantity}",
                    cell[quantity] / beside[quantity],
                )
    for each in figures["sealing"]:
        yield (
            f"sealing {each['body_bytes']} bytes, {each['kem']}",
            each["channel_ms"] / (each["cipher_ms"] + each["copy_ms"]),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regression", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--side", default=SEALED)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help=f"{TOLERANCE} unless given")
    given = parser.parse_args(arguments)
    try:
        before, after = (json.loads(path.read_text()) for path in (given.before, given.after))
        found = list(changes(before, after, given.side))
    except (OSError, ValueError, KeyError) as exc:
        sys.stderr.write(f"{type(exc).__name__}: {exc}\n")
        return 2
    if not found:
        sys.stderr.write("the files have no figure in common\n")
        return 2
    for change in sorted(found, key=lambda change: -change.worse):
        mark = "WORSE" if change.worse > given.tolerance else ""
        print(f"{change.name:<40} {change.before:>8.2f} {change.after:>8.2f} {100 * change.worse:>+7.0f} % {mark}")
    return 1 if any(change.worse > given.tolerance for change in found) else 0


if __name__ == "__main__":
    sys.exit(main())
