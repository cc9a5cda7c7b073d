"""What does a text frame of an app say, and what is an app told in one? OpenAI's realtime events, as far as we look.

All events but one pass as they are; the engine judges them. Of `input_audio_buffer.append` the audio goes on by itself,
decoded, so that 100 ms fit into a frame. An append whose Base64 is not exactly that is an event like any other, which
the engine refuses in OpenAI's words. What is longer than any event may be is refused here, for it cannot pass.
"""

from __future__ import annotations

import binascii
import json
import secrets
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from core.channel.records import MAX_EVENT_BYTES, EndRecord
from proxy.errors import ErrorCode, ProxyError

MAX_AUDIO_BYTES: Final = 15 * 1024 * 1024
"""Of one append, decoded."""
MAX_FRAME_BYTES: Final = 21 * 1024 * 1024
"""Of an app's text frame: the longest append, in Base64, and the rest of its event."""
STOPPING: Final = EndRecord(1001, "The proxy is stopping.")
_APPEND: Final = "input_audio_buffer.append"


@dataclass(frozen=True, slots=True)
class Audio:
    """What an append holds."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Passed:
    """An event for the engine."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """What cannot pass; the error event that says so."""

    answer: str


Said: TypeAlias = Audio | Passed | Refused


def said(text: str) -> Said:
    """What a text frame of an app says."""
    event = _object(text)
    audio = _audio(event)
    if audio is not None and len(audio) <= MAX_AUDIO_BYTES:
        return Audio(audio)
    data = text.encode()
    if audio is None and len(data) <= MAX_EVENT_BYTES:
        return Passed(data)
    if event.get("type") == _APPEND:
        message = f"Invalid 'audio'. Expected at most {MAX_AUDIO_BYTES} base64-encoded audio bytes."
        return Refused(_refusal(message, "audio", event))
    return Refused(_refusal(f"The event is longer than {MAX_EVENT_BYTES} bytes.", None, event))


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _audio(event: dict[str, Any]) -> bytes | None:
    """The audio of an append that is one and nothing else; None for everything else."""
    if event.get("type") != _APPEND or not isinstance(event.get("audio"), str) or event.keys() - _MEMBERS:
        return None
    if len(event["audio"]) % 4 or event["audio"].endswith("==="):  # padding that pads nothing is let pass below
        return None
    try:
        return binascii.a2b_base64(event["audio"], strict_mode=True)
    except ValueError:
        return None


_MEMBERS: Final = {"type", "audio", "event_id"}


def _refusal(message: str, param: str | None, event: dict[str, Any]) -> str:
    event_id = event.get("event_id")
    known = event_id if isinstance(event_id, str) and len(event_id) <= 512 else None
    return _error({"type": "invalid_request_error", "code": "invalid_value", "message": message, "param": param}, known)


def _error(error: dict[str, Any], event_id: str | None = None) -> str:
    number = f"event_{secrets.token_hex(12)}"
    return json.dumps({"type": "error", "event_id": number, "error": {**error, "event_id": event_id}})


def error_event(error: ProxyError) -> str:
    """The last event of a session that ends in `error`."""
    return _error(json.loads(error.body())["error"])


_CODES: Final = {
    ErrorCode.INVALID_API_KEY: 3000,
    ErrorCode.NO_ATTESTED_ENGINE: 1013,
    ErrorCode.ENGINE_UNAVAILABLE: 1013,
}


def end_of(error: ProxyError) -> EndRecord:
    """How a session ends in `error`: 3000 and 4000 as OpenAI does it, which its SDK does not try again."""
    code = _CODES.get(error.code, 4000 if error.row.status in range(400, 500) or error.row.status == 501 else 1011)
    return EndRecord(code, f"{error.row.type}.{error.code.value}")
