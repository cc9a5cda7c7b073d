"""A live session without a codec or a model, and an app that talks to it.

In `FakeEar`'s audio every byte of a window has the same value: how likely that window holds speech. At 24 kHz a window
of 32 ms is 1,536 bytes, so `speech(1.0) + silence(0.5)` is 1.5 s of PCM as an app would send it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from core.errors import BackendError, CoreError
from core.media.frames import Sound
from core.media.types import WINDOW_SAMPLES, AudioBlock
from engine.access.authority import Anyone, Caller, Visit
from engine.gateway.live import End, SessionExpiredError
from engine.openai.models import ModelCatalogue, ServedModel
from engine.realtime.session import RealtimeSession, Surroundings
from engine.realtime.settings import Shape, default_settings
from engine.speech.analyser import ClipAnalyser
from engine.speech.pipeline import SpeechPipeline
from engine.speech.transcriber import Capabilities
from engine.types import Clip, DecodingOptions, Detail
from tests.engine.fakes import FakeDecoder, FakeTranscriber
from tests.waiting import until

NOW = 1_756_320_000.0
RATE_HZ = 24_000
WINDOW_BYTES = 1_536
CATALOGUE = ModelCatalogue(
    (
        ServedModel("whisper", created=1, aliases=("whisper-1",), details=frozenset(Detail)),
        ServedModel("other", created=1, languages=frozenset({"en"})),
    )
)
PREFIX = "conversation.item.input_audio_transcription"


def windows(seconds: float) -> int:
    return round(seconds / 0.032)


def speech(seconds: float) -> bytes:
    return b"\xff" * (windows(seconds) * WINDOW_BYTES)


def silence(seconds: float) -> bytes:
    return b"\x00" * (windows(seconds) * WINDOW_BYTES)


class FakeEar:
    """Implements `engine.realtime.session.Ear`. forms: what it was given, one entry for each change."""

    def __init__(self) -> None:
        self._rest = b""
        self._count = 0
        self.forms: list[tuple[Sound, int]] = []
        self.heard = b""
        self.fails = False

    async def hear(self, sound: Sound, rate_hz: int, samples: bytes | bytearray) -> AudioBlock:
        await asyncio.sleep(0)
        if self.fails:
            raise BackendError("the ear of a live session ended")
        if (sound, rate_hz) not in self.forms[-1:]:
            self.forms.append((sound, rate_hz))
        self.heard += samples
        self._rest += samples
        size = round(rate_hz * 0.032) * (2 if sound is Sound.PCM else 1)
        return self._block(size, len(self._rest) // size)

    async def end(self) -> AudioBlock:
        await asyncio.sleep(0)
        if not self._rest:
            return AudioBlock(b"", b"")
        block = self._block(len(self._rest), 1)
        self._rest = b""
        return block

    def _block(self, size: int, count: int) -> AudioBlock:
        probabilities = self._rest[: size * count : size]
        self._rest = self._rest[size * count :]
        pcm = b"".join((self._count + number).to_bytes(2, "little") * WINDOW_SAMPLES for number in range(count))
        self._count += count
        return AudioBlock(pcm, probabilities)


@dataclass
class FakeEars:
    """Implements `engine.realtime.session.Ears`. open: how many listen now."""

    ear: FakeEar = field(default_factory=FakeEar)
    open: int = 0

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[FakeEar]:
        self.open += 1
        try:
            yield self.ear
        finally:
            self.open -= 1


def lengths(clip: Clip, options: DecodingOptions) -> str:
    """Say how long a clip is, in tenths of a second."""
    return f" {round(clip.duration_s * 10)}"


class App:
    """The app's end of a session. told: all events, in order. end: how the session ended, or failed."""

    def __init__(self, session: RealtimeSession) -> None:
        self.session = session
        self.told: list[dict[str, Any]] = []
        self.end: End | Exception | None = None

    def say(self, kind: str, **members: object) -> None:
        self.session.event(json.dumps({"type": kind, **members}).encode())

    def set(self, **heard: object) -> None:
        """Update what is inside of `audio.input`."""
        self.say("session.update", session={"type": "transcription", "audio": {"input": heard}})

    def append(self, audio: bytes, chunk: int = 4_800) -> None:
        for start in range(0, len(audio), chunk):
            self.session.audio(audio[start : start + chunk])

    def commit(self, **members: object) -> None:
        self.say("input_audio_buffer.commit", **members)

    @property
    def kinds(self) -> list[str]:
        """The events' types, of texts the last word only."""
        return [event["type"].removeprefix(f"{PREFIX}.") for event in self.told]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.told if event["type"] in (kind, f"{PREFIX}.{kind}")]

    async def some(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """The events of a type once there are so many."""
        await until(lambda: len(self.of(kind)) >= count or self.end is not None)
        assert len(self.of(kind)) >= count, (kind, self.kinds, self.end)
        return self.of(kind)

    async def texts(self, count: int) -> list[str]:
        return [event["transcript"] for event in await self.some("completed", count)]

    async def ended(self) -> End | Exception:
        await until(lambda: self.end is not None)
        assert self.end is not None
        return self.end

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Read what is told, as long as the context is open."""
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read())
            try:
                yield
            finally:
                reader.cancel()

    async def _read(self) -> None:
        try:
            async for answer in self.session.answers():
                if isinstance(answer, End):
                    self.end = answer
                else:
                    self.told.append(json.loads(answer))
        except (CoreError, SessionExpiredError) as exc:
            self.end = exc


@dataclass
class Room:
    """Where sessions are held. slots: of the backend."""

    transcriber: FakeTranscriber = field(default_factory=lambda: FakeTranscriber(script=lengths))
    slots: int = 4
    analysers: tuple[ClipAnalyser, ...] = ()
    ears: FakeEars = field(default_factory=FakeEars)
    caller: Caller = field(default_factory=lambda: Anyone().identify(None, "here"))
    shape: Shape = Shape.GA
    returned: int = 0

    def __post_init__(self) -> None:
        self.transcriber.capabilities = Capabilities(self.slots)
        self.pipeline = SpeechPipeline(self.transcriber, FakeDecoder(), analysers=self.analysers)
        numbers = itertools.count(1)
        self.around = Surroundings(
            self.ears, self.pipeline, CATALOGUE, lambda: NOW, new_id=lambda kind: f"{kind}_{next(numbers)}"
        )

    async def visit(self) -> Visit:
        return await self.caller.admit_live()

    def _return(self) -> None:
        self.returned += 1

    @asynccontextmanager
    async def app(self, **heard: object) -> AsyncIterator[App]:
        """An app and its session. heard: what it sets before anything else."""
        held = ExitStack()
        held.callback(self._return)
        session = RealtimeSession(
            self.around, await self.visit(), held, default_settings(self.around.models), self.shape
        )
        app = App(session)
        try:
            async with app.reading():
                if heard:
                    app.set(**heard)
                yield app
        finally:
            session.close()
            await until(session._work.done)
