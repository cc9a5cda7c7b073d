"""What more is found out about a clip once its text is known? A second look, by a component of its own.

The text is final by then: whoever asks for the times of words reads the same words as whoever does not. An analyser may
be another process with a model of its own, which the statement then lists, or another call of the recogniser's.
"""

from __future__ import annotations

from typing import Protocol

from engine.speech.transcriber import Component
from engine.types import Clip, ClipTranscript, DecodingOptions, Detail


class ClipAnalyser(Protocol):
    """Adds details to the transcripts of clips. Cancelling a call stops the work behind it."""

    @property
    def component(self) -> Component | None:
        """The process that it runs; None where it is the recogniser's."""

    @property
    def adds(self) -> frozenset[Detail]:
        """What it can add; requests for what nobody adds are refused."""

    @property
    def slots(self) -> int | None:
        """How many clips it looks at at a time; None where it takes its turns with the recogniser."""

    @property
    def ready(self) -> bool:
        """Whether clips are accepted now."""

    async def prepare(self) -> None:
        """Do what can be done while the recogniser starts. Raises BackendError."""

    async def start(self) -> None:
        """Return once it serves; called when the recogniser does, which may size itself by what a GPU has free.

        Raises BackendError.
        """

    async def close(self) -> None:
        """Stop; safe to call twice, and at any stage."""

    async def look(
        self, model: str, clip: Clip, transcript: ClipTranscript, options: DecodingOptions, wanted: frozenset[Detail]
    ) -> ClipTranscript:
        """The transcript with what is wanted of `adds`. Raises BackendError: no detail is left out in silence."""
