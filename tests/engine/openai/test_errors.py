"""Every error code has a row, and every answer is OpenAI's envelope with the headers its SDK obeys."""

from __future__ import annotations

import json
from string import Formatter

import pytest

from engine.errors import ErrorCode, RequestError
from engine.openai import errors
from engine.openai.errors import ROWS, to_response
from engine.types import RequestAllowance

OPENAI_FORMATS = ["flac", "m4a", "mp3", "mp4", "mpeg", "mpga", "oga", "ogg", "wav", "webm"]
STATUS = {
    ErrorCode.BACKEND_UNAVAILABLE: 503,
    ErrorCode.FILE_TOO_LARGE: 413,
    ErrorCode.INSUFFICIENT_QUOTA: 429,
    ErrorCode.INTERNAL_ERROR: 500,
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


def message(error: RequestError) -> str:
    text = json.loads(to_response(error).body)["error"]["message"]
    assert isinstance(text, str)
    return text


def figures(sentence: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(sentence) if name is not None]


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_row_with_a_status_a_type_and_a_sentence(code: ErrorCode) -> None:
    row = ROWS[code]
    assert row.status == STATUS.get(code, 400)
    assert row.type == TYPE.get(code, "invalid_request_error")
    assert row.sentences
    assert row.sentences[-1]
    assert not figures(row.sentences[-1]), "the last sentence must do without figures"


@pytest.mark.parametrize("code", ErrorCode)
def test_every_body_is_the_envelope_with_its_four_members(code: ErrorCode) -> None:
    response = to_response(RequestError(code, "file"))
    assert response.status == ROWS[code].status
    assert response.headers["content-type"] == "application/json"
    error = json.loads(response.body)["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["param"], error["code"]) == ("file", code.value)
    assert json.loads(to_response(RequestError(code)).body)["error"]["param"] is None


@pytest.mark.parametrize("code", [ErrorCode.RATE_LIMIT_EXCEEDED, ErrorCode.INSUFFICIENT_QUOTA])
def test_an_error_of_a_limit_says_what_is_left(code: ErrorCode) -> None:
    headers = to_response(RequestError(code, allowance=RequestAllowance(60, 0, 60.0))).headers
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"] == "1m0s"


@pytest.mark.parametrize("code", ErrorCode)
def test_header_names_are_lower_case(code: ErrorCode) -> None:
    assert all(name == name.lower() for name in to_response(RequestError(code)).headers)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_figure_in_a_sentence_is_a_plain_integer(row: errors.ErrorRow) -> None:
    for sentence in row.sentences:
        for name in figures(sentence):
            assert name.isidentifier()
            assert f"{{{name}}}" in sentence


def test_sentences_for_a_field_name_codes_that_exist_and_quote_nothing() -> None:
    for (code, param), sentence in errors._SENTENCES.items():
        assert code in ROWS
        assert param
        assert not figures(sentence)


@pytest.mark.parametrize(
    ("code", "param", "numbers", "sentence"),
    [
        (
            ErrorCode.FILE_TOO_LARGE,
            "file",
            {"limit_bytes": 26214400, "read_bytes": 26306794},
            "Maximum content size limit (26214400) exceeded (26306794 bytes read)",
        ),
        (ErrorCode.FILE_TOO_LARGE, None, {"limit_bytes": 5}, "Maximum content size limit (5) exceeded"),
        (ErrorCode.FILE_TOO_LARGE, None, {}, "Maximum content size limit exceeded"),
        (ErrorCode.AUDIO_TOO_SHORT, "file", {}, "Audio file is too short. Minimum audio length is 0.1 seconds."),
        (
            ErrorCode.UNSUPPORTED_FILE,
            "file",
            {},
            f"Invalid file format. Supported formats: {OPENAI_FORMATS}",
        ),
        (ErrorCode.AUDIO_TOO_LONG, "file", {"limit_s": 14400}, "The audio is longer than the limit of 14400 seconds."),
        (ErrorCode.AUDIO_TOO_LONG, "file", {}, "The audio is longer than the limit."),
        (ErrorCode.INVALID_MULTIPART, None, {"limit_parts": 9}, "The form has more than 9 parts."),
        (ErrorCode.INVALID_VALUE, "temperature", {}, "`temperature` must be a number from 0 to 1."),
        (ErrorCode.INVALID_VALUE, "seed", {}, "A field of the form has a value that is not allowed."),
    ],
)
def test_a_sentence_quotes_the_figures_at_hand(
    code: ErrorCode, param: str | None, numbers: dict[str, int], sentence: str
) -> None:
    assert message(RequestError(code, param, numbers=numbers)) == sentence


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (RequestError(ErrorCode.INVALID_API_KEY), {"www-authenticate": "Bearer"}),
        (RequestError(ErrorCode.RATE_LIMIT_EXCEEDED), {"retry-after": "1", "retry-after-ms": "1000"}),
        (
            RequestError(ErrorCode.RATE_LIMIT_EXCEEDED, retry_after_s=0.25),
            {"retry-after": "1", "retry-after-ms": "250"},
        ),
        (RequestError(ErrorCode.OVERLOADED, retry_after_s=2.5), {"retry-after": "3", "retry-after-ms": "2500"}),
        (RequestError(ErrorCode.OVERLOADED, retry_after_s=0), {"retry-after": "1", "retry-after-ms": "0"}),
        (RequestError(ErrorCode.BACKEND_UNAVAILABLE), {"retry-after": "5", "retry-after-ms": "5000"}),
        (RequestError(ErrorCode.INSUFFICIENT_QUOTA), {"x-should-retry": "false"}),
        (RequestError(ErrorCode.INTERNAL_ERROR), {"x-should-retry": "false"}),
        (RequestError(ErrorCode.TIMEOUT), {"x-should-retry": "false"}),
        (RequestError(ErrorCode.TIMEOUT, retry_after_s=3), {"retry-after": "3", "retry-after-ms": "3000"}),
        (RequestError(ErrorCode.INVALID_VALUE), {}),
    ],
)
def test_headers_tell_the_sdk_whether_and_when_to_try_again(error: RequestError, headers: dict[str, str]) -> None:
    assert to_response(error).headers == {"content-type": "application/json"} | headers


def test_no_5xx_and_no_429_leaves_the_retry_to_chance() -> None:
    for code, row in ROWS.items():
        if row.status >= 500 or row.status == 429:
            assert {"retry-after", "x-should-retry"} & to_response(RequestError(code)).headers.keys(), code
