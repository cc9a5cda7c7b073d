"""What do an app and a live session say to each other? OpenAI's realtime events, as far as they transcribe.

An app's event is read into a value, or into the refusal that answers it. The session's events are written here, each
with an id of its own; the older shape has other names for four of them.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from core.program import strictjson
from core.transcript.types import TokenLogprob, Transcript
from engine.openai.formats import json_bytes, language_objects, logprob_objects
from engine.realtime.refusals import (
    INVALID_JSON,
    NO_CONVERSATION,
    NOT_AUDIO,
    TOO_MUCH_AUDIO,
    Named,
    Refusal,
    error_object,
    invalid_type,
    invalid_value,
    missing,
    unsupported_choice,
)
from engine.realtime.settings import SessionSettings, Shape, session_object

MAX_AUDIO_BYTES: Final = 15 * 2**20
MAX_EVENT_BYTES: Final = 21 * 2**20
"""An `append` of the most audio there may be, in base64."""

MAX_EVENT_ID_CHARS: Final = 512

NewId: TypeAlias = Callable[[str], str]
"""An id that nothing else has. Its argument says of what, and stands in front: `item`, `event`, `sess`."""


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"


# --- from the app


@dataclass(frozen=True, slots=True)
class Update:
    """shape: in which the session's settings are. event_id: the app's."""

    session: object
    shape: Shape
    event_id: str | None


@dataclass(frozen=True, slots=True)
class Append:
    audio: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Clear:
    pass


ClientEvent: TypeAlias = Update | Append | Commit | Clear | Named

_CONVERSATION: Final = ("conversation.item.", "response.", "output_audio_buffer.")


def parse(event: bytes) -> ClientEvent:
    """What an app says; what cannot be followed as the refusal that answers it."""
    try:
        members = strictjson.loads(event, max_bytes=MAX_EVENT_BYTES)
    except ValueError:
        return Named(INVALID_JSON, None)
    if not isinstance(members, dict):
        return Named(INVALID_JSON, None)
    event_id = members.get("event_id")
    if event_id is not None and (not isinstance(event_id, str) or len(event_id) > MAX_EVENT_ID_CHARS):
        return Named(invalid_value("event_id", f"a string of at most {MAX_EVENT_ID_CHARS} characters"), None)
    try:
        return _read(members, event_id)
    except Refusal as refusal:
        return Named(refusal, event_id)


def _read(members: Mapping[str, Any], event_id: str | None) -> ClientEvent:
    kind = members.get("type")
    if kind is None:
        raise missing("type")
    if not isinstance(kind, str):
        raise invalid_type("type", "a string")
    if kind.startswith(_CONVERSATION):
        raise NO_CONVERSATION
    if (reader := _READERS.get(kind)) is None:
        raise unsupported_choice("type", tuple(_READERS))
    return reader(members, event_id)


def _append(members: Mapping[str, Any], _: str | None) -> Append:
    audio = members.get("audio")
    if audio is None:
        raise missing("audio")
    if not isinstance(audio, str):
        raise invalid_type("audio", "a string")
    try:
        data = base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError):
        raise NOT_AUDIO from None
    if len(data) > MAX_AUDIO_BYTES:
        raise TOO_MUCH_AUDIO
    return Append(data)


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any], str | None], ClientEvent]]] = {
    "session.update": lambda members, event_id: Update(members.get("session"), Shape.GA, event_id),
    "transcription_session.update": lambda members, event_id: Update(members.get("session"), Shape.BETA, event_id),
    "input_audio_buffer.append": _append,
    "input_audio_buffer.commit": lambda _, event_id: Commit(event_id),
    "input_audio_buffer.clear": lambda _, __: Clear(),
}

# --- to the app

_TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"


@dataclass(slots=True)
class Events:
    """Writes a session's events. shape: the names of the moment."""

    shape: Shape
    new_id: NewId = new_id

    def session(self, what: str, settings: SessionSettings, *, session_id: str, expires_at: int) -> bytes:
        """what: `created` or `updated`."""
        name = "transcription_session" if self.shape is Shape.BETA else "session"
        told = session_object(settings, self.shape, session_id=session_id, expires_at=expires_at)
        return self._event(f"{name}.{what}", session=told)

    def speech_started(self, item_id: str, start_ms: int) -> bytes:
        return self._event("input_audio_buffer.speech_started", item_id=item_id, audio_start_ms=start_ms)

    def speech_stopped(self, item_id: str, end_ms: int) -> bytes:
        return self._event("input_audio_buffer.speech_stopped", item_id=item_id, audio_end_ms=end_ms)

    def committed(self, item_id: str, previous: str | None) -> tuple[bytes, ...]:
        """That audio became an item, and the item itself."""
        item: dict[str, object] = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        return self._event("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous), *(
            self._event(f"conversation.item.{what}", previous_item_id=previous, item=item)
            for what in (("created",) if self.shape is Shape.BETA else ("added", "done"))
        )

    def cleared(self) -> bytes:
        return self._event("input_audio_buffer.cleared")

    def delta(self, item_id: str, text: str, logprobs: Sequence[TokenLogprob] | None) -> bytes:
        """logprobs: of the text; None where they were not asked for."""
        more = {} if logprobs is None else {"logprobs": logprob_objects(logprobs)}
        return self._event(f"{_TRANSCRIPTION}.delta", item_id=item_id, content_index=0, delta=text, **more)

    def completed(self, item_id: str, transcript: Transcript, *, logprobs: bool) -> bytes:
        more = {"logprobs": logprob_objects(transcript.logprobs)} if logprobs else {}
        return self._event(
            f"{_TRANSCRIPTION}.completed",
            item_id=item_id,
            content_index=0,
            transcript=transcript.text,
            usage={"type": "duration", "seconds": round(transcript.duration_s, 3)},
            **language_objects(transcript),
            **more,
        )

    def failed(self, item_id: str, refusal: Refusal) -> bytes:
        return self._event(f"{_TRANSCRIPTION}.failed", item_id=item_id, content_index=0, error=error_object(refusal))

    def error(self, named: Named) -> bytes:
        return self._event("error", error=error_object(named.refusal) | {"event_id": named.event_id})

    def _event(self, kind: str, **members: object) -> bytes:
        return json_bytes({"type": kind, "event_id": self.new_id("event"), **members})
