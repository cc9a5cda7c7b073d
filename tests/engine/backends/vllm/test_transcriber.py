"""The vLLM backend against stand-ins: what goes over the socket, what comes of failures, how a server is kept."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import pytest

from core.errors import BackendError
from core.transcript.types import Task
from engine.backends.digest import digest_of
from engine.backends.surroundings import MEMORY_DIRECTORY, remove_leftovers
from engine.backends.vllm import server as vllm_server
from engine.backends.vllm.directories import Directories
from engine.backends.vllm.inside.entry_points import REFUSAL
from engine.backends.vllm.inside.prompt import UNTIMED, Wanted
from engine.backends.vllm.kept import Patience
from engine.backends.vllm.server import Serving, VllmServer
from engine.backends.vllm.transcriber import AttachedVllm, VllmTranscriber
from engine.backends.weights import DirectoryWeights, held
from engine.speech.observer import Sample
from engine.speech.transcriber import Component, Transcriber
from engine.types import Clip, ClipTranscript, DecodingOptions, TextDelta
from tests.conftest import Printed
from tests.engine.backends.checkpoints import Checkpoint
from tests.engine.backends.faster_whisper.test_transcriber import is_gone
from tests.engine.backends.vllm.fake_vllm import DONE, FakeVllm, delta, event, write_program
from tests.engine.backends.vllm.real_vllm import CHECKPOINT as NANO
from tests.engine.backends.vllm.real_vllm import find_vllm
from tests.engine.backends.vllm.test_answers import segment
from tests.waiting import time_passes, until

CLIP = Clip(0.0, bytes(32_000))
ENGLISH = DecodingOptions("en")
SECRET = "the words of a caller"
DIGITS = frozenset("0123456789")


@pytest.fixture
def socket() -> Iterator[Path]:
    """A path short enough for a socket."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "vllm.sock"


@asynccontextmanager
async def attached(fake: FakeVllm, socket: Path, **options: Any) -> AsyncIterator[AttachedVllm]:
    async with fake.listening(socket):
        transcriber = AttachedVllm("nano", uds=socket, **options)
        await transcriber.start()
        try:
            yield transcriber
        finally:
            await transcriber.close()


# --- calls


async def test_a_clip_goes_out_as_one_request_and_comes_back_as_segments(socket: Path) -> None:
    fake = FakeVllm(answer=lambda _: {"segments": [segment(" hello", 0.0, 1.0)], "text": " hello"})
    async with attached(fake, socket) as transcriber:
        transcript = await transcriber.transcribe("nano", CLIP, DecodingOptions("de", prompt="gray"))
    assert transcript.text == " hello"
    [form] = fake.forms
    assert (form["model"], form["language"], form["prompt"]) == ("served", "de", "gray")
    assert isinstance(form["file"], bytes)
    assert form["file"][:4] == b"RIFF"
    assert fake.paths == ["/v1/audio/transcriptions"]


async def test_a_request_tells_no_more_than_it_must(socket: Path) -> None:
    fake = FakeVllm(answer=lambda _: {"segments": [segment(" hello", 0.0, 1.0)]})
    async with attached(fake, socket) as transcriber:
        await transcriber.transcribe("nano", CLIP, ENGLISH)
    assert set(fake.headers[0]) == {"Host", "Content-Type", "Content-Length", "Connection", "User-Agent"}
    assert fake.headers[0]["User-Agent"] == "sottovoce"
    assert fake.headers[0]["Connection"] == "close", "or a clip may meet a connection that vLLM is closing"


async def test_a_translation_has_its_own_route(socket: Path) -> None:
    fake = FakeVllm(answer=lambda _: {"segments": [segment(" seven", 0.0, 1.0)]})
    async with attached(fake, socket) as transcriber:
        await transcriber.transcribe("nano", CLIP, DecodingOptions("de", Task.TRANSLATE))
    assert fake.paths == ["/v1/audio/translations"]


async def test_text_that_was_cut_into_no_segments_is_asked_for_again(socket: Path) -> None:
    def answer(form: dict[str, str | bytes]) -> dict[str, Any]:
        return {"segments": [], "text": ""} if form["response_format"] == "verbose_json" else {"text": " hello"}

    fake = FakeVllm(answer=answer)
    async with attached(fake, socket) as transcriber:
        transcript = await transcriber.transcribe("nano", CLIP, ENGLISH)
    assert transcript.text == " hello"
    assert [(one.start_s, one.end_s) for one in transcript.segments] == [(0.0, 1.0)]


async def test_a_stream_is_passed_on_piece_by_piece(socket: Path) -> None:
    usage = event(usage={"prompt_tokens": 104, "completion_tokens": 2})
    fake = FakeVllm(events=[delta(" hel"), delta("lo")[:9], delta("lo")[9:], usage, DONE])
    async with attached(fake, socket) as transcriber:
        pieces = [piece async for piece in transcriber.stream("nano", CLIP, ENGLISH)]
    assert pieces[:-1] == [TextDelta(" hel"), TextDelta("lo")]
    assert isinstance(pieces[-1], ClipTranscript)
    assert (pieces[-1].text, pieces[-1].output_tokens, pieces[-1].prompt_tokens) == (" hello", 2, 0)


async def test_languages_come_with_their_probabilities_from_our_plugin(socket: Path) -> None:
    fake = FakeVllm(answer=lambda _: {"segments": [segment("<|en|>", 0, 18.0), segment("<|de|>", 18.0, 1.6)]})
    async with attached(fake, socket) as transcriber:
        assert await transcriber.languages("nano", CLIP) == pytest.approx({"en": 0.9, "de": 0.08})
    assert len(fake.forms) == 1


@pytest.mark.parametrize(("avg_logprob", "no_speech"), [(-0.4, 0.0), (-1.5, 0.9)])
async def test_whether_there_is_speech_is_asked_where_the_text_is_unlikely(
    socket: Path, avg_logprob: float, no_speech: float
) -> None:
    def answer(form: dict[str, str | bytes]) -> dict[str, Any]:
        if form["hotwords"] == Wanted.LANGUAGES:
            return {"segments": [segment("<|nospeech|>", 0, 18.0), segment("<|en|>", 18.0, 20.0)]}
        return {"segments": [segment(" thank", 0, 1), segment(" you", 1, 2, avg_logprob=avg_logprob)]}

    fake = FakeVllm(answer=answer)
    async with attached(fake, socket) as transcriber:
        transcript = await transcriber.transcribe("nano", CLIP, ENGLISH)
    assert [one.no_speech_prob for one in transcript.segments] == [no_speech, no_speech]
    assert len(fake.forms) == 1 + bool(no_speech), "it takes another pass of the encoder"


async def test_metrics_are_read_from_the_server(socket: Path) -> None:
    fake = FakeVllm(metrics='vllm:num_requests_running{model_name="x"} 2.0\nother 1\n')
    async with attached(fake, socket) as transcriber:
        assert await transcriber.metrics("nano") == (Sample("vllm:num_requests_running", 2.0),)


# --- failures


def calls() -> dict[str, Callable[[Transcriber], Any]]:
    async def stream(transcriber: Transcriber) -> None:
        async with aclosing(transcriber.stream("nano", CLIP, ENGLISH)) as pieces:
            async for _ in pieces:
                pass

    return {
        "languages": lambda transcriber: transcriber.languages("nano", CLIP),
        "transcribe": lambda transcriber: transcriber.transcribe("nano", CLIP, ENGLISH),
        "stream": stream,
    }


@pytest.mark.parametrize("call", calls().values(), ids=calls())
@pytest.mark.parametrize("status", [301, 400, 404, 500, 503])
async def test_a_refusal_is_a_backend_error_without_vllms_words(
    socket: Path, call: Callable[[Transcriber], Any], status: int
) -> None:
    async with attached(FakeVllm(status=status), socket) as transcriber:
        with pytest.raises(BackendError) as raised:
            await call(transcriber)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("answer", [[], {}, {"segments": 3}, {"segments": [{"text": SECRET}]}])
async def test_an_answer_that_cannot_be_read_is_a_backend_error(socket: Path, answer: Any) -> None:
    async with attached(FakeVllm(answer=lambda _: answer), socket) as transcriber:
        for call in ("languages", "transcribe"):
            with pytest.raises(BackendError) as raised:
                await calls()[call](transcriber)
            assert SECRET not in str(raised.value)


async def test_an_answer_that_is_too_long_is_not_read_to_its_end(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.backends.vllm.client.MAX_ANSWER_BYTES", 1000)
    async with attached(FakeVllm(answer=lambda _: {"text": "x" * 2000}), socket) as transcriber:
        with pytest.raises(BackendError, match="too long"):
            await transcriber.transcribe("nano", CLIP, ENGLISH)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [delta(" hel")],
        [delta(" hel"), event(error={"message": SECRET})],
        [delta(" hel"), b"data: {\n\n", DONE],
        [delta("x" * (1 << 20)), DONE],
    ],
    ids=["nothing", "no end", "an error", "no event", "an endless line"],
)
async def test_a_stream_that_goes_wrong_is_a_backend_error(socket: Path, events: list[bytes]) -> None:
    async with attached(FakeVllm(events=events), socket) as transcriber:
        with pytest.raises(BackendError) as raised:
            await calls()["stream"](transcriber)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("call", calls().values(), ids=calls())
async def test_a_server_that_is_gone_is_a_backend_error(socket: Path, call: Callable[[Transcriber], Any]) -> None:
    fake = FakeVllm(hold=True)
    async with Half() as half, asyncio.TaskGroup() as group:
        transcriber = await half.enter(fake, socket)

        async def fails() -> None:
            with pytest.raises(BackendError):
                await call(transcriber)

        task = group.create_task(fails())
        await until(lambda: fake.held == 1)
        await half.stop_server()
        await task


async def test_closing_a_stream_hangs_up(socket: Path) -> None:
    fake = FakeVllm(events=[delta(" hel")], hold_stream=True)
    async with attached(fake, socket) as transcriber:
        async with aclosing(transcriber.stream("nano", CLIP, ENGLISH)) as pieces:
            assert await anext(pieces) == TextDelta(" hel")
        await until(lambda: fake.cancelled == 1)


@pytest.mark.parametrize("call", calls().values(), ids=calls())
async def test_cancelling_a_call_hangs_up(socket: Path, call: Callable[[Transcriber], Any]) -> None:
    fake = FakeVllm(hold=True)
    async with attached(fake, socket) as transcriber:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(call(transcriber))
            await until(lambda: fake.held == 1)
            task.cancel()
        await until(lambda: fake.cancelled == 1)


class Half:
    """An attached transcriber whose server can be stopped first."""

    async def __aenter__(self) -> Self:
        return self

    async def enter(self, fake: FakeVllm, socket: Path) -> AttachedVllm:
        self._server = fake.listening(socket)
        await self._server.__aenter__()
        self._transcriber = AttachedVllm("nano", uds=socket)
        await self._transcriber.start()
        return self._transcriber

    async def stop_server(self) -> None:
        await self._server.__aexit__(None, None, None)

    async def __aexit__(self, *_: object) -> None:
        await self._transcriber.close()


# --- a server that runs already


async def test_being_attached_is_confessed(socket: Path) -> None:
    transcriber = AttachedVllm("nano", uds=socket)
    assert transcriber.component == Component("vllm", ("uds",), attached=True)
    assert AttachedVllm("nano", url="http://127.0.0.1:8000").component.arguments == ("url",)


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1:8000", "http://vllm:8000", "https://127.0.0.1", "http://", "/run/vllm.sock"]
)
def test_a_server_on_another_machine_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="on this machine"):
        AttachedVllm("nano", url=url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://[::1]:8000/", "http://localhost:8000"])
def test_a_server_on_this_machine_may_be_named_by_its_address(url: str) -> None:
    assert AttachedVllm("nano", url=url).component.attached


def test_socket_and_address_are_one_too_many(socket: Path) -> None:
    for options in ({}, {"uds": socket, "url": "http://127.0.0.1:8000"}):
        with pytest.raises(ValueError, match="its socket or by its address"):
            AttachedVllm("nano", **options)  # type: ignore[arg-type]


async def test_a_server_that_does_not_answer_is_a_backend_error(socket: Path) -> None:
    transcriber = AttachedVllm("nano", uds=socket, start_timeout_s=0.05, health_period_s=0.01)
    with pytest.raises(BackendError, match="does not answer"):
        await transcriber.start()
    assert not transcriber.ready
    await transcriber.close()


@pytest.mark.parametrize(
    "segments", [[], None, [segment(" hm", 0, 1)], [segment("", 0, 1)]], ids=["none", "null", "text", "empty"]
)
async def test_a_server_without_our_plugin_is_refused(socket: Path, segments: Any) -> None:
    fake = FakeVllm(greeting={"segments": segments, "text": "", "language": "en"})
    transcriber = AttachedVllm("nano", uds=socket)
    async with fake.listening(socket):
        with pytest.raises(BackendError, match="has to load our plugin"):
            await transcriber.start()
    assert not transcriber.ready
    assert fake.forms == []


@pytest.mark.parametrize("status", [400, 500])
async def test_a_server_that_cannot_hear_is_not_said_to_lack_our_plugin(socket: Path, status: int) -> None:
    fake = FakeVllm(status=status, greeted=True)
    transcriber = AttachedVllm("nano", uds=socket)
    async with fake.listening(socket):
        with pytest.raises(BackendError, match=f"refused a request with status {status}"):
            await transcriber.start()
    assert not transcriber.ready


async def test_readiness_follows_the_servers_health(socket: Path) -> None:
    fake = FakeVllm()
    async with attached(fake, socket, health_period_s=0.01) as transcriber:
        assert transcriber.ready
        fake.health = 503
        await until(lambda: not transcriber.ready)
        fake.health = 200
        await until(lambda: transcriber.ready)
    assert not transcriber.ready


async def test_only_the_attached_model_is_served(socket: Path) -> None:
    async with attached(FakeVllm(models=["nano", "other"]), socket) as transcriber:
        with pytest.raises(BackendError):
            await transcriber.transcribe("other", CLIP, ENGLISH)


# --- a server of its own


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return write_program(tmp_path / "vllm")


@pytest.fixture
async def transcriber(checkpoint: Checkpoint, program: Path) -> AsyncIterator[VllmTranscriber]:
    made = VllmTranscriber({"nano": checkpoint.weights}, program=program, patience=Patience(restart_delay_s=0))
    await made.start()
    yield made
    await made.close()


UNCONFESSED = {
    *("PATH", "HOME", "TMPDIR", "LC_ALL", "XDG_CACHE_HOME", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT"),
    *("TORCHINDUCTOR_CACHE_DIR", "VLLM_RPC_BASE_PATH", "VLLM_HOST_IP", "TOKENIZERS_PARALLELISM"),
    *("PYTHONSAFEPATH", "PYTHONNOUSERSITE", "PYTHONDONTWRITEBYTECODE", "OMP_WAIT_POLICY"),
}
"""Variables that nobody but our code chooses."""


async def test_a_server_is_started_with_the_flags_that_are_confessed(
    transcriber: VllmTranscriber, checkpoint: Checkpoint
) -> None:
    assert transcriber.ready
    arguments, environment = checkpoint.seen["arguments"], checkpoint.seen["environment"]
    assert arguments[:2] == ["serve", str(checkpoint.weights.directory)]
    own = {f"--uds={transcriber.server('nano').directories.socket}", "--served-model-name=nano"}
    component = transcriber.component
    flags = {argument for argument in component.arguments if argument.startswith("--")}
    assert set(arguments[2:]) == flags | own
    variables = set(component.arguments) - flags
    given = {f"{name}={value}" for name, value in environment.items()}
    assert {one.partition("=")[0] for one in given - variables} == UNCONFESSED
    assert variables <= given
    assert "VLLM_LOGGING_LEVEL=WARNING" in variables
    assert not {"--enable-log-requests", "--enable-log-outputs"} & flags
    assert (component.name, component.attached, component.plugins) == ("vllm", False, ("sottovoce",))


async def test_a_server_sees_nothing_of_the_engines_environment(
    checkpoint: Checkpoint, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOTTOVOCE_SECRET", SECRET)
    monkeypatch.setenv("HTTPS_PROXY", "http://192.0.2.1")
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_HOME"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("PATH", f"/nowhere:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    transcriber = VllmTranscriber({"nano": checkpoint.weights}, program=program)
    await transcriber.start()
    await transcriber.close()
    environment = checkpoint.seen["environment"]
    assert environment.keys() & {"SOTTOVOCE_SECRET", "HTTPS_PROXY"} == set()
    assert SECRET not in environment.values()
    assert "/nowhere" not in ":".join(environment.values()), "code comes from the image alone"
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"


async def test_a_servers_files_are_where_only_its_owner_can_enter_and_go_with_it(
    checkpoint: Checkpoint, program: Path
) -> None:
    transcriber = VllmTranscriber({"nano": checkpoint.weights}, program=program)
    await transcriber.start()
    directories = transcriber.server("nano").directories
    assert directories.private.stat().st_mode & 0o777 == 0o700
    assert directories.socket.parent == directories.private
    assert checkpoint.seen["environment"]["TMPDIR"] == str(directories.temporary)
    assert MEMORY_DIRECTORY in directories.temporary.parents
    await transcriber.close()
    assert not directories.private.exists()
    assert not directories.caches.exists()


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="read from Linux's /proc")
async def test_a_server_leaves_no_core_and_leads_a_group_of_its_own(
    transcriber: VllmTranscriber, checkpoint: Checkpoint
) -> None:
    [core] = [line for line in checkpoint.seen["limits"].splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]
    pid = transcriber.server("nano").pid
    assert checkpoint.seen["pid"] == pid == os.getpgid(pid)


async def test_a_server_that_dies_in_a_call_fails_it_and_is_replaced(transcriber: VllmTranscriber) -> None:
    first = transcriber.server("nano").pid
    with pytest.raises(BackendError):
        await transcriber.transcribe("nano", CLIP, ENGLISH)
    await until(lambda: transcriber.ready and transcriber.server("nano").pid != first)


async def test_while_a_server_is_replaced_calls_fail_and_the_backend_is_not_ready(
    transcriber: VllmTranscriber, checkpoint: Checkpoint
) -> None:
    checkpoint.behave(ends=True)
    os.kill(transcriber.server("nano").pid, signal.SIGKILL)
    await until(lambda: not transcriber.ready)
    for call in calls().values():
        with pytest.raises(BackendError):
            await call(transcriber)
    checkpoint.behave()
    await until(lambda: transcriber.ready)


async def test_what_was_digested_is_loaded_now_and_after_a_restart(checkpoint: Checkpoint, program: Path) -> None:
    (checkpoint.model / "model.safetensors").write_text("planted")
    transcriber = VllmTranscriber({"nano": checkpoint.weights}, program=program, patience=Patience(restart_delay_s=0))
    await transcriber.start()
    first = checkpoint.seen
    shutil.rmtree(checkpoint.model)
    os.kill(first["pid"], signal.SIGKILL)
    await until(lambda: transcriber.ready and checkpoint.seen["pid"] != first["pid"])
    await transcriber.close()
    for seen in (first, checkpoint.seen):
        assert digest_of({name: sha256(text.encode()).digest() for name, text in seen["loaded"].items()}) == (
            checkpoint.weights.digest
        )


async def test_a_copy_that_was_changed_is_not_loaded(
    transcriber: VllmTranscriber, checkpoint: Checkpoint, printed: Printed
) -> None:
    (checkpoint.weights.directory / "model.safetensors").write_text("planted")
    os.kill(transcriber.server("nano").pid, signal.SIGKILL)
    await until(lambda: printed.text.count("process_not_started") > 1)
    assert "model.safetensors" not in checkpoint.seen["loaded"]
    (checkpoint.weights.directory / "model.safetensors").unlink()
    await until(lambda: transcriber.ready)


@pytest.mark.parametrize("trouble", ["ill", "hangs"])
async def test_a_server_that_lives_but_does_not_answer_is_not_ready(
    checkpoint: Checkpoint, program: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = VllmTranscriber({"nano": checkpoint.weights}, program=program, patience=Patience(health_period_s=0.01))
    await made.start()
    monkeypatch.setattr("engine.backends.vllm.client.HEALTH_S", 0.2)
    try:
        assert made.ready
        pid = made.server("nano").pid
        (checkpoint.directory / trouble).touch()
        await until(lambda: not made.ready)
        assert made.server("nano").alive
        (checkpoint.directory / trouble).unlink()
        await until(lambda: made.ready)
        assert made.server("nano").pid == pid, "it is the same server that answers again"
    finally:
        await made.close()


async def test_a_server_that_never_answers_again_is_replaced(
    checkpoint: Checkpoint, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = VllmTranscriber(
        {"nano": checkpoint.weights},
        program=program,
        patience=Patience(restart_delay_s=0, health_period_s=0.01, unhealthy_s=0.5),
    )
    await made.start()
    monkeypatch.setattr("engine.backends.vllm.client.HEALTH_S", 0.2)
    try:
        first = made.server("nano").pid
        (checkpoint.directory / "hangs").touch()
        await until(lambda: is_gone(first))
        (checkpoint.directory / "hangs").unlink()
        await until(lambda: made.ready)
        assert made.server("nano").pid != first
    finally:
        await made.close()


@pytest.mark.parametrize("failing", ["make", "spawn"])
async def test_a_restart_for_which_there_is_no_room_is_tried_again(
    checkpoint: Checkpoint, program: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    made = VllmTranscriber({"nano": checkpoint.weights}, program=program, patience=Patience(restart_delay_s=0))
    await made.start()
    failures = 0

    def fail(*_: Any, **__: Any) -> Any:
        nonlocal failures
        failures += 1
        raise OSError(errno.ENOSPC, "no room")

    try:
        with monkeypatch.context() as patched:
            if failing == "make":
                patched.setattr(Directories, "make", fail)
            else:
                patched.setattr("engine.backends.vllm.server._spawn", fail)
            os.kill(made.server("nano").pid, signal.SIGKILL)
            await until(lambda: failures >= 2)
        await until(lambda: made.ready)
    finally:
        await made.close()


async def test_a_server_of_our_own_has_to_have_our_plugin(checkpoint: Checkpoint, program: Path) -> None:
    checkpoint.behave(stock=True)
    transcriber = VllmTranscriber({"nano": checkpoint.weights}, program=program)
    with pytest.raises(BackendError, match="has to load our plugin"):
        await transcriber.start()
    assert not transcriber.ready
    await until(lambda: is_gone(checkpoint.seen["pid"]))


@pytest.mark.parametrize(("device", "together"), [("cuda", 1), ("cpu", 2)])
async def test_servers_that_share_a_gpu_start_one_after_the_other(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch, device: str, together: int
) -> None:
    starting, most = 0, 0

    async def launch(*_: Any, **__: Any) -> Standing:
        nonlocal starting, most
        starting += 1
        most = max(most, starting)
        while most < together:  # noqa: ASYNC110  the other one's start is no event of ours
            await asyncio.sleep(0)
        starting -= 1
        return Standing()

    monkeypatch.setattr(VllmServer, "launch", launch)
    (tmp_path / "model.safetensors").touch()
    both = {name: DirectoryWeights(tmp_path) for name in ("one", "two")}
    transcriber = VllmTranscriber(both, program=program, serving=Serving(device=device))
    async with held(both.values()):
        await transcriber.start()
        await transcriber.close()
    assert most == together


class Standing:
    """A server that nothing happens to."""

    async def wait(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing."""


async def test_what_a_server_leaves_behind_is_ended_with_it(
    checkpoint: Checkpoint, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "CLOSE_S", 0.2)
    checkpoint.behave(child=True)
    transcriber = VllmTranscriber({"nano": checkpoint.weights}, program=program)
    await transcriber.start()
    child = int((checkpoint.directory / "child.pid").read_text())
    await transcriber.close()
    await until(lambda: is_gone(child))


async def test_a_server_that_cannot_start_is_a_backend_error(checkpoint: Checkpoint, program: Path) -> None:
    checkpoint.behave(ends=True)
    transcriber = VllmTranscriber({"nano": checkpoint.weights}, program=program)
    with pytest.raises(BackendError):
        await transcriber.start()
    assert not transcriber.ready
    await transcriber.close()


async def test_of_several_servers_all_are_ended_when_one_cannot_start(
    checkpoint: Checkpoint, program: Path, tmp_path: Path
) -> None:
    broken = Checkpoint(tmp_path / "broken")
    broken.behave(ends=True)
    transcriber = VllmTranscriber({"nano": checkpoint.weights, "broken": broken.weights}, program=program)
    async with held([broken.weights]):
        with pytest.raises(BackendError):
            await transcriber.start()
    if (checkpoint.directory / "seen.json").exists():
        await until(lambda: is_gone(checkpoint.seen["pid"]))


async def test_a_server_that_never_answers_is_given_up(checkpoint: Checkpoint, program: Path) -> None:
    checkpoint.behave(deaf=True)
    transcriber = VllmTranscriber({"nano": checkpoint.weights}, program=program, patience=Patience(start_s=100))
    starting = asyncio.ensure_future(transcriber.start())  # noqa: TID251
    await until((checkpoint.directory / "seen.json").exists)
    time_passes(100)
    with pytest.raises(BackendError):
        await starting
    await until(lambda: is_gone(checkpoint.seen["pid"]))


@pytest.mark.parametrize("name", ["no-such-vllm", "/no/such/vllm"])
async def test_a_program_that_is_not_there_is_a_backend_error(checkpoint: Checkpoint, name: str) -> None:
    with pytest.raises(BackendError):
        await VllmTranscriber({"nano": checkpoint.weights}, program=Path(name)).start()


async def test_a_model_that_is_not_served_is_a_backend_error(transcriber: VllmTranscriber) -> None:
    with pytest.raises(BackendError):
        await transcriber.transcribe("other", CLIP, ENGLISH)


async def test_closing_twice_is_safe(transcriber: VllmTranscriber) -> None:
    await transcriber.close()
    await transcriber.close()
    assert not transcriber.ready


async def test_what_a_server_prints_is_told_in_our_words_only(
    checkpoint: Checkpoint, program: Path, printed: Printed
) -> None:
    checkpoint.behave(ends=True, prints=f"RuntimeError: CUDA out of memory while hearing {SECRET}")
    with pytest.raises(BackendError) as raised:
        await VllmTranscriber({"nano": checkpoint.weights}, program=program).start()
    assert "vLLM ran out of memory" in printed.text
    assert SECRET not in printed.text + str(raised.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [(REFUSAL, "vLLM would load plugins of others"), (UNTIMED, UNTIMED)],
    ids=["plugins", "tokenizer"],
)
async def test_what_our_plugin_refuses_is_told(
    checkpoint: Checkpoint, program: Path, printed: Printed, error: str, said: str
) -> None:
    checkpoint.behave(ends=True, prints=f"Traceback\nRuntimeError: {error}\n")
    with pytest.raises(BackendError):
        await VllmTranscriber({"nano": checkpoint.weights}, program=program).start()
    assert said in printed.text


@pytest.mark.slow
async def test_a_tokenizer_without_timestamps_is_told(tmp_path: Path, printed: Printed) -> None:
    model = shutil.copytree(NANO, tmp_path / "nano")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"][2:3] not in DIGITS]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    weights = DirectoryWeights(model)
    async with held([weights]):
        with pytest.raises(BackendError, match="ended before"):
            await VllmTranscriber({"nano": weights}, program=find_vllm(), serving=Serving(device="cpu")).start()
    assert UNTIMED in printed.text


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a server ends when the engine closes it")
async def test_a_server_does_not_outlive_an_engine_that_is_killed(checkpoint: Checkpoint, program: Path) -> None:
    script = f"""
import asyncio, pathlib
from engine.backends.vllm.transcriber import VllmTranscriber
from engine.backends.weights import DirectoryWeights, held
async def main():
    model, program = map(pathlib.Path, {[str(checkpoint.model), str(program)]!r})
    weights = DirectoryWeights(model)
    transcriber = VllmTranscriber({{"nano": weights}}, program=program)
    async with held([weights]):
        await transcriber.start()
        print(transcriber.server("nano").directories.private, weights.directory, sep="\\n", flush=True)
        await asyncio.sleep(3600)
asyncio.run(main())
"""
    engine = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert engine.stdout
    private, weights = [Path((await engine.stdout.readline()).decode().strip()) for _ in range(2)]
    engine.kill()
    await engine.wait()
    await until(lambda: is_gone(checkpoint.seen["pid"]))
    for left in private.rglob("*"):
        assert not left.is_file(), "a stand-in writes no files; vLLM's are in memory"
    for left in (private, weights):
        os.utime(left, (0, 0))
    await asyncio.to_thread(remove_leftovers)
    # The next engine has the memory again; one that others have started may be at it already.
    await until(lambda: not private.exists() and not weights.exists())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_tuning_is_in_the_arguments(device: str) -> None:
    serving = Serving(
        device=device,
        dtype="bfloat16",
        max_num_seqs=7,
        max_num_batched_tokens=1_600,
        max_num_queued_reqs=9,
        gpu_memory_utilization=0.5,
        kv_cache_gib=3,
        audio_workers=5,
    )
    flags = {"--dtype=bfloat16", "--max-num-seqs=7", "--max-num-batched-tokens=1600", "--max-num-queued-reqs=9"}
    assert flags | {"VLLM_MAX_AUDIO_PREPROCESS_WORKERS=5"} < set(serving.arguments)
    assert ("--gpu-memory-utilization=0.5" in serving.arguments) == (device == "cuda")
    assert ("VLLM_CPU_KVCACHE_SPACE=3" in serving.arguments) == (device == "cpu")


def test_both_kinds_are_transcribers(socket: Path) -> None:
    both: tuple[Transcriber, ...] = (VllmTranscriber({}), AttachedVllm("nano", uds=socket))
    assert not any(one.ready for one in both)
