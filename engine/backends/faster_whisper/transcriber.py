"""A speech backend for machines without a data-centre GPU: faster-whisper (CTranslate2) in a process of its own.

This module holds no model code, only the other end of `engine.backends.faster_whisper.worker`'s socket. The worker
starts from a clean environment, because the engine's may hold secrets, and loads its models from descriptors that the
engine holds; it is started again when it dies, later and later if it keeps dying.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from core.errors import BackendError
from core.program.isolation import IMPORT_PATH
from engine.backends.faster_whisper.messages import (
    FRAMING,
    Kind,
    encode,
    languages_from_fields,
    options_to_fields,
    transcript_from_fields,
    transcript_to_fields,
)
from engine.backends.framing import Fields
from engine.backends.keeper import Keeper
from engine.backends.surroundings import PATIENT, cuda_libraries, gpus
from engine.backends.weights import FileWeights
from engine.backends.worker_process import WorkerProcess
from engine.speech.observer import Sample
from engine.speech.transcriber import Capabilities, Component
from engine.types import Clip, ClipTranscript, DecodingOptions, Detail, TextDelta

TOKENIZER = "tokenizer.json"
"""Where a checkpoint has none, faster-whisper would take what a cache holds, which nobody has digested."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loading:
    """How the worker loads its models; the terms are CTranslate2's.

    models: for each id the files of a CTranslate2 checkpoint, its `tokenizer.json` among them.
    parallel_clips: how many clips are decoded at once, each by a replica of the model.
    cpu_threads: for each of them; 0 leaves it to CTranslate2.
    """

    models: Mapping[str, FileWeights]
    device: str = "cpu"
    compute_type: str = "default"
    beam_size: int = 5
    parallel_clips: int = 1
    cpu_threads: int = 0

    @property
    def descriptors(self) -> list[int]:
        """All that the worker inherits to load from."""
        return [descriptor for weights in self.models.values() for descriptor in weights.files.values()]

    def to_fields(self, directory: Path) -> Fields:
        """directory: an empty one, for the links by which CTranslate2, which wants paths, finds the descriptors."""
        models = {name: directory / str(number) for number, name in enumerate(self.models)}
        for name, path in models.items():
            for file, descriptor in self.models[name].files.items():
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                (path / file).symlink_to(f"/proc/self/fd/{descriptor}")
        names = ("device", "compute_type", "beam_size", "cpu_threads")
        return {
            "models": {name: str(path) for name, path in models.items()},
            "options": {name: getattr(self, name) for name in names},
            "parallel_clips": self.parallel_clips,
        }


class FasterWhisperTranscriber:
    """Implements `engine.speech.transcriber.Transcriber`.

    models: for each id its files, which are held for as long as the backend runs.
    start_timeout_s: how long all models may take to load.
    restart_delay_s: the wait before a worker that died is replaced; doubled while no worker serves a call.
    """

    def __init__(
        self,
        models: Mapping[str, FileWeights],
        *,
        device: str = "cpu",
        compute_type: str = "default",
        beam_size: int = 5,
        parallel_clips: int = 1,
        cpu_threads: int = 0,
        start_timeout_s: float = 600.0,
        restart_delay_s: float = 0.5,
    ) -> None:
        self._loading = Loading(models, device, compute_type, beam_size, parallel_clips, cpu_threads)
        self._keeper = Keeper(
            lambda: _Worker.launch(self._loading, timeout_s=start_timeout_s),
            name="the faster-whisper worker",
            delay_s=restart_delay_s,
        )

    @property
    def component(self) -> Component:
        names = ("device", "compute_type", "beam_size", "parallel_clips")
        return Component("faster-whisper", tuple(f"{name}={getattr(self._loading, name)}" for name in names))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(self._loading.parallel_clips, frozenset({"repetition_penalty"}))

    @property
    def ready(self) -> bool:
        return self._keeper.current is not None and self._keeper.current.alive

    async def start(self) -> None:
        for name, weights in self._loading.models.items():
            if TOKENIZER not in weights.files:
                raise BackendError(f"the checkpoint of {name} has no {TOKENIZER}")
        await self._keeper.start()

    async def close(self) -> None:
        await self._keeper.close()

    async def languages(self, model: str, clip: Clip) -> Mapping[str, float]:
        async with aclosing(self._call(Kind.LANGUAGES, model, clip)) as answers:
            async for answer in answers:
                return _read(languages_from_fields, answer)
        raise AssertionError("a call yields or raises")

    async def transcribe(self, model: str, clip: Clip, options: DecodingOptions) -> ClipTranscript:
        return await self._transcript(Kind.TRANSCRIBE, model, clip, options=options_to_fields(options))

    async def align(
        self, model: str, clip: Clip, transcript: ClipTranscript, options: DecodingOptions, wanted: frozenset[Detail]
    ) -> ClipTranscript:
        """Add what is wanted to a transcript, which may come from another decoder of the same checkpoint.

        Raises BackendError.
        """
        return await self._transcript(
            Kind.ALIGN,
            model,
            clip,
            options=options_to_fields(options),
            transcript=transcript_to_fields(transcript),
            wanted=sorted(wanted),
        )

    async def metrics(self, model: str) -> tuple[Sample, ...]:  # noqa: ARG002 - the worker counts nothing
        return ()

    async def stream(
        self, model: str, clip: Clip, options: DecodingOptions
    ) -> AsyncGenerator[TextDelta | ClipTranscript, None]:
        async with aclosing(self._call(Kind.STREAM, model, clip, options=options_to_fields(options))) as answers:
            async for answer in answers:
                if answer["kind"] is Kind.DELTA:
                    yield _read(lambda fields: TextDelta(str(fields["text"])), answer)
                else:
                    yield _read(transcript_from_fields, answer)

    async def _transcript(self, kind: Kind, model: str, clip: Clip, **fields: object) -> ClipTranscript:
        async with aclosing(self._call(kind, model, clip, **fields)) as answers:
            async for answer in answers:
                return _read(transcript_from_fields, answer)
        raise AssertionError("a call yields or raises")

    def _call(self, kind: Kind, model: str, clip: Clip, **fields: object) -> AsyncGenerator[Fields, None]:
        worker = self._keeper.current
        if worker is None:
            raise BackendError("the faster-whisper worker is not running")
        if model not in self._loading.models:
            raise BackendError("the faster-whisper worker does not serve this model")
        return worker.call(kind, {"model": model, "clip": clip.number, **fields}, clip.pcm)


class _Worker(WorkerProcess):
    """The engine's end of one worker process."""

    def __init__(self) -> None:
        super().__init__("the faster-whisper worker", FRAMING)
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Queue[Fields | None]] = {}

    @classmethod
    async def launch(cls, loading: Loading, *, timeout_s: float) -> _Worker:
        """Start a worker and return once all its models are loaded. Raises BackendError."""
        worker = cls()
        await worker.launched(worker._start(loading), timeout_s=timeout_s, cannot="load its models")
        return worker

    async def _start(self, loading: Loading) -> None:
        place = self.take_place("worker")
        await self.spawn(
            Path(sys.executable),
            "engine.backends.faster_whisper.worker",
            (),
            descriptors=loading.descriptors,
            environment=_environment(place / "home"),
        )
        self.send(encode(Kind.LOAD, loading.to_fields(place)))

    async def call(self, kind: Kind, fields: Fields, pcm: bytes) -> AsyncGenerator[Fields, None]:
        """Make a call and yield its answers; closing the generator cancels it. Raises BackendError."""
        if not self.alive:
            raise BackendError("the faster-whisper worker is not running")
        number = next(self._numbers)
        answers = self._calls[number] = asyncio.Queue()
        open_call = True
        try:
            self.send(encode(kind, {"id": number, **fields}, pcm))
            while open_call:
                answer = _check(await answers.get())
                open_call = answer["kind"] is Kind.DELTA
                yield answer
        finally:
            del self._calls[number]
            if open_call and self.alive:
                self.send(encode(Kind.CANCEL, {"id": number}))

    def receive(self, answer: Fields) -> None:
        if answer["kind"] is Kind.READY:
            self.ready.set()
        elif answers := self._calls.get(answer.get("id", 0)):
            self.served = True
            answers.put_nowait(answer)

    def forsaken(self) -> None:
        for answers in self._calls.values():
            answers.put_nowait(None)


def _check(answer: Fields | None) -> Fields:
    if answer is None:
        raise BackendError("the faster-whisper worker ended during a call")
    if answer["kind"] is Kind.FAILED:
        raise BackendError("the faster-whisper worker could not decode a clip")
    return answer


def _read(reader: Callable[[Fields], T], answer: Fields) -> T:
    try:
        return reader(answer)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise BackendError("the faster-whisper worker gave an answer that cannot be read") from exc


def _environment(home: Path) -> dict[str, str]:
    """All that the worker sees of the environment. home: a directory in which nobody has put anything."""
    return {
        **gpus(),
        **cuda_libraries(),
        **PATIENT,
        # A cache would be an input that nobody has digested.
        "HOME": str(home),
        "HF_HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONPATH": IMPORT_PATH,
        "LC_ALL": "C.UTF-8",
        # Checkpoints come from the engine, and nothing is reported to anyone.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CT2_VERBOSE": "-3",
    }
