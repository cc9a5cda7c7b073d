"""What is a live session, once its envelope is open? The seam between the gateway and the application inside.

As in `exchange`, the gateway knows keys, frames and padding and nothing of speech. Between the two: a head that opens a
session, events and audio in the order in which the app sent them, and the events of the answer. Which targets exist is
the application's to say; a frame of the app that is no text arrives as an event without a single byte.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from engine.gateway.exchange import Head


@dataclass(frozen=True, slots=True)
class End:
    """How a session ends: a WebSocket close code that the app is given, and its reason (RFC 6455, section 7.4)."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """What an app is told of a session that was not admitted, or has failed.

    status: of HTTP, for one that was not admitted. event: the last one, JSON.
    """

    status: int
    event: bytes
    end: End


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard of a session so far. model: None where none heard it, or several did."""

    audio_s: float
    model: str | None


class SessionExpiredError(Exception):
    """The session has lasted as long as any may, or nothing was said for too long. The message is for the app."""

    def __init__(self, message: str = "Your session hit the maximum duration of 60 minutes.") -> None:
        super().__init__(message)


class LiveSession(Protocol):
    """One session. `event` and `audio` take what has arrived and return at once; they are called in the app's order."""

    def event(self, event: bytes) -> None:
        """Take one event of the app: JSON, or what should have been it."""

    def audio(self, data: bytes) -> None:
        """Take audio of the format in force, cut anywhere: what an `input_audio_buffer.append` held, decoded."""

    @property
    def behind_s(self) -> float:
        """How much audio has been taken and not looked at yet: the gateway stops reading while it is too much."""

    @property
    def processed(self) -> Heard:
        """For a receipt."""

    def answers(self) -> AsyncGenerator[bytes | End, None]:
        """Yield the events of the answer, JSON each, and last the end of the session.

        Raises Fault, BackendError, SessionExpiredError.
        """

    def close(self) -> None:
        """Stop what still runs and give back what was held; called exactly once, however the session ended."""


class LiveApplication(Protocol):
    """What is served inside the envelope of live sessions."""

    async def open_live(self, head: Head, *, source: str) -> LiveSession:
        """Admit a session by its head, perhaps after a short wait; arguments and errors as `Application.open`."""

    def live_failure(self, error: Exception, head: Head | None) -> Failure:
        """What an app is told where a session failed with `error`; a constant for what is none of those above."""
