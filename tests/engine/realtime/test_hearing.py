"""Real sound through real ears, a real voice detector and a real model: what an app reads of what was said."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, cast

import av
import numpy as np
import pytest
import pytest_asyncio
from av.audio.codeccontext import AudioCodecContext

from core.media.decode import AudioDecoder
from engine.backends.faster_whisper.transcriber import FasterWhisperTranscriber
from engine.backends.weights import FileWeights, held
from engine.openai.models import ModelCatalogue, ServedModel
from engine.realtime.session import Surroundings
from engine.speech.pipeline import SpeechPipeline
from tests.core.media.sounds import kennedy
from tests.engine.realtime.live import NOW, App, Room
from tests.engine.speech.utterances import NANO, held_out, needs_checkpoint, needs_espeak
from tests.requirements import WEIGHTS, need_weights
from tests.waiting import until
from tests.word_errors import word_errors

pytestmark = pytest.mark.asyncio(loop_scope="module")

RATE_HZ = 24_000
CHUNK = 2_400
"""50 ms at 24 kHz, as OpenAI's and LiveKit's clients send it."""

SAID = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"


class RealRoom(Room):
    """Sessions with nothing fake in them but the gateway and the app."""

    def __init__(self, decoder: AudioDecoder, pipeline: SpeechPipeline, models: ModelCatalogue) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.around = Surroundings(decoder, pipeline, models, lambda: NOW)


@asynccontextmanager
async def room(name: str, weights: FileWeights) -> AsyncIterator[RealRoom]:
    transcriber, decoder = FasterWhisperTranscriber({name: weights}, parallel_clips=1, cpu_threads=2), AudioDecoder()
    async with held([weights]):
        try:
            await decoder.start()
            await transcriber.start()
            yield RealRoom(
                decoder, SpeechPipeline(transcriber, decoder), ModelCatalogue((ServedModel(name, created=1),))
            )
        finally:
            await transcriber.close()
            await decoder.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nano() -> AsyncIterator[RealRoom]:
    async with room("nano", FileWeights(NANO)) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def base() -> AsyncIterator[RealRoom]:
    need_weights("whisper-base")
    async with room("whisper-base", FileWeights(WEIGHTS / "whisper-base")) as made:
        yield made


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def g711(samples: np.ndarray[Any, Any], codec: str) -> bytes:
    """Samples of 8 kHz as a telephone sends them."""
    pen = cast("AudioCodecContext", av.CodecContext.create(codec, "w"))
    pen.sample_rate, pen.format, pen.layout = 8_000, "s16", "mono"
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = 8_000
    return b"".join(bytes(packet) for packet in (*pen.encode(frame), *pen.encode(None)))


FORMS: dict[str, tuple[dict[str, object], Callable[[], bytes]]] = {
    "pcm 24 kHz": ({"type": "audio/pcm", "rate": 24_000}, lambda: kennedy(24_000).tobytes()),
    "pcm 16 kHz": ({"type": "audio/pcm", "rate": 16_000}, lambda: kennedy(16_000).tobytes()),
    "pcm 8 kHz": ({"type": "audio/pcm", "rate": 8_000}, lambda: kennedy(8_000).tobytes()),
    "pcmu": ({"type": "audio/pcmu"}, lambda: g711(kennedy(8_000), "pcm_mulaw")),
    "pcma": ({"type": "audio/pcma"}, lambda: g711(kennedy(8_000), "pcm_alaw")),
}

QUICK = {"language": "en", "delay": "xhigh"}


async def said(app: App, audio: bytes, chunk: int = CHUNK) -> str:
    app.append(audio, chunk)
    app.commit()
    (text,) = await app.texts(1)
    return text


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.behaviour(13)
async def test_every_form_of_a_recording_gives_its_words(base: RealRoom, form: str) -> None:
    declared, audio = FORMS[form]
    async with base.app(format=declared, turn_detection=None, transcription=QUICK) as app:
        heard = words(await said(app, audio()))
    assert word_errors(SAID.split(), heard) <= (declared.get("rate", 8_000) == 8_000)  # a telephone costs an `s`


@pytest.mark.slow
async def test_a_recording_is_heard_while_it_is_spoken(base: RealRoom) -> None:
    audio = kennedy(RATE_HZ).tobytes()
    async with base.app(
        turn_detection={"type": "semantic_vad", "eagerness": "low"}, transcription={"language": "en"}
    ) as app:
        for start in range(0, len(audio), CHUNK):
            app.append(audio[start : start + CHUNK])
            # As slow as somebody speaks to a model that is fast enough.
            await until(lambda: app.session.behind_s == 0 and base.pipeline.idle)
        app.append(bytes(RATE_HZ * 2 * 2))
        completed = await app.some("completed")
        spoken = await app.some("input_audio_buffer.speech_stopped", len(app.of("input_audio_buffer.speech_started")))
        completed = await app.some("completed", len(spoken))
    assert words(" ".join(event["transcript"] for event in completed)) == SAID.split()
    times = [event["audio_start_ms"] for event in app.of("input_audio_buffer.speech_started")]
    assert times[0] < 600
    assert all(earlier < later for earlier, later in pairwise(times))
    committed = {event["item_id"]: place for place, event in enumerate(app.told) if event["type"].endswith("committed")}
    deltas = [(place, event["item_id"]) for place, event in enumerate(app.told) if event["type"].endswith(".delta")]
    assert any(place < committed[item_id] for place, item_id in deltas)


@needs_checkpoint
@needs_espeak
@pytest.mark.parametrize("chunk", [1, 2_399, 2_400, 48_000])
@pytest.mark.behaviour(14)
async def test_a_sentence_is_the_same_however_it_is_cut(nano: RealRoom, chunk: int) -> None:
    utterance = held_out("en")[0]
    form = {"type": "audio/pcm", "rate": 16_000}
    async with nano.app(format=form, turn_detection=None, transcription=QUICK) as app:
        assert words(await said(app, utterance.pcm, chunk)) == [word.lower() for word in utterance.words]


def hum(seconds: float) -> bytes:
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    samples: bytes = (np.sin(2 * np.pi * 50 * times) * 6_000).astype("<i2").tobytes()
    return samples


def hiss(seconds: float) -> bytes:
    noise = np.random.default_rng(7).standard_normal(round(seconds * RATE_HZ)) * 1_500
    samples: bytes = noise.astype("<i2").tobytes()
    return samples


def chords(seconds: float) -> bytes:
    """Three tones that change every half second."""
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    roots = np.array([220.0, 174.6, 261.6, 196.0])[(times * 2).astype(int) % 4]
    mix = sum(np.sin(2 * np.pi * roots * step * times) for step in (1.0, 1.25, 1.5))
    samples: bytes = (mix * 4_000).astype("<i2").tobytes()
    return samples


NOTHING_SAID = {"silence": lambda: bytes(60 * 2 * RATE_HZ), "hum": lambda: hum(60), "noise": lambda: hiss(60)}


@needs_checkpoint
@pytest.mark.parametrize("kind", [*NOTHING_SAID, "music"])
@pytest.mark.behaviour(21)
async def test_where_nobody_speaks_there_is_no_text(nano: RealRoom, kind: str) -> None:
    audio = NOTHING_SAID[kind]() if kind in NOTHING_SAID else chords(60)
    async with nano.app(turn_detection=None, transcription=QUICK) as app:
        assert await said(app, audio, 48_000) == ""


@needs_checkpoint
@pytest.mark.parametrize("kind", NOTHING_SAID)
async def test_where_nobody_speaks_there_is_no_turn(nano: RealRoom, kind: str) -> None:
    async with nano.app(transcription=QUICK) as app:
        app.append(NOTHING_SAID[kind](), 48_000)
        await until(lambda: app.session.behind_s == 0)
    assert not app.of("input_audio_buffer.speech_started")
