from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.faults import FaultKind
from engine.access.limits import DAY_S, MINUTE_S, LimitFault, Limits, Meter, RequestAllowance

NOON = 20_000.5 * DAY_S


def enter(meter: Meter, limits: Limits, now: float = NOON, *, audio: bool = True) -> RequestAllowance | None:
    return meter.enter(limits, now, audio=audio)


def refused(meter: Meter, limits: Limits, now: float = NOON, *, audio: bool = True) -> LimitFault:
    with pytest.raises(LimitFault) as raised:
        meter.enter(limits, now, audio=audio)
    return raised.value


def test_without_limits_nothing_is_refused_and_nothing_told() -> None:
    meter = Meter()
    for _ in range(1000):
        assert meter.enter(Limits(), NOON, audio=True) is None
        meter.hear(1e6, NOON)


# --- requests a minute


def test_a_minutes_worth_may_come_at_once_and_then_no_more() -> None:
    meter, limits = Meter(), Limits(requests_per_minute=3)
    told = [enter(meter, limits) for _ in range(3)]
    assert told == [RequestAllowance(3, left, reset_s=(3 - left) * 20.0) for left in (2, 1, 0)]
    error = refused(meter, limits)
    assert error.kind is FaultKind.OVER_RATE
    assert error.retry_after_s == 20.0
    assert error.allowance == RequestAllowance(3, 0, reset_s=60.0)


def test_whoever_waits_as_long_as_told_is_admitted() -> None:
    meter, limits = Meter(), Limits(requests_per_minute=7)
    for _ in range(7):
        enter(meter, limits)
    wait_s = refused(meter, limits, NOON + 1.25).retry_after_s
    assert wait_s is not None
    refused(meter, limits, NOON + 1.25 + wait_s - 0.01)
    enter(meter, limits, NOON + 1.25 + wait_s)


def test_a_refused_request_does_not_count() -> None:
    meter, limits = Meter(), Limits(requests_per_minute=1)
    enter(meter, limits)
    for second in range(60):
        refused(meter, limits, NOON + second)
    enter(meter, limits, NOON + 60)


def test_after_a_minute_all_of_it_is_there_again() -> None:
    meter, limits = Meter(), Limits(requests_per_minute=2)
    enter(meter, limits)
    enter(meter, limits)
    assert enter(meter, limits, NOON + MINUTE_S) == RequestAllowance(2, 1, reset_s=30.0)


@given(st.integers(1, 500), st.lists(st.floats(0, 30), max_size=60))
def test_no_stretch_of_time_admits_more_than_its_share_and_a_minutes_worth(per_minute: int, gaps: list[float]) -> None:
    meter, limits, now, admitted = Meter(), Limits(requests_per_minute=per_minute), NOON, 0
    for gap in gaps:
        now += gap
        try:
            enter(meter, limits, now)
            admitted += 1
        except LimitFault:
            pass
        assert admitted <= per_minute + (now - NOON) * per_minute / MINUTE_S + 0.001


@pytest.mark.parametrize("per_minute", [1, 7, 60, 61, 999])
def test_exactly_a_minutes_worth_is_admitted_at_any_rate(per_minute: int) -> None:
    meter, limits = Meter(), Limits(requests_per_minute=per_minute)
    for left in reversed(range(per_minute)):
        allowance = enter(meter, limits, NOON + 0.1)
        assert allowance
        assert allowance.remaining == left
    refused(meter, limits, NOON + 0.1)


def test_a_clock_that_is_set_back_closes_nobody_out() -> None:
    meter, limits = Meter(), Limits(requests_per_minute=1)
    enter(meter, limits)
    refused(meter, limits, NOON - 3600)
    enter(meter, limits, NOON - 3600 + 60)


def test_new_limits_apply_to_what_was_used_under_the_old_ones() -> None:
    meter = Meter()
    for _ in range(5):
        enter(meter, Limits(requests_per_minute=10))
    assert enter(meter, Limits(requests_per_minute=20)) == RequestAllowance(20, 14, reset_s=18.0)
    assert refused(meter, Limits(requests_per_minute=2)).allowance == RequestAllowance(2, 0, reset_s=180.0)


def test_a_look_before_a_request_says_what_the_request_would_hear_and_counts_nothing() -> None:
    meter, limits = Meter(), Limits(requests_per_minute=1)
    for _ in range(3):
        assert meter.check(limits, NOON, audio=True) == RequestAllowance(1, 1, reset_s=0.0)
    enter(meter, limits)
    with pytest.raises(LimitFault) as raised:
        meter.check(limits, NOON, audio=True)
    assert (raised.value.kind, raised.value.retry_after_s) == (FaultKind.OVER_RATE, 60.0)


# --- audio of a day


def test_a_day_that_is_used_up_is_told_without_advice_to_wait() -> None:
    meter, limits = Meter(), Limits(audio_seconds_per_day=10, requests_per_minute=5)
    enter(meter, limits)
    meter.hear(9.9, NOON)
    enter(meter, limits)
    meter.hear(0.1, NOON)
    error = refused(meter, limits)
    assert (error.kind, error.retry_after_s) == (FaultKind.OVER_QUOTA, None)
    assert error.allowance == RequestAllowance(5, 3, reset_s=24.0)


def test_files_under_way_may_go_over() -> None:
    meter, limits = Meter(), Limits(audio_seconds_per_day=10)
    meter.enter(limits, NOON, audio=True)
    meter.enter(limits, NOON, audio=True)
    meter.hear(1000, NOON)
    meter.hear(1000, NOON)
    refused(meter, limits)


def test_what_wants_no_audio_heard_is_admitted_all_day() -> None:
    meter, limits = Meter(), Limits(audio_seconds_per_day=10)
    meter.hear(10, NOON)
    enter(meter, limits, audio=False)


def test_a_day_begins_at_midnight_utc() -> None:
    meter, limits = Meter(), Limits(audio_seconds_per_day=10)
    midnight = 20_001 * DAY_S
    meter.hear(10, midnight - 1)
    refused(meter, limits, midnight - 0.001)
    enter(meter, limits, midnight)


def test_a_file_counts_for_the_day_in_which_it_was_heard_to_its_end() -> None:
    meter, limits = Meter(), Limits(audio_seconds_per_day=10)
    midnight = 20_001 * DAY_S
    meter.enter(limits, midnight - 1, audio=True)
    meter.hear(10, midnight + 1)
    refused(meter, limits, midnight + 2)


def test_a_day_that_was_reached_by_mistake_closes_nobody_out() -> None:
    meter, limits = Meter(), Limits(audio_seconds_per_day=10)
    meter.hear(10, NOON + 400 * DAY_S)
    enter(meter, limits)
