"""Whole recordings through the real engine: decoder, voice activity, clips, faster-whisper, stitching."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import cycle, pairwise

import numpy as np
import pytest

from core.media.decode import AudioDecoder
from core.media.frames import BLOCK_BYTES, WINDOW_BYTES
from core.media.types import SAMPLE_RATE_HZ, WINDOW_SAMPLES, AudioBlock
from core.media.vad import VoiceActivityDetector, load_model
from core.transcript.types import Transcript
from engine.backends.faster_whisper.aligner import FasterWhisperAligner
from engine.backends.faster_whisper.transcriber import FasterWhisperTranscriber
from engine.backends.weights import FileWeights, held
from engine.openai.formats import render
from engine.openai.rendering import Granularity, Rendering, ResponseFormat
from engine.speech.clips import ClipCutter
from engine.speech.pipeline import SpeechPipeline
from engine.types import Clip, Detail, Hearing, VoiceActivity
from tests.core.media.sounds import flac, opus, tone, wav
from tests.word_errors import word_errors

from .counts import Counts
from .utterances import NANO, Utterance, held_out, needs_checkpoint, needs_espeak, spoken

pytestmark = needs_checkpoint

REQUEST = Hearing(model="nano", language="en")


@dataclass(frozen=True, slots=True)
class Ears:
    """A pipeline with nothing fake in it, and what it has counted."""

    pipeline: SpeechPipeline
    counts: Counts

    async def hear(self, pcm: bytes, hearing: Hearing = REQUEST) -> Transcript:
        return await self.pipeline.transcribe(wav(pcm), hearing)


@asynccontextmanager
async def listening() -> AsyncIterator[Ears]:
    weights = FileWeights(NANO)
    transcriber = FasterWhisperTranscriber({"nano": weights}, parallel_clips=2, cpu_threads=1)
    decoder, counts = AudioDecoder(), Counts()
    async with held([weights]):
        try:
            await decoder.start()
            await transcriber.start()
            yield Ears(
                SpeechPipeline(transcriber, decoder, analysers=(FasterWhisperAligner(transcriber),), observer=counts),
                counts,
            )
        finally:
            await transcriber.close()
            await decoder.close()


# --- short files

RATE = SAMPLE_RATE_HZ


def white_noise(seconds: float, amplitude: float) -> bytes:
    hiss = np.random.default_rng(7).standard_normal(round(seconds * RATE)) * amplitude * 32767
    return np.clip(hiss, -32768, 32767).astype("<i2").tobytes()


def rumble(seconds: float) -> bytes:
    walk = np.cumsum(np.random.default_rng(7).standard_normal(round(seconds * RATE)))
    samples: bytes = (12_000 * walk / np.abs(walk).max()).astype("<i2").tobytes()
    return samples


def clicks(seconds: float) -> bytes:
    samples = np.zeros(round(seconds * RATE), "<i2")
    samples[:: RATE // 2] = 30_000
    return samples.tobytes()


NOTHING_SAID = {
    "0.1 s of silence": bytes(2 * RATE // 10),
    "1 s of silence": bytes(2 * RATE),
    "29 s of silence": bytes(2 * RATE * 29),
    "1 s of faint noise": white_noise(1, 0.001),
    "5 s of noise": white_noise(5, 0.05),
    "29 s of loud noise": white_noise(29, 0.3),
    "10 s of rumble": rumble(10),
    "5 s of clicks": clicks(5),
    "5 s of a tone": tone(5).astype("<i2").tobytes(),
}


async def test_a_short_file_in_which_nothing_is_said_is_empty_and_never_reaches_the_model() -> None:
    async with listening() as ears:
        for name, pcm in NOTHING_SAID.items():
            heard = await ears.hear(pcm, replace(REQUEST, language=None))
            assert (heard.text, heard.segments, ears.counts.queued) == ("", (), []), name
            assert heard.duration_s == pytest.approx(len(pcm) / (2 * RATE)), name


@needs_espeak
async def test_a_word_in_a_short_file_is_heard_and_the_silence_around_it_is_not() -> None:
    async with listening() as ears:
        sentence = spoken("please close the window")
        heard = await ears.hear(bytes(2 * RATE * 5) + sentence + bytes(2 * RATE * 5))
        assert heard.text == "please close the window"
        assert ears.counts.clips == 1
        assert 4.5 < heard.segments[0].start_s < heard.segments[-1].end_s < 5.5 + len(sentence) / (2 * RATE)


async def test_with_voice_activity_detection_switched_off_a_short_silent_file_reaches_the_model() -> None:
    async with listening() as ears:
        await ears.hear(bytes(2 * RATE * 5), replace(REQUEST, voice_activity=None))
        assert ears.counts.clips == 1


# --- a long recording

LENGTH_S = 40 * 60
SILENCE_S = 20.0
MORE_ERRORS = 1
"""How many words the long recording may get wrong beyond those of its sentences alone, of more than 600. Both hear the
same samples; but a probability that rounds the other way moves the edge of a clip by a window of silence, which a beam
search can notice."""

SLACK_S = 0.1
"""Whisper tells times in steps of 20 ms, and where a spoken word ends is a matter of opinion."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A sentence in the long recording, and where it is."""

    utterance: Utterance
    start_s: float

    @property
    def end_s(self) -> float:
        return self.start_s + len(self.utterance.pcm) / (2 * RATE)


def recording() -> tuple[bytes, list[Stretch]]:
    """40 minutes of sentences with 20 s of silence around each.

    One sentence a stretch, as the small checkpoint learned them: of several in a clip it gets every sixth word wrong,
    which would hide what is measured here. Each begins with a window of the voice detector, as it does alone.
    """
    pcm, stretches = bytearray(), list[Stretch]()
    silence = bytes(WINDOW_BYTES * round(SILENCE_S * RATE / WINDOW_SAMPLES))
    for utterance in cycle(held_out("en")):
        pcm += silence
        stretches.append(Stretch(utterance, len(pcm) / (2 * RATE)))
        pcm += utterance.pcm
        pcm += bytes(-len(pcm) % WINDOW_BYTES)
        if len(pcm) + len(silence) > 2 * RATE * LENGTH_S:
            return bytes(pcm.ljust(2 * RATE * LENGTH_S, b"\0")), stretches
    raise AssertionError("a cycle has no end")


async def words_alone(ears: Ears, pcm: bytes) -> list[str]:
    """What is heard of a sentence in a recording of its own, with a second of silence on either side."""
    silence = bytes(WINDOW_BYTES * 32)
    return (await ears.hear(silence + pcm + silence)).text.split()


def spans(items: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [(item["start"], item["end"]) for item in items]


def is_in_speech(span: tuple[float, float], stretches: list[Stretch]) -> bool:
    start_s, end_s = span
    return any(one.start_s - SLACK_S <= start_s <= end_s <= one.end_s + SLACK_S for one in stretches)


@pytest.mark.slow
@needs_espeak
async def test_forty_minutes_are_heard_like_their_sentences_alone() -> None:
    pcm, stretches = recording()
    rendering = Rendering(ResponseFormat.VERBOSE_JSON, frozenset({Granularity.SEGMENT, Granularity.WORD}))
    request = replace(REQUEST, details=frozenset({Detail.WORDS}))
    async with listening() as ears:
        apart = {one.words: await words_alone(ears, one.pcm) for one in held_out("en")}
        whole = await ears.pipeline.transcribe(flac(pcm), request)
    answer = json.loads(render(whole, rendering).body)

    said = [word for one in stretches for word in one.utterance.words]
    in_pieces = sum(word_errors(one.utterance.words, apart[one.utterance.words]) for one in stretches)
    assert len(said) > 600
    assert in_pieces < 0.05 * len(said)
    assert word_errors(said, answer["text"].split()) <= in_pieces + MORE_ERRORS

    segments, words = answer["segments"], answer["words"]
    assert " ".join(word["word"].strip() for word in words) == answer["text"]
    assert all(is_in_speech(span, stretches) for span in spans(words))
    assert [segment["id"] for segment in segments] == list(range(len(segments)))
    edges = [edge for span in spans(words) for edge in span]
    assert edges == sorted(edges)
    assert answer["duration"] == LENGTH_S
    # Absolute: there are words of every stretch, to the last.
    assert all(any(one.start_s - SLACK_S <= start < one.end_s for start, _ in spans(words)) for one in stretches)
    assert ears.counts.clips == len(apart) + len(stretches)


# --- hours

HOURS_S = 70 * 60
MAX_FILE_BYTES = 25 * 1024 * 1024
SAID_AT_S = (0.5, 600.0, 1799.5, 3000.0, 3599.0, 4150.0, 4195.0)
"""Where its sentences begin: at once, after up to twenty silent minutes, across the hour, in the last seconds."""


def hours() -> tuple[bytes, list[Stretch]]:
    pcm = bytearray(2 * RATE * HOURS_S)
    stretches = [Stretch(*pair) for pair in zip(held_out("en"), SAID_AT_S, strict=False)]
    for one in stretches:
        start = round(2 * RATE * one.start_s)
        pcm[start : start + len(one.utterance.pcm)] = one.utterance.pcm
    return bytes(pcm), stretches


@pytest.mark.slow
@needs_espeak
async def test_what_is_said_within_hours_of_silence_is_found_where_it_is() -> None:
    pcm, stretches = hours()
    file = opus(pcm)
    assert len(file) < MAX_FILE_BYTES
    assert stretches[-1].end_s < HOURS_S
    async with listening() as ears:
        apart = [await words_alone(ears, one.utterance.pcm) for one in stretches]
        whole = await ears.pipeline.transcribe(file, replace(REQUEST, details=frozenset({Detail.WORDS})))

    found = [word for segment in whole.segments for word in segment.words]
    assert whole.duration_s == pytest.approx(HOURS_S, abs=SLACK_S)
    assert len(whole.segments) == len(stretches)
    assert all(is_in_speech((word.start_s, word.end_s), stretches) for word in found)
    assert found[-1].start_s > HOURS_S - 60
    in_pieces = sum(word_errors(one.utterance.words, heard) for one, heard in zip(stretches, apart, strict=True))
    said = [word for one in stretches for word in one.utterance.words]
    assert word_errors(said, whole.text.split()) <= in_pieces + MORE_ERRORS
    # Absolute: something of every sentence is heard in its place.
    for one in stretches:
        heard = {word.text.strip() for word in found if is_in_speech((word.start_s, word.end_s), [one])}
        assert heard & set(one.utterance.words), one


# --- the edges of clips


def clips_of(pcm: bytes) -> list[Clip]:
    """What a recording of whole windows is cut into before the model hears it."""
    detector, cutter, clips = VoiceActivityDetector(load_model()), ClipCutter(VoiceActivity()), list[Clip]()
    for start in range(0, len(pcm), BLOCK_BYTES):
        block = pcm[start : start + BLOCK_BYTES]
        clips += cutter.push(AudioBlock(block, detector.probabilities(block)))
    return [*clips, *cutter.finish()]


PAUSE_S = 0.384
"""Of twelve windows: a breath. `silence_duration_ms` finds it; it is far too short to end a clip."""


def monologue() -> tuple[bytes, list[Stretch]]:
    """All sentences with no more than a breath between them, so that only full clips are cut."""
    pcm, stretches, pause = bytearray(), list[Stretch](), bytes(round(2 * RATE * PAUSE_S))
    for utterance in held_out("en"):
        pcm += pause
        stretches.append(Stretch(utterance, len(pcm) / (2 * RATE)))
        pcm += utterance.pcm + bytes(-len(utterance.pcm) % WINDOW_BYTES)
    return bytes(pcm + pause), stretches


def end_s(clip: Clip) -> float:
    return clip.start_s + clip.duration_s


def within(clip: Clip, start_s: float, end_s: float) -> bytes:
    """What a clip holds of a part of its recording."""
    first, last = (2 * round(RATE * (moment - clip.start_s)) for moment in (start_s, end_s))
    return clip.pcm[max(first, 0) : max(last, 0)]


@pytest.mark.slow
@needs_espeak
async def test_no_word_is_lost_or_doubled_where_unbroken_speech_is_cut() -> None:
    """The small checkpoint gets every third word of a full clip wrong, so what decides is the sentence at each edge:
    as much of it as its clip holds must sound like the whole of it.
    """
    pcm, stretches = monologue()
    clips = clips_of(pcm)
    cuts = list(pairwise(clips))
    assert len(cuts) > 4
    assert all(round(RATE * end_s(before)) <= round(RATE * after.start_s) for before, after in cuts), "heard once"
    async with listening() as ears:
        for before, after in cuts:
            behind = next(n for n, one in enumerate(stretches) if one.start_s + one.end_s > 2 * after.start_s)
            last, first = stretches[behind - 1 : behind + 1]
            end = within(before, last.start_s, last.end_s + PAUSE_S)
            begin = within(after, first.start_s - PAUSE_S, first.end_s)
            assert (await words_alone(ears, end))[-1] == (await words_alone(ears, last.utterance.pcm))[-1], last
            assert (await words_alone(ears, begin))[0] == (await words_alone(ears, first.utterance.pcm))[0], first


@pytest.mark.slow
@needs_espeak
async def test_times_increase_across_the_cuts_of_unbroken_speech() -> None:
    pcm, stretches = monologue()
    request = replace(REQUEST, details=frozenset({Detail.WORDS}))
    async with listening() as ears:
        whole = await ears.pipeline.transcribe(wav(pcm), request)
    words = [word for segment in whole.segments for word in segment.words]
    assert [word.text.strip() for word in words] == whole.text.split()
    edges = [edge for word in words for edge in (word.start_s, word.end_s)]
    assert edges == sorted(edges)
    assert edges[-1] <= stretches[-1].end_s + SLACK_S
    assert ears.counts.clips == len(clips_of(pcm))


@needs_espeak
async def test_the_first_sound_after_a_long_silence_is_in_its_clip() -> None:
    silence = bytes(WINDOW_BYTES * round(SILENCE_S * RATE / WINDOW_SAMPLES))
    for utterance in held_out("en")[:16]:
        pcm = silence + utterance.pcm + bytes(3 * BLOCK_BYTES // 2)
        pcm += bytes(-len(pcm) % WINDOW_BYTES)
        assert clips_of(pcm)[0].start_s <= len(silence) / (2 * RATE)
