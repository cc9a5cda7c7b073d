"""How do texts of faster-whisper get the times of their words? The worker that wrote them reads them again."""

from __future__ import annotations

from typing import Final

from engine.backends.faster_whisper.transcriber import FasterWhisperTranscriber
from engine.types import Clip, ClipTranscript, DecodingOptions, Detail


class FasterWhisperAligner:
    """Implements `engine.speech.analyser.ClipAnalyser` with the recogniser's own process."""

    component = None
    adds: Final = frozenset(Detail)
    slots = None

    def __init__(self, recogniser: FasterWhisperTranscriber) -> None:
        self._recogniser = recogniser

    @property
    def ready(self) -> bool:
        return self._recogniser.ready

    async def prepare(self) -> None:
        """Nothing: the recogniser is started by whoever owns it."""

    async def start(self) -> None:
        """Nothing, likewise."""

    async def close(self) -> None:
        """Nothing, likewise."""

    async def look(
        self, model: str, clip: Clip, transcript: ClipTranscript, options: DecodingOptions, wanted: frozenset[Detail]
    ) -> ClipTranscript:
        return await self._recogniser.align(model, clip, transcript, options, wanted)
