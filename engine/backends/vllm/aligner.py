"""How do the texts that vLLM writes get the times of their words? CTranslate2 reads them again, beside vLLM.

vLLM's routes return neither word times nor the log probabilities of tokens. A worker of `backends.faster_whisper`
with the same checkpoint finds both, only for requests that ask for them; where it fails, so does the request, since who
asked for words must not get a text without them.

The checkpoint that vLLM loads is converted anew for every life of the engine, by the tools that come with vLLM, while
vLLM starts. The result stays in memory, in files that have no name any more: an earlier one, kept on a disk, would be
an input that nobody has measured.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from core.errors import BackendError
from engine.backends.faster_whisper.transcriber import FasterWhisperTranscriber
from engine.backends.surroundings import PrivateDirectory, find_vllm
from engine.backends.vllm.output import read_causes
from engine.backends.weights import DirectoryWeights, FileWeights
from engine.speech.transcriber import Component
from engine.types import Clip, ClipTranscript, DecodingOptions, Detail

PARALLEL_CLIPS = 2
"""One clip's spectrogram is made while another is aligned."""

CONVERT_S = 900.0
"""Three gigabytes are read and written."""

COPIED = ("tokenizer.json", "preprocessor_config.json")
"""What faster-whisper reads beside the weights."""


class VllmAligner:
    """Implements `engine.speech.analyser.ClipAnalyser`: aligns the texts of models with their clips.

    models: for each id the files of a Whisper checkpoint as Hugging Face has them: those that vLLM loads.
    program: the `vllm` executable, in whose environment CTranslate2 is installed too; None for the image's.
    """

    adds: Final = frozenset(Detail)
    slots: Final = PARALLEL_CLIPS

    def __init__(
        self, models: Mapping[str, DirectoryWeights], *, program: Path | None = None, device: str = "cpu"
    ) -> None:
        self._models = models
        self._program = program
        self._device = device
        self._converted: dict[str, FileWeights] = {}
        self._worker: FasterWhisperTranscriber | None = None

    @property
    def component(self) -> Component:
        return Component("aligner", (f"device={self._device}",))

    @property
    def ready(self) -> bool:
        return self._worker is not None and self._worker.ready

    async def prepare(self) -> None:
        """Convert the checkpoints of all models. Raises BackendError."""
        python = find_vllm(self._program).with_name("python")
        for name, weights in self._models.items():
            directory = PrivateDirectory("align")
            try:
                await _convert(python, weights.directory, directory.path / "converted")
                # What is only open cannot be found by anybody, and goes with us however we end.
                converted = self._converted[name] = FileWeights(directory.path / "converted", trusted=True)
                await converted.hold()
            finally:
                await asyncio.to_thread(directory.remove)
        self._worker = FasterWhisperTranscriber(self._converted, device=self._device, parallel_clips=PARALLEL_CLIPS)

    async def start(self) -> None:
        """Load what was converted. Raises BackendError."""
        if self._worker is not None:
            await self._worker.start()

    async def close(self) -> None:
        """Stop the worker and remove what was converted; safe to call twice."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()
        for weights in self._converted.values():
            weights.release()

    async def look(
        self, model: str, clip: Clip, transcript: ClipTranscript, options: DecodingOptions, wanted: frozenset[Detail]
    ) -> ClipTranscript:
        if self._worker is None:
            raise BackendError("texts cannot be aligned now")
        return await self._worker.align(model, clip, transcript, options, wanted)


async def _convert(python: Path, checkpoint: Path, target: Path) -> None:
    """Write a Hugging Face checkpoint as CTranslate2 reads them. Raises BackendError."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-s", "-B", "-m", "engine.backends.vllm.launcher", str(os.getpid())),
        *(str(python), "-P", "-s", "-B", "-m", "ctranslate2.converters.transformers"),
        *(f"--model={checkpoint}", f"--output_dir={target}", "--copy_files", *COPIED),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        env=_environment(target.parent),
        cwd="/",
    )
    try:
        async with asyncio.timeout(CONVERT_S):
            await read_causes(process)
            status = await process.wait()
    except TimeoutError as exc:
        raise BackendError("a checkpoint was not converted for alignment in time") from exc
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status != 0:
        raise BackendError("a checkpoint could not be converted for alignment")


def _environment(directory: Path) -> dict[str, str]:
    """All that the converter sees of the environment: nothing of ours, and no GPU."""
    return {
        "PATH": os.defpath,
        "LC_ALL": "C.UTF-8",
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
