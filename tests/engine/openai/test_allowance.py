from __future__ import annotations

import pytest

from engine.access.limits import RequestAllowance
from engine.openai.allowance import allowance_headers


def test_where_requests_are_not_limited_nothing_is_told() -> None:
    assert allowance_headers(None) == {}


def test_three_headers_say_what_is_left() -> None:
    assert allowance_headers(RequestAllowance(60, 59, 1.0)) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
    }


@pytest.mark.parametrize(
    ("reset_s", "text"),
    [
        (0.0, "0s"),
        (0.0001, "1ms"),
        (0.012, "12ms"),
        (0.0120000001, "12ms"),
        (0.9991, "1s"),
        (1.0, "1s"),
        (8.64, "8.64s"),
        (10.0, "10s"),
        (59.9999, "1m0s"),
        (60.0, "1m0s"),
        (61.5, "1m1.5s"),
        (360.0, "6m0s"),
    ],
)
def test_a_duration_is_written_as_go_writes_it(reset_s: float, text: str) -> None:
    assert allowance_headers(RequestAllowance(1, 0, reset_s))["x-ratelimit-reset-requests"] == text
