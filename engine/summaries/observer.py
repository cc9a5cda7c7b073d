"""What does the summariser tell whoever counts? Only counts, never what was said."""

from __future__ import annotations

from typing import Protocol


class SummaryObserver(Protocol):
    """Is told what the summariser counts; must not block."""

    def text_written(self, input_tokens: int, output_tokens: int) -> None:
        """The instruct model has answered a call."""

    def summary_failed(self) -> None:
        """A summary was begun, and none came of it."""


class Unobserved:
    """Counts nothing."""

    def text_written(self, input_tokens: int, output_tokens: int) -> None: ...
    def summary_failed(self) -> None: ...
