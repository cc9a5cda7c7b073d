"""How does a file become text?

::

    audio -> Decoder -> AudioBlocks -> ClipCutter -> Clips -> Transcriber -> ClipTranscripts -> stitch -> Transcription
                                                      |  (first 1-3)            |
                                                      +-> language vote         +-> fallback ladder, or repetition guard

`transcribe` hears several clips of a file at once, `stream` one after the other; both take their turn with all other
files at one `FairScheduler`. A file is read no further ahead than `clips_per_file` clips, so that its memory does not
depend on its length. Cancelling either stops the decoder and every clip under way.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, Self, TypeAlias, TypeVar

from engine.errors import BackendError, EngineError, RequestError
from engine.speech.clips import ClipCutter
from engine.speech.fallback import LADDER, RepetitionGuard, decode_with_fallback
from engine.speech.language import VOTERS, elect
from engine.speech.observer import Observer, Unobserved
from engine.speech.scheduler import FairScheduler, Share
from engine.speech.stitch import HeardClip, TextJoiner, stitch
from engine.speech.transcriber import Transcriber
from engine.types import (
    AudioBlock,
    Clip,
    ClipTranscript,
    DecodingOptions,
    Granularity,
    RawSamples,
    TextDelta,
    TokenLogprob,
    Transcription,
    TranscriptionRequest,
)

T = TypeVar("T")

Audio: TypeAlias = bytes | bytearray | memoryview
"""A whole file, of any accepted format."""


class Decoder(Protocol):
    """Turns a file of any accepted format into PCM."""

    def decode(self, audio: Audio, raw: RawSamples | None = None) -> AsyncGenerator[AudioBlock, None]:
        """Yield the file's audio from its start, as far as it is asked for; closing the generator ends the work.

        raw: what the samples of a file without a container are; None to find out what the file is.
        Raises RequestError for a file that cannot be decoded and BackendError if decoding fails for another reason.
        """


class SpeechPipeline:
    """Transcribes files with one backend, all of them sharing its slots.

    slots: how many clips the backend hears at once, over all files.
    clips_per_file: how many clips of one file may be under way or wait (each holds up to 0.96 MB of PCM).
    """

    def __init__(
        self,
        transcriber: Transcriber,
        decoder: Decoder,
        *,
        slots: int = 4,
        clips_per_file: int = 8,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transcriber = transcriber
        self._decoder = decoder
        self._clips_per_file = clips_per_file
        self._observer = observer or Unobserved()
        self._clock = clock
        self._scheduler = FairScheduler(slots)

    @property
    def waiting(self) -> int:
        """How many clips wait for a slot of the backend."""
        return self._scheduler.waiting

    async def transcribe(self, audio: Audio, request: TranscriptionRequest) -> Transcription:
        """Turn a whole file into text with times.

        Raises what the decoder and the backend raise: RequestError, BackendError.
        """
        hearing = self._begin(request)
        async with aclosing(self._clips(audio, hearing)) as clips:
            heard = await _unwrapped(self._hear_all(clips, hearing))
        return self._conclude(hearing, heard)

    async def stream(
        self, audio: Audio, request: TranscriptionRequest
    ) -> AsyncGenerator[TextDelta | Transcription, None]:
        """Yield a file's text as it is made, then once the whole; the deltas joined are its text.

        Temperature 0 runs no ladder here, which is counted: text that was sent cannot be taken back. A reader who is
        slow, or has stopped to read, keeps no slot of the backend. Raises as `transcribe` does.
        """
        pieces: asyncio.Queue[TextDelta | Transcription | None] = asyncio.Queue()
        # A TaskGroup may not span a yield: it would cancel whichever task reads. This one is awaited below instead.
        work = asyncio.create_task(self._write(audio, request, pieces))  # noqa: TID251
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    def _begin(self, request: TranscriptionRequest) -> _Hearing:
        return _Hearing(request, ClipCutter(request.voice_activity), self._scheduler.share(), self._clock())

    def _conclude(self, hearing: _Hearing, heard: list[HeardClip]) -> Transcription:
        duration_s = hearing.cutter.heard_s
        whole = stitch(heard, task=hearing.request.task, language=hearing.language, duration_s=duration_s)
        took_s = self._clock() - hearing.began_at
        self._observer.file_heard(duration_s, took_s=took_s, output_tokens=whole.output_tokens)
        return whole

    async def _clips(self, audio: Audio, hearing: _Hearing) -> AsyncGenerator[Clip, None]:
        """Yield the file's clips, decoding no further than the clip asked for."""
        cutter = hearing.cutter
        try:
            async with aclosing(self._decoder.decode(audio, hearing.request.raw_samples)) as blocks:
                async for block in blocks:
                    for clip in cutter.push(block):
                        yield clip
        except EngineError as exc:
            self._observer.file_not_decoded(exc.code if isinstance(exc, RequestError) else "decoder_failed")
            raise
        for clip in cutter.finish():
            yield clip

    @asynccontextmanager
    async def _turn(self, hearing: _Hearing) -> AsyncGenerator[None, None]:
        """Hold a slot of the backend for one call; tell how long that took to get, and whether the call failed."""
        asked_at = self._clock()
        async with hearing.share:
            self._observer.clip_waited(self._clock() - asked_at)
            try:
                yield
            except BackendError:
                self._observer.clip_failed()
                raise

    # --- the whole file at once

    async def _hear_all(self, clips: AsyncIterator[Clip], hearing: _Hearing) -> list[HeardClip]:
        reader = _ClipReader(clips)
        hearing.language = hearing.language or await self._vote(await reader.peek(VOTERS), hearing)
        permits = asyncio.Semaphore(self._clips_per_file)
        tasks = []
        async with asyncio.TaskGroup() as group:
            async for clip in reader:
                await permits.acquire()
                tasks.append(group.create_task(self._hear(clip, hearing, permits)))
        return [task.result() for task in tasks]

    async def _hear(self, clip: Clip, hearing: _Hearing, permits: asyncio.Semaphore) -> HeardClip:
        async def decode(temperature: float) -> ClipTranscript:
            options = replace(hearing.options, temperature=temperature)
            async with self._turn(hearing):
                return await self._transcriber.transcribe(hearing.request.model, clip, options)

        temperature = hearing.request.temperature
        outcome = await decode_with_fallback(decode, (temperature,) if temperature else LADDER)
        permits.release()
        self._observer.clip_heard()
        if outcome.fallbacks:
            self._observer.clip_decoded_again(outcome.fallbacks)
        return HeardClip.of(clip, outcome.transcript)

    # --- the language

    async def _vote(self, clips: Sequence[Clip], hearing: _Hearing) -> str:
        """Return the language that the file's first clips speak."""
        async with asyncio.TaskGroup() as group:
            ballots = [group.create_task(self._languages(clip, hearing)) for clip in clips]
        return elect((ballot.result() for ballot in ballots), hearing.request.languages)

    async def _languages(self, clip: Clip, hearing: _Hearing) -> dict[str, float]:
        async with self._turn(hearing):
            return dict(await self._transcriber.languages(hearing.request.model, clip))

    # --- piece by piece

    async def _write(
        self,
        audio: Audio,
        request: TranscriptionRequest,
        pieces: asyncio.Queue[TextDelta | Transcription | None],
    ) -> None:
        """Put a file's deltas and its transcription into the queue, and None behind the last."""
        try:
            hearing = self._begin(request)
            if not request.temperature:
                self._observer.stream_without_fallback()
            async with aclosing(self._clips(audio, hearing)) as clips:
                heard = await _unwrapped(self._write_all(clips, hearing, pieces.put_nowait))
            pieces.put_nowait(self._conclude(hearing, heard))
        finally:
            pieces.put_nowait(None)

    async def _write_all(
        self, clips: AsyncIterator[Clip], hearing: _Hearing, send: Callable[[TextDelta], None]
    ) -> list[HeardClip]:
        reader = _ClipReader(clips)
        hearing.language = hearing.language or await self._vote(await reader.peek(1), hearing)
        writer = _Writer(TextJoiner(hearing.language, hearing.request.task), send)
        heard = []
        async for clip in reader:
            async with self._turn(hearing):
                transcript = await self._write_clip(clip, hearing, writer)
            self._observer.clip_heard()
            heard.append(HeardClip.of(clip, transcript))
        return heard

    async def _write_clip(self, clip: Clip, hearing: _Hearing, writer: _Writer) -> ClipTranscript:
        guard = RepetitionGuard()
        transcript: ClipTranscript | None = None
        stream = self._transcriber.stream(hearing.request.model, clip, hearing.options)
        async with aclosing(stream) as events:
            async for event in events:
                if isinstance(event, ClipTranscript):
                    transcript = event
                    if not writer.clip_deltas:  # a backend that sends the text only as a whole
                        self._write_delta(TextDelta(event.text, event.logprobs), guard, writer, hearing)
                    break
                self._write_delta(event, guard, writer, hearing)
                if guard.looping:
                    self._observer.loop_ended()
                    transcript = _cut_short(writer)
                    break
        if transcript is None:
            raise BackendError("the speech backend ended a stream without its transcript")
        return replace(transcript, text=writer.end_clip())

    def _write_delta(self, delta: TextDelta, guard: RepetitionGuard, writer: _Writer, hearing: _Hearing) -> None:
        silent = not writer.begun
        writer.write(guard.admit(delta.text), delta.logprobs)
        if silent and writer.begun:
            self._observer.first_delta(self._clock() - hearing.began_at)


@dataclass(slots=True)
class _Hearing:
    """One file on its way through the pipeline."""

    request: TranscriptionRequest
    cutter: ClipCutter
    share: Share
    began_at: float
    language: str = field(init=False)

    def __post_init__(self) -> None:
        only = self.request.languages[0] if len(self.request.languages) == 1 else ""
        self.language = self.request.language or only

    @property
    def options(self) -> DecodingOptions:
        request = self.request
        return DecodingOptions(
            language=self.language,
            task=request.task,
            prompt=request.prompt,
            temperature=request.temperature,
            word_timestamps=Granularity.WORD in request.granularities,
            logprobs=request.logprobs,
            max_tokens=request.max_completion_tokens,
            sampling=request.sampling,
        )


class _ClipReader:
    """Reads clips one by one, and lets the language vote look ahead."""

    def __init__(self, clips: AsyncIterator[Clip]) -> None:
        self._clips = clips
        self._ahead: deque[Clip] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Clip:
        return self._ahead.popleft() if self._ahead else await anext(self._clips)

    async def peek(self, count: int) -> tuple[Clip, ...]:
        """Return the next clips, at most `count`, without taking them."""
        while len(self._ahead) < count and (clip := await anext(self._clips, None)) is not None:
            self._ahead.append(clip)
        return tuple(self._ahead)


class _Writer:
    """Sends a file's text on as deltas; remembers what the current clip has written."""

    def __init__(self, joiner: TextJoiner, send: Callable[[TextDelta], None]) -> None:
        self._joiner = joiner
        self._send = send
        self._clip_text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self.begun = False
        self.clip_deltas = 0

    def write(self, piece: str, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Send what `piece` adds to the text; log probabilities of a piece that adds nothing yet go with the next."""
        self.clip_deltas += 1
        self._logprobs.extend(logprobs)
        if text := self._joiner.add(piece):
            self._send(TextDelta(text, tuple(self._logprobs)))
            self._clip_text.append(text)
            self._logprobs.clear()
            self.begun = True

    def end_clip(self) -> str:
        """Return the clip's text as it was sent, and begin the next clip."""
        text = "".join(self._clip_text)
        self._joiner.end_clip()
        self._clip_text.clear()
        self._logprobs.clear()
        self.clip_deltas = 0
        return text


def _cut_short(writer: _Writer) -> ClipTranscript:
    """Stand in for the transcript that an ended clip never gave; a backend sends at least one token a delta."""
    return ClipTranscript(text="", segments=(), output_tokens=writer.clip_deltas)


async def _unwrapped(work: Awaitable[T]) -> T:
    """Await `work`; of a task group that failed for reasons we know, raise the first as itself."""
    try:
        return await work
    except ExceptionGroup as group:
        _, unknown = group.split(EngineError)
        if unknown:
            raise
        raise _first(group) from None


def _first(group: ExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
