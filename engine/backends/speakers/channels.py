"""Who speaks when, in a recording that has a channel for each of two speakers? Whose channel it is.

A channel speaks where its own voice activity says so, unless the other is so much louder that what is heard in it is
the other's echo. A recording of one channel, or with the same on both, tells nobody apart and is refused: an answer
with one speaker would look like a finding. No model, and no process.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from operator import mul
from typing import Final

from core.errors import BackendError
from core.media.types import SAMPLE_RATE_HZ, WINDOW_SAMPLES, AudioBlock
from core.transcript.faults import AUDIO, Fault, FaultKind
from engine.speech.attribution import Turn
from engine.speech.speakers import Diarization, ToldBy

WINDOW_S: Final = WINDOW_SAMPLES / SAMPLE_RATE_HZ

SPEECH: Final = 128
"""From here on a window is more likely speech than not."""

ECHO: Final = 0.1
"""Of the power of the louder channel, -10 dB: telephone hybrids and headsets let through less."""

EVERY: Final = 4
"""Of so many samples one is looked at: enough to measure power, and a quarter of the work."""

PAUSE_S: Final = 0.4
"""A shorter silence does not end a turn."""

APART: Final = 0.01
"""Of the power of the mix: what lossy codecs make of two equal channels differs by less."""


class ChannelDiarizer:
    """Implements `engine.speech.speakers.Diarizer`."""

    component: Final = None
    told_by: Final = ToldBy.CHANNELS
    slots: Final = 1024
    """It holds next to nothing of a file."""
    ready: Final = True

    async def start(self) -> None:
        """There is nothing to start."""

    async def close(self) -> None:
        """There is nothing to close."""

    @asynccontextmanager
    async def listen(self, least: int, most: int) -> AsyncIterator[_Channels]:  # noqa: ARG002 - there are two
        yield _Channels()


class _Channels:
    """Both channels of one file."""

    def __init__(self) -> None:
        self._windows = 0
        self._turns: tuple[list[Turn], list[Turn]] = ([], [])
        self._common = self._apart = 0

    async def push(self, block: AudioBlock) -> None:
        if len(block.channels) != len(self._turns):
            raise BackendError("the decoder did not keep the channels apart")
        left, right = (array("h", channel.pcm) for channel in block.channels)
        for index, likelihoods in enumerate(zip(*(channel.speech for channel in block.channels), strict=True)):
            if max(likelihoods) >= SPEECH:
                part = slice(index * WINDOW_SAMPLES, (index + 1) * WINDOW_SAMPLES, EVERY)
                self._hear(self._windows + index, likelihoods, left[part], right[part])
        self._windows += len(block.speech)

    def _hear(self, window: int, likelihoods: Sequence[int], left: array[int], right: array[int]) -> None:
        """Note who speaks in a window, and what both channels have in common."""
        powers, product = (_product(left, left), _product(right, right)), _product(left, right)
        self._common += sum(powers) + 2 * product
        self._apart += sum(powers) - 2 * product
        for speaker, turns in enumerate(self._turns):
            if likelihoods[speaker] >= SPEECH and powers[speaker] >= ECHO * max(powers):
                _extend(turns, window * WINDOW_S, speaker)

    async def conclude(self) -> Diarization:
        if self._common and self._apart < APART * self._common:
            raise Fault(FaultKind.UNSUPPORTED, AUDIO)
        return Diarization(tuple(turn for turns in self._turns for turn in turns))


def _product(left: array[int], right: array[int]) -> int:
    return sum(map(mul, left, right))


def _extend(turns: list[Turn], at_s: float, speaker: int) -> None:
    """Note a window of speech."""
    joins = turns and at_s - turns[-1].end_s < PAUSE_S
    start_s = turns.pop().start_s if joins else at_s
    turns.append(Turn(start_s, at_s + WINDOW_S, speaker))
