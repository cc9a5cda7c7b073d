"""How do the texts that vLLM writes get the times of their words? CTranslate2 reads them again, beside vLLM.

vLLM's routes return neither word times nor the log probabilities of tokens. A worker (`engine.backends.faster_whisper`)
with the same checkpoint finds both, only for requests that ask for them; where it fails, so does the request, since who
asked for words must not get a text without them.

The checkpoint is converted anew for every life of the engine, by the tools that come with vLLM, while vLLM starts.
The result lies in memory, in a directory that only its owner can enter: an earlier one, kept on a disk, would be an
input that nobody has measured.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Mapping
from pathlib import Path

from engine.backends.faster_whisper import FasterWhisperTranscriber
from engine.backends.surroundings import find_vllm, make_private
from engine.backends.vllm_output import read_causes
from engine.errors import BackendError
from engine.types import Clip, ClipTranscript, DecodingOptions

PARALLEL_CLIPS = 2
"""One clip's spectrogram is made while another is aligned."""

CONVERT_S = 900.0
"""Three gigabytes are read and written."""

COPIED = ("tokenizer.json", "preprocessor_config.json")
"""What faster-whisper reads beside the weights."""


class Aligner:
    """Aligns the texts of models with their clips.

    models: for each id the directory of a Whisper checkpoint as Hugging Face has them.
    program: the `vllm` executable, in whose environment CTranslate2 is installed too; None for the image's.
    """

    def __init__(self, models: Mapping[str, Path], *, program: Path | None = None, device: str = "cpu") -> None:
        self._models = models
        self._program = program
        self._device = device
        self._directory: Path | None = None
        self._worker: FasterWhisperTranscriber | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """How texts are aligned, for the statement."""
        return (f"align_device={self._device}",)

    @property
    def ready(self) -> bool:
        return self._worker is not None and self._worker.ready

    async def convert(self) -> None:
        """Convert the checkpoints of all models, before `start`. Raises BackendError."""
        directory = self._directory = make_private("sottovoce-align-")
        python = find_vllm(self._program).with_name("python")
        converted = {name: directory / str(number) for number, name in enumerate(self._models)}
        for name, target in converted.items():
            await _convert(python, self._models[name].absolute(), target)
        self._worker = FasterWhisperTranscriber(converted, device=self._device, parallel_clips=PARALLEL_CLIPS)

    async def start(self) -> None:
        """Load what was converted. Raises BackendError."""
        if self._worker is not None:
            await self._worker.start()

    async def close(self) -> None:
        """Stop the worker and remove what was converted; safe to call twice."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()
        if self._directory is not None:
            await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    async def align(
        self, model: str, clip: Clip, transcript: ClipTranscript, options: DecodingOptions
    ) -> ClipTranscript:
        """Add the times of words and the log probabilities of tokens, as far as `options` ask for them.

        Raises BackendError.
        """
        if self._worker is None:
            raise BackendError("texts cannot be aligned now")
        return await self._worker.align(model, clip, transcript, options)


async def _convert(python: Path, checkpoint: Path, target: Path) -> None:
    """Write a Hugging Face checkpoint as CTranslate2 reads them. Raises BackendError."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-s", "-B", "-m", "engine.backends.vllm_launcher", str(os.getpid())),
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
