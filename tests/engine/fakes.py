"""A speech backend and a decoder without a model or a codec, for every test that needs to say what is heard.

In `FakeDecoder`'s files a byte stands for one window of 32 ms: how likely it holds speech. So `SPEECH * 100 + SILENCE *
100` is a file of 6.4 s, and a test reads what it sends.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from core.errors import BackendError, CoreError
from core.media.frames import WINDOW_BYTES
from core.media.types import WINDOW_SAMPLES, AudioBlock, RawSamples
from core.transcript.types import Segment, TokenLogprob, Word
from engine.speech.observer import Sample
from engine.speech.transcriber import Capabilities, Component
from engine.types import Clip, ClipTranscript, DecodingOptions, Detail, TextDelta

SPEECH = b"\xff"
SILENCE = b"\x00"
WINDOWS_PER_S = 31.25


def windows(seconds: float) -> int:
    """Return how many windows come nearest to a length."""
    return round(seconds * WINDOWS_PER_S)


def speech(seconds: float) -> bytes:
    """Return a stretch of certain speech, as `FakeDecoder` reads it."""
    return SPEECH * windows(seconds)


def silence(seconds: float) -> bytes:
    """Return a stretch of certain silence, as `FakeDecoder` reads it."""
    return SILENCE * windows(seconds)


def pcm_of(file: bytes) -> bytes:
    """Return PCM in which window n holds samples of value n (from -32768 up), so that no window is like another."""
    return b"".join(array("h", [index - 32768] * WINDOW_SAMPLES).tobytes() for index in range(len(file)))


class FakeDecoder:
    """Implements `engine.speech.pipeline.Decoder` for files as described above.

    gate: awaited before every block but the first. fail_at: the block in whose place `failure` is raised.
    blocks: how many were asked for so far. open_files: decoders at work, 0 once all are closed.
    forms: what each file was said to be, None for one in a container.
    """

    def __init__(
        self,
        *,
        block_windows: int = 128,
        gate: Gate | None = None,
        fail_at: int | None = None,
        failure: CoreError | None = None,
    ) -> None:
        self._block_windows = block_windows
        self._gate = gate
        self._fail_at = fail_at
        self._failure = failure or BackendError("the decoder failed")
        self.blocks = 0
        self.open_files = 0
        self.forms: list[RawSamples | None] = []
        self.callers: list[Hashable] = []
        self.kept_channels: list[bool] = []

    async def decode(
        self,
        audio: bytes | bytearray | memoryview,
        raw: RawSamples | None = None,
        *,
        caller: Hashable = None,
        keep_channels: bool = False,
    ) -> AsyncGenerator[AudioBlock, None]:
        self.kept_channels.append(keep_channels)
        self.forms.append(raw)
        self.callers.append(caller)
        file = bytes(audio)
        pcm = pcm_of(file)
        self.open_files += 1
        try:
            for number, start in enumerate(range(0, len(file), self._block_windows)):
                if number == self._fail_at:
                    raise self._failure
                if number and self._gate:
                    await self._gate.wait()
                await asyncio.sleep(0)
                self.blocks += 1
                block = file[start : start + self._block_windows]
                end = start + len(block)
                yield AudioBlock(pcm[start * WINDOW_BYTES : end * WINDOW_BYTES], block)
        finally:
            self.open_files -= 1


class Gate(Protocol):
    """What a fake waits at: an `asyncio.Event`, or a `Turnstile`."""

    async def wait(self) -> object: ...


class Turnstile:
    """A gate that lets a given number through."""

    def __init__(self) -> None:
        self._admitted = asyncio.Semaphore(0)

    def admit_one(self) -> None:
        self._admitted.release()

    async def wait(self) -> object:
        return await self._admitted.acquire()


def scripted(*texts: str) -> Callable[[Clip, DecodingOptions], str]:
    """Return a script that says the given texts, one a call, and the last one from then on."""
    left = list(texts)
    return lambda clip, options: left.pop(0) if len(left) > 1 else left[0]


def said_at(clip: Clip, options: DecodingOptions) -> str:
    """Say where in the file a clip begins, in tenths of a second, which tells clips apart."""
    return f" clip at {round(clip.start_s * 10)}"


@dataclass(frozen=True, slots=True)
class Heard:
    """One call: what was asked of the fake."""

    model: str
    clip: Clip
    options: DecodingOptions


@dataclass
class FakeTranscriber:
    """Implements `engine.speech.transcriber.Transcriber`.

    script: what it says to a clip. transcripts: or, for full control, the transcript.
    gate: awaited by every call, for a backend that takes as long as the test wants.
    word_gate: awaited before every word of a stream.
    probabilities: the answer to `languages`, or a function of the clip that gives it.
    fail_after: calls to `transcribe` and `stream` beyond this many raise `failure`.
    fail_after_words: so do streams, in the middle of a clip.
    live, most_live: calls under way now, and at most. heard: every call, in order. cancelled: calls given up.
    """

    script: Callable[[Clip, DecodingOptions], str] = said_at
    transcripts: Callable[[Clip, DecodingOptions], ClipTranscript] | None = None
    gate: Gate | None = None
    word_gate: Gate | None = None
    probabilities: Mapping[str, float] | Callable[[Clip], Mapping[str, float]] = field(
        default_factory=lambda: {"en": 0.9, "de": 0.1}
    )
    fail_after: int | None = None
    fail_after_words: int | None = None
    failure: CoreError = field(default_factory=lambda: BackendError("the speech backend failed"))
    component: Component = field(default_factory=lambda: Component("fake"))
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(slots=4))
    ready: bool = False
    live: int = 0
    most_live: int = 0
    cancelled: int = 0
    heard: list[Heard] = field(default_factory=list)
    asked_for_language: list[Clip] = field(default_factory=list)

    async def start(self) -> None:
        self.ready = True

    async def close(self) -> None:
        self.ready = False

    async def metrics(self, model: str) -> tuple[Sample, ...]:
        return ()

    async def languages(self, model: str, clip: Clip) -> Mapping[str, float]:
        self.asked_for_language.append(clip)
        async with self._call():
            return self.probabilities(clip) if callable(self.probabilities) else self.probabilities

    async def transcribe(self, model: str, clip: Clip, options: DecodingOptions) -> ClipTranscript:
        self.heard.append(Heard(model, clip, options))
        async with self._call():
            self._fail_if_due()
            return self._transcript(clip, options)

    async def stream(
        self, model: str, clip: Clip, options: DecodingOptions
    ) -> AsyncGenerator[TextDelta | ClipTranscript, None]:
        self.heard.append(Heard(model, clip, options))
        async with self._call():
            self._fail_if_due()
            transcript = self._transcript(clip, options)
            for number, word in enumerate(_words(transcript.text)):
                if self.word_gate:
                    await self.word_gate.wait()
                if number == self.fail_after_words:
                    raise self.failure
                yield TextDelta(word)
            yield transcript

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        self.live += 1
        self.most_live = max(self.most_live, self.live)
        try:
            if self.gate:
                await self.gate.wait()
            else:
                await asyncio.sleep(0)
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.live -= 1

    def _fail_if_due(self) -> None:
        if self.fail_after is not None and len(self.heard) > self.fail_after:
            raise self.failure

    def _transcript(self, clip: Clip, options: DecodingOptions) -> ClipTranscript:
        if self.transcripts:
            return self.transcripts(clip, options)
        return transcript_of(self.script(clip, options), clip, options)


@dataclass
class FakeAnalyser:
    """Implements `engine.speech.analyser.ClipAnalyser`: finds one word and one token in everything.

    looked: the transcripts that it was shown, with what was wanted. events: what was done, in order.
    fail_at: the event at which it fails.
    """

    component: Component | None = None
    adds: frozenset[Detail] = frozenset(Detail)
    slots: int | None = None
    fail_at: str = ""
    ready: bool = False
    looked: list[tuple[ClipTranscript, frozenset[Detail]]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    async def prepare(self) -> None:
        self._do("prepare")

    async def start(self) -> None:
        self._do("start")
        self.ready = True

    async def close(self) -> None:
        self._do("close")
        self.ready = False

    async def look(
        self, model: str, clip: Clip, transcript: ClipTranscript, options: DecodingOptions, wanted: frozenset[Detail]
    ) -> ClipTranscript:
        self._do("look")
        self.looked.append((transcript, wanted))
        words = (Word(transcript.text, 0.1, 0.2),) if Detail.WORDS in wanted else ()
        logprobs = (TokenLogprob(transcript.text, -0.5),) if Detail.LOGPROBS in wanted else ()
        segments = tuple(replace(segment, words=words) for segment in transcript.segments)
        return replace(transcript, segments=segments, logprobs=logprobs)

    def _do(self, what: str) -> None:
        self.events.append(what)
        if what == self.fail_at:
            raise BackendError(f"cannot {what}")


def transcript_of(
    text: str,
    clip: Clip,
    options: DecodingOptions,
    *,
    avg_logprob: float = -0.3,
    no_speech_prob: float = 0.0,
    compression_ratio: float = 1.0,
) -> ClipTranscript:
    """Return a transcript of one segment that spans the clip; one token a word."""
    segment = Segment(
        start_s=0.0,
        end_s=clip.duration_s,
        text=text,
        tokens=tuple(range(len(text.split()))),
        temperature=options.temperature,
        avg_logprob=avg_logprob,
        compression_ratio=compression_ratio,
        no_speech_prob=no_speech_prob,
    )
    return ClipTranscript(text, (segment,), output_tokens=len(text.split()), prompt_tokens=len(options.prompt or ""))


def _words(text: str) -> list[str]:
    """Cut a text before its spaces, as Whisper's tokens do."""
    words = text.split(" ")
    return [word for word in [words[0], *(f" {word}" for word in words[1:])] if word]
