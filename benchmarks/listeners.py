"""Who listens? The product with either backend, and beside it faster-whisper as it comes, with the same weights.

The product is its inner pipeline with the real decoder and the real backend: what an application hears of, less the
channel. Bare faster-whisper runs with its defaults, with and without its voice activity filter.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from faster_whisper import WhisperModel

from benchmarks.recordings import Recording, TimedWord
from core.media.decode import AudioDecoder
from engine.backends.choose import Backend
from engine.backends.faster_whisper.aligner import FasterWhisperAligner
from engine.backends.faster_whisper.transcriber import FasterWhisperTranscriber
from engine.backends.vllm.aligner import VllmAligner
from engine.backends.vllm.server import Serving
from engine.backends.vllm.transcriber import VllmTranscriber
from engine.backends.weights import DirectoryWeights, FileWeights, held
from engine.speech.pipeline import SpeechPipeline
from engine.speech.speakers import Diarizer
from engine.types import Detail, Hearing
from tests.checkpoints.convert import convert

BARE, BARE_VAD, FASTER_WHISPER, VLLM = "bare", "bare+vad", "faster-whisper", "vllm"
BACKENDS = (FASTER_WHISPER, VLLM)
SYSTEMS = (BARE, BARE_VAD, *BACKENDS)
MODEL = "measured"


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard in a recording. segments: all text with its times. words: none unless asked for."""

    language: str
    text: str
    segments: tuple[TimedWord, ...]
    words: tuple[TimedWord, ...] = ()


class Listener(Protocol):
    """at_once: how many recordings it is given at a time."""

    at_once: int

    async def hear(self, recording: Recording, *, words: bool) -> Heard:
        """Listen to a recording, of which it knows nothing."""


class Product:
    def __init__(self, pipeline: SpeechPipeline, at_once: int) -> None:
        self._pipeline = pipeline
        self.at_once = at_once

    async def hear(self, recording: Recording, *, words: bool) -> Heard:
        whole = await self._pipeline.transcribe(
            recording.audio, Hearing(MODEL, details=frozenset({Detail.WORDS} if words else ()))
        )
        return Heard(
            whole.language,
            whole.text,
            tuple(TimedWord(one.text, one.start_s, one.end_s) for one in whole.segments),
            tuple(TimedWord(one.text, one.start_s, one.end_s) for segment in whole.segments for one in segment.words),
        )


class Bare:
    at_once = 1

    def __init__(self, model: Any, *, vad: bool) -> None:
        self._model = model
        self._vad = vad

    async def hear(self, recording: Recording, *, words: bool) -> Heard:
        return await asyncio.to_thread(self._hear, recording, words=words)

    def _hear(self, recording: Recording, *, words: bool) -> Heard:
        found, told = self._model.transcribe(io.BytesIO(recording.audio), vad_filter=self._vad, word_timestamps=words)
        segments = list(found)
        return Heard(
            told.language,
            "".join(segment.text for segment in segments).strip(),
            tuple(TimedWord(one.text.strip(), one.start, one.end) for one in segments),
            tuple(
                TimedWord(one.word.strip(), one.start, one.end) for segment in segments for one in segment.words or ()
            ),
        )


@dataclass(frozen=True, slots=True)
class Machinery:
    """What models run on. vllm: its program. threads: of CTranslate2 for each clip; 0 leaves it to that."""

    vllm: Path
    threads: int = 0
    device: str = "cpu"


@asynccontextmanager
async def listening(name: str, weights: Path, machinery: Machinery) -> AsyncIterator[Listener]:
    """A listener, ready. weights: a checkpoint in CTranslate2's form."""
    if name in (BARE, BARE_VAD):
        yield Bare(await bare_model(weights, machinery), vad=name == BARE_VAD)
        return
    async with product(name, weights, machinery) as pipeline:
        yield Product(pipeline, 4 if name == VLLM else 1)


async def bare_model(weights: Path, machinery: Machinery) -> WhisperModel:
    return await asyncio.to_thread(
        WhisperModel,
        str(weights),
        device=machinery.device,
        cpu_threads=machinery.threads,
        local_files_only=True,
    )


@asynccontextmanager
async def product(
    name: str, weights: Path, machinery: Machinery, *, diarizer: Diarizer | None = None
) -> AsyncIterator[SpeechPipeline]:
    """The pipeline with a backend, ready. weights: in CTranslate2's form, converted for vLLM."""
    decoder = AudioDecoder()
    with TemporaryDirectory() as directory:
        backend = _backend(name, weights, machinery, Path(directory))
        async with held(backend.weights.values()), backend.running():
            try:
                await decoder.start()
                yield SpeechPipeline(backend.transcriber, decoder, analysers=backend.analysers, diarizer=diarizer)
            finally:
                await decoder.close()


def _backend(name: str, weights: Path, machinery: Machinery, directory: Path) -> Backend:
    device = machinery.device
    if name == FASTER_WHISPER:
        files = {MODEL: FileWeights(weights)}
        recogniser = FasterWhisperTranscriber(files, device=device, cpu_threads=machinery.threads)
        return Backend(recogniser, (FasterWhisperAligner(recogniser),), files)
    convert(weights, directory / MODEL)
    models = {MODEL: DirectoryWeights(directory / MODEL)}
    served = VllmTranscriber(models, program=machinery.vllm, serving=Serving(device=device))
    return Backend(served, (VllmAligner(models, program=machinery.vllm, device=device),), models)
