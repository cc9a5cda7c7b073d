"""Which backend hears, and what looks at its texts again? From settings to processes that can be started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from core.program.run import unwrapped
from engine.backends.faster_whisper.aligner import FasterWhisperAligner
from engine.backends.faster_whisper.transcriber import FasterWhisperTranscriber
from engine.backends.speakers.channels import ChannelDiarizer
from engine.backends.speakers.diarizer import onnx, pyannote
from engine.backends.vllm.aligner import VllmAligner
from engine.backends.vllm.instruct import VllmInstruct
from engine.backends.vllm.server import GPU_SHARE, Serving, gpu_share
from engine.backends.vllm.transcriber import AttachedVllm, VllmTranscriber
from engine.backends.weights import DirectoryWeights, FileWeights, Weights
from engine.settings import BackendKind, EngineSettings, ModelFamily, SpeakersKind
from engine.speech.analyser import ClipAnalyser
from engine.speech.speakers import Diarizer
from engine.speech.transcriber import Component, Transcriber
from engine.summaries.model import InstructModel
from engine.types import Detail

W = TypeVar("W", bound=Weights)


@dataclass(frozen=True, slots=True)
class Backend:
    """All that hears: a recogniser, and analysers for what its texts lack; and what writes about what was heard.

    weights: the files of each model, which are held (`engine.backends.weights.held`) while it runs.
    diarizer: who tells speakers apart; None where nobody does. speaker_weights: the files of its models, held likewise.
    writer: who writes summaries, and writer_weights: the files of its model; likewise.
    """

    transcriber: Transcriber
    analysers: tuple[ClipAnalyser, ...] = ()
    weights: Mapping[str, Weights] = field(default_factory=dict)
    diarizer: Diarizer | None = None
    speaker_weights: Weights | None = None
    writer: InstructModel | None = None
    writer_weights: Weights | None = None

    @property
    def components(self) -> tuple[Component, ...]:
        """Every process that hears or reads what was said."""
        found = [analyser.component for analyser in self.analysers]
        found += [self.diarizer.component] if self.diarizer else []
        found += [self.writer.component] if self.writer else []
        return (self.transcriber.component, *(component for component in found if component is not None))

    @property
    def all_weights(self) -> tuple[Weights, ...]:
        """The files of every model."""
        others = (self.speaker_weights, self.writer_weights)
        return (*self.weights.values(), *(weights for weights in others if weights))

    @property
    def details(self) -> frozenset[Detail]:
        """What can be told beside the text."""
        return frozenset[Detail]().union(*(analyser.adds for analyser in self.analysers))

    @property
    def ready(self) -> bool:
        """Whether recordings are heard now; summaries or not."""
        telling_apart = self.diarizer is None or self.diarizer.ready
        return self.transcriber.ready and telling_apart and all(analyser.ready for analyser in self.analysers)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the context is open. Raises BackendError."""
        try:
            await unwrapped(self._load())
            for analyser in self.analysers:
                await analyser.start()
            if self.writer:  # last: what others take of a GPU meanwhile, vLLM counts as its own
                await self.writer.start()
            yield
        finally:
            async with asyncio.TaskGroup() as group:
                for analyser in self.analysers:
                    group.create_task(analyser.close())
                if self.diarizer:
                    group.create_task(self.diarizer.close())
                if self.writer:
                    group.create_task(self.writer.close())
                group.create_task(self.transcriber.close())

    async def _load(self) -> None:
        async with asyncio.TaskGroup() as group:
            for analyser in self.analysers:
                group.create_task(analyser.prepare())
            if self.diarizer:
                group.create_task(self.diarizer.start())
            group.create_task(self.transcriber.start())


def choose_backend(settings: EngineSettings) -> Backend:
    """The backend that was chosen, not started yet."""
    diarizer, speaker_weights = choose_diarizer(settings)
    writer, writer_weights = choose_writer(settings)
    return replace(
        _choose_recogniser(settings),
        diarizer=diarizer,
        speaker_weights=speaker_weights,
        writer=writer,
        writer_weights=writer_weights,
    )


def choose_diarizer(settings: EngineSettings) -> tuple[Diarizer | None, Weights | None]:
    """What tells speakers apart, not started yet, and the files of its models; nothing where nobody does."""
    kind, path, trusted = settings.told_apart_by, settings.speaker_model, settings.assume_weights_immutable
    if kind is SpeakersKind.CHANNELS:
        return ChannelDiarizer(), None
    if kind is None or path is None:
        return None, None
    allow_unsandboxed = settings.allow_unsandboxed_decoder
    if kind is SpeakersKind.PYANNOTE:
        directory = DirectoryWeights(path, trusted=trusted)
        python = settings.allow_pyannote_python
        device = "cuda" if settings.device == "cuda" else "cpu"
        return pyannote(directory, python=python, device=device, allow_unsandboxed=allow_unsandboxed), directory
    files = FileWeights(path, trusted=trusted)
    return onnx(kind, files, allow_unsandboxed=allow_unsandboxed), files


def choose_writer(settings: EngineSettings) -> tuple[InstructModel | None, Weights | None]:
    """What writes summaries, not started yet, and the files of its model; nothing where nothing does."""
    if settings.instruct is None:
        return None, None
    name, path = settings.instruct
    weights = DirectoryWeights(path, trusted=settings.assume_weights_immutable)
    serving = Serving(
        device=settings.instruct_device or settings.device,
        structured=True,
        max_model_len=settings.instruct_context,
        max_num_seqs=settings.instruct_max_num_seqs,
        max_num_batched_tokens=settings.instruct_context,
        gpu_memory_utilization=settings.instruct_gpu_memory_utilization,
        kv_cache_gib=settings.instruct_cpu_cache_gib,
    )
    return VllmInstruct(name, weights, serving, program=settings.allow_vllm_program), weights


def _choose_recogniser(settings: EngineSettings) -> Backend:
    if settings.backend is BackendKind.FASTER_WHISPER:
        files = _weights(FileWeights, settings)
        whisper = FasterWhisperTranscriber(
            files,
            device=settings.device,
            compute_type=settings.compute_type,
            parallel_clips=settings.parallel_clips,
        )
        return Backend(whisper, (FasterWhisperAligner(whisper),), files)
    directories = _weights(DirectoryWeights, settings)
    if settings.attaches:
        attached = AttachedVllm(
            settings.models[0][0], uds=settings.vllm_uds, url=settings.vllm_url, text_only=_text_only(settings)
        )
        return Backend(attached, weights=directories)
    program = settings.allow_vllm_program
    recogniser = VllmTranscriber(directories, program=program, serving=_serving(settings))
    if _text_only(settings):  # the aligner reads a Whisper
        return Backend(recogniser, weights=directories)
    return Backend(
        recogniser,
        (VllmAligner(directories, program=program, device=settings.align_device or settings.device),),
        directories,
    )


def _weights(kind: Callable[..., W], settings: EngineSettings) -> dict[str, W]:
    """The files of each model; of those that are served under several names, once."""
    trusted = settings.assume_weights_immutable or settings.attaches  # what an attached server loads, nobody knows
    kinds = {path: kind(path, trusted=trusted) for _, path in settings.models}
    return {name: kinds[path] for name, path in settings.models}


def _text_only(settings: EngineSettings) -> bool:
    return settings.vllm_family is ModelFamily.TEXT_ONLY


def _serving(settings: EngineSettings) -> Serving:
    """vLLM's figures: those that were chosen, and for the others its defaults."""
    chosen: dict[str, Any] = {
        "max_num_seqs": settings.vllm_max_num_seqs,
        "max_num_batched_tokens": settings.vllm_max_num_batched_tokens,
        "audio_workers": settings.vllm_audio_workers,
    }
    return Serving(
        device=settings.device,
        text_only=_text_only(settings),
        gpu_memory_utilization=settings.vllm_gpu_memory_utilization or gpu_share(len(settings.models), _left(settings)),
        **{name: value for name, value in chosen.items() if value is not None},
    )


def _left(settings: EngineSettings) -> float:
    """The share of a GPU's memory that an instruct model leaves to those that hear."""
    shares = settings.instruct is not None and settings.instruct_device == "cuda"
    return max(GPU_SHARE - settings.instruct_gpu_memory_utilization, 0.01) if shares else GPU_SHARE
