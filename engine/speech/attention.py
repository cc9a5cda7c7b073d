"""How is somebody heard who still speaks?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from core.transcript.types import Task, TokenLogprob, Transcript
from engine.speech.stitch import HeardClip
from engine.speech.under_way import File
from engine.types import Clip


@dataclass(frozen=True, slots=True)
class Spoken:
    """What was heard in a clip of speech; in more than one part where its text ended before the speech did."""

    language: str
    heard: tuple[HeardClip, ...]

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return tuple(logprob for part in self.heard for logprob in part.transcript.logprobs)


class Hears(Protocol):
    """The pipeline, as `Attention` asks it."""

    @property
    def idle(self) -> bool: ...

    async def finish(self, clip: Clip, file: File) -> Spoken: ...

    async def glimpse(self, clip: Clip, file: File, language: str) -> Spoken | None: ...

    def write_down(self, spoken: Sequence[Spoken], file: File, *, duration_s: float, waited_s: float) -> Transcript: ...


class Attention:
    """Hears somebody speak: texts of clips that are over, before all files, and ideas of the clip that goes on.

    language: in which the rest is heard as well; None until it is known.
    """

    def __init__(self, pipeline: Hears, file: File) -> None:
        self._pipeline = pipeline
        self._file = file

    @property
    def language(self) -> str | None:
        return self._file.language or None

    @language.setter
    def language(self, language: str) -> None:
        self._file.language = language

    @property
    def task(self) -> Task:
        return self._file.hearing.task

    @property
    def idle(self) -> bool:
        """Whether a slot of the backend is free."""
        return self._pipeline.idle

    async def finish(self, clip: Clip) -> Spoken:
        """The text of a clip that is over. Raises BackendError."""
        return await self._pipeline.finish(clip, self._file)

    async def glimpse(self, clip: Clip, language: str = "") -> Spoken | None:
        """A first idea of a clip that goes on; None where no slot is free, or it cannot be believed.

        language: where none is known for certain, that of an earlier idea. Raises BackendError.
        """
        return await self._pipeline.glimpse(clip, self._file, language)

    def write_down(self, spoken: Sequence[Spoken], *, duration_s: float, waited_s: float) -> Transcript:
        """The text of all clips, in order.

        duration_s: of what was said, silence included. waited_s: since it was over, for whoever counts.
        """
        return self._pipeline.write_down(spoken, self._file, duration_s=duration_s, waited_s=waited_s)
