"""Who speaks when, and is it somebody whom the caller can name?

::

    AudioBlocks -> Diarizer: a component of its own -> turns, and what each voice is like
                                                        |  likeness to the voices of `known`
                                                        +-> names       `attribution` joins both with the words

Speakers are told apart over a whole file, beside its recognition and from the same blocks, so that it is decoded once.
What a voice is like is biometric: it is nowhere logged or stored, gone with the request, and returned only to a caller
who asks for it by name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Final, Protocol

from core.media.types import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ, AudioBlock, RawSamples
from core.program.scheduler import FairScheduler
from core.transcript.faults import Fault, FaultKind, option
from core.transcript.types import Transcript, Voice
from engine.speech.attribution import Turn, attribute
from engine.speech.transcriber import Component
from engine.types import KnownSpeaker, SpeakerWish

MIN_REFERENCE_S = 2.0
MAX_REFERENCE_S = 10.0
"""OpenAI's bounds for a recording of somebody who is known."""

MIN_SPOKEN_S = 1.0
"""So much speech at least must be in it."""

ANOTHER = 0.25
"""Of the speech in such a recording; what a second voice says beyond it is no cough of the first."""

REFERENCES: Final = option("known_speaker_references")


@dataclass(frozen=True, slots=True)
class Diarization:
    """Who speaks when in a file. voices: of each speaker; nobody's where the component does not know voices."""

    turns: tuple[Turn, ...]
    voices: tuple[Voice, ...] = ()


class ToldBy(StrEnum):
    """What speakers are told apart by."""

    VOICES = "voices"
    CHANNELS = "channels"


class Listening(Protocol):
    """One file's audio on its way through a diarizer."""

    async def push(self, block: AudioBlock) -> None:
        """Take the next block; may wait until there is room. Raises BackendError."""

    async def conclude(self) -> Diarization:
        """Who spoke when. Raises BackendError, and Fault for a file that cannot be told apart."""


class Diarizer(Protocol):
    """Tells speakers apart. Leaving a context of `listen` stops the work behind it."""

    @property
    def component(self) -> Component | None:
        """The process that it runs; None where it needs none."""

    @property
    def told_by(self) -> ToldBy:
        """What it goes by. Channels have to be kept apart for it, and voices can be named."""

    @property
    def slots(self) -> int:
        """To how many files it listens at a time, each of which takes memory."""

    @property
    def ready(self) -> bool:
        """Whether it listens now."""

    async def start(self) -> None:
        """Return once it serves. Raises BackendError."""

    async def close(self) -> None:
        """Stop; safe to call twice."""

    def listen(self, least: int, most: int) -> AbstractAsyncContextManager[Listening]:
        """Listen to one file. least, most: how many speakers there are. Raises BackendError."""


class Decoder(Protocol):
    """`engine.speech.pipeline.Decoder`, as far as it is used here."""

    def decode(
        self,
        audio: bytes | bytearray | memoryview,
        raw: RawSamples | None = None,
        *,
        caller: Hashable = None,
        keep_channels: bool = False,
    ) -> AsyncGenerator[AudioBlock, None]: ...


class SpeakerStage:
    """What a pipeline does to tell who speaks."""

    def __init__(self, diarizer: Diarizer, decoder: Decoder) -> None:
        self._diarizer = diarizer
        self._decoder = decoder
        self._scheduler = FairScheduler(diarizer.slots)

    @asynccontextmanager
    async def attending(self, wish: SpeakerWish, caller: Hashable) -> AsyncIterator[Attendance]:
        """Listen to a file, once it is its turn. Raises BackendError, and Fault for a recording of nobody."""
        async with self._scheduler.share(caller):
            known = [(one.name, await self._voice(one, caller)) for one in wish.known]
            async with self._diarizer.listen(wish.least, wish.most) as listening:
                keeps_channels = self._diarizer.told_by is ToldBy.CHANNELS
                yield Attendance(listening, known, keeps_channels=keeps_channels, with_voices=wish.voices)

    async def _voice(self, known: KnownSpeaker, caller: Hashable) -> Voice:
        """The one voice of a recording. Raises Fault where there is none, or another."""
        samples = 0
        async with self._diarizer.listen(1, 2) as listening:
            async with aclosing(self._blocks(known, caller)) as blocks:
                async for block in blocks:
                    samples += len(block.pcm) // BYTES_PER_SAMPLE
                    if samples > MAX_REFERENCE_S * SAMPLE_RATE_HZ:
                        raise Fault(FaultKind.TOO_LONG, REFERENCES)
                    await listening.push(block)
            if samples < MIN_REFERENCE_S * SAMPLE_RATE_HZ:
                raise Fault(FaultKind.TOO_SHORT, REFERENCES)
            return _only_voice(await listening.conclude())

    async def _blocks(self, known: KnownSpeaker, caller: Hashable) -> AsyncGenerator[AudioBlock, None]:
        """The audio of a recording, whose faults are its own and not those of the file."""
        try:
            async with aclosing(self._decoder.decode(known.recording, caller=caller)) as blocks:
                async for block in blocks:
                    yield block
        except Fault as exc:
            raise Fault(exc.kind, exc.subject and REFERENCES) from exc


def _only_voice(heard: Diarization) -> Voice:
    spoken_s = [
        sum(turn.end_s - turn.start_s for turn in heard.turns if turn.speaker == speaker)
        for speaker in range(len(heard.voices))
    ]
    if sum(spoken_s) < MIN_SPOKEN_S:
        raise Fault(FaultKind.INVALID, REFERENCES)
    only = heard.voices[spoken_s.index(max(spoken_s))]
    others_s = sum(
        seconds for seconds, voice in zip(spoken_s, heard.voices, strict=True) if voice.likeness(only) < only.same
    )
    if others_s > ANOTHER * sum(spoken_s):
        raise Fault(FaultKind.INVALID, REFERENCES)
    return only


class Attendance:
    """Who speaks in one file. known: the voices that have a name. keeps_channels: whether it needs them apart.

    with_voices: whether the speakers of the transcript have theirs.
    """

    def __init__(
        self, listening: Listening, known: Sequence[tuple[str, Voice]], *, keeps_channels: bool, with_voices: bool
    ) -> None:
        self.keeps_channels = keeps_channels
        self._listening = listening
        self._known = known
        self._with_voices = with_voices

    async def push(self, block: AudioBlock) -> None:
        """Take the next block. Raises BackendError."""
        await self._listening.push(block)

    async def conclude(self, transcript: Transcript) -> Transcript:
        """The transcript of the whole file, with its speakers. Raises what `Listening.conclude` does."""
        heard = await self._listening.conclude()
        voices = heard.voices if self._with_voices else ()
        return attribute(transcript, heard.turns, names_of(heard.voices, self._known), voices)


def names_of(voices: Sequence[Voice], known: Sequence[tuple[str, Voice]]) -> dict[int, str]:
    """Which of the voices are known: the most alike first, each name and each voice once."""
    likenesses = [
        (voice.likeness(reference), index, name)
        for (index, voice), (name, reference) in product(enumerate(voices), known)
    ]
    names: dict[int, str] = {}
    for likeness, index, name in sorted(likenesses, reverse=True):
        if likeness >= voices[index].same and index not in names and name not in names.values():
            names[index] = name
    return names
