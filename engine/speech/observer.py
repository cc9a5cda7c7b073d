"""What does the pipeline tell whoever counts?

Only lengths and counts, never a time of day or a file's identity; telemetry decides what of it is published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of vLLM's own metrics. reason: why requests ended, for `vllm:request_success_total`."""

    name: str
    value: float
    reason: str = ""


class Observer(Protocol):
    """Is told what the pipeline counts; must not block."""

    def file_heard(self, duration_s: float, *, left_out_s: float, took_s: float, output_tokens: int) -> None:
        """A file of this length was transcribed to its end. left_out_s: so much of it no backend heard: silence."""

    def turn_heard(self, duration_s: float, *, waited_s: float, output_tokens: int) -> None:
        """A turn of a live session became text, this long after it was over."""

    def file_not_decoded(self, reason: str) -> None:
        """A file did not become audio. reason: an `ErrorCode`, or `decoder_failed`."""

    def clip_waited(self, waited_s: float) -> None:
        """A clip, or a look at its language, got its turn at the backend."""

    def clip_heard(self) -> None:
        """A clip became text."""

    def clip_failed(self) -> None:
        """The backend failed on a clip, or on a look at its language."""

    def clip_decoded_again(self, times: int) -> None:
        """A clip's text could not be believed at first."""

    def stream_without_fallback(self) -> None:
        """A stream began whose clips would be decoded again where their text is doubtful, if it were no stream."""

    def loop_ended(self) -> None:
        """A text repeated itself faster than anybody speaks, or in a stream, and was ended; what is behind is heard."""

    def first_delta(self, waited_s: float) -> None:
        """A stream sent its first text this long after its work began."""


class Unobserved:
    """Counts nothing."""

    def file_heard(self, duration_s: float, *, left_out_s: float, took_s: float, output_tokens: int) -> None: ...
    def turn_heard(self, duration_s: float, *, waited_s: float, output_tokens: int) -> None: ...
    def file_not_decoded(self, reason: str) -> None: ...
    def clip_waited(self, waited_s: float) -> None: ...
    def clip_heard(self) -> None: ...
    def clip_failed(self) -> None: ...
    def clip_decoded_again(self, times: int) -> None: ...
    def stream_without_fallback(self) -> None: ...
    def loop_ended(self) -> None: ...
    def first_delta(self, waited_s: float) -> None: ...
