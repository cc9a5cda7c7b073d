"""What the engine can say no to.

::

    EngineError
    ├── RequestError    the caller's request, or the state of the service, as a stable `ErrorCode`
    ├── BackendError    a decoder or a speech backend failed or died; nothing the caller can mend
    └── KeyFileError    the file of API keys cannot be used; the operator's to mend

`engine.openai.errors` gives every `ErrorCode` its HTTP status, type and fixed sentence. No error carries a byte
of what the caller sent: `param` is the name of a field the API defines, `numbers` are limits and counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from engine.types import RequestAllowance


class ErrorCode(StrEnum):
    """The `code` a client sees; the values are part of the API."""

    AUDIO_TOO_LONG = "audio_too_long"
    AUDIO_TOO_SHORT = "audio_too_short"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    FILE_TOO_LARGE = "file_too_large"
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


class EngineError(Exception):
    """Root of the package; never raised itself."""


class RequestError(EngineError):
    """A request that is answered with an error.

    param: the API's own name of the field at fault, where there is one.
    numbers: limits and counts that the fixed sentence of `code` quotes, for example `limit_bytes`.
    retry_after_s: when the caller may try again, for the codes that allow it.
    allowance: what the caller's key has left of its rate limit, where a limit of the key was the reason.
    """

    def __init__(
        self,
        code: ErrorCode,
        param: str | None = None,
        *,
        numbers: Mapping[str, int] | None = None,
        retry_after_s: float | None = None,
        allowance: RequestAllowance | None = None,
    ) -> None:
        super().__init__(code.value if param is None else f"{code.value} ({param})")
        self.code = code
        self.param = param
        self.numbers = dict(numbers or {})
        self.retry_after_s = retry_after_s
        self.allowance = allowance


class BackendError(EngineError):
    """A process that the engine depends on failed. The message names the process, never its input."""


class KeyFileError(EngineError):
    """The file of API keys cannot be read, used or written. The message names every fault by its place, no value."""
