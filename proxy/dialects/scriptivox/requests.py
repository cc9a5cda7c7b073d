"""What does a request of Scriptivox's API ask for? Strict: an unknown field, or a value of another type, is refused.

A language without a token in Whisper is heard as whatever is detected, and told as it was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from core.program import strictjson
from proxy.dialects import extensions
from proxy.dialects.languages import NAMES, is_heard
from proxy.dialects.links import MAX_URL_CHARS, is_link
from proxy.dialects.media_types import MEDIA_TYPES
from proxy.dialects.scriptivox.errors import Code, ScriptivoxError, invalid
from proxy.dialects.times import parse_iso
from proxy.jobs.model import Capabilities, JobOptions, JobStatus, ListQuery, UploadId

MAX_BODY_BYTES: Final = 65_536
MAX_FILENAME_CHARS: Final = 255
MAX_SPEAKERS: Final = 50
MAX_PAGE: Final = 200
MIN_AUDIO_MS: Final = 1000

ASKED_LANGUAGE: Final = "language"
"""In `JobOptions.extra`: the language that was asked for, where it is not one that is heard."""


@dataclass(frozen=True, slots=True)
class UploadRequest:
    filename: str
    content_type: str


@dataclass(frozen=True, slots=True)
class TranscribeRequest:
    """Exactly one of `url` and `upload` is there."""

    options: JobOptions
    url: str | None = None
    upload: UploadId | None = None


def _object(body: bytes, fields: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        value = strictjson.loads(body, max_bytes=MAX_BODY_BYTES)
    except ValueError as exc:
        raise invalid(f"The request body is not what it should be: {exc}.") from None
    if not isinstance(value, dict):
        raise invalid("The request body must be a JSON object.")
    if unknown := next((name for name in value if name not in fields), None):
        raise invalid(f"Unknown field: {_shown(unknown)}")
    if any(name not in fields for name in value):
        raise invalid("Unknown field: (empty)")
    return value


def _shown(name: str) -> str:
    """The API promises to name the unknown field; that is no reason to repeat pages of it."""
    return re.sub(r"[^\x20-\x7e]", "?", name[:64])


# ---------------------------------------------------------------- POST /v1/upload

_FORBIDDEN: Final = re.compile(r"[/\\<>\"'`\x00-\x1f\x7f]")


def parse_upload(body: bytes) -> UploadRequest:
    """Raises ScriptivoxError: INVALID_REQUEST, INVALID_FILENAME, INVALID_MEDIA_FORMAT."""
    filename = _object(body, ("filename",)).get("filename")
    if not isinstance(filename, str) or not filename:
        raise _filename("is required and must be a string")
    if len(filename) > MAX_FILENAME_CHARS:
        raise _filename(f"must be at most {MAX_FILENAME_CHARS} characters")
    if not filename.isascii():
        raise _filename("must be ASCII")
    if _FORBIDDEN.search(filename):
        raise _filename("must not contain / \\ < > \" ' ` or control characters")
    stem, _, extension = filename.rpartition(".")
    if not stem or not extension.strip():
        raise _filename("must have an extension")
    content_type = MEDIA_TYPES.get(extension.lower())
    if content_type is None:
        raise ScriptivoxError(Code.INVALID_MEDIA_FORMAT)
    return UploadRequest(filename, content_type)


def _filename(fault: str) -> ScriptivoxError:
    return ScriptivoxError(Code.INVALID_FILENAME, f"filename {fault}.")


# ---------------------------------------------------------------- POST /v1/transcribe

_FIELDS: Final = ("url", "upload_id", "language", "diarize", "speaker_count", "align", "webhook_url")


def parse_transcribe(body: bytes, can: Capabilities) -> TranscribeRequest:
    """Raises ScriptivoxError(INVALID_REQUEST), also for what the engine cannot do."""
    fields = _object(body, (*_FIELDS, *extensions.NAMES))
    url, upload = fields.get("url"), fields.get("upload_id")
    if (url is None) == (upload is None):
        raise invalid("Exactly one of url and upload_id is required.")
    if url is not None:
        _check_link("url", url)
    if upload is not None and not isinstance(upload, str):
        raise invalid("upload_id must be a string.")
    try:
        options = extensions.extended(_options(fields, can), fields, can)
    except extensions.ExtensionError as exc:
        raise invalid(str(exc)) from None
    return TranscribeRequest(options, url, None if upload is None else UploadId(upload))


def _options(fields: Mapping[str, Any], can: Capabilities) -> JobOptions:
    code = _language(fields.get("language"))
    diarize = _flag(fields, "diarize", default=False)
    align = _flag(fields, "align", default=True)
    if diarize and not can.diarize:
        raise invalid("diarize is not available: the engine in use does not tell speakers apart.")
    if (webhook := fields.get("webhook_url")) is not None:
        _check_link("webhook_url", webhook)
    is_told_later = code is not None and not is_heard(code)
    return JobOptions(
        language=None if is_told_later else code,
        min_audio_ms=MIN_AUDIO_MS,
        # Speakers are told apart word by word, so whoever asks for them gets the words too.
        words=align or diarize,
        diarize=diarize,
        speaker_count=_speaker_count(fields.get("speaker_count"), diarize=diarize),
        webhook_url=webhook,
        extra={ASKED_LANGUAGE: code} if is_told_later and code else {},
    )


def _check_link(name: str, value: object) -> None:
    if not isinstance(value, str) or not is_link(value):
        raise invalid(f"{name} must be an http or https URL of at most {MAX_URL_CHARS} characters.")


def _language(value: object) -> str | None:
    if value is None:
        return None
    code = value.lower() if isinstance(value, str) else ""
    if code not in NAMES:
        raise invalid("language must be one of the supported language codes, or null.")
    return code


def _flag(fields: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise invalid(f"{name} must be a boolean.")
    return value


def _speaker_count(value: object, *, diarize: bool) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SPEAKERS:
        raise invalid(f"speaker_count must be an integer from 1 to {MAX_SPEAKERS}.")
    if not diarize:
        raise invalid("speaker_count requires diarize to be true.")
    return value


# ---------------------------------------------------------------- GET /v1/transcriptions

_INTEGER: Final = re.compile(r"[0-9]{1,9}")


def parse_list(query: Mapping[str, str]) -> ListQuery:
    """Raises ScriptivoxError(INVALID_REQUEST)."""
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid("order must be desc or asc.")
    return ListQuery(
        status=_status(query.get("status")),
        from_ms=_moment("from", query.get("from")),
        to_ms=_moment("to", query.get("to")),
        ascending=order == "asc",
        limit=_limit(query.get("limit", "50")),
        cursor=query.get("cursor"),
    )


def _status(text: str | None) -> JobStatus | None:
    try:
        return None if text is None else JobStatus(text)
    except ValueError:
        raise invalid(f"status must be one of: {', '.join(JobStatus)}") from None


def _moment(name: str, text: str | None) -> int | None:
    try:
        return None if text is None else parse_iso(text)
    except (ValueError, OverflowError):
        raise invalid(f"{name} must be an ISO-8601 timestamp.") from None


def _limit(text: str) -> int:
    if not _INTEGER.fullmatch(text) or not 1 <= int(text) <= MAX_PAGE:
        raise invalid(f"limit must be an integer from 1 to {MAX_PAGE}.")
    return int(text)


# ---------------------------------------------------------------- Idempotency-Key

_IDEMPOTENCY_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")


def parse_idempotency_key(text: str | None) -> str | None:
    """Raises ScriptivoxError(INVALID_REQUEST)."""
    if text is not None and not _IDEMPOTENCY_KEY.fullmatch(text):
        raise invalid("Idempotency-Key must be 1 to 255 printable ASCII characters.")
    return text
