"""What a client is told when the answer is no: status, headers and body of every `ErrorCode`.

The body is OpenAI's envelope (schema `Error`: all four keys are required, `code` is a string)::

    {"error": {"message": "...", "type": "invalid_request_error", "param": "language", "code": "invalid_language"}}

The sentences are those of `engine.openai.sentences`. The headers steer the retries of
OpenAI's SDK (2 by default), which sends again on 408, 409, 429 and any 5xx unless `x-should-retry` says otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from core.transcript.faults import API_KEY, AUDIO, LANGUAGE, MODEL, TRANSCRIPT, Fault, FaultKind, Subject, option
from engine.access.limits import LimitFault
from engine.openai.allowance import allowance_headers
from engine.openai.sentences import sentence_of
from engine.openai.subjects import param_of


class ErrorCode(StrEnum):
    """The `code` a client sees; the values are part of the API."""

    AUDIO_TOO_LONG = "audio_too_long"
    AUDIO_TOO_SHORT = "audio_too_short"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    FILE_TOO_LARGE = "file_too_large"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    INSUFFICIENT_QUOTA = "insufficient_quota"
    INTERNAL_ERROR = "internal_error"
    INVALID_API_KEY = "invalid_api_key"
    INVALID_LANGUAGE = "invalid_language"
    INVALID_MULTIPART = "invalid_multipart"
    INVALID_RAW_AUDIO = "invalid_raw_audio"
    INVALID_TYPE = "invalid_type"
    INVALID_VALUE = "invalid_value"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    MISSING_REQUIRED_PARAMETER = "missing_required_parameter"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_FOUND = "not_found"
    OVERLOADED = "overloaded"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    TIMEOUT = "timeout"
    UNSUPPORTED_FILE = "unsupported_file"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    UNSUPPORTED_VALUE = "unsupported_value"


_CODES: Final[Mapping[FaultKind, ErrorCode]] = {
    FaultKind.INTERNAL: ErrorCode.INTERNAL_ERROR,
    FaultKind.INVALID: ErrorCode.INVALID_VALUE,
    FaultKind.MALFORMED: ErrorCode.INVALID_MULTIPART,
    FaultKind.MEDIA_TYPE: ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    FaultKind.METHOD: ErrorCode.METHOD_NOT_ALLOWED,
    FaultKind.MISSING: ErrorCode.MISSING_REQUIRED_PARAMETER,
    FaultKind.OVERLOADED: ErrorCode.OVERLOADED,
    FaultKind.OVER_QUOTA: ErrorCode.INSUFFICIENT_QUOTA,
    FaultKind.OVER_RATE: ErrorCode.RATE_LIMIT_EXCEEDED,
    FaultKind.REPEATED: ErrorCode.INVALID_VALUE,
    FaultKind.TIMED_OUT: ErrorCode.TIMEOUT,
    FaultKind.TOO_LARGE: ErrorCode.FILE_TOO_LARGE,
    FaultKind.TOO_LONG: ErrorCode.AUDIO_TOO_LONG,
    FaultKind.TOO_SHORT: ErrorCode.AUDIO_TOO_SHORT,
    FaultKind.UNAUTHENTICATED: ErrorCode.INVALID_API_KEY,
    FaultKind.UNAVAILABLE: ErrorCode.BACKEND_UNAVAILABLE,
    FaultKind.UNKNOWN: ErrorCode.NOT_FOUND,
    FaultKind.UNREADABLE: ErrorCode.UNSUPPORTED_FILE,
    FaultKind.UNSUPPORTED: ErrorCode.UNSUPPORTED_PARAMETER,
    FaultKind.UNSUPPORTED_VALUE: ErrorCode.UNSUPPORTED_VALUE,
    FaultKind.WRONG_TYPE: ErrorCode.INVALID_TYPE,
}
_CODES_OF_SUBJECTS: Final[Mapping[tuple[FaultKind, Subject], ErrorCode]] = {
    (FaultKind.INVALID, LANGUAGE): ErrorCode.INVALID_LANGUAGE,
    (FaultKind.INVALID, option("languages")): ErrorCode.INVALID_LANGUAGE,
    (FaultKind.UNSUPPORTED_VALUE, LANGUAGE): ErrorCode.INVALID_LANGUAGE,
    (FaultKind.UNSUPPORTED_VALUE, option("languages")): ErrorCode.INVALID_LANGUAGE,
    (FaultKind.MALFORMED, AUDIO): ErrorCode.INVALID_RAW_AUDIO,
    (FaultKind.MALFORMED, TRANSCRIPT): ErrorCode.INVALID_VALUE,
    (FaultKind.REPEATED, option("idempotency-key")): ErrorCode.IDEMPOTENCY_KEY_REUSED,
    (FaultKind.MISSING, API_KEY): ErrorCode.INVALID_API_KEY,
    (FaultKind.UNKNOWN, MODEL): ErrorCode.MODEL_NOT_FOUND,
}
"""Where one subject has a code of its own."""


def code_of(fault: Fault) -> ErrorCode:
    """The `code` that a client sees."""
    exact = _CODES_OF_SUBJECTS.get((fault.kind, fault.subject)) if fault.subject else None
    return exact or _CODES[fault.kind]


_INVALID_REQUEST: Final = "invalid_request_error"
_SERVER: Final = "server_error"


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """How one `ErrorCode` looks on the wire.

    retry_after_s: the advice where the error itself gives none; None for codes that waiting does not mend.
    retry: False tells the SDK not to send a large upload again to hear the same answer.
    """

    status: int
    type: str
    retry_after_s: float | None = None
    retry: bool = True


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An answer to send. `headers` have lower-case names (as Binary HTTP wants them) and no Content-Length."""

    status: int
    headers: Mapping[str, str]
    body: bytes


_REFUSAL: Final = ErrorRow(400, _INVALID_REQUEST)

ROWS: Final[Mapping[ErrorCode, ErrorRow]] = {
    **dict.fromkeys(ErrorCode, _REFUSAL),
    ErrorCode.BACKEND_UNAVAILABLE: ErrorRow(503, _SERVER, retry_after_s=5.0),
    ErrorCode.FILE_TOO_LARGE: replace(_REFUSAL, status=413),
    ErrorCode.IDEMPOTENCY_KEY_REUSED: replace(_REFUSAL, status=422),
    # `retry=False`: 429 is retried by default, and no pause within a request's life refills a quota.
    ErrorCode.INSUFFICIENT_QUOTA: ErrorRow(429, "insufficient_quota", retry=False),
    # A defect meets the same audio with the same result; three uploads would only cost three decodings.
    ErrorCode.INTERNAL_ERROR: ErrorRow(500, _SERVER, retry=False),
    ErrorCode.INVALID_API_KEY: replace(_REFUSAL, status=401),
    ErrorCode.METHOD_NOT_ALLOWED: replace(_REFUSAL, status=405),
    ErrorCode.MODEL_NOT_FOUND: replace(_REFUSAL, status=404),
    ErrorCode.NOT_FOUND: replace(_REFUSAL, status=404),
    ErrorCode.OVERLOADED: ErrorRow(503, _SERVER, retry_after_s=1.0),
    ErrorCode.RATE_LIMIT_EXCEEDED: ErrorRow(429, "requests", retry_after_s=1.0),
    # Without advice to wait the audio itself is too long for the deadline, and would be again.
    ErrorCode.TIMEOUT: ErrorRow(504, _SERVER, retry=False),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: replace(_REFUSAL, status=415),
}
"""One row for every `ErrorCode`."""


def envelope(fault: Fault) -> dict[str, dict[str, str | None]]:
    """OpenAI's error object for `fault`, as JSON values: also the payload of an error event in a stream."""
    code = code_of(fault)
    return {
        "error": {
            "message": sentence_of(fault),
            "type": ROWS[code].type,
            "param": param_of(fault),
            "code": code.value,
        }
    }


def to_response(fault: Fault) -> ErrorResponse:
    """The HTTP answer that tells a client of `fault`."""
    row = ROWS[code_of(fault)]
    body = json.dumps(envelope(fault), separators=(",", ":")).encode()
    return ErrorResponse(row.status, _headers(fault, row), body)


def _headers(fault: Fault, row: ErrorRow) -> dict[str, str]:
    allowance = fault.allowance if isinstance(fault, LimitFault) else None
    headers = {"content-type": "application/json", **allowance_headers(allowance)}
    if row.status == 401:
        headers["www-authenticate"] = "Bearer"  # RFC 9110, section 11.6.1: a 401 names a scheme
    wait_s = row.retry_after_s if fault.retry_after_s is None else fault.retry_after_s
    if wait_s is not None:
        # Whole seconds, at least one (RFC 9110); the SDK prefers the milliseconds.
        headers["retry-after"] = str(max(1, math.ceil(wait_s)))
        headers["retry-after-ms"] = str(max(0, math.ceil(wait_s * 1000)))
    elif not row.retry:
        headers["x-should-retry"] = "false"
    return headers
