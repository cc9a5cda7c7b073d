from __future__ import annotations

import json

import pytest

from core.channel.records import EndRecord
from core.transcript.faults import Fault, FaultKind
from engine.gateway.live import SessionExpiredError
from engine.openai.live_failures import failure_of


@pytest.mark.parametrize("kind", FaultKind)
def test_every_fault_has_an_event_and_an_end_that_fits_a_close_frame(kind: FaultKind) -> None:
    failure = failure_of(Fault(kind), "event_7")
    event = json.loads(failure.event)
    assert (event["type"], event["event_id"], event["error"]["event_id"]) == ("error", "event_7", None)
    assert failure.end.reason == f"{event['error']['type']}.{event['error']['code']}"
    EndRecord(failure.end.code, failure.end.reason)


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (FaultKind.UNAUTHENTICATED, 401, 3000),
        (FaultKind.OVER_RATE, 429, 4000),
        (FaultKind.OVER_QUOTA, 429, 4000),
        (FaultKind.UNKNOWN, 404, 4000),
        (FaultKind.OVERLOADED, 503, 1013),
        (FaultKind.UNAVAILABLE, 503, 1013),
        (FaultKind.INTERNAL, 500, 1011),
    ],
)
def test_the_code_tells_whether_to_try_again(kind: FaultKind, status: int, code: int) -> None:
    failure = failure_of(Fault(kind), "event_7")
    assert (failure.status, failure.end.code) == (status, code)


def test_a_session_that_expires_is_told_in_openais_words() -> None:
    failure = failure_of(SessionExpiredError(), "event_7")
    assert json.loads(failure.event)["error"]["code"] == "session_expired"
    assert (failure.end.code, failure.end.reason) == (
        1001,
        "Your session hit the maximum duration of 60 minutes.",
    )
    assert failure_of(SessionExpiredError("Nothing was said for 15 minutes."), "e").end.reason.startswith("Nothing")
