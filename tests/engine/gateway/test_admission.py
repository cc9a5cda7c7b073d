from __future__ import annotations

from contextlib import ExitStack, suppress
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.faults import Fault, FaultKind
from engine.gateway.admission import RETRY_AFTER_S, Admission, UploadPace, source_of
from engine.settings import MAX_REQUEST_BYTES


def test_a_request_too_many_is_told_when_to_come_again() -> None:
    admission = Admission(max_requests=1, max_body_bytes=100)
    with admission.hold(10, "a"), pytest.raises(Fault) as refused, admission.hold(10, "a"):
        pass
    assert refused.value.kind is FaultKind.OVERLOADED
    assert refused.value.retry_after_s == RETRY_AFTER_S


def test_bytes_are_set_aside_to_the_last_one() -> None:
    admission = Admission(max_requests=9, max_body_bytes=100)
    with admission.hold(60, "a"), admission.hold(40, "a"), pytest.raises(Fault), admission.hold(1, "a"):
        pass


def test_a_place_is_given_back_however_the_request_ends() -> None:
    admission = Admission(max_requests=1, max_body_bytes=100)
    with pytest.raises(KeyError), admission.hold(100, "a"):
        raise KeyError
    with admission.hold(100, "a"):
        assert admission.requests == 1
    assert admission.requests == 0


def test_a_refused_request_takes_nothing() -> None:
    admission = Admission(max_requests=9, max_body_bytes=100)
    with pytest.raises(Fault), admission.hold(101, "a"):
        pass
    with admission.hold(100, "a"):
        assert admission.requests == 1


@pytest.mark.parametrize(("max_requests", "alone"), [(1, 1), (2, 2), (3, 3), (4, 3), (8, 6), (256, 192)])
def test_one_holder_gets_three_quarters_and_leaves_the_rest_for_others(max_requests: int, alone: int) -> None:
    admission = Admission(max_requests=max_requests, max_body_bytes=10**9)
    with ExitStack() as held:
        assert taken(admission, held, "a", 0) == alone
        assert (taken(admission, held, "b", 0) > 0) is (max_requests > alone)


def test_bytes_are_shared_as_places_are() -> None:
    admission = Admission(max_requests=1000, max_body_bytes=6400)
    with ExitStack() as held:
        assert [taken(admission, held, holder, 100) for holder in "abcdef"] == [48, 12, 3, 1, 0, 0]
    assert admission.requests == 0
    with admission.hold(6400, "a"):
        pass


def taken(admission: Admission, held: ExitStack, holder: str, body_bytes: int) -> int:
    """How often a holder is admitted before it is refused."""
    for number in count():
        try:
            held.enter_context(admission.hold(body_bytes, holder))
        except Fault:
            return number
    raise AssertionError


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60)), max_size=60))
def test_whoever_holds_nothing_is_admitted_while_there_is_room(asked: list[tuple[str, int]]) -> None:
    admission = Admission(max_requests=20, max_body_bytes=400)
    held_bytes = 0
    with ExitStack() as held:
        for holder, body_bytes in asked:
            with suppress(Fault):
                held.enter_context(admission.hold(body_bytes, holder))
                held_bytes += body_bytes
        assert admission.requests <= 20
        assert held_bytes <= 400
        if admission.requests < 20:
            held.enter_context(admission.hold(400 - held_bytes, "newcomer"))


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::7", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_source_is_an_address_or_a_subscribers_network(address: str | None, source: str) -> None:
    assert source_of(address) == source


def test_a_large_upload_has_to_come_faster_than_a_small_one() -> None:
    pace = UploadPace(min_bytes_per_s=100, grace_s=10, deadline_s=60)
    assert not pace.too_slow(2000, 20, size_bytes=6000)
    assert pace.too_slow(2000, 20, size_bytes=6060)


def test_an_upload_that_keeps_its_pace_ends_before_the_deadline() -> None:
    pace = UploadPace()
    assert pace.too_slow(MAX_REQUEST_BYTES - 1, pace.deadline_s, size_bytes=MAX_REQUEST_BYTES)
    assert not pace.too_slow(MAX_REQUEST_BYTES, pace.deadline_s, size_bytes=MAX_REQUEST_BYTES)


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
