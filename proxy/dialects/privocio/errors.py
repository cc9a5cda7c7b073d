"""What are Privocio's words for what went wrong?

::

    {"error": {"code": "unauthorized", "message": "..."}}

The document has no code for limits and quotas; those of status 429 are ours, and so is that of 415.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from proxy.dialects.answering import Refusal, limit_sentence
from proxy.jobs.errors import ConflictError, CrowdedError, DeniedError, FailedError, FundsError, JobsError, MissingError
from proxy.jobs.model import Failure, FailureKind


class Code(StrEnum):
    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RATE_LIMITED = "rate_limited"
    CONCURRENCY_LIMIT = "concurrency_limit"
    QUOTA_EXCEEDED = "quota_exceeded"
    INTERNAL_ERROR = "internal_error"
    RUNTIME_UNAVAILABLE = "runtime_unavailable"


STATUSES: Final[Mapping[Code, tuple[int, str]]] = {
    Code.BAD_REQUEST: (400, "Invalid request body or parameters"),
    Code.UNAUTHORIZED: (401, "Missing or invalid Authorization header"),
    Code.FORBIDDEN: (403, "Insufficient permissions"),
    Code.NOT_FOUND: (404, "Resource not found"),
    Code.METHOD_NOT_ALLOWED: (405, "This endpoint does not take this method"),
    Code.PAYLOAD_TOO_LARGE: (413, "File exceeds the upload size limit"),
    Code.UNSUPPORTED_MEDIA_TYPE: (415, "The file is not audio, or of a type that is not supported"),
    Code.RATE_LIMITED: (429, "Too many requests"),
    Code.CONCURRENCY_LIMIT: (429, "Too many requests at a time"),
    Code.QUOTA_EXCEEDED: (429, "The audio hours of this period are used up"),
    Code.INTERNAL_ERROR: (500, "Something went wrong on this side"),
    Code.RUNTIME_UNAVAILABLE: (502, "Whisper runtime could not be reached"),
}


class PrivocioError(Refusal):
    def __init__(
        self, code: Code, message: str | None = None, *, retry_after_s: float | None = None, allow: str | None = None
    ) -> None:
        super().__init__(code, STATUSES[code], message, retry_after_s=retry_after_s, allow=allow)
        self.code = code

    def body(self) -> bytes:
        return json.dumps({"error": {"code": self.code.value, "message": self.message}}).encode()


def bad(message: str) -> PrivocioError:
    return PrivocioError(Code.BAD_REQUEST, message)


def of_jobs_error(error: JobsError) -> PrivocioError:
    if isinstance(error, FailedError):
        return of_failure(error.failure)
    code = next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL_ERROR)
    return PrivocioError(code, retry_after_s=1 if code is Code.CONCURRENCY_LIMIT else None)


_CODES: Final[tuple[tuple[type[JobsError], Code], ...]] = (
    (CrowdedError, Code.CONCURRENCY_LIMIT),
    (DeniedError, Code.UNAUTHORIZED),
    (FundsError, Code.QUOTA_EXCEEDED),
    (MissingError, Code.NOT_FOUND),
    (ConflictError, Code.BAD_REQUEST),
)


def of_failure(failure: Failure) -> PrivocioError:
    """The answer to a request whose job failed."""
    return PrivocioError(FAILURES[failure.kind], limit_sentence(failure))


FAILURES: Final[Mapping[FailureKind, Code]] = {
    FailureKind.BILLING: Code.INTERNAL_ERROR,
    FailureKind.CANCELLED: Code.RUNTIME_UNAVAILABLE,
    FailureKind.CREATED_TIMEOUT: Code.RUNTIME_UNAVAILABLE,
    FailureKind.DOWNLOAD_TIMEOUT: Code.RUNTIME_UNAVAILABLE,
    FailureKind.ENGINE_FAILED: Code.RUNTIME_UNAVAILABLE,
    FailureKind.ENGINE_REFUSED: Code.BAD_REQUEST,
    FailureKind.FUNDS: Code.QUOTA_EXCEEDED,
    FailureKind.INTERNAL: Code.INTERNAL_ERROR,
    FailureKind.MEDIA_TOO_LARGE: Code.PAYLOAD_TOO_LARGE,
    FailureKind.MEDIA_TOO_LONG: Code.PAYLOAD_TOO_LARGE,
    FailureKind.MEDIA_TOO_SHORT: Code.UNSUPPORTED_MEDIA_TYPE,
    FailureKind.MEDIA_ONE_CHANNEL: Code.UNSUPPORTED_MEDIA_TYPE,
    FailureKind.MEDIA_UNREADABLE: Code.UNSUPPORTED_MEDIA_TYPE,
    FailureKind.PROCESSING_TIMEOUT: Code.RUNTIME_UNAVAILABLE,
    FailureKind.SOURCE_INTERRUPTED: Code.INTERNAL_ERROR,
    FailureKind.SOURCE_LOST: Code.INTERNAL_ERROR,
    FailureKind.SOURCE_UNREACHABLE: Code.INTERNAL_ERROR,
}
"""The code of every way in which a job fails."""
