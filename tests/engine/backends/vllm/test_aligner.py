"""How vLLM's texts are aligned, with stand-ins: for vLLM, for the converter of its environment, for the aligner."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.errors import BackendError
from core.transcript.types import Segment
from engine.backends import surroundings
from engine.backends.vllm import aligner as vllm_aligner
from engine.backends.vllm.aligner import VllmAligner
from engine.backends.weights import DirectoryWeights, held
from engine.types import Clip, ClipTranscript, DecodingOptions, Detail
from tests.conftest import Printed
from tests.engine.backends.faster_whisper.test_transcriber import CHECKPOINT as CONVERTED
from tests.engine.backends.faster_whisper.test_transcriber import is_gone, needs_checkpoint, pid_of
from tests.engine.backends.vllm.real_vllm import CHECKPOINT, find_vllm
from tests.waiting import until

Held = dict[str, DirectoryWeights]

CLIP = Clip(0.0, bytes(32_000))
PLAIN = DecodingOptions("en")
TIMED = frozenset({Detail.WORDS})
HELLO = ClipTranscript(" hello", (Segment(0.0, 1.0, " hello"),), output_tokens=1)


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where converted checkpoints go."""
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(surroundings, "MEMORY_DIRECTORY", tmp_path / "memory")
    return tmp_path / "memory"


def converter(directory: Path, does: str) -> Path:
    """A `vllm` with a Python beside it that behaves like the converter. does: what it does with `target`."""
    directory.mkdir()
    script = f"""\
        #!{sys.executable}
        import json, os, pathlib, shutil, sys, time
        target = pathlib.Path(next(one for one in sys.argv if one.startswith("--output_dir=")).partition("=")[2])
        seen = [sys.argv[1:], dict(os.environ), target.parent.stat().st_mode & 0o777]
        (pathlib.Path({str(directory)!r}) / "seen.json").write_text(json.dumps(seen))
        {does}
        """
    for name in ("vllm", "python"):
        (directory / name).write_text(textwrap.dedent(script))
        (directory / name).chmod(0o755)
    return directory / "vllm"


@pytest.fixture
async def weights(memory: Path) -> AsyncIterator[Held]:
    """What vLLM loads too."""
    found = DirectoryWeights(CHECKPOINT)
    async with held([found]):
        yield {"nano": found}


COPIES = f"shutil.copytree({str(CONVERTED)!r}, target)"


@needs_checkpoint
async def test_a_checkpoint_is_converted_where_only_its_owner_can_enter_and_goes_with_the_engine(
    tmp_path: Path, memory: Path, weights: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOTTOVOCE_SECRET", "canary")
    aligner = VllmAligner(weights, program=converter(tmp_path / "bin", COPIES))
    await aligner.prepare()
    held_already = weights["nano"].directory
    assert list(memory.iterdir()) == [held_already], "what was converted has no name any more"
    arguments, environment, mode = json.loads((tmp_path / "bin" / "seen.json").read_text())
    assert mode == 0o700
    assert f"--model={held_already}" in arguments, "and not what vLLM's copy was made of"
    assert arguments[arguments.index("-m") + 1] == "ctranslate2.converters.transformers"
    assert "canary" not in environment.values()
    assert environment["HF_HUB_OFFLINE"] == "1"
    await aligner.start()
    assert aligner.ready
    aligned = await aligner.look("nano", CLIP, HELLO, PLAIN, TIMED)
    assert [word.text for word in aligned.segments[0].words] == [" hello"]
    assert aligner._worker
    os.kill(pid_of(aligner._worker), signal.SIGKILL)
    await until(lambda: not aligner.ready)
    await until(lambda: aligner.ready)
    assert await aligner.look("nano", CLIP, HELLO, PLAIN, TIMED) == aligned, "the next worker finds it again"
    await aligner.close()
    await aligner.close()
    assert list(memory.iterdir()) == [held_already]
    with pytest.raises(BackendError):
        await aligner.look("nano", CLIP, HELLO, PLAIN, TIMED)


@pytest.mark.parametrize(
    "fault",
    [
        ("sys.exit(3)", ""),
        ("sys.exit(\"No module named 'ctranslate2'\")", "vLLM's environment lacks a module"),
        ("sys.exit('[Errno 28] No space left on device')", "there is no room in memory"),
    ],
    ids=["any reason", "no converter", "no room"],
)
async def test_a_conversion_that_fails_is_a_backend_error(
    tmp_path: Path, memory: Path, weights: Held, printed: Printed, fault: tuple[str, str]
) -> None:
    does, said = fault
    aligner = VllmAligner(weights, program=converter(tmp_path / "bin", does))
    with pytest.raises(BackendError, match="could not be converted"):
        await aligner.prepare()
    assert said in printed.text
    await aligner.close()
    assert list(memory.iterdir()) == [weights["nano"].directory]


async def test_a_conversion_that_is_given_up_is_ended(tmp_path: Path, memory: Path, weights: Held) -> None:
    does = "(target.parent / 'pid').write_text(str(os.getpid())); time.sleep(3600)"
    aligner = VllmAligner(weights, program=converter(tmp_path / "bin", does))
    converting = asyncio.create_task(aligner.prepare())  # noqa: TID251  cancelled below
    await until(lambda: any(path.read_text() for path in memory.glob("*/pid")))
    (pid,) = [int(path.read_text()) for path in memory.glob("*/pid")]
    converting.cancel()
    await asyncio.wait([converting])
    await until(lambda: is_gone(pid))
    await aligner.close()
    assert list(memory.iterdir()) == [weights["nano"].directory]


async def test_a_conversion_that_takes_too_long_is_given_up(
    tmp_path: Path, memory: Path, weights: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_aligner, "CONVERT_S", 0.1)
    aligner = VllmAligner(weights, program=converter(tmp_path / "bin", "time.sleep(3600)"))
    with pytest.raises(BackendError, match="in time"):
        await aligner.prepare()
    await aligner.close()


@pytest.mark.slow
async def test_the_converter_of_vllms_environment_makes_what_the_worker_loads(
    memory: Path, weights: Held, printed: Printed
) -> None:
    aligner = VllmAligner(weights, program=find_vllm())
    await aligner.prepare()
    written = set(aligner._converted["nano"].files)
    assert {"model.bin", "tokenizer.json", "preprocessor_config.json"} <= written
    await aligner.start()
    aligned = await aligner.look("nano", CLIP, HELLO, PLAIN, frozenset(Detail))
    assert [word.text for word in aligned.segments[0].words] == [" hello"]
    assert [one.token for one in aligned.logprobs] == [" hello"]
    await aligner.close()
    assert list(memory.iterdir()) == [weights["nano"].directory]
