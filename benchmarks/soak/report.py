"""What came of a soak: as data, as a table, and whether it is what was promised."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from benchmarks.soak.asking import Asked, Kind, Outcome
from benchmarks.soak.fleet import Record

SUCCESS: float = 0.995
MIB = 1024 * 1024
DETAILS = 20


@dataclass(frozen=True, slots=True)
class Row:
    """The requests of one kind. Seconds from the request to its end."""

    kind: str
    requests: int
    right: int
    told: int
    wrong: int
    failed: int
    hang: int
    median_s: float
    p99_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class Wire:
    """What somebody on the way could read. control: of the same search, where nothing is sealed; sought: for what."""

    searched_bytes: int
    sought: int
    found: dict[str, int]
    control_found: int


@dataclass(frozen=True, slots=True)
class Report:
    """covered: requests during which at least one engine was up and attested; success: of those, right or told."""

    date: str
    machine: str
    cores: int | None
    load: float
    python: str
    seconds: float
    engines: int
    kills: int
    median_ready_s: float
    median_back_s: float
    left_behind: int
    proxy_mib: tuple[float, float]
    covered: int
    success: float
    rows: tuple[Row, ...]
    wire: Wire
    retries: dict[str, float]
    details: tuple[str, ...] = field(default=())

    @property
    def faults(self) -> list[str]:
        """What was promised and is not so."""
        promises = {
            "there are wrong answers": sum(row.wrong for row in self.rows) == 0,
            "there are requests that hang": sum(row.hang for row in self.rows) == 0,
            "plaintext is on the wire": not self.wire.found,
            "the search finds less than all in plaintext": self.wire.control_found == self.wire.sought,
            f"success is not above {SUCCESS:.1%}": self.success > SUCCESS,
            "some kind was never asked": all(row.requests for row in self.rows) and len(self.rows) == len(Kind),
            "no engine was killed": self.kills > 0,
            "killed engines leave processes behind": self.left_behind == 0,
        }
        return [fault for fault, is_kept in promises.items() if not is_kept]


def reported(
    asked: Sequence[Asked],
    record: Record,
    wire: Wire,
    *,
    seconds: float,
    engines: int,
    proxy_bytes: tuple[int, int],
    retries: dict[str, float],
) -> Report:
    """proxy_bytes: what the proxy held when all had begun, and at the end."""
    covered = [each for each in asked if record.is_covered(each.start_s, each.end_s)]
    later = record.lives[engines:]
    ready_s = sorted(life.ready_s - life.began_s for life in later if life.ready_s is not None)
    back_s = sorted(life.attested_s - life.began_s for life in later if life.attested_s is not None)
    return Report(
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        machine=platform.machine(),
        cores=os.cpu_count(),
        load=round(os.getloadavg()[0], 1),
        python=platform.python_version(),
        seconds=round(seconds, 1),
        engines=engines,
        kills=record.kills,
        median_ready_s=round(_share(ready_s, 0.5), 1),
        median_back_s=round(_share(back_s, 0.5), 1),
        left_behind=record.left_behind,
        proxy_mib=(round(proxy_bytes[0] / MIB, 1), round(proxy_bytes[1] / MIB, 1)),
        covered=len(covered),
        success=sum(_is_success(each, record) for each in covered) / len(covered) if covered else 0.0,
        rows=tuple(_row(kind, [each for each in asked if each.kind is kind]) for kind in Kind),
        wire=wire,
        retries=retries,
        details=tuple(_details(covered, record)),
    )


def _is_success(asked: Asked, record: Record) -> bool:
    """A right answer; or the documented error, where an engine was killed meanwhile."""
    if asked.outcome is Outcome.TOLD:
        return record.killed_within(asked.start_s, asked.end_s) > 0
    return asked.outcome is Outcome.RIGHT


def _details(asked: Sequence[Asked], record: Record) -> Iterator[str]:
    """What was not as it should be."""
    for each in [each for each in asked if each.detail or each.outcome is Outcome.HANG][:DETAILS]:
        kills = record.killed_within(each.start_s, each.end_s)
        yield f"{each.kind} {each.outcome} after {each.end_s - each.start_s:.1f} s, {kills} killed: {each.detail}"


def _row(kind: Kind, asked: Sequence[Asked]) -> Row:
    outcomes = Counter(each.outcome for each in asked)
    took_s = sorted(each.end_s - each.start_s for each in asked)
    return Row(
        kind=kind.value,
        requests=len(asked),
        right=outcomes[Outcome.RIGHT],
        told=outcomes[Outcome.TOLD],
        wrong=outcomes[Outcome.WRONG],
        failed=outcomes[Outcome.FAILED],
        hang=outcomes[Outcome.HANG],
        median_s=round(_share(took_s, 0.5), 2),
        p99_s=round(_share(took_s, 0.99), 2),
        longest_s=round(_share(took_s, 1.0), 2),
    )


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def table(report: Report) -> Iterator[str]:
    """Lines for a person."""
    yield f"{report.date}, {report.cores} cores, {report.machine}, Python {report.python}, load {report.load}"
    yield (
        f"{report.seconds:.0f} s, {report.engines} engines, {report.kills} killed and replaced, "
        f"started anew in {report.median_ready_s} s and attested in {report.median_back_s} s (medians)"
    )
    yield ""
    counts = [outcome.value for outcome in Outcome]
    yield f"{'':<9}" + "".join(f"{name:>10}" for name in ("requests", *counts, "median s", "P99 s", "longest s"))
    for row in report.rows:
        values = asdict(row)
        numbers = "".join(f"{values[name]:>10}" for name in ("requests", *counts))
        times = "".join(f"{values[name]:>10.2f}" for name in ("median_s", "p99_s", "longest_s"))
        yield f"{row.kind:<9}{numbers}{times}"
    yield ""
    yield f"success of {report.covered} requests with an engine up and attested: {report.success:.2%}"
    wire = report.wire
    yield (
        f"plaintext in {wire.searched_bytes / MIB:.0f} MiB of wire: {sum(wire.found.values())}; "
        f"the same search in plaintext found {wire.control_found} of {wire.sought} phrases"
    )
    yield f"the proxy held {report.proxy_mib[0]} MiB when all had begun, {report.proxy_mib[1]} MiB at the end"
    yield "sent once more: " + ", ".join(
        f"{reason} {number:.0f}" for reason, number in report.retries.items() if number
    )
    yield from report.details
    yield from (f"NOT AS PROMISED: {fault}" for fault in report.faults)
