"""Speech without any work, so that what is measured is the path and not the recognition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Hashable, Mapping
from dataclasses import dataclass, field

from core.media.types import WINDOW_SAMPLES, AudioBlock, RawSamples
from core.transcript.types import Segment
from engine.speech.observer import Sample
from engine.speech.transcriber import Capabilities, Component
from engine.types import Clip, ClipTranscript, DecodingOptions, TextDelta

_ONE_SECOND_WINDOWS = 32
_TEXT = "nothing was heard"


class NullTranscriber:
    """Answers every clip at once with the same words."""

    component = Component("null")
    capabilities = Capabilities(slots=64)
    ready = True

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to stop."""

    async def metrics(self, model: str) -> tuple[Sample, ...]:  # noqa: ARG002
        return ()

    async def languages(self, model: str, clip: Clip) -> Mapping[str, float]:  # noqa: ARG002
        return {"en": 1.0}

    async def transcribe(self, model: str, clip: Clip, options: DecodingOptions) -> ClipTranscript:  # noqa: ARG002
        return ClipTranscript(_TEXT, (Segment(0.0, clip.duration_s, _TEXT),), output_tokens=3)

    async def stream(
        self,
        model: str,  # noqa: ARG002
        clip: Clip,
        options: DecodingOptions,  # noqa: ARG002
    ) -> AsyncGenerator[TextDelta | ClipTranscript, None]:
        yield TextDelta(_TEXT)
        yield ClipTranscript(_TEXT, (Segment(0.0, clip.duration_s, _TEXT),), output_tokens=3)


@dataclass(slots=True)
class NullDecoder:
    """Hears one second of speech in every file.

    hold_until: how many files must be there before any is answered; for measuring what all of them together take.
    """

    hold_until: int = 0
    _waiting: int = 0
    _all_there: asyncio.Event = field(default_factory=asyncio.Event)

    async def decode(
        self,
        audio: bytes | bytearray | memoryview,  # noqa: ARG002
        raw: RawSamples | None = None,  # noqa: ARG002
        *,
        caller: Hashable = None,  # noqa: ARG002
        keep_channels: bool = False,  # noqa: ARG002
    ) -> AsyncGenerator[AudioBlock, None]:
        self._waiting += 1
        if self._waiting >= self.hold_until:
            self._all_there.set()
        await self._all_there.wait()
        yield AudioBlock(bytes(2 * WINDOW_SAMPLES * _ONE_SECOND_WINDOWS), b"\xff" * _ONE_SECOND_WINDOWS)
