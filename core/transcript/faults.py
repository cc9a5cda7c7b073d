"""Why is there no transcript? What is wrong and with what, in words of no API; each API has a table of its own words.

A caller who sent the request can mend most of these. What nobody outside can mend is a `core.errors.BackendError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from core.errors import CoreError


class FaultKind(StrEnum):
    """What is wrong."""

    INTERNAL = "internal"
    """A defect of ours."""
    INVALID = "invalid"
    """A value that is not allowed."""
    MALFORMED = "malformed"
    """Bytes that are not in the form that they claim to be in."""
    MEDIA_TYPE = "media_type"
    """A body of a kind that is not read."""
    METHOD = "method"
    """The thing exists and cannot be used so."""
    MISSING = "missing"
    OVERLOADED = "overloaded"
    """There is no room now, whoever asks."""
    OVER_QUOTA = "over_quota"
    """This caller has used what it may use; waiting for minutes does not help."""
    OVER_RATE = "over_rate"
    """This caller asks too much at a time."""
    REPEATED = "repeated"
    """Given twice where one is meant; to choose would be to guess."""
    TIMED_OUT = "timed_out"
    TOO_LARGE = "too_large"
    """More bytes than are read."""
    TOO_LONG = "too_long"
    """More seconds than are heard."""
    TOO_SHORT = "too_short"
    UNAUTHENTICATED = "unauthenticated"
    UNAVAILABLE = "unavailable"
    """What does the work is not there now."""
    UNKNOWN = "unknown"
    """Nothing has that name."""
    UNREADABLE = "unreadable"
    """A file in which nothing can be heard: no codec, no audio, damaged."""
    UNSUPPORTED = "unsupported"
    """An option that the model or this engine does not have."""
    UNSUPPORTED_VALUE = "unsupported_value"
    """A value that the API allows and the model or this engine does not have."""
    WRONG_TYPE = "wrong_type"


@dataclass(frozen=True, slots=True)
class Subject:
    """What it is wrong with: one of the constants below, or an option by the name that its API has for it."""

    name: str
    is_option: bool = False


API_KEY: Final = Subject("api key")
AUDIO: Final = Subject("audio")
LANGUAGE: Final = Subject("language")
MODEL: Final = Subject("model")
TRANSCRIPT: Final = Subject("transcript")
"""Of which a summary is asked for."""


def option(name: str) -> Subject:
    """The option of that name. name: one that an API defines; never a caller's text."""
    return Subject(name, is_option=True)


class Fault(CoreError):  # noqa: N818 - not every one is an error: some are answers to a question
    """A request that cannot be fulfilled.

    numbers: limits and counts that a sentence about it may quote, for example `limit_bytes`. No byte of a request.
    retry_after_s: when the caller may try again, for the kinds that allow it.
    """

    def __init__(
        self,
        kind: FaultKind,
        subject: Subject | None = None,
        *,
        numbers: Mapping[str, int] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(kind.value if subject is None else f"{kind.value} ({subject.name})")
        self.kind = kind
        self.subject = subject
        self.numbers = dict(numbers or {})
        self.retry_after_s = retry_after_s
