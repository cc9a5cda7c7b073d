"""What a speech backend must be able to do, whichever model server stands behind it.

A backend hears clips of at most 30 s and knows nothing of files, formats or requests: decoding, voice activity,
cutting, the language vote, the fallback ladder and stitching are shared (`engine.speech`). It runs its model in a
process of its own, so that the process that holds keys loads no model code.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from engine.types import Clip, ClipTranscript, DecodingOptions, TextDelta


class Transcriber(Protocol):
    """A speech backend. Cancelling a call, or closing a stream, stops the work behind it."""

    @property
    def kind(self) -> str:
        """The backend's name in the statement and in metrics: `faster-whisper`, `vllm`, ..."""

    @property
    def attached(self) -> bool:
        """Whether the model server ran before the engine came, so that nothing is known of how."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """How the backend was started, as the statement confesses it."""

    @property
    def plugins(self) -> tuple[str, ...]:
        """Code that the model server loads beside its own, as the statement confesses it."""

    @property
    def word_timestamps(self) -> bool:
        """Whether `DecodingOptions.word_timestamps` brings words; requests for them are refused otherwise."""

    @property
    def logprobs(self) -> bool:
        """Whether `DecodingOptions.logprobs` brings log probabilities; requests for them are refused otherwise."""

    @property
    def sampling(self) -> frozenset[str]:
        """The names of `DecodingOptions.sampling` that it takes; requests with others are refused."""

    @property
    def slots(self) -> int:
        """How many clips it works on at a time; more would only wait in its own queue, where no file takes turns."""

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
