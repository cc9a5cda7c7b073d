"""What are AudioToTextAI's words for what went wrong? A flat envelope; a failed job has a sentence alone.

::

    {"error": "insufficient_credits", "message": "..."}

The API names one code; the others are ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from proxy.dialects.answering import Refusal, limit_sentence
from proxy.jobs.errors import ConflictError, DeniedError, FailedError, FundsError, JobsError, MissingError
from proxy.jobs.links import LinkError
from proxy.jobs.model import Failure, FailureKind


class Code(StrEnum):
    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    INSUFFICIENT_CREDITS = "insufficient_credits"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    SERVER_ERROR = "server_error"


STATUSES: Final[Mapping[Code, tuple[int, str]]] = {
    Code.BAD_REQUEST: (400, "Invalid parameters or missing required fields."),
    Code.UNAUTHORIZED: (401, "Invalid or missing API key."),
    Code.INSUFFICIENT_CREDITS: (402, "You have not enough credits for this transcription."),
    Code.NOT_FOUND: (404, "Transcription not found"),
    Code.METHOD_NOT_ALLOWED: (405, "This endpoint does not take this method."),
    Code.PAYLOAD_TOO_LARGE: (413, "The file is larger than the limit."),
    Code.SERVER_ERROR: (500, "Something went wrong on our end."),
}


class AudioToTextError(Refusal):
    def __init__(self, code: Code, message: str | None = None, *, allow: str | None = None) -> None:
        super().__init__(code, STATUSES[code], message, allow=allow)
        self.code = code

    def body(self) -> bytes:
        return json.dumps({"error": self.code.value, "message": self.message}).encode()


def bad(message: str) -> AudioToTextError:
    return AudioToTextError(Code.BAD_REQUEST, message)


def no_credits(has: str, needs: str) -> AudioToTextError:
    """In the words of the document."""
    sentence = f"You have {has} credits remaining but this transcription requires {needs} credits."
    return AudioToTextError(Code.INSUFFICIENT_CREDITS, sentence)


def of_jobs_error(error: JobsError) -> AudioToTextError:
    if isinstance(error, LinkError):
        return bad(str(error))
    if isinstance(error, FailedError):
        is_large = error.failure.kind is FailureKind.MEDIA_TOO_LARGE
        sentence = message(error.failure)
        return AudioToTextError(Code.PAYLOAD_TOO_LARGE, sentence) if is_large else bad(sentence)
    return AudioToTextError(next((code for kind, code in _CODES if isinstance(error, kind)), Code.SERVER_ERROR))


_CODES: Final[tuple[tuple[type[JobsError], Code], ...]] = (
    (DeniedError, Code.UNAUTHORIZED),
    (FundsError, Code.INSUFFICIENT_CREDITS),
    (MissingError, Code.NOT_FOUND),
    (ConflictError, Code.BAD_REQUEST),
)


def message(failure: Failure) -> str:
    """The `error_message` of a failed job."""
    return limit_sentence(failure) or FAILURES[failure.kind]


FAILURES: Final[Mapping[FailureKind, str]] = {
    FailureKind.BILLING: "The charge could not be made. Nothing was debited, and the result is withheld.",
    FailureKind.CANCELLED: "The transcription was cancelled.",
    FailureKind.CREATED_TIMEOUT: "The file was not looked at in time.",
    FailureKind.DOWNLOAD_TIMEOUT: "The download did not end in time.",
    FailureKind.ENGINE_FAILED: "The transcription failed after all retries.",
    FailureKind.ENGINE_REFUSED: "The engine does not take this request.",
    FailureKind.FUNDS: "You have not enough credits for a recording of this length.",
    FailureKind.INTERNAL: "Something went wrong on our end.",
    FailureKind.MEDIA_TOO_LARGE: "The file is larger than the limit.",
    FailureKind.MEDIA_TOO_LONG: "The recording is longer than the limit.",
    FailureKind.MEDIA_TOO_SHORT: "The recording is too short.",
    FailureKind.MEDIA_ONE_CHANNEL: "The file does not have two channels that differ.",
    FailureKind.MEDIA_UNREADABLE: "The file is not audio or video, or nothing can be heard in it.",
    FailureKind.PROCESSING_TIMEOUT: "The transcription did not end in time.",
    FailureKind.SOURCE_INTERRUPTED: "The download was interrupted.",
    FailureKind.SOURCE_LOST: "The recording cannot be opened any more.",
    FailureKind.SOURCE_UNREACHABLE: "The URL could not be accessed.",
}
"""`error_message` of every way in which a job fails."""
