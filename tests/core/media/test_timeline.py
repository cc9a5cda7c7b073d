from __future__ import annotations

import pytest

from core.media.timeline import CLOCKED, CUT, FROM_ZERO, LONG_S, STEP_BACK_S, TOLERANCE_S, Timeline

TICK_S = 0.001


def timeline(container: str = "mov", start_s: float = 0.0, *, follows: bool = False) -> Timeline:
    return Timeline.of(container, tick_s=TICK_S, start_s=start_s, follows=follows)


def gap_s(line: Timeline, time_s: float) -> float:
    return line.gap_before(round(time_s / TICK_S))


@pytest.mark.parametrize("late_s", [-STEP_BACK_S + TICK_S, -0.1, 0.0, 0.01, TOLERANCE_S - TICK_S])
def test_a_clock_that_wavers_is_no_gap(late_s: float) -> None:
    line = timeline()
    line.position_s = 5.0
    assert gap_s(line, 5.0 + late_s) == 0.0
    assert gap_s(line, 5.0 + 3.0) == pytest.approx(3.0)  # and the clock still counts as before


def test_a_step_ahead_is_a_gap() -> None:
    line = timeline()
    line.position_s = 5.0
    assert gap_s(line, 25.0) == pytest.approx(20.0)


def test_a_gap_may_be_of_any_length() -> None:
    assert timeline("matroska").gap_before(1 << 62) == pytest.approx((1 << 62) * TICK_S)


def test_a_clock_that_was_set_back_counts_from_there() -> None:
    line = timeline("matroska")
    line.position_s = 60.0
    assert gap_s(line, 0.0) == 0.0
    line.position_s = 61.0
    assert gap_s(line, 1.0) == 0.0
    assert gap_s(line, 3.0) == pytest.approx(2.0)


def test_what_overlaps_makes_up_for_a_later_gap() -> None:
    line = timeline()
    line.position_s = 5.0
    assert gap_s(line, 4.5) == 0.0
    line.position_s = 10.0
    assert gap_s(line, 10.0) == 0.0  # 0.5 s more was heard than the clock has room for


@pytest.mark.parametrize("container", FROM_ZERO)
def test_a_late_start_is_a_gap(container: str) -> None:
    assert gap_s(timeline(container, start_s=5.0), 5.0) == pytest.approx(5.0)
    assert gap_s(timeline(container, start_s=LONG_S), LONG_S) == pytest.approx(LONG_S)


@pytest.mark.parametrize("container", FROM_ZERO)
def test_a_file_cut_out_of_a_longer_one_begins_with_itself(container: str) -> None:
    assert gap_s(timeline(container, start_s=LONG_S + 1), LONG_S + 1) == 0.0


@pytest.mark.parametrize("container", sorted(set(CLOCKED) - set(FROM_ZERO)))
def test_elsewhere_the_first_track_is_the_beginning(container: str) -> None:
    line = timeline(container, start_s=1.4)
    assert gap_s(line, 1.4) == 0.0
    assert gap_s(line, 4.4) == pytest.approx(3.0)  # this track begins 3 s after the first


def test_what_follows_another_recording_begins_with_itself() -> None:
    line = timeline("matroska", start_s=5.0, follows=True)
    assert gap_s(line, 5.0) == 0.0
    assert gap_s(line, 7.0) == pytest.approx(2.0)


@pytest.mark.parametrize("start_s", [-5.0, -0.02])
def test_what_begins_before_zero_begins_with_itself(start_s: float) -> None:
    line = timeline("mov", start_s=start_s)
    assert gap_s(line, start_s) == 0.0
    assert gap_s(line, start_s + 5.0) == pytest.approx(5.0)


@pytest.mark.parametrize("container", CUT)
def test_a_long_step_of_a_clock_that_changes_is_another_clock(container: str) -> None:
    line = timeline(container)
    line.position_s = 10.0
    assert gap_s(line, 10.0 + LONG_S + 1) == 0.0
    assert gap_s(line, 10.0 + LONG_S + 3) == pytest.approx(2.0)
    assert gap_s(timeline(container), LONG_S - 1) == pytest.approx(LONG_S - 1)


@pytest.mark.parametrize("container", ["wav", "mp3", "aac", "flac", "amr", "avi", "gsm"])
def test_times_that_nobody_wrote_are_not_obeyed(container: str) -> None:
    line = timeline(container, start_s=5.0)
    assert gap_s(line, 5.0) == 0.0
    assert gap_s(line, 500.0) == 0.0
