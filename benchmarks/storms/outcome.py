"""How hard is a trial of jobs, and what came of it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.storms.engine import CHANNELS


@dataclass(frozen=True, slots=True)
class Weather:
    """How hard a trial is.

    hearing_s: of a part, of which a job has two. lease_s: of a job that a proxy works on. death_every_s: from when
    all serve again until the next death. away_s: the database, or room on the disk. step_s: by how much a clock is
    wrong, forward and then back. wrong_s: for how long, each time.
    """

    jobs: int = 100
    hearing_s: float = 2.0
    lease_s: float = 30.0
    death_every_s: float = 10.0
    away_s: float = 30.0
    engine_away_s: float = 120.0
    step_s: int = 3600
    wrong_s: float = 40.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the jobs of a trial.

    ended: how many as what. kept: jobs in the database. messages: to webhooks, of which each end has one, made in its
    transaction. parts: that were heard; heard_again: more often than once; without_cause: of these, such as were not
    under way when anything happened.
    """

    trial: str
    store: str
    jobs: int
    ended: Mapping[str, int]
    wrong_texts: int
    kept: int
    messages: int
    jobs_with_message: int
    parts: int
    heard_again: int
    without_cause: int
    deaths: int
    took_s: float
    notes: Mapping[str, object] = field(default_factory=dict)

    def broken(self) -> list[str]:
        """The promises that were not kept."""
        promises = {
            "every job completes": dict(self.ended) == {"completed": self.jobs},
            "every job has its own text": not self.wrong_texts,
            "none is lost, and none is there twice": self.kept == self.jobs,
            "every job ends exactly once": self.messages == self.jobs_with_message == self.jobs,
            "every part is heard": self.parts == CHANNELS * self.jobs,
            "no part is heard again but one that was under way": not self.without_cause,
        }
        return [promise for promise, is_kept in promises.items() if not is_kept]
