"""Every error is something that an app can act on."""

from __future__ import annotations

import json

import pytest

from proxy.errors import ERRORS, ErrorCode, ProxyError, from_status


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_has_a_status_a_type_and_a_sentence(code: ErrorCode) -> None:
    row = ERRORS[code]
    assert 400 <= row.status < 600
    assert row.type in ("invalid_request_error", "server_error")
    assert row.sentence[0].isupper()


@pytest.mark.parametrize("code", ErrorCode)
def test_the_body_is_openais_envelope_with_all_four_members(code: ErrorCode) -> None:
    error = json.loads(ProxyError(code, numbers={"limit_bytes": 7}).body())["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code.value
    assert "{" not in error["message"]


@pytest.mark.parametrize(
    "code", [ErrorCode.ATTESTATION_REFUSED, ErrorCode.UPSTREAM_KEY_MISMATCH, ErrorCode.UPSTREAM_PROTOCOL_ERROR]
)
def test_refused_attestation_and_protocol_errors_forbid_a_retry(code: ErrorCode) -> None:
    assert ProxyError(code).headers()["x-should-retry"] == "false"


@pytest.mark.parametrize(("limit_bytes", "told"), [(7, 7), (26_214_400, 26_214_400), (27_262_976, 26_214_400)])
def test_the_size_limit_is_told_in_openais_words_and_is_no_more_than_that_of_a_file(
    limit_bytes: int, told: int
) -> None:
    error = ProxyError(ErrorCode.FILE_TOO_LARGE, numbers={"limit_bytes": limit_bytes})
    assert json.loads(error.body())["error"]["message"] == f"Maximum content size limit ({told}) exceeded"


def test_retry_after_is_a_whole_number_of_at_least_one_second() -> None:
    assert ProxyError(ErrorCode.NO_ATTESTED_ENGINE, retry_after_s=0.2).headers()["Retry-After"] == "1"
    assert ProxyError(ErrorCode.NO_ATTESTED_ENGINE, retry_after_s=4.1).headers()["Retry-After"] == "5"


def test_a_missing_token_is_told_how_to_be_shown() -> None:
    assert ProxyError(ErrorCode.INVALID_LOCAL_TOKEN).headers()["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ErrorCode.INVALID_REQUEST),
        (404, ErrorCode.NOT_FOUND),
        (405, ErrorCode.METHOD_NOT_ALLOWED),
        (417, ErrorCode.EXPECTATION_FAILED),
        (431, ErrorCode.INVALID_REQUEST),
        (500, ErrorCode.INTERNAL_ERROR),
        (504, ErrorCode.INTERNAL_ERROR),
    ],
)
def test_statuses_of_the_http_library_get_words_of_ours(status: int, code: ErrorCode) -> None:
    assert from_status(status).code is code
