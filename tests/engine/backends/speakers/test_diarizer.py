"""The process that tells speakers apart, with sherpa-onnx and tiny models: what it says, and what becomes of it.

The models know tones from one another, not people: the plumbing is real, and sherpa-onnx's own code in the sandbox.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from core.errors import BackendError
from core.media.types import AudioBlock
from core.transcript.types import Voice
from engine.backends.speakers.diarizer import Models, ProcessDiarizer, Program, onnx, read_heard
from engine.backends.weights import DirectoryWeights, FileWeights, held
from engine.speech.speakers import Diarization, Diarizer
from tests.conftest import Printed
from tests.engine.backends.speakers import tiny_models
from tests.waiting import until

RATE_HZ = 16_000
BLOCK_SAMPLES = 32_768

Samples = npt.NDArray[np.float32]


def tone(hz: float, seconds: float) -> Samples:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(RATE_HZ * seconds)) / RATE_HZ)).astype(np.float32)


def rest(seconds: float) -> Samples:
    return np.zeros(int(RATE_HZ * seconds), np.float32)


LOW, HIGH = tone(200, 5), tone(3000, 5)
CALL = np.concatenate([LOW, rest(1), HIGH, rest(1), LOW])


def blocks(samples: Samples) -> list[AudioBlock]:
    pcm = np.round(samples * 32767).astype("<i2")
    pieces = [pcm[at : at + BLOCK_SAMPLES].tobytes() for at in range(0, len(pcm), BLOCK_SAMPLES)]
    return [AudioBlock(piece, b"\xff" * -(-len(piece) // 1024)) for piece in pieces]


async def listen(diarizer: Diarizer, samples: Samples, least: int = 1, most: int = 20) -> Diarization:
    async with diarizer.listen(least, most) as listening:
        for block in blocks(samples):
            await listening.push(block)
        return await listening.conclude()


def speakers(heard: Diarization) -> list[int]:
    return [turn.speaker for turn in heard.turns]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sherpa_onnx")
    return tiny_models.write(tmp_path_factory.mktemp("models"))


@asynccontextmanager
async def running(models: Path, **options: Any) -> AsyncIterator[ProcessDiarizer]:
    files = FileWeights(models)
    async with held([files]):
        usual = onnx("sherpa-onnx", files)
        diarizer = ProcessDiarizer(usual._program, **options)
        try:
            await diarizer.start()
            yield diarizer
        finally:
            await diarizer.close()


def process_of(diarizer: ProcessDiarizer) -> int:
    assert diarizer.process_id
    return diarizer.process_id


async def test_two_tones_are_two_speakers_and_their_voices_differ(models: Path) -> None:
    async with running(models) as diarizer:
        heard = await listen(diarizer, CALL)
    assert speakers(heard) == [0, 1, 0]
    assert [round(turn.start_s) for turn in heard.turns] == [0, 6, 12]
    low, high = heard.voices
    assert low.likeness(high) < low.same < low.likeness(low)


async def test_no_more_speakers_are_told_apart_than_there_are(models: Path) -> None:
    async with running(models) as diarizer:
        assert set(speakers(await listen(diarizer, CALL, 1, 1))) == {0}
        assert set(speakers(await listen(diarizer, CALL, 2, 2))) == {0, 1}


async def test_silence_is_nobodys(models: Path) -> None:
    async with running(models) as diarizer:
        assert (await listen(diarizer, rest(3))).turns == ()
        async with diarizer.listen(1, 20) as listening:
            assert (await listening.conclude()).turns == ()


async def test_files_are_kept_apart(models: Path) -> None:
    async with running(models) as diarizer, diarizer.listen(1, 20) as first, diarizer.listen(1, 20) as second:
        for block in blocks(LOW):
            await first.push(block)
        for block in blocks(CALL):
            await second.push(block)
        heard = await asyncio.gather(first.conclude(), second.conclude())
    assert [len(one.voices) for one in heard] == [1, 2]


async def test_a_process_that_dies_fails_its_files_and_is_replaced(models: Path, log: Any) -> None:
    async with running(models, restart_delay_s=0.0) as diarizer:
        async with diarizer.listen(1, 20) as listening:
            os.kill(process_of(diarizer), signal.SIGKILL)
            with pytest.raises(BackendError, match="apart"):
                await listening.conclude()
        await until(lambda: diarizer.ready)
        assert speakers(await listen(diarizer, CALL)) == [0, 1, 0]


async def test_a_process_that_hangs_is_ended_and_replaced(models: Path, log: Any) -> None:
    async with running(models, restart_delay_s=0.0, stall_s=0.5) as diarizer:
        hung = process_of(diarizer)
        async with diarizer.listen(1, 20) as listening:
            os.kill(hung, signal.SIGSTOP)
            with pytest.raises(BackendError, match="hangs"):
                await listening.conclude()
        await until(lambda: diarizer.ready and diarizer.process_id != hung)


async def test_who_leaves_is_forgotten(models: Path) -> None:
    async with running(models) as diarizer:
        async with diarizer.listen(1, 20) as listening:
            await listening.push(blocks(LOW)[0])
        with pytest.raises(BackendError, match="could not hear"):
            await listening.conclude()
        assert speakers(await listen(diarizer, CALL)) == [0, 1, 0]


async def test_it_has_no_network_no_files_and_no_environment_but_ours(models: Path) -> None:
    async with running(models) as diarizer:
        place = Path(f"/proc/{process_of(diarizer)}")
        assert "Seccomp:\t2" in (place / "status").read_text()
        assert "Threads:\t1\n" in (place / "status").read_text(), "another would be outside the sandbox"
        variables = dict(line.split("=", 1) for line in (place / "environ").read_text().split("\0") if line)
        assert variables["HF_HUB_OFFLINE"] == "1"
        assert not {"PATH", "LD_PRELOAD", "HTTPS_PROXY"} & set(variables)


async def test_models_that_cannot_be_used_are_no_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sherpa_onnx")
    tiny_models.write(tmp_path)
    (tmp_path / "embedding.onnx").unlink()
    with pytest.raises(BackendError, match="speakers-sherpa-onnx could not load"):
        async with running(tmp_path):
            pass


async def test_a_python_that_is_not_there_is_no_start(tmp_path: Path) -> None:
    async def take(_: Path) -> Models:
        return Models(tmp_path)

    diarizer = ProcessDiarizer(Program("pyannote", take, DirectoryWeights(tmp_path), tmp_path / "python"))
    with pytest.raises(BackendError, match="no process could be started"):
        await diarizer.start()
    await diarizer.close()


async def test_what_the_libraries_print_once_they_hear_is_not_shown(models: Path, printed: Printed) -> None:
    async with running(models) as diarizer:
        await listen(diarizer, CALL)
    assert "sherpa" not in printed.text


HEARD: dict[str, Any] = {"turns": [[0.0, 1.0, 0]], "voices": [[1.0]], "same": 0.5}


def test_an_answer_is_read() -> None:
    assert read_heard(HEARD, "basic:ab").voices == (Voice((1.0,), 0.5, "basic:ab"),)


@pytest.mark.parametrize(
    "odd",
    [
        {"turns": [[0.0, 1.0, 1]]},
        {"turns": [[0.0, 1.0, -1]]},
        {"turns": [[1.0, 0.0, 0]]},
        {"turns": [[0.0, float("nan"), 0]]},
        {"turns": [[0.0, 1.0]]},
        {"voices": [[float("inf")]]},
        {"voices": 3},
        {"same": None},
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_heard(HEARD | odd, "basic:ab")
