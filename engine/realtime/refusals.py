"""What is an app told when one of its events cannot be followed? An `error` event, in OpenAI's codes and sentences.

Such an event ends the stream in most clients, so there is one only where the app has to know. The session goes on. No
sentence repeats what was sent; what names the event is its own id, which the app chose for that.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.transcript.faults import Fault
from engine.openai.errors import ROWS, code_of
from engine.openai.formats import json_bytes
from engine.openai.sentences import sentence_of
from engine.openai.subjects import param_of

INVALID_REQUEST = "invalid_request_error"


class Refusal(Exception):  # noqa: N818 - an answer to one event, no failure of the session's
    """An event that is not followed. param: the member at fault, from the event's root."""

    def __init__(self, code: str, message: str, param: str | None = None, kind: str = INVALID_REQUEST) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.param = param
        self.kind = kind


def error_object(refusal: Refusal) -> dict[str, object]:
    """OpenAI's error object."""
    return {"type": refusal.kind, "code": refusal.code, "message": refusal.message, "param": refusal.param}


def envelope_of(refusal: Refusal) -> bytes:
    """The body of an HTTP answer that refuses."""
    return json_bytes({"error": error_object(refusal)})


@dataclass(frozen=True, slots=True)
class Named:
    """A refusal, and the id that the app gave to the event."""

    refusal: Refusal
    event_id: str | None


def of_fault(fault: Fault, inside: str) -> Refusal:
    """What is said of the same mistake in a form. inside: the object that has the form's fields for members."""
    code = code_of(fault)
    field = param_of(fault)
    return Refusal(code.value, sentence_of(fault), f"{inside}.{field}" if field else None, ROWS[code].type)


def invalid_type(param: str, expected: str) -> Refusal:
    return Refusal("invalid_type", f"Invalid type for '{param}': expected {expected}.", param)


def invalid_value(param: str, rule: str) -> Refusal:
    return Refusal("invalid_value", f"Invalid value for '{param}': expected {rule}.", param)


def unsupported_choice(param: str, allowed: tuple[str, ...]) -> Refusal:
    listed = ", ".join(f"'{value}'" for value in allowed)
    return Refusal("invalid_value", f"Invalid value for '{param}'. Supported values are: {listed}.", param)


def missing(param: str) -> Refusal:
    return Refusal("missing_required_parameter", f"Missing required parameter: '{param}'.", param)


INVALID_JSON = Refusal("invalid_json", "Invalid event: failed to parse JSON value.")

OTHER_KIND_OF_SESSION = Refusal(
    "invalid_parameter",
    "Passing a realtime session update event to a transcription session is not allowed.",
    "session.type",
)

NO_CONVERSATION = Refusal(
    "unsupported_value", "This session transcribes. Events of a conversation are not supported in it.", "type"
)

NOT_AUDIO = Refusal(
    "invalid_value", "Invalid 'audio'. Expected base64-encoded audio bytes in the session's input format.", "audio"
)

TOO_MUCH_AUDIO = Refusal(
    "invalid_value", "Invalid 'audio'. At most 15 MiB of audio may be appended at a time.", "audio"
)


def nothing_to_commit(buffered_ms: float) -> Refusal:
    """OpenAI's sentence, which clients look for."""
    return Refusal(
        "input_audio_buffer_commit_empty",
        "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, but buffer only has "
        f"{buffered_ms:.2f}ms of audio.",
    )
