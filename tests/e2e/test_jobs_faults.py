"""Every job ends exactly once, whatever dies, fills up or is stepped meanwhile: `benchmarks.storms`, shorter."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.storms.outcome import Weather
from benchmarks.storms.trials import TRIALS, missing
from tests.requirements import need

pytestmark = pytest.mark.slow

SHORT = Weather(jobs=6, hearing_s=0.5, lease_s=3.0, death_every_s=5.0, away_s=4.0, engine_away_s=4.0, wrong_s=4.0)


@pytest.mark.parametrize("trial", TRIALS)
async def test_every_job_ends_exactly_once(trial: str, tmp_path: Path) -> None:
    what = missing(trial)
    need(not what, what)
    outcome = await TRIALS[trial](SHORT, tmp_path)
    assert outcome.broken() == [], outcome
    assert outcome.notes.get("submission_when_full") == ("503 store_unavailable" if trial == "disk-full" else None)
