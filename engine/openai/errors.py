"""What a client is told when the answer is no: status, headers and body of every `ErrorCode`.

The body is OpenAI's envelope (schema `Error`: all four keys are required, `code` is a string)::

    {"error": {"message": "...", "type": "invalid_request_error", "param": "language", "code": "invalid_language"}}

Every sentence is fixed; the only thing filled in is a limit or a count of ours. The headers steer the retries of
OpenAI's SDK (2 by default), which sends again on 408, 409, 429 and any 5xx unless `x-should-retry` says otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from engine.errors import ErrorCode, RequestError
from engine.openai.allowance import allowance_headers
from engine.types import MAX_PREFIX_PADDING_MS, MAX_SILENCE_DURATION_MS

_INVALID_REQUEST: Final = "invalid_request_error"
_SERVER: Final = "server_error"


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """How one `ErrorCode` looks on the wire.

    sentences: the most exact first; the first one whose figures are all at hand is used, the last quotes none.
    retry_after_s: the advice where the error itself gives none; None for codes that waiting does not mend.
    retry: False tells the SDK not to send a large upload again to hear the same answer.
    """

    status: int
    type: str
    sentences: tuple[str, ...]
    retry_after_s: float | None = None
    retry: bool = True


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An answer to send. `headers` have lower-case names (as Binary HTTP wants them) and no Content-Length."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def _refusal(*sentences: str, status: int = 400) -> ErrorRow:
    return ErrorRow(status, _INVALID_REQUEST, sentences)


ROWS: Final[Mapping[ErrorCode, ErrorRow]] = {
    ErrorCode.AUDIO_TOO_LONG: _refusal(
        "The audio is longer than the limit of {limit_s} seconds.",
        "The audio is longer than the limit.",
    ),
    # OpenAI's own words, here and wherever a sentence sounds less like the others: clients look for them.
    ErrorCode.AUDIO_TOO_SHORT: _refusal("Audio file is too short. Minimum audio length is 0.1 seconds."),
    ErrorCode.BACKEND_UNAVAILABLE: ErrorRow(
        503, _SERVER, ("The speech backend is not available. Please try again.",), retry_after_s=5.0
    ),
    ErrorCode.FILE_TOO_LARGE: _refusal(
        "Maximum content size limit ({limit_bytes}) exceeded ({read_bytes} bytes read)",
        "Maximum content size limit ({limit_bytes}) exceeded",
        "Maximum content size limit exceeded",
        status=413,
    ),
    # `retry=False`: 429 is retried by default, and no pause within a request's life refills a quota.
    ErrorCode.INSUFFICIENT_QUOTA: ErrorRow(
        429, "insufficient_quota", ("You exceeded your current quota.",), retry=False
    ),
    # A defect meets the same audio with the same result; three uploads would only cost three decodings.
    ErrorCode.INTERNAL_ERROR: ErrorRow(
        500, _SERVER, ("The server had an error while processing your request.",), retry=False
    ),
    ErrorCode.INVALID_API_KEY: _refusal("Incorrect API key provided.", status=401),
    ErrorCode.INVALID_LANGUAGE: _refusal(
        "The language is not supported. Send an ISO 639-1 code such as `en`, or an English name."
    ),
    ErrorCode.INVALID_MULTIPART: _refusal(
        "The form has more than {limit_parts} parts.",
        "A field name of the form is longer than {limit_name_bytes} bytes.",
        "A field of the form is larger than {limit_field_bytes} bytes.",
        "The fields of the form are together larger than {limit_fields_bytes} bytes.",
        "The request body is larger than {limit_body_bytes} bytes.",
        "The request body is not a complete and well-formed multipart/form-data message.",
    ),
    ErrorCode.INVALID_RAW_AUDIO: _refusal(
        "Raw audio must be whole frames of signed 16-bit samples, and its content type must tell a `rate` from 8000 to "
        "192000 and 1 or 2 `channels`, as in `audio/pcm; rate=16000; channels=1`."
    ),
    ErrorCode.INVALID_TYPE: _refusal("A field of the form has the wrong type."),
    ErrorCode.INVALID_VALUE: _refusal("A field of the form has a value that is not allowed."),
    ErrorCode.METHOD_NOT_ALLOWED: _refusal("The method is not allowed for this URL.", status=405),
    ErrorCode.MISSING_REQUIRED_PARAMETER: _refusal("A required parameter is missing."),
    ErrorCode.MODEL_NOT_FOUND: _refusal("The model does not exist or you do not have access to it.", status=404),
    ErrorCode.NOT_FOUND: _refusal("Invalid URL.", status=404),
    ErrorCode.OVERLOADED: ErrorRow(
        503, _SERVER, ("The engine is currently overloaded. Please try again later.",), retry_after_s=1.0
    ),
    ErrorCode.RATE_LIMIT_EXCEEDED: ErrorRow(
        429, "requests", ("Rate limit reached. Please slow down.",), retry_after_s=1.0
    ),
    # Without advice to wait the audio itself is too long for the deadline, and would be again.
    ErrorCode.TIMEOUT: ErrorRow(504, _SERVER, ("The request timed out.",), retry=False),
    ErrorCode.UNSUPPORTED_FILE: _refusal(
        "Invalid file format. Supported formats: ['flac', 'm4a', 'mp3', 'mp4', 'mpeg', 'mpga', 'oga', 'ogg', "
        "'wav', 'webm']"
    ),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: _refusal(
        "The request must be sent as multipart/form-data, without a content encoding.", status=415
    ),
    ErrorCode.UNSUPPORTED_PARAMETER: _refusal("A parameter is not supported by this model."),
    ErrorCode.UNSUPPORTED_VALUE: _refusal("A parameter has a value that is not supported by this model."),
}
"""One row for every `ErrorCode`."""

_FLAG: Final = "It must be `true` or `false`."
_SENTENCES: Final[Mapping[tuple[ErrorCode, str], str]] = {
    (ErrorCode.INVALID_TYPE, "file"): "`file` must be an uploaded file, with a file name.",
    (ErrorCode.INVALID_VALUE, "chunking_strategy"): (
        "`chunking_strategy` must be `auto`, or an object of type `server_vad` with `threshold` from 0 to 1, "
        f"`silence_duration_ms` from 0 to {MAX_SILENCE_DURATION_MS} and "
        f"`prefix_padding_ms` from 0 to {MAX_PREFIX_PADDING_MS}."
    ),
    (ErrorCode.INVALID_VALUE, "file"): "`file` must be sent exactly once.",
    (ErrorCode.INVALID_VALUE, "include"): "The only value of `include[]` is `logprobs`.",
    (ErrorCode.INVALID_VALUE, "response_format"): (
        "`response_format` must be one of `json`, `text`, `srt`, `verbose_json` and `vtt`."
    ),
    (ErrorCode.INVALID_VALUE, "stream"): f"`stream` is not valid. {_FLAG}",
    (ErrorCode.INVALID_VALUE, "temperature"): "`temperature` must be a number from 0 to 1.",
    (ErrorCode.INVALID_VALUE, "timestamp_granularities"): (
        "`timestamp_granularities[]` may hold `segment` and `word`; "
        "`response_format` must be `verbose_json` if `word` is asked for."
    ),
    (ErrorCode.MISSING_REQUIRED_PARAMETER, "file"): "You must provide an audio file in the field `file`.",
    (ErrorCode.MISSING_REQUIRED_PARAMETER, "model"): "You must provide a model parameter.",
    (ErrorCode.UNSUPPORTED_PARAMETER, "include"): "This model does not return log probabilities.",
    (ErrorCode.UNSUPPORTED_PARAMETER, "known_speaker_names"): "This model does not tell speakers apart.",
    (ErrorCode.UNSUPPORTED_PARAMETER, "known_speaker_references"): "This model does not tell speakers apart.",
    (ErrorCode.UNSUPPORTED_PARAMETER, "sottovoce-receipt"): "This engine gives no receipts.",
    (ErrorCode.UNSUPPORTED_VALUE, "include"): (
        "`logprobs` needs the `response_format` `json`, and no stream with `stream_include_usage` or "
        "`stream_continuous_usage_stats`."
    ),
    (ErrorCode.UNSUPPORTED_VALUE, "model"): "This model does not translate.",
    (ErrorCode.UNSUPPORTED_VALUE, "response_format"): "`diarized_json` is not supported by this model.",
    (ErrorCode.UNSUPPORTED_VALUE, "stream"): (
        "Streaming is only supported with the `response_format` `json` or `text`."
    ),
    (ErrorCode.UNSUPPORTED_VALUE, "timestamp_granularities"): "A translation has no word timestamps.",
    (ErrorCode.UNSUPPORTED_VALUE, "to_language"): "Translations are into English only.",
}
"""More helpful fixed sentences for one code at one field; where there is none the code's own is used."""


def envelope(error: RequestError) -> dict[str, dict[str, str | None]]:
    """OpenAI's error object for `error`, as JSON values: also the payload of an error event in a stream."""
    row = ROWS[error.code]
    return {
        "error": {
            "message": _sentence(error, row),
            "type": row.type,
            "param": error.param,
            "code": error.code.value,
        }
    }


def to_response(error: RequestError) -> ErrorResponse:
    """The HTTP answer that tells a client of `error`."""
    row = ROWS[error.code]
    body = json.dumps(envelope(error), separators=(",", ":")).encode()
    return ErrorResponse(row.status, _headers(error, row), body)


def _sentence(error: RequestError, row: ErrorRow) -> str:
    if error.param is not None and (exact := _SENTENCES.get((error.code, error.param))):
        return exact
    for sentence in row.sentences[:-1]:
        try:
            return sentence.format_map(error.numbers)
        except KeyError:  # a figure of this sentence is not at hand
            continue
    return row.sentences[-1]


def _headers(error: RequestError, row: ErrorRow) -> dict[str, str]:
    headers = {"content-type": "application/json", **allowance_headers(error.allowance)}
    if row.status == 401:
        headers["www-authenticate"] = "Bearer"  # RFC 9110, section 11.6.1: a 401 names a scheme
    wait_s = row.retry_after_s if error.retry_after_s is None else error.retry_after_s
    if wait_s is not None:
        # Whole seconds, at least one (RFC 9110); the SDK prefers the milliseconds.
        headers["retry-after"] = str(max(1, math.ceil(wait_s)))
        headers["retry-after-ms"] = str(max(0, math.ceil(wait_s * 1000)))
    elif not row.retry:
        headers["x-should-retry"] = "false"
    return headers
