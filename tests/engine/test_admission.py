from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.admission import RETRY_AFTER_S, Admission, UploadPace
from engine.errors import ErrorCode, RequestError


def test_a_request_too_many_is_told_when_to_come_again() -> None:
    admission = Admission(max_requests=1, max_body_bytes=100)
    with admission.hold(10), pytest.raises(RequestError) as refused, admission.hold(10):
        pass
    assert refused.value.code is ErrorCode.OVERLOADED
    assert refused.value.retry_after_s == RETRY_AFTER_S


def test_bytes_are_set_aside_to_the_last_one() -> None:
    admission = Admission(max_requests=9, max_body_bytes=100)
    with admission.hold(60), admission.hold(40), pytest.raises(RequestError), admission.hold(1):
        pass


def test_a_place_is_given_back_however_the_request_ends() -> None:
    admission = Admission(max_requests=1, max_body_bytes=100)
    with pytest.raises(KeyError), admission.hold(100):
        raise KeyError
    with admission.hold(100):
        assert admission.requests == 1
    assert admission.requests == 0


def test_a_refused_request_takes_nothing() -> None:
    admission = Admission(max_requests=9, max_body_bytes=100)
    with pytest.raises(RequestError), admission.hold(101):
        pass
    with admission.hold(100):
        assert admission.requests == 1


PACE = UploadPace(min_bytes_per_s=100, grace_s=10, idle_s=5, deadline_s=60)


def test_no_rate_is_asked_for_at_first() -> None:
    assert not PACE.too_slow(0, 10)
    assert PACE.too_slow(0, 10.1)


def test_the_rate_is_an_average() -> None:
    assert not PACE.too_slow(2000, 20)
    assert PACE.too_slow(1999, 20)


def test_no_upload_outlasts_the_deadline() -> None:
    assert not PACE.too_slow(10**9, 60)
    assert PACE.too_slow(10**9, 60.1)


@given(st.integers(0, 10**6), st.floats(0, 100), st.integers(0, 10**6))
def test_more_bytes_never_make_an_upload_slower(received: int, elapsed_s: float, more: int) -> None:
    assert PACE.too_slow(received, elapsed_s) or not PACE.too_slow(received + more, elapsed_s)
