"""What does the pipeline tell whoever counts?

Only lengths and counts, never a time of day or a file's identity; telemetry decides what of it is published.
"""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Is told what the pipeline counts; must not block."""

    def file_heard(self, duration_s: float) -> None:
        """A file was transcribed to its end."""

    def clip_heard(self, duration_s: float) -> None:
        """A clip became text."""

    def clip_decoded_again(self, times: int) -> None:
        """A clip's text could not be believed at first."""

    def loop_ended(self) -> None:
        """A streamed clip began to repeat itself and was ended."""

    def first_delta(self, waited_s: float) -> None:
        """A stream sent its first text this long after the request."""


class Unobserved:
    """Counts nothing."""

    def file_heard(self, duration_s: float) -> None: ...
    def clip_heard(self, duration_s: float) -> None: ...
    def clip_decoded_again(self, times: int) -> None: ...
    def loop_ended(self) -> None: ...
    def first_delta(self, waited_s: float) -> None: ...
