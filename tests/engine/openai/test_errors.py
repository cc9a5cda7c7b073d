"""Every error code has a row, and every answer is OpenAI's envelope with the headers its SDK obeys."""

from __future__ import annotations

import json

import pytest

from core.transcript.faults import Fault
from engine.access.limits import LimitFault, RequestAllowance
from engine.openai.errors import ROWS, ErrorCode, to_response
from engine.openai.subjects import param_of
from tests.engine.openai.forms import fault

STATUS = {
    ErrorCode.BACKEND_UNAVAILABLE: 503,
    ErrorCode.FILE_TOO_LARGE: 413,
    ErrorCode.INSUFFICIENT_QUOTA: 429,
    ErrorCode.INTERNAL_ERROR: 500,
    ErrorCode.IDEMPOTENCY_KEY_REUSED: 422,
    ErrorCode.INVALID_API_KEY: 401,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.MODEL_NOT_FOUND: 404,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.OVERLOADED: 503,
    ErrorCode.RATE_LIMIT_EXCEEDED: 429,
    ErrorCode.TIMEOUT: 504,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
}
TYPE = {
    ErrorCode.INSUFFICIENT_QUOTA: "insufficient_quota",
    ErrorCode.RATE_LIMIT_EXCEEDED: "requests",
    **dict.fromkeys(
        (ErrorCode.BACKEND_UNAVAILABLE, ErrorCode.INTERNAL_ERROR, ErrorCode.OVERLOADED, ErrorCode.TIMEOUT),
        "server_error",
    ),
}


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_row_with_a_status_and_a_type(code: ErrorCode) -> None:
    row = ROWS[code]
    assert row.status == STATUS.get(code, 400)
    assert row.type == TYPE.get(code, "invalid_request_error")


@pytest.mark.parametrize("code", ErrorCode)
def test_every_body_is_the_envelope_with_its_four_members(code: ErrorCode) -> None:
    response = to_response(fault(code))
    assert response.status == ROWS[code].status
    assert response.headers["content-type"] == "application/json"
    error = json.loads(response.body)["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["param"], error["code"]) == (param_of(fault(code)), code.value)


@pytest.mark.parametrize("code", [ErrorCode.RATE_LIMIT_EXCEEDED, ErrorCode.INSUFFICIENT_QUOTA])
def test_an_error_of_a_limit_says_what_is_left(code: ErrorCode) -> None:
    headers = to_response(LimitFault(fault(code).kind, allowance=RequestAllowance(60, 0, 60.0))).headers
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"] == "1m0s"


@pytest.mark.parametrize("code", ErrorCode)
def test_header_names_are_lower_case(code: ErrorCode) -> None:
    assert all(name == name.lower() for name in to_response(fault(code)).headers)


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (fault(ErrorCode.INVALID_API_KEY), {"www-authenticate": "Bearer"}),
        (fault(ErrorCode.RATE_LIMIT_EXCEEDED), {"retry-after": "1", "retry-after-ms": "1000"}),
        (
            fault(ErrorCode.RATE_LIMIT_EXCEEDED, retry_after_s=0.25),
            {"retry-after": "1", "retry-after-ms": "250"},
        ),
        (fault(ErrorCode.OVERLOADED, retry_after_s=2.5), {"retry-after": "3", "retry-after-ms": "2500"}),
        (fault(ErrorCode.OVERLOADED, retry_after_s=0), {"retry-after": "1", "retry-after-ms": "0"}),
        (fault(ErrorCode.BACKEND_UNAVAILABLE), {"retry-after": "5", "retry-after-ms": "5000"}),
        (fault(ErrorCode.INSUFFICIENT_QUOTA), {"x-should-retry": "false"}),
        (fault(ErrorCode.INTERNAL_ERROR), {"x-should-retry": "false"}),
        (fault(ErrorCode.TIMEOUT), {"x-should-retry": "false"}),
        (fault(ErrorCode.TIMEOUT, retry_after_s=3), {"retry-after": "3", "retry-after-ms": "3000"}),
        (fault(ErrorCode.INVALID_VALUE), {}),
    ],
)
def test_headers_tell_the_sdk_whether_and_when_to_try_again(error: Fault, headers: dict[str, str]) -> None:
    assert to_response(error).headers == {"content-type": "application/json"} | headers


def test_no_5xx_and_no_429_leaves_the_retry_to_chance() -> None:
    for code, row in ROWS.items():
        if row.status >= 500 or row.status == 429:
            assert {"retry-after", "x-should-retry"} & to_response(fault(code)).headers.keys(), code
