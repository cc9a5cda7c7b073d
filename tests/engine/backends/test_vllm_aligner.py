"""How vLLM's texts are aligned, with stand-ins: for vLLM, for the converter of its environment, for the aligner."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.backends import surroundings, vllm_aligner
from engine.backends.vllm import AttachedVllm, VllmTranscriber
from engine.backends.vllm_aligner import Aligner
from engine.backends.vllm_client import VllmClient, open_uds_session
from engine.errors import BackendError
from engine.types import Clip, ClipTranscript, DecodingOptions, Segment, TextDelta, TokenLogprob, Word
from tests.engine.backends.fake_vllm import DONE, FakeVllm, delta, write_program
from tests.engine.backends.real_vllm import CHECKPOINT, find_vllm
from tests.engine.backends.test_faster_whisper import CHECKPOINT as CONVERTED
from tests.engine.backends.test_faster_whisper import is_gone, needs_checkpoint, until
from tests.engine.backends.test_vllm import Checkpoint
from tests.engine.backends.test_vllm_answers import segment

CLIP = Clip(0.0, bytes(32_000))
PLAIN = DecodingOptions("en")
TIMED = replace(PLAIN, word_timestamps=True)
WEIGHED = replace(PLAIN, logprobs=True)
HELLO = ClipTranscript(" hello", (Segment(0.0, 1.0, " hello"),), output_tokens=1)


class FakeAligner(Aligner):
    """Finds one word in everything. events: what was done, in order."""

    def __init__(self, events: list[str] | None = None, *, failure: str = "") -> None:
        super().__init__({})
        self.events = [] if events is None else events
        self.failure = failure
        self.aligned: list[ClipTranscript] = []
        self.running = False

    @property
    def ready(self) -> bool:
        return self.running

    async def convert(self) -> None:
        self._do("convert")

    async def start(self) -> None:
        self._do("start")
        self.running = True

    async def close(self) -> None:
        self.events.append("close")
        self.running = False

    async def align(
        self, model: str, clip: Clip, transcript: ClipTranscript, options: DecodingOptions
    ) -> ClipTranscript:
        self._do("align")
        self.aligned.append(transcript)
        words = (Word(" hello", 0.1, 0.9),) if options.word_timestamps else ()
        logprobs = (TokenLogprob(" hello", -0.5),) if options.logprobs else ()
        return replace(transcript, segments=(replace(transcript.segments[0], words=words),), logprobs=logprobs)

    def _do(self, what: str) -> None:
        self.events.append(what)
        if what == self.failure:
            raise BackendError(f"cannot {what}")


# --- which requests are aligned


class Standing(VllmTranscriber):
    """A backend whose server stands on the socket given."""

    def __init__(self, client: VllmClient, aligner: Aligner | None) -> None:
        super().__init__({"nano": Path("nowhere")}, aligner=aligner)
        self._standing = client

    def _client(self, model: str) -> VllmClient:
        return self._standing


@pytest.fixture
def fake() -> FakeVllm:
    return FakeVllm(
        answer=lambda _: {"segments": [segment(" hello", 0, 1)], "text": " hello"},
        events=[delta(" hel"), delta("lo"), DONE],
        greeted=True,
    )


@pytest.fixture
async def client(fake: FakeVllm) -> AsyncIterator[VllmClient]:
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "vllm.sock"
        async with fake.listening(socket), open_uds_session(socket) as session:
            yield VllmClient(session, "nano")


async def test_only_requests_that_need_it_are_aligned(client: VllmClient) -> None:
    aligner = FakeAligner()
    transcriber = Standing(client, aligner)
    plain = await transcriber.transcribe("nano", CLIP, PLAIN)
    assert not aligner.events
    timed = await transcriber.transcribe("nano", CLIP, TIMED)
    assert aligner.aligned == [plain]
    assert timed.segments[0].words == (Word(" hello", 0.1, 0.9),)
    assert timed.logprobs == ()
    assert (await transcriber.transcribe("nano", CLIP, WEIGHED)).logprobs == (TokenLogprob(" hello", -0.5),)


async def test_a_text_that_cannot_be_aligned_fails_its_request(client: VllmClient) -> None:
    transcriber = Standing(client, FakeAligner(failure="align"))
    await transcriber.transcribe("nano", CLIP, PLAIN)
    with pytest.raises(BackendError):
        await transcriber.transcribe("nano", CLIP, TIMED)


async def test_what_is_silence_is_not_aligned(fake: FakeVllm, client: VllmClient) -> None:
    unlikely = segment(" thanks", 1, 2, avg_logprob=-1.5)
    reports = [segment("<|nospeech|>", 0, 18), segment("<|en|>", 18, 20)]

    def answer(form: dict[str, Any]) -> dict[str, Any]:
        return {"segments": reports if "languages" in form["hotwords"] else [segment(" hello", 0, 1), unlikely]}

    fake.answer = answer
    aligner = FakeAligner()
    await Standing(client, aligner).transcribe("nano", CLIP, WEIGHED)
    assert [transcript.text for transcript in aligner.aligned] == [" hello"]


async def test_a_stream_waits_for_log_probabilities_and_for_nothing_else(fake: FakeVllm, client: VllmClient) -> None:
    transcriber = Standing(client, FakeAligner())
    pieces = [piece async for piece in transcriber.stream("nano", CLIP, PLAIN)]
    assert pieces[:-1] == [TextDelta(" hel"), TextDelta("lo")]
    (whole,) = [piece async for piece in transcriber.stream("nano", CLIP, WEIGHED)]
    assert (whole.text, whole.logprobs) == (" hello", (TokenLogprob(" hello", -0.5),))


def test_what_can_be_asked_for_follows_from_having_an_aligner(client: VllmClient) -> None:
    attached = AttachedVllm("nano", url="http://127.0.0.1:8000")
    for transcriber, able in (
        (Standing(client, FakeAligner()), True),
        (Standing(client, None), False),
        (attached, False),
    ):
        assert (transcriber.word_timestamps, transcriber.logprobs) == (able, able)
    assert "align_device=cpu" in Standing(client, FakeAligner()).arguments


# --- beside the servers


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where converted checkpoints go."""
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(surroundings, "MEMORY_DIRECTORY", tmp_path / "memory")
    return tmp_path / "memory"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    (tmp_path / "checkpoint").mkdir()
    made = Checkpoint(tmp_path / "checkpoint")
    made.behave()
    return made


def backend(checkpoint: Checkpoint, tmp_path: Path, aligner: Aligner) -> VllmTranscriber:
    program = write_program(tmp_path / "vllm")
    return VllmTranscriber({"nano": checkpoint.directory}, program=program, aligner=aligner, restart_delay_s=0)


async def test_the_aligner_loads_once_vllm_has_taken_its_share_of_the_gpu(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    served: list[bool] = []

    class Watching(FakeAligner):
        async def start(self) -> None:
            served.append(transcriber.server("nano").alive)
            assert not transcriber.ready
            await super().start()

    aligner = Watching()
    transcriber = backend(checkpoint, tmp_path, aligner)
    await transcriber.start()
    assert (served, aligner.events) == ([True], ["convert", "start"])
    ready = [transcriber.ready]
    aligner.running = False
    ready.append(transcriber.ready)
    assert ready == [True, False]
    await transcriber.close()
    assert aligner.events[-1] == "close"


@pytest.mark.parametrize("failure", ["convert", "start"])
async def test_without_its_aligner_nothing_is_served_and_nothing_left(
    checkpoint: Checkpoint, tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    aligner = FakeAligner(failure=failure)
    transcriber = backend(checkpoint, tmp_path, aligner)
    with pytest.raises(BackendError):
        await transcriber.start()
    assert not transcriber.ready
    assert aligner.events[-1] == "close"
    if (checkpoint.directory / "seen.json").exists():
        await until(lambda: is_gone(checkpoint.seen["pid"]))
    assert not list(memory.iterdir())


# --- the conversion


def converter(directory: Path, does: str) -> Path:
    """A `vllm` with a Python beside it that behaves like the converter. does: what it does with `target`."""
    directory.mkdir()
    script = f"""\
        #!{sys.executable}
        import json, os, pathlib, shutil, sys, time
        target = pathlib.Path(next(one for one in sys.argv if one.startswith("--output_dir=")).partition("=")[2])
        (pathlib.Path({str(directory)!r}) / "seen.json").write_text(json.dumps([sys.argv[1:], dict(os.environ)]))
        {does}
        """
    for name in ("vllm", "python"):
        (directory / name).write_text(textwrap.dedent(script))
        (directory / name).chmod(0o755)
    return directory / "vllm"


COPIES = f"shutil.copytree({str(CONVERTED)!r}, target)"


@needs_checkpoint
async def test_a_checkpoint_is_converted_where_only_its_owner_can_enter_and_goes_with_the_engine(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOTTOVOCE_SECRET", "canary")
    aligner = Aligner({"nano": CHECKPOINT}, program=converter(tmp_path / "bin", COPIES))
    await aligner.convert()
    (directory,) = memory.iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700
    arguments, environment = json.loads((tmp_path / "bin" / "seen.json").read_text())
    assert f"--model={CHECKPOINT}" in arguments
    assert arguments[arguments.index("-m") + 1] == "ctranslate2.converters.transformers"
    assert "canary" not in environment.values()
    assert environment["HF_HUB_OFFLINE"] == "1"
    await aligner.start()
    assert aligner.ready
    aligned = await aligner.align("nano", CLIP, HELLO, TIMED)
    assert [word.text for word in aligned.segments[0].words] == [" hello"]
    await aligner.close()
    await aligner.close()
    assert not list(memory.iterdir())
    with pytest.raises(BackendError):
        await aligner.align("nano", CLIP, HELLO, TIMED)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("sys.exit(3)", ""),
        ("sys.exit(\"No module named 'ctranslate2'\")", "vLLM's environment lacks a module"),
        ("sys.exit('[Errno 28] No space left on device')", "there is no room in memory"),
    ],
    ids=["any reason", "no converter", "no room"],
)
async def test_a_conversion_that_fails_is_a_backend_error(
    tmp_path: Path, memory: Path, caplog: pytest.LogCaptureFixture, does: str, said: str
) -> None:
    aligner = Aligner({"nano": CHECKPOINT}, program=converter(tmp_path / "bin", does))
    with pytest.raises(BackendError, match="could not be converted"):
        await aligner.convert()
    assert said in caplog.text
    await aligner.close()
    assert not list(memory.iterdir())


async def test_a_conversion_that_is_given_up_is_ended(tmp_path: Path, memory: Path) -> None:
    does = "(target.parent / 'pid').write_text(str(os.getpid())); time.sleep(3600)"
    aligner = Aligner({"nano": CHECKPOINT}, program=converter(tmp_path / "bin", does))
    converting = asyncio.create_task(aligner.convert())  # noqa: TID251  cancelled below
    await until(lambda: any(path.read_text() for path in memory.glob("*/pid")))
    (pid,) = [int(path.read_text()) for path in memory.glob("*/pid")]
    converting.cancel()
    await asyncio.wait([converting])
    await until(lambda: is_gone(pid))
    await aligner.close()
    assert not list(memory.iterdir())


async def test_a_conversion_that_takes_too_long_is_given_up(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_aligner, "CONVERT_S", 0.1)
    aligner = Aligner({"nano": CHECKPOINT}, program=converter(tmp_path / "bin", "time.sleep(3600)"))
    with pytest.raises(BackendError, match="in time"):
        await aligner.convert()
    await aligner.close()


@pytest.mark.slow
async def test_the_converter_of_vllms_environment_makes_what_the_worker_loads(
    memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    aligner = Aligner({"nano": CHECKPOINT}, program=find_vllm())
    await aligner.convert()
    written = {path.name for path in next(memory.iterdir()).glob("0/*")}
    assert {"model.bin", "tokenizer.json", "preprocessor_config.json"} <= written
    await aligner.start()
    aligned = await aligner.align("nano", CLIP, HELLO, replace(TIMED, logprobs=True))
    assert [word.text for word in aligned.segments[0].words] == [" hello"]
    assert [one.token for one in aligned.logprobs] == [" hello"]
    await aligner.close()
    assert not list(memory.iterdir())
