"""What are Scriptivox's words for what went wrong? Codes with statuses, and codes that only a failed job has.

::

    {"error": {"code": "INVALID_REQUEST", "message": "..."}}

No sentence repeats anything of a request but the name of an unknown field, which the API promises to name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from proxy.dialects.answering import Refusal, limit_sentence
from proxy.jobs.errors import (
    BusyError,
    ConflictError,
    DeniedError,
    FailedError,
    FundsError,
    JobsError,
    MissingError,
    ReusedKeyError,
)
from proxy.jobs.links import LinkError
from proxy.jobs.model import Failure, FailureKind


class Code(StrEnum):
    """Every code of the API, those of failed jobs included."""

    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_FILENAME = "INVALID_FILENAME"
    INVALID_MEDIA_FORMAT = "INVALID_MEDIA_FORMAT"
    FILE_NOT_UPLOADED = "FILE_NOT_UPLOADED"
    FILE_TOO_LARGE = "FILE_TOO_LARGE"
    UPLOAD_ALREADY_USED = "UPLOAD_ALREADY_USED"
    UPLOAD_EXPIRED = "UPLOAD_EXPIRED"
    INVALID_API_KEY = "INVALID_API_KEY"
    API_KEY_REVOKED = "API_KEY_REVOKED"
    INSUFFICIENT_BALANCE = "INSUFFICIENT_BALANCE"
    ZERO_BALANCE = "ZERO_BALANCE"
    FORBIDDEN = "FORBIDDEN"
    UPLOAD_NOT_FOUND = "UPLOAD_NOT_FOUND"
    TRANSCRIPTION_NOT_FOUND = "TRANSCRIPTION_NOT_FOUND"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    CONFLICT = "CONFLICT"
    IDEMPOTENCY_KEY_LOCKED = "IDEMPOTENCY_KEY_LOCKED"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    IDEMPOTENCY_KEY_CONFLICT = "IDEMPOTENCY_KEY_CONFLICT"
    RATE_LIMIT_EXCEEDED = "RATE_LIMIT_EXCEEDED"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    URL_NOT_ACCESSIBLE = "URL_NOT_ACCESSIBLE"
    DOWNLOAD_FAILED = "DOWNLOAD_FAILED"
    DURATION_TOO_LONG = "DURATION_TOO_LONG"
    PROCESSING_ERROR = "PROCESSING_ERROR"
    CREATED_TIMEOUT = "CREATED_TIMEOUT"
    DOWNLOAD_TIMEOUT = "DOWNLOAD_TIMEOUT"
    PROCESSING_TIMEOUT = "PROCESSING_TIMEOUT"
    BILLING_ERROR = "BILLING_ERROR"
    CANCELLED = "CANCELLED"


STATUSES: Final[Mapping[Code, tuple[int, str]]] = {
    Code.INVALID_REQUEST: (400, "The request is malformed."),
    Code.INVALID_FILENAME: (400, "filename is missing or not allowed."),
    Code.INVALID_MEDIA_FORMAT: (400, "This file extension is not supported."),
    Code.FILE_NOT_UPLOADED: (400, "No file has been uploaded to the upload URL."),
    Code.FILE_TOO_LARGE: (400, "The file is larger than the limit."),
    Code.UPLOAD_ALREADY_USED: (400, "This upload has already been used for a transcription."),
    Code.UPLOAD_EXPIRED: (400, "The upload URL has expired."),
    Code.INVALID_API_KEY: (401, "Invalid or missing API key."),
    Code.API_KEY_REVOKED: (401, "This API key has been revoked."),
    Code.INSUFFICIENT_BALANCE: (402, "The balance is not enough for this transcription."),
    Code.ZERO_BALANCE: (402, "The balance is 0. A deposit is required."),
    Code.FORBIDDEN: (403, "This is not allowed."),
    Code.UPLOAD_NOT_FOUND: (404, "There is no such upload."),
    Code.TRANSCRIPTION_NOT_FOUND: (404, "There is no such transcription."),
    Code.NOT_FOUND: (404, "There is no such endpoint."),
    Code.METHOD_NOT_ALLOWED: (405, "This endpoint does not take this method."),
    Code.CONFLICT: (409, "The transcription is in a state in which this cannot be done."),
    Code.IDEMPOTENCY_KEY_LOCKED: (409, "A request with this Idempotency-Key is being answered. Retry shortly."),
    Code.UNSUPPORTED_MEDIA_TYPE: (415, "The request body must be sent with Content-Type: application/json."),
    Code.IDEMPOTENCY_KEY_CONFLICT: (422, "This Idempotency-Key was used with a different request body."),
    Code.RATE_LIMIT_EXCEEDED: (429, "Too many requests."),
    Code.INTERNAL_ERROR: (500, "Something went wrong on this side. It is safe to retry."),
}
"""Status and default sentence of each code that answers a request; the others only a failed job has."""


class ScriptivoxError(Refusal):
    def __init__(
        self, code: Code, message: str | None = None, *, retry_after_s: float | None = None, allow: str | None = None
    ) -> None:
        super().__init__(code, STATUSES[code], message, retry_after_s=retry_after_s, allow=allow)
        self.code = code

    def body(self) -> bytes:
        return json.dumps({"error": {"code": self.code.value, "message": self.message}}).encode()

    def headers(self) -> dict[str, str]:
        return super().headers() | ({"Accept-Post": "application/json"} if self.status == 415 else {})


def invalid(message: str) -> ScriptivoxError:
    return ScriptivoxError(Code.INVALID_REQUEST, message)


def of_jobs_error(error: JobsError, *, missing: Code = Code.TRANSCRIPTION_NOT_FOUND) -> ScriptivoxError:
    """missing: what is not there when something is not there."""
    if isinstance(error, LinkError):
        return invalid(str(error))
    retry_after_s = error.retry_after_s if isinstance(error, BusyError) else None
    sentence = limit_sentence(error.failure) if isinstance(error, FailedError) else None
    return ScriptivoxError(_code_of(error) or missing, sentence, retry_after_s=retry_after_s)


def _code_of(error: JobsError) -> Code | None:
    """None for what is missing, which each route has its own word for."""
    if isinstance(error, DeniedError):
        return Code.API_KEY_REVOKED if error.revoked else Code.INVALID_API_KEY
    if isinstance(error, FundsError):
        return Code.ZERO_BALANCE if error.is_empty else Code.INSUFFICIENT_BALANCE
    if isinstance(error, FailedError) and error.failure.kind is FailureKind.MEDIA_TOO_LARGE:
        return Code.FILE_TOO_LARGE
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL_ERROR)


_CODES: Final[tuple[tuple[type[JobsError], Code | None], ...]] = (
    (MissingError, None),
    (ConflictError, Code.CONFLICT),
    (BusyError, Code.IDEMPOTENCY_KEY_LOCKED),
    (ReusedKeyError, Code.IDEMPOTENCY_KEY_CONFLICT),
)


FAILURES: Final[Mapping[FailureKind, tuple[Code, str]]] = {
    FailureKind.BILLING: (
        Code.BILLING_ERROR,
        "The charge could not be finalized. Nothing was debited and no transcript delivered. It is safe to retry.",
    ),
    FailureKind.CANCELLED: (Code.CANCELLED, "Cancelled by customer"),
    FailureKind.CREATED_TIMEOUT: (Code.CREATED_TIMEOUT, "Validation did not start in time."),
    FailureKind.DOWNLOAD_TIMEOUT: (Code.DOWNLOAD_TIMEOUT, "The download did not end in time."),
    FailureKind.ENGINE_FAILED: (Code.PROCESSING_ERROR, "Transcription failed after all retries."),
    FailureKind.ENGINE_REFUSED: (Code.PROCESSING_ERROR, "The engine does not take this request."),
    FailureKind.FUNDS: (Code.INSUFFICIENT_BALANCE, "The balance is not enough for a recording of this length."),
    FailureKind.INTERNAL: (Code.INTERNAL_ERROR, "A step failed on this side. It is safe to retry."),
    FailureKind.MEDIA_TOO_LARGE: (Code.FILE_TOO_LARGE, "The file is larger than the limit."),
    FailureKind.MEDIA_TOO_LONG: (Code.DURATION_TOO_LONG, "The recording is longer than the limit."),
    FailureKind.MEDIA_TOO_SHORT: (Code.INVALID_MEDIA_FORMAT, "Audio too short. Minimum duration is 1 second."),
    FailureKind.MEDIA_ONE_CHANNEL: (Code.INVALID_MEDIA_FORMAT, "The file does not have two channels that differ."),
    FailureKind.MEDIA_UNREADABLE: (Code.INVALID_MEDIA_FORMAT, "The file is not audio or video, or has no audio track."),
    FailureKind.PROCESSING_TIMEOUT: (Code.PROCESSING_TIMEOUT, "Transcription did not end in time."),
    FailureKind.SOURCE_INTERRUPTED: (Code.DOWNLOAD_FAILED, "The download was interrupted."),
    FailureKind.SOURCE_LOST: (Code.INTERNAL_ERROR, "The recording cannot be opened any more."),
    FailureKind.SOURCE_UNREACHABLE: (Code.URL_NOT_ACCESSIBLE, "The URL could not be accessed."),
}
"""Code and sentence of every way in which a job fails."""


def failure(failed: Failure) -> dict[str, str]:
    """The `error` of a failed job."""
    code, sentence = FAILURES[failed.kind]
    sentence = limit_sentence(failed) or sentence
    if failed.kind is FailureKind.MEDIA_TOO_SHORT and "audio_ms" in failed.numbers:
        sentence = f"Audio too short ({failed.numbers['audio_ms'] / 1000:.2f}s). Minimum duration is 1 second."
    return {"code": code.value, "message": sentence}
