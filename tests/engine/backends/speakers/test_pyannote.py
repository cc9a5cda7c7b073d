"""pyannote.audio itself, in an environment of its own, with a pipeline of random weights: its process, not its ear.

The environment is `.venv-pyannote`, which `make pyannote` makes, or that of the Python that `SOTTOVOCE_TEST_PYANNOTE`
names.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from core.errors import BackendError
from engine.backends.speakers.diarizer import ProcessDiarizer, pyannote
from engine.backends.weights import DirectoryWeights, held
from tests.engine.backends.speakers.test_diarizer import RATE_HZ, listen, process_of, rest
from tests.places import ROOT
from tests.requirements import need

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PYTHON = Path(os.environ.get("SOTTOVOCE_TEST_PYANNOTE") or ROOT / ".venv-pyannote" / "bin" / "python")
NOISE = np.random.default_rng(5).normal(0, 0.1, 15 * RATE_HZ).astype(np.float32)


async def made(directory: Path) -> Path:
    script = Path(__file__).with_name("tiny_pyannote.py")
    process = await asyncio.create_subprocess_exec(
        str(PYTHON), "-W", "ignore", str(script), str(directory), cwd="/", env={"PYANNOTE_METRICS_ENABLED": "0"}
    )
    assert await process.wait() == 0
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(PYTHON.exists(), "pyannote.audio, which `make pyannote` installs")
    return await made(tmp_path_factory.mktemp("pyannote") / "pipeline")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def diarizer(pipeline: Path) -> AsyncIterator[ProcessDiarizer]:
    directory = DirectoryWeights(pipeline)
    async with held([directory]):
        diarizer = pyannote(directory, python=PYTHON)
        try:
            await diarizer.start()
            yield diarizer
        finally:
            await diarizer.close()


async def test_a_pipeline_hears_and_gives_each_speaker_a_voice(diarizer: ProcessDiarizer) -> None:
    heard = await listen(diarizer, NOISE)
    assert len(heard.voices) >= 1
    assert all(0 <= turn.start_s <= turn.end_s <= 15.1 for turn in heard.turns)
    assert {turn.speaker for turn in heard.turns} <= set(range(len(heard.voices)))


async def test_silence_is_nobodys(diarizer: ProcessDiarizer) -> None:
    heard = await listen(diarizer, rest(3))
    assert len(heard.turns) <= 1, "random weights may take silence for speech"


async def test_it_may_open_no_socket_and_start_no_program(diarizer: ProcessDiarizer) -> None:
    status = Path(f"/proc/{process_of(diarizer)}/status").read_text()
    assert "Seccomp:\t2" in status
    environment = Path(f"/proc/{process_of(diarizer)}/environ").read_text()
    assert "PYANNOTE_METRICS_ENABLED=0" in environment
    assert "HF_HUB_OFFLINE=1" in environment


async def test_a_pipeline_that_is_none_is_no_start(pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("pipeline: {}\n")
    directory = DirectoryWeights(tmp_path)
    async with held([directory]):
        diarizer = pyannote(directory, python=PYTHON)
        with pytest.raises(BackendError, match="speakers-pyannote could not load"):
            await diarizer.start()
        await diarizer.close()
