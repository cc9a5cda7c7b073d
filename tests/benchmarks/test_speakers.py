"""Speakers are measured as the field measures them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.speakers import Errors, Score, errors, joined, merged, read_rttm, report, total
from core.transcript.types import Voice
from engine.speech.attribution import Turn
from engine.speech.speakers import Diarization

RTTM = """\
SPEAKER call 1 0.0 4.0 <NA> <NA> ada <NA> <NA>
SPEAKER call 1 4.0 4.0 <NA> <NA> bo <NA> <NA>
SPKR-INFO call 1 <NA> <NA> <NA> unknown ada <NA> <NA>
SPEAKER other 1 1.5 0.5 <NA> <NA> ada <NA> <NA>
"""
CALL = [(0.0, 4.0, "ada"), (4.0, 8.0, "bo")]


def test_turns_are_read_from_rttm() -> None:
    assert read_rttm(RTTM) == {"call": CALL, "other": [(1.5, 2.0, "ada")]}


def test_one_speakers_turns_do_not_overlap() -> None:
    turns = [Turn(2.0, 5.0, 0), Turn(0.0, 3.0, 0), Turn(6.0, 7.0, 0), Turn(2.5, 2.8, 0)]
    assert merged(turns) == [Turn(0.0, 5.0, 0), Turn(6.0, 7.0, 0)]


@pytest.mark.parametrize(
    ("turns", "rate"),
    [
        ([Turn(0.0, 4.0, 1), Turn(4.0, 8.0, 0)], 0.0),
        ([Turn(0.0, 8.0, 0)], 0.5),
        ([Turn(0.0, 4.0, 0)], 0.5),
        ([], 1.0),
        ([Turn(0.0, 4.0, 0), Turn(4.0, 8.0, 1), Turn(20.0, 30.0, 2)], 0.0),
    ],
    ids=["right, by other labels", "one speaker", "half is missed", "all is missed", "behind what is known"],
)
def test_errors_are_those_of_the_field(turns: list[Turn], rate: float) -> None:
    pytest.importorskip("pyannote.metrics", reason="needs pyannote.metrics, as benchmarks/speakers.py says")
    assert errors(CALL, turns)[0.0].rate == pytest.approx(rate)


def test_a_collar_forgives_a_boundary() -> None:
    pytest.importorskip("pyannote.metrics", reason="needs pyannote.metrics, as benchmarks/speakers.py says")
    counted = errors(CALL, [Turn(0.0, 4.2, 0), Turn(4.2, 8.0, 1)])
    assert counted[0.0].wrong_s == pytest.approx(0.2)
    assert counted[0.25].wrong_s == pytest.approx(0.0)


def test_the_report_pools_what_was_said() -> None:
    parts = {0.0: Errors(10.0, 1.0), 0.25: Errors(8.0, 0.0)}
    other = {0.0: Errors(30.0, 9.0), 0.25: Errors(20.0, 7.0)}
    text = report([Score("call", 2, 2, parts, parts), Score("room", 4, 3, other, parts)])
    assert text.splitlines()[1].split() == ["call", "2", "2", "10.0%", "10.0%", "0.0%", "0.0%"]
    assert text.splitlines()[-1].split() == ["all", "25.0%", "10.0%", "25.0%", "0.0%"]
    assert total([]).rate != total([]).rate, "of nothing there is no rate"


def test_parts_are_joined_as_jobs_join_them() -> None:
    ada, bo = Voice((1.0, 0.0), 0.7, "m:00"), Voice((0.0, 1.0), 0.7, "m:00")
    parts = [
        Diarization((Turn(0.0, 4.0, 0), Turn(4.0, 8.0, 1)), (ada, bo)),
        Diarization((Turn(1.0, 2.0, 0),), (bo,)),
    ]
    turns = [Turn(0.0, 4.0, 0), Turn(4.0, 8.0, 1), Turn(11.0, 12.0, 1)]
    assert joined(parts, [0.0, 10.0], most=20) == turns


def test_the_report_has_a_line_for_each_file_that_was_heard_in_parts() -> None:
    whole, cut = {0.0: Errors(10.0, 1.0), 0.25: Errors(8.0, 0.0)}, {0.0: Errors(10.0, 2.0), 0.25: Errors(8.0, 4.0)}
    plain = Score("call", 2, 2, whole, whole)
    assert "parts" not in report([plain])
    lines = report([replace(plain, parts=3, joined=cut)]).splitlines()
    assert lines[-2].split() == ["call", "3", "20.0%", "50.0%"]
    assert lines[-1].split() == ["all", "20.0%", "50.0%"]
