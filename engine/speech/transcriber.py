"""What a speech backend must be able to do, whichever model server stands behind it.

A backend hears clips of at most 30 s and knows nothing of files, formats or requests: decoding, voice activity,
cutting, the language vote, the fallback ladder and stitching are shared (`engine.speech`), and what more is wanted of a
text than its words is a second look's (`engine.speech.analyser`). It runs its model in a process of its own, so that
the process that holds keys loads no model code.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol

from core.transcript.languages import LANGUAGES
from core.transcript.types import Task
from engine.speech.observer import Sample
from engine.types import Clip, ClipTranscript, DecodingOptions, TextDelta


@dataclass(frozen=True, slots=True)
class Component:
    """A process that hears what was said, as the statement confesses it.

    name: `faster-whisper`, `vllm`, ...; also a label of metrics. arguments: how it was started.
    attached: it ran before the engine came, so that nothing is known of how.
    plugins: code that it loads beside its own.
    """

    name: str
    arguments: tuple[str, ...] = ()
    attached: bool = False
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can be asked.

    slots: how many clips it works on at a time; more would only wait in its own queue, where no file takes turns.
    sampling: the names of `DecodingOptions.sampling` that it takes; requests with others are refused.
    tasks, languages: those beyond which no model of it goes. detects: whether it tells languages; where it does not,
    a request that names none is refused.
    """

    slots: int = 1
    sampling: frozenset[str] = frozenset()
    tasks: frozenset[Task] = frozenset(Task)
    languages: frozenset[str] = frozenset(LANGUAGES)
    detects: bool = True


class Transcriber(Protocol):
    """A speech backend. Cancelling a call, or closing a stream, stops the work behind it."""

    @property
    def component(self) -> Component:
        """The process that it runs its models in."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can be asked."""

    @property
    def ready(self) -> bool:
        """Whether clips are accepted now; false while a model loads or its process is restarted."""

    async def start(self) -> None:
        """Start the backend's process and return once it serves. Raises BackendError."""

    async def close(self) -> None:
        """Stop the backend's process; safe to call twice."""

    async def languages(self, model: str, clip: Clip) -> Mapping[str, float]:
        """The probability of each language the model knows, from one clip. Raises BackendError."""

    async def transcribe(self, model: str, clip: Clip, options: DecodingOptions) -> ClipTranscript:
        """Turn one clip into text with times. Raises BackendError."""

    def stream(
        self, model: str, clip: Clip, options: DecodingOptions
    ) -> AsyncGenerator[TextDelta | ClipTranscript, None]:
        """The text of one clip as the model makes it, then once the whole. Raises BackendError."""

    async def metrics(self, model: str) -> tuple[Sample, ...]:
        """What the model's server says of itself and may be published; nothing of one that counts nothing.

        Raises BackendError.
        """
