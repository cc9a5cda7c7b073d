"""How does a file become text?

::

    audio -> Decoder -> AudioBlocks -> ClipCutter -> Clips -> Transcriber -> ClipTranscripts -> analysers -> stitch
                                                      |  (first 1-3)   ^        |
                                                      +-> language     |        +-> fallback ladder, or guards
                                                          vote         +- the rest, where more was said

`transcribe` hears several clips of a file at once, `stream` one after the other; both take their turn with all other
files at one `FairScheduler`. Where more than text is wanted, each clip's final text is looked at once more, by
analysers with turns of their own. A file is read no further ahead than `clips_per_file` clips, so that its memory does
not depend on its length. Cancelling either stops the decoder and every clip under way.

What is still being said is no file: whoever cuts it asks for its clips one by one (`attend`), which go before files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from copy import copy
from dataclasses import replace
from typing import Protocol, TypeAlias, TypeVar

from core.errors import BackendError, CoreError
from core.media.types import AudioBlock, RawSamples
from core.program.run import unwrapped
from core.program.scheduler import FairScheduler, Share, Urgency
from core.transcript.faults import Fault
from core.transcript.types import Transcript
from engine.speech.analyser import ClipAnalyser
from engine.speech.attention import Attention, Spoken
from engine.speech.clips import ClipCutter
from engine.speech.echo import echoes
from engine.speech.fallback import (
    LADDER,
    Outcome,
    RepetitionGuard,
    decode_with_fallback,
    drop_silence,
    is_credible,
)
from engine.speech.language import UNHEARD, VOTERS, elect
from engine.speech.observer import Observer, Unobserved
from engine.speech.speakers import Diarizer, SpeakerStage
from engine.speech.stitch import HeardClip, TextJoiner, stitch
from engine.speech.text_stream import Send, TextStream
from engine.speech.transcriber import Transcriber
from engine.speech.under_way import Charge, ClipReader, File, Look
from engine.speech.unheard import LEAST_S, drop_unspoken, end_of, end_of_loop, part, rest_of, speech_s, up_to_gap
from engine.speech.writer import TextWriter
from engine.types import Clip, ClipTranscript, DecodingOptions, Hearing, TextDelta

T = TypeVar("T")

Audio: TypeAlias = bytes | bytearray | memoryview
"""A whole file, of any accepted format."""


def free(seconds: float) -> None:
    """A `Charge` that nobody pays."""


class Decoder(Protocol):
    """Turns a file of any accepted format into PCM."""

    def decode(
        self,
        audio: Audio,
        raw: RawSamples | None = None,
        *,
        caller: Hashable = None,
        keep_channels: bool = False,
    ) -> AsyncGenerator[AudioBlock, None]:
        """Yield the file's audio from its start, as far as it is asked for; closing the generator ends the work.

        raw: what the samples of a file without a container are; None to find out what the file is.
        caller: whose file it is, and whose turns it takes.
        keep_channels: give the channels beside their mix (`AudioBlock.channels`).
        Raises Fault for a file that cannot be decoded and BackendError if decoding fails for another reason.
        """


class SpeechPipeline:
    """Transcribes files with one backend, all of them sharing its slots.

    clips_per_file: how many clips of one file may be under way or wait (each holds up to 0.96 MB of PCM).
    """

    def __init__(
        self,
        transcriber: Transcriber,
        decoder: Decoder,
        *,
        analysers: Sequence[ClipAnalyser] = (),
        diarizer: Diarizer | None = None,
        clips_per_file: int = 8,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transcriber = transcriber
        self._decoder = decoder
        self._clips_per_file = clips_per_file
        self._observer = observer or Unobserved()
        self._clock = clock
        self._scheduler = FairScheduler(transcriber.capabilities.slots)
        self._speakers = SpeakerStage(diarizer, decoder) if diarizer else None
        self._looks = [(one, FairScheduler(one.slots) if one.slots else self._scheduler) for one in analysers]

    @property
    def waiting(self) -> int:
        """How many clips wait for a slot of the backend."""
        return self._scheduler.waiting

    @property
    def idle(self) -> bool:
        """Whether a slot of the backend is free."""
        return self._scheduler.idle

    async def transcribe(
        self, audio: Audio, hearing: Hearing, *, caller: Hashable = None, charge: Charge = free
    ) -> Transcript:
        """Turn a whole file into text with times.

        caller: whose file it is, and whose turns it takes. charge: told the seconds that were heard, clip by clip, also
        when the work is cancelled meanwhile.
        Raises what the decoder and the backend raise: Fault, BackendError.
        """
        return await self._whole(audio, self._begin(hearing, caller, charge))

    def stream(
        self,
        audio: Audio,
        hearing: Hearing,
        *,
        caller: Hashable = None,
        charge: Charge = free,
        time_limit_s: float | None = None,
    ) -> TextStream:
        """Begin to send a file's text as it is made, then once the whole; the deltas joined are its text.

        Temperature 0 runs no ladder here, which is counted: text that was sent cannot be taken back. It is run where
        none was sent, though somebody speaks, or what would have been is the prompt. And where details are wanted, a
        clip's text waits for them and comes as a whole; where speakers are, so does the file, of whom nobody knows
        before its end how many there are. Arguments and errors are those of `transcribe`.
        """
        file = self._begin(hearing, caller, charge)
        if hearing.speakers:
            return TextStream(lambda send: self._send_whole(audio, file, send), time_limit_s=time_limit_s)
        return TextStream(lambda send: self._write(audio, file, send), time_limit_s=time_limit_s)

    def attend(self, hearing: Hearing, *, caller: Hashable = None) -> Attention:
        """Begin to hear what is still being said. Whoever asks for it cuts it, and is charged for it elsewhere."""
        return Attention(self, self._begin(hearing, caller, free, Urgency.SPOKEN))

    def _begin(self, hearing: Hearing, caller: Hashable, charge: Charge, urgency: Urgency = Urgency.FILE) -> File:
        looks = [
            Look(analyser, wanted, scheduler.share(caller, urgency))
            for analyser, scheduler in self._looks
            if (wanted := hearing.details & analyser.adds)
        ]
        cutter = ClipCutter(hearing.voice_activity)
        share = self._scheduler.share(caller, urgency)
        return File(hearing, caller, cutter, share, looks, self._clock(), charge)

    def _conclude(self, file: File, heard: list[HeardClip]) -> Transcript:
        duration_s = file.cutter.heard_s
        file.charge_to(duration_s)
        whole = stitch(heard, task=file.hearing.task, language=file.language, duration_s=duration_s)
        took_s = self._clock() - file.began_at
        self._observer.file_heard(
            duration_s, left_out_s=file.cutter.left_out_s, took_s=took_s, output_tokens=whole.output_tokens
        )
        return whole

    async def _clips(self, audio: Audio, file: File) -> AsyncGenerator[Clip, None]:
        """Yield the file's clips, decoding no further than the clip asked for."""
        cutter = file.cutter
        try:
            decoding = self._decoder.decode(
                audio,
                file.hearing.raw_samples,
                caller=file.caller,
                keep_channels=file.attendance is not None and file.attendance.keeps_channels,
            )
            async with aclosing(decoding) as blocks:
                async for block in blocks:
                    if file.attendance:
                        await file.attendance.push(block)
                    for clip in cutter.push(block):
                        yield clip
        except CoreError as exc:
            self._observer.file_not_decoded(exc.kind if isinstance(exc, Fault) else "decoder_failed")
            raise
        for clip in cutter.finish():
            yield clip

    @asynccontextmanager
    async def _turn(self, share: Share) -> AsyncGenerator[None, None]:
        """Hold a slot of a component for one call; tell how long that took to get, and whether the call failed."""
        asked_at = self._clock()
        async with share:
            self._observer.clip_waited(self._clock() - asked_at)
            try:
                yield
            except BackendError:
                self._observer.clip_failed()
                raise

    # --- the whole file at once

    async def _whole(self, audio: Audio, file: File) -> Transcript:
        async with AsyncExitStack() as stack:
            if self._speakers and file.hearing.speakers:
                attending = self._speakers.attending(file.hearing.speakers, file.caller)
                file.attendance = await stack.enter_async_context(attending)
            async with aclosing(self._clips(audio, file)) as clips:
                heard = await unwrapped(self._hear_all(clips, file))
            whole = self._conclude(file, heard)
            return await file.attendance.conclude(whole) if file.attendance else whole

    async def _send_whole(self, audio: Audio, file: File, send: Send) -> None:
        send(await self._whole(audio, file))

    async def _hear_all(self, clips: AsyncIterator[Clip], file: File) -> list[HeardClip]:
        reader = ClipReader(clips)
        file.language = file.language or await self._vote(await reader.peek(VOTERS), file)
        permits = asyncio.Semaphore(self._clips_per_file)
        tasks = []
        async with asyncio.TaskGroup() as group:
            async for clip in reader:
                await permits.acquire()
                tasks.append(group.create_task(self._hear(clip, file, permits)))
        return [part for task in tasks for part in task.result()]

    async def _hear(self, clip: Clip, file: File, permits: asyncio.Semaphore) -> list[HeardClip]:
        parts = await self._hear_out(clip, file)
        permits.release()
        return [HeardClip.of(one, await self._look(one, transcript, file)) for one, transcript in parts]

    async def _hear_out(self, clip: Clip, file: File) -> list[tuple[Clip, ClipTranscript]]:
        """The clip's text; where that ends before the speech does in several parts."""
        parts = []
        rest: Clip | None = clip
        while rest is not None:
            outcome = await self._believed(rest, file, is_rest=rest is not clip)
            transcript = outcome.transcript if outcome.looped else up_to_gap(outcome.transcript, rest)
            begin, rest = _divide(rest, transcript, looped=outcome.looped)
            parts.append((begin, transcript))
        self._observer.clip_heard()
        return parts

    async def _believed(self, clip: Clip, file: File, *, is_rest: bool = False) -> Outcome:
        """The clip's text, decoded again without its prompt where it is nothing but that."""
        outcome = await self._decoded(clip, file, file.options, is_rest=is_rest)
        if echoes(outcome.transcript.text, file.hearing.prompt):
            outcome = await self._decoded(clip, file, replace(file.options, prompt=None), is_rest=is_rest)
        if outcome.looped:
            self._observer.loop_ended()
        return outcome

    async def _decoded(self, clip: Clip, file: File, options: DecodingOptions, *, is_rest: bool) -> Outcome:
        """The clip's text, decoded again at rising temperatures while it cannot be believed."""

        async def decode(temperature: float) -> ClipTranscript:
            async with self._turn(file.share):
                with file.charging(clip):
                    transcript = await self._transcriber.transcribe(
                        file.hearing.model, clip, replace(options, temperature=temperature)
                    )
            return drop_unspoken(transcript, clip) if file.hearing.voice_activity else transcript

        temperatures = (options.temperature,) if options.temperature else LADDER
        outcome = await decode_with_fallback(decode, temperatures, speech_s=speech_s(clip), is_rest=is_rest)
        if outcome.fallbacks:
            self._observer.clip_decoded_again(outcome.fallbacks)
        return outcome

    async def _look(self, clip: Clip, transcript: ClipTranscript, file: File) -> ClipTranscript:
        """Add the details that are wanted to a text that is final."""
        for look in file.looks:
            async with self._turn(look.share):
                transcript = await look.analyser.look(file.hearing.model, clip, transcript, file.options, look.wanted)
        return transcript

    # --- what is still being said

    async def finish(self, clip: Clip, file: File) -> Spoken:
        """The text of a clip that nothing is added to; in its own language where the file's is not known."""
        file = copy(file)
        file.language = file.language or await self._vote((clip,), file)
        parts = await self._hear_out(clip, file)
        heard = [HeardClip.of(one, await self._look(one, transcript, file)) for one, transcript in parts]
        return Spoken(file.language, tuple(heard))

    async def glimpse(self, clip: Clip, file: File, language: str) -> Spoken | None:
        """A first idea of a clip that goes on, decoded once; None where it would take a slot that others want."""
        if not self._scheduler.idle:
            return None
        model, file = file.hearing.model, copy(file)
        file.language = file.language or language
        async with self._turn(file.share):
            if not file.language:
                ballot = await self._transcriber.languages(model, clip)
                file.language = elect([ballot], file.hearing.languages)
            heard = await self._transcriber.transcribe(model, clip, file.options)
        transcript = drop_unspoken(drop_silence(heard), clip)
        doubtful = not is_credible(transcript) or echoes(transcript.text, file.hearing.prompt)
        return None if doubtful else Spoken(file.language, (HeardClip.of(clip, transcript),))

    def write_down(self, spoken: Sequence[Spoken], file: File, *, duration_s: float, waited_s: float) -> Transcript:
        """See `Attention.write_down`."""
        language = next((one.language for one in spoken), file.language or UNHEARD)
        heard = [part for one in spoken for part in one.heard]
        whole = stitch(heard, task=file.hearing.task, language=language, duration_s=duration_s)
        self._observer.turn_heard(duration_s, waited_s=waited_s, output_tokens=whole.output_tokens)
        return whole

    # --- the language

    async def _vote(self, clips: Sequence[Clip], file: File) -> str:
        """Return the language that the file's first clips speak."""
        async with asyncio.TaskGroup() as group:
            ballots = [group.create_task(self._languages(clip, file)) for clip in clips]
        return elect((ballot.result() for ballot in ballots), file.hearing.languages)

    async def _languages(self, clip: Clip, file: File) -> dict[str, float]:
        async with self._turn(file.share):
            return dict(await self._transcriber.languages(file.hearing.model, clip))

    # --- piece by piece

    async def _write(self, audio: Audio, file: File, send: Send) -> None:
        """Send a file's deltas and its transcription."""
        if not file.hearing.temperature and not file.looks:
            self._observer.stream_without_fallback()
        async with aclosing(self._clips(audio, file)) as clips:
            heard = await unwrapped(self._write_all(clips, file, send))
        send(self._conclude(file, heard))

    async def _write_all(
        self, clips: AsyncIterator[Clip], file: File, send: Callable[[TextDelta], None]
    ) -> list[HeardClip]:
        reader = ClipReader(clips)
        file.language = file.language or await self._vote(await reader.peek(1), file)
        writer = TextWriter(TextJoiner(file.language, file.hearing.task), send)
        heard = []
        async for clip in reader:
            if file.looks:  # what belongs to a text comes with it, and so once it is final
                heard += await self._write_whole(clip, file, writer)
            else:
                heard += await self._write_clip(clip, file, writer)
        return heard

    async def _write_whole(self, clip: Clip, file: File, writer: TextWriter) -> list[HeardClip]:
        heard = []
        for one, transcript in await self._hear_out(clip, file):
            final = await self._look(one, transcript, file)
            self._write_text(final, writer, file)
            heard.append(HeardClip.of(one, replace(final, text=writer.end_clip())))
        return heard

    async def _write_clip(self, clip: Clip, file: File, writer: TextWriter) -> list[HeardClip]:
        heard = []
        rest: Clip | None = clip
        while rest is not None:
            outcome = await self._write_part(rest, file, writer)
            transcript = outcome.transcript
            begin, rest = _divide(rest, transcript, looped=outcome.looped)
            heard.append(HeardClip.of(begin, replace(transcript, text=writer.end_clip())))
        self._observer.clip_heard()
        return heard

    async def _write_part(self, clip: Clip, file: File, writer: TextWriter) -> Outcome:
        """Send a clip's text as far as one attempt brings it; of what nothing was sent can still be decoded again."""
        async with self._turn(file.share):
            with file.charging(clip):
                outcome = await self._write_once(clip, file, writer)
        if writer.clip_begun or not (writer.held or speech_s(clip) > LEAST_S):
            return outcome
        writer.end_clip()
        outcome = await self._believed(clip, file)
        self._write_text(outcome.transcript, writer, file)
        return outcome

    async def _write_once(self, clip: Clip, file: File, writer: TextWriter) -> Outcome:
        guard = RepetitionGuard()
        writer.begin_clip(file.hearing.prompt)
        stream = self._transcriber.stream(file.hearing.model, clip, file.options)
        async with aclosing(stream) as events:
            async for event in events:
                if isinstance(event, ClipTranscript):
                    if not writer.clip_deltas:  # a backend that sends the text only as a whole
                        self._write_delta(TextDelta(event.text, event.logprobs), guard, writer, file)
                    return Outcome(event, fallbacks=0)
                self._write_delta(event, guard, writer, file)
                if guard.looping:
                    self._observer.loop_ended()
                    return Outcome(writer.cut_short(), fallbacks=0, looped=True)
        raise BackendError("the speech backend ended a stream without its transcript")

    def _write_text(self, transcript: ClipTranscript, writer: TextWriter, file: File) -> None:
        """Send a text that is final."""
        writer.begin_clip(None)
        silent = not writer.begun
        writer.write(transcript.text, transcript.logprobs)
        self._tell_first(file, writer, silent=silent)

    def _write_delta(self, delta: TextDelta, guard: RepetitionGuard, writer: TextWriter, file: File) -> None:
        silent = not writer.begun
        writer.write(guard.admit(delta.text), delta.logprobs)
        self._tell_first(file, writer, silent=silent)

    def _tell_first(self, file: File, writer: TextWriter, *, silent: bool) -> None:
        if silent and writer.begun:
            self._observer.first_delta(self._clock() - file.began_at)


def _divide(clip: Clip, transcript: ClipTranscript, *, looped: bool) -> tuple[Clip, Clip | None]:
    """The part of a clip that its text is of, and the rest, if something is said in it."""
    if not transcript.text.strip():
        return clip, None
    rest = rest_of(clip, end_of_loop(transcript, clip) if looped else end_of(transcript, clip))
    return (clip, None) if rest is None else (part(clip, 0.0, rest.start_s - clip.start_s), rest)
