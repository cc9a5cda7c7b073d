"""What is an app told when the proxy itself says no? Status, type and one fixed sentence for every code.

What the engine says travels sealed and is passed on as it is; these are the answers of this side. The body is OpenAI's
envelope, all four members of it, and the headers steer its SDK, which otherwise sends again on 408, 409, 429 and 5xx::

    {"error": {"message": "...", "type": "server_error", "param": null, "code": "attestation_refused"}}

No sentence repeats anything of a request. The only figures in one are limits of ours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from core.media.types import MAX_FILE_BYTES


class ErrorCode(StrEnum):
    """The `code` a client sees; the values are part of the API."""

    ATTESTATION_REFUSED = "attestation_refused"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    EXPECTATION_FAILED = "expectation_failed"
    FILE_TOO_LARGE = "file_too_large"
    HOST_NOT_ALLOWED = "host_not_allowed"
    INTERNAL_ERROR = "internal_error"
    INVALID_API_KEY = "invalid_api_key"
    INVALID_LOCAL_TOKEN = "invalid_local_token"  # noqa: S105 - the name of an error
    INVALID_REQUEST = "invalid_request"
    JOBS_OFF = "jobs_off"
    LIVE_NOT_SERVED = "live_not_served"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NO_ATTESTED_ENGINE = "no_attested_engine"
    NOT_FOUND = "not_found"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    STREAM_TRUNCATED = "stream_truncated"
    TIMEOUT = "timeout"
    UNSUPPORTED_CONTENT_ENCODING = "unsupported_content_encoding"
    UPLOAD_TIMEOUT = "upload_timeout"
    UPSTREAM_KEY_MISMATCH = "upstream_key_mismatch"
    UPSTREAM_PROTOCOL_ERROR = "upstream_protocol_error"


ALLOWED_METHODS: Final = "GET, HEAD"
"""At every URL that this side answers itself (RFC 9110, sections 9.1 and 15.5.6)."""

_REQUEST: Final = "invalid_request_error"
_SERVER: Final = "server_error"


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """How one code looks on the wire.

    should_retry: what `x-should-retry` says; None leaves it to the status.
    """

    status: int
    type: str
    sentence: str
    should_retry: bool | None = None


def _refusal(status: int, sentence: str) -> ErrorRow:
    return ErrorRow(status, _REQUEST, sentence, should_retry=False)


ERRORS: Final[Mapping[ErrorCode, ErrorRow]] = {
    ErrorCode.ATTESTATION_REFUSED: ErrorRow(
        502,
        _SERVER,
        "The engine did not prove that it is what the policy asks for. Nothing was sent to it.",
        should_retry=False,
    ),
    ErrorCode.ENGINE_UNAVAILABLE: ErrorRow(503, _SERVER, "The engine cannot be reached or takes no work now."),
    ErrorCode.EXPECTATION_FAILED: _refusal(417, "The only expectation that can be met is 100-continue."),
    # OpenAI's words: clients look for them.
    ErrorCode.FILE_TOO_LARGE: _refusal(413, "Maximum content size limit ({limit_bytes}) exceeded"),
    ErrorCode.HOST_NOT_ALLOWED: _refusal(403, "The Host header names no host of this proxy. See --allow-host."),
    ErrorCode.INTERNAL_ERROR: ErrorRow(500, _SERVER, "The proxy had an error.", should_retry=False),
    ErrorCode.INVALID_API_KEY: _refusal(401, "The connection shows two different API keys."),
    ErrorCode.INVALID_LOCAL_TOKEN: _refusal(401, "The token of this proxy is missing or wrong."),
    ErrorCode.INVALID_REQUEST: _refusal(400, "The request is not well-formed HTTP, or a header of it is too long."),
    ErrorCode.JOBS_OFF: _refusal(404, "This proxy takes no background jobs. Start it with --jobs."),
    ErrorCode.LIVE_NOT_SERVED: _refusal(501, "The engine serves no live sessions."),
    ErrorCode.METHOD_NOT_ALLOWED: _refusal(405, "The method is not allowed for this URL."),
    ErrorCode.NO_ATTESTED_ENGINE: ErrorRow(503, _SERVER, "No engine has proved itself yet. Nothing was sent."),
    ErrorCode.NOT_FOUND: _refusal(404, "Invalid URL."),
    ErrorCode.ORIGIN_NOT_ALLOWED: _refusal(403, "Web pages of this origin may not use the proxy. See --allow-origin."),
    # The network failed, not the protocol: another try is reasonable, so the status speaks for itself.
    ErrorCode.STREAM_TRUNCATED: ErrorRow(502, _SERVER, "The answer ended before its authenticated end."),
    # What took too long once takes as long again.
    ErrorCode.TIMEOUT: ErrorRow(504, _SERVER, "The engine did not answer in time.", should_retry=False),
    ErrorCode.UNSUPPORTED_CONTENT_ENCODING: _refusal(415, "A request body must be sent without Content-Encoding."),
    ErrorCode.UPLOAD_TIMEOUT: _refusal(408, "The request body stopped arriving."),
    ErrorCode.UPSTREAM_KEY_MISMATCH: ErrorRow(
        502, _SERVER, "The engine does not hold the key that it attested.", should_retry=False
    ),
    ErrorCode.UPSTREAM_PROTOCOL_ERROR: ErrorRow(
        502, _SERVER, "What answered is not an attested engine, or was altered on the way.", should_retry=False
    ),
}
"""One row for every `ErrorCode`."""


class ProxyError(Exception):
    """Root and only member of the tree: no caller acts differently on two of these; the code tells them apart.

    numbers: limits that the sentence of `code` quotes. retry_after_s: when another try may succeed.
    """

    def __init__(
        self, code: ErrorCode, *, numbers: Mapping[str, int] | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(code.value)
        self.code = code
        self.numbers = dict(numbers or {})
        self.retry_after_s = retry_after_s

    @property
    def row(self) -> ErrorRow:
        return ERRORS[self.code]

    def body(self) -> bytes:
        """OpenAI's envelope, as JSON."""
        row = self.row
        # An engine's limit is on a whole request, and a little more than OpenAI's on a file, which the engine tells.
        limits = {name: min(limit, MAX_FILE_BYTES) for name, limit in self.numbers.items()}
        message = row.sentence.format_map(limits)
        error = {"message": message, "type": row.type, "param": None, "code": self.code.value}
        return json.dumps({"error": error}).encode()

    def headers(self) -> dict[str, str]:
        """What goes with the body: its type, and what the SDK shall do next."""
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        if self.row.should_retry is not None:
            headers["x-should-retry"] = "true" if self.row.should_retry else "false"
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.row.status == 405:
            headers["Allow"] = ALLOWED_METHODS
        if self.row.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


_BY_STATUS: Final = {
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    408: ErrorCode.UPLOAD_TIMEOUT,
    417: ErrorCode.EXPECTATION_FAILED,
}


def from_status(status: int) -> ProxyError:
    """The error for a status that the HTTP library chose; nothing of its own words is kept."""
    fallback = ErrorCode.INVALID_REQUEST if 400 <= status < 500 else ErrorCode.INTERNAL_ERROR
    return ProxyError(_BY_STATUS.get(status, fallback))
