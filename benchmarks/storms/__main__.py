"""Does every job end exactly once, whatever dies, fills up or is stepped meanwhile?

::

    python -m benchmarks.storms                                  all trials, 100 jobs each: half an hour
    python -m benchmarks.storms --trial engine-away --json storms.json

The shipped proxy, Debian's PostgreSQL and an engine, each in processes of their own, which are killed with SIGKILL. Of
the engine the channel, the evidence and the keys are real; instead of recognising anything it takes its time, reads in
the samples which part of which recording it was given, and writes down when. So what is heard is counted where it is
heard, and for a part that was heard twice it is known whether it was under way when something happened.

`tests/e2e/test_jobs_faults.py` has the same trials, shorter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.storms.outcome import Outcome, Weather
from benchmarks.storms.trials import TRIALS, missing


def surroundings() -> dict[str, object]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_before": [round(each, 1) for each in os.getloadavg()],
    }


def ran(name: str, weather: Weather) -> dict[str, object]:
    """A trial, as it goes into the report."""
    around = surroundings()
    if what := missing(name):
        return around | {"trial": name, "not_run": f"needs {what}"}
    with tempfile.TemporaryDirectory(prefix="storms-") as directory:
        outcome: Outcome = asyncio.run(TRIALS[name](weather, Path(directory)))
    return around | asdict(outcome) | {"broken": outcome.broken()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Try what jobs survive.")
    parser.add_argument("--trial", action="append", choices=list(TRIALS), help="one, or several; otherwise all")
    parser.add_argument("--jobs", type=int, default=100, help="in each trial")
    parser.add_argument("--json", type=Path, help="a file for the report")
    given = parser.parse_args()
    weather, trials = replace(Weather(), jobs=given.jobs), []
    for name in given.trial or TRIALS:
        trials.append(ran(name, weather))
        print("\n".join(f"{what:<18} {value}" for what, value in trials[-1].items()), end="\n\n", flush=True)
        if given.json is not None:
            given.json.write_text(json.dumps({"weather": asdict(weather), "trials": trials}, indent=1) + "\n")
    raise SystemExit(any(trial.get("broken") for trial in trials))


if __name__ == "__main__":
    main()
