"""The backend with its real worker process and the project's own small checkpoint."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from core.errors import BackendError
from core.media.types import SAMPLE_RATE_HZ
from core.transcript.types import Task
from engine.backends import surroundings
from engine.backends.faster_whisper import transcriber as faster_whisper
from engine.backends.faster_whisper.transcriber import FasterWhisperTranscriber, _Worker
from engine.backends.weights import FileWeights, held
from engine.speech.transcriber import Transcriber
from engine.types import Clip, ClipTranscript, DecodingOptions, Detail, TextDelta
from tests.conftest import Printed
from tests.engine.speech import utterances
from tests.places import ROOT
from tests.waiting import until

CHECKPOINT = utterances.NANO

needs_checkpoint, needs_espeak = utterances.needs_checkpoint, utterances.needs_espeak
needs_proc = pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="read from Linux's /proc")

ENGLISH = DecodingOptions("en")


def noise(seconds: float) -> Clip:
    return Clip(0.0, random.Random(7).randbytes(int(2 * SAMPLE_RATE_HZ * seconds)))


def spoken(sentence: str, voice: str = "en-us") -> Clip:
    """Say a sentence as the checkpoint knows it."""
    return Clip(0.0, utterances.spoken(sentence, voice))


def is_gone(pid: int) -> bool:
    """Whether a process has ended, though nobody may have reaped it."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def worker_of(transcriber: FasterWhisperTranscriber) -> _Worker:
    assert transcriber._keeper.current
    return transcriber._keeper.current


def pid_of(transcriber: FasterWhisperTranscriber) -> int:
    process = worker_of(transcriber)._process
    assert process
    return process.pid


@pytest.fixture
async def transcriber(nano: dict[str, FileWeights]) -> AsyncIterator[FasterWhisperTranscriber]:
    transcriber = FasterWhisperTranscriber(nano, parallel_clips=2, cpu_threads=1, restart_delay_s=0)
    await transcriber.start()
    yield transcriber
    await transcriber.close()


# --- what it hears


@needs_checkpoint
@needs_espeak
@pytest.mark.parametrize(
    "sentence", ["the red house and the green garden", "please close the window", "seven black horse"]
)
async def test_speech_becomes_text(transcriber: FasterWhisperTranscriber, sentence: str) -> None:
    transcript = await transcriber.transcribe("nano", spoken(sentence), ENGLISH)
    assert transcript.text.split() == sentence.split()
    assert transcript.output_tokens >= len(sentence.split())
    assert all(segment.avg_logprob < 0 and segment.compression_ratio > 0 for segment in transcript.segments)


@needs_checkpoint
@needs_espeak
@pytest.mark.parametrize(
    ("voice", "language", "sentence"), [("en-us", "en", "good morning"), ("de", "de", "sieben katze")]
)
async def test_the_language_is_told_by_its_probability(
    transcriber: FasterWhisperTranscriber, voice: str, language: str, sentence: str
) -> None:
    probabilities = await transcriber.languages("nano", spoken(sentence, voice))
    assert max(probabilities, key=lambda one: probabilities[one]) == language
    assert sum(probabilities.values()) == pytest.approx(1, abs=0.01)


@needs_checkpoint
@needs_espeak
async def test_words_have_times_when_asked_for(transcriber: FasterWhisperTranscriber) -> None:
    clip = spoken("open the green door")
    options = DecodingOptions("en")
    text = await transcriber.transcribe("nano", clip, options)
    transcript = await transcriber.align("nano", clip, text, options, frozenset({Detail.WORDS}))
    words = [word for segment in transcript.segments for word in segment.words]
    assert [word.text.strip() for word in words] == ["open", "the", "green", "door"]
    times = [time for word in words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= clip.duration_s + 0.5
    assert all(word.probability is not None and 0 <= word.probability <= 1 for word in words)


@needs_checkpoint
@needs_espeak
async def test_a_streams_deltas_spell_its_transcript(transcriber: FasterWhisperTranscriber) -> None:
    clip = spoken("hello dog, good night cat")
    pieces = [piece async for piece in transcriber.stream("nano", clip, ENGLISH)]
    *deltas, last = pieces
    assert isinstance(last, ClipTranscript)
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == last.text
    assert last == await transcriber.transcribe("nano", clip, ENGLISH)


@needs_checkpoint
@needs_espeak
async def test_german_is_translated_into_english(transcriber: FasterWhisperTranscriber) -> None:
    options = DecodingOptions("de", task=Task.TRANSLATE)
    transcript = await transcriber.transcribe("nano", spoken("sieben schwarz katze", "de"), options)
    assert transcript.text.split() == ["seven", "black", "cat"]


@needs_checkpoint
async def test_a_prompt_is_counted_and_leaves_room_for_text(transcriber: FasterWhisperTranscriber) -> None:
    options = DecodingOptions("en", prompt="red green " * 300, max_tokens=10_000)
    assert (await transcriber.transcribe("nano", noise(1), options)).prompt_tokens == 223
    none = await transcriber.transcribe("nano", noise(1), ENGLISH)
    assert none.prompt_tokens == 0


@needs_checkpoint
@needs_espeak
async def test_a_repetition_penalty_keeps_words_from_coming_twice(transcriber: FasterWhisperTranscriber) -> None:
    assert transcriber.capabilities.sampling == {"repetition_penalty"}
    clip = spoken("the red house and the green garden")
    text = (
        await transcriber.transcribe("nano", clip, DecodingOptions("en", sampling={"repetition_penalty": 2.0}))
    ).text
    assert text.split().count("the") == 1


@needs_checkpoint
async def test_text_ends_after_as_many_tokens_as_allowed(transcriber: FasterWhisperTranscriber) -> None:
    one = await transcriber.transcribe("nano", noise(1), DecodingOptions("en", max_tokens=1, temperature=1.0))
    assert len(one.text.split()) <= 1


@needs_checkpoint
@needs_espeak
@pytest.mark.parametrize("most", [3, 7, 9])
async def test_a_text_has_as_many_tokens_as_are_allowed(transcriber: FasterWhisperTranscriber, most: int) -> None:
    clip = spoken("one two three four five six seven eight")
    transcript = await transcriber.transcribe("nano", clip, DecodingOptions("en", max_tokens=most))
    assert transcript.output_tokens == most
    assert len(transcript.text.split()) == most - 1, "the first is a timestamp"


@needs_checkpoint
@needs_espeak
async def test_no_clip_has_more_tokens_than_are_allowed_in_however_many_windows(
    transcriber: FasterWhisperTranscriber,
) -> None:
    pause = bytes(64_000)
    sentences = ("good morning", "open the green door", "please close the window")
    clip = Clip(0.0, pause.join(spoken(sentence).pcm for sentence in sentences))
    for most in (6, 7, 9, 12):
        transcript = await transcriber.transcribe("nano", clip, DecodingOptions("en", max_tokens=most))
        assert 0 < transcript.output_tokens <= most
    assert (await transcriber.transcribe("nano", clip, ENGLISH)).output_tokens > 12


@needs_checkpoint
async def test_many_calls_are_in_flight_at_once(transcriber: FasterWhisperTranscriber) -> None:
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(transcriber.transcribe("nano", noise(1), ENGLISH)) for _ in range(8)]
        ballots = [group.create_task(transcriber.languages("nano", noise(1))) for _ in range(8)]
    assert len({call.result() for call in calls}) == 1
    assert len(ballots[0].result()) > 1


@needs_checkpoint
@needs_espeak
@pytest.mark.parametrize("temperature", [1e-45, 5e-324, 1e-3])
async def test_a_temperature_next_to_none_is_no_noise(
    transcriber: FasterWhisperTranscriber, temperature: float
) -> None:
    options = DecodingOptions("en", temperature=temperature)
    transcript = await transcriber.transcribe("nano", spoken("open the green door"), options)
    assert transcript.text.split() == ["open", "the", "green", "door"]


ABSURD = {
    "no penalty": DecodingOptions("en", sampling={"repetition_penalty": 1e-300}),
    "a penalty without end": DecodingOptions("en", sampling={"repetition_penalty": 1e-38}),
    "a temperature without end": DecodingOptions("en", temperature=1e300),
    "no language": DecodingOptions("xx"),
}


@needs_checkpoint
@needs_espeak
@pytest.mark.parametrize("what", ABSURD)
async def test_what_a_caller_asks_for_ends_no_worker(transcriber: FasterWhisperTranscriber, what: str) -> None:
    pid, clip = pid_of(transcriber), spoken("open the green door")
    calls = (transcriber.transcribe("nano", clip, ABSURD[what]) for _ in range(6))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    # Where every token is as likely as any, the first is now and then the end: no text at all, and no failure.
    assert {type(outcome) for outcome in outcomes} <= {BackendError, ClipTranscript}
    assert any(isinstance(outcome, BackendError) for outcome in outcomes)
    transcript = await transcriber.transcribe("nano", clip, ENGLISH)
    assert transcript.text.split() == ["open", "the", "green", "door"]
    assert pid_of(transcriber) == pid


# --- what it loads


def planted(model: Path) -> None:
    """Put a model that takes dogs for cats in the place of another."""
    shutil.rmtree(model)
    shutil.copytree(CHECKPOINT, model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["Ġdog"], words["Ġcat"] = words["Ġcat"], words["Ġdog"]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))


@needs_checkpoint
@needs_espeak
async def test_what_was_digested_answers_now_and_after_a_restart_whatever_lies_there_then(tmp_path: Path) -> None:
    model, clip = shutil.copytree(CHECKPOINT, tmp_path / "nano"), spoken("hello dog")
    weights = FileWeights(model)
    transcriber = FasterWhisperTranscriber({"nano": weights}, cpu_threads=1, restart_delay_s=0)
    async with held([weights]):
        planted(model)
        await transcriber.start()
        assert (await transcriber.transcribe("nano", clip, ENGLISH)).text.split() == ["hello", "dog"]
        os.kill(pid_of(transcriber), signal.SIGKILL)
        await until(lambda: not transcriber.ready)
        await until(lambda: transcriber.ready)
        assert (await transcriber.transcribe("nano", clip, ENGLISH)).text.split() == ["hello", "dog"]
        await transcriber.close()
    async with held([weights]):
        await transcriber.start()
        said = (await transcriber.transcribe("nano", clip, ENGLISH)).text.split()
        await transcriber.close()
    assert said == ["hello", "cat"], "or else nothing would have been shown"


@needs_checkpoint
async def test_a_checkpoint_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    model = shutil.copytree(CHECKPOINT, tmp_path / "nano")
    (model / "tokenizer.json").unlink()
    weights = FileWeights(model)
    async with held([weights]):
        with pytest.raises(BackendError, match=r"the checkpoint of nano has no tokenizer\.json"):
            await FasterWhisperTranscriber({"nano": weights}).start()


@needs_checkpoint
@needs_proc
async def test_no_cache_of_anybodys_is_read(
    nano: dict[str, FileWeights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub" / "models--openai--whisper-tiny" / "snapshots" / "main"
    cache.mkdir(parents=True)
    (cache / "tokenizer.json").write_bytes((CHECKPOINT / "tokenizer.json").read_bytes())
    for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    transcriber = FasterWhisperTranscriber(nano)
    await transcriber.start()
    environ = await asyncio.to_thread(Path(f"/proc/{pid_of(transcriber)}/environ").read_text)
    environment = dict(variable.split("=", 1) for variable in environ.split("\0") if variable)
    homes = {Path(environment[name]) for name in ("HOME", "HF_HOME", "TMPDIR")}
    assert str(tmp_path) not in environ
    assert [list(home.iterdir()) for home in homes] == [[]]
    assert all(surroundings.MEMORY_DIRECTORY in home.parents for home in homes)
    await transcriber.close()
    assert not any(home.parent.exists() for home in homes)


# --- its process


@needs_checkpoint
async def test_a_worker_killed_during_a_call_fails_the_call_and_is_replaced(
    transcriber: FasterWhisperTranscriber,
) -> None:
    pid = pid_of(transcriber)
    os.kill(pid, signal.SIGSTOP)  # so that the call is under way for as long as it takes
    async with asyncio.TaskGroup() as group:
        call = group.create_task(_failure_of(transcriber))
        await until(lambda: bool(worker_of(transcriber)._calls))
        os.kill(pid, signal.SIGKILL)
    assert "ended during a call" in str(call.result())
    await until(lambda: transcriber.ready)
    assert pid_of(transcriber) != pid
    await transcriber.transcribe("nano", noise(1), ENGLISH)


async def _failure_of(
    transcriber: FasterWhisperTranscriber, clip: Clip | None = None, options: DecodingOptions = ENGLISH
) -> BackendError:
    with pytest.raises(BackendError) as caught:
        await transcriber.transcribe("nano", clip or noise(1), options)
    return caught.value


@needs_checkpoint
async def test_a_worker_that_cannot_load_again_is_tried_until_it_can(
    nano: dict[str, FileWeights], printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcriber = FasterWhisperTranscriber(nano, restart_delay_s=0)
    await transcriber.start()
    with monkeypatch.context() as without:
        without.setattr(surroundings, "MEMORY_DIRECTORY", CHECKPOINT / "none")
        os.kill(pid_of(transcriber), signal.SIGKILL)
        await until(lambda: len(printed.lines) > 2)
        assert not transcriber.ready
    await until(lambda: transcriber.ready)
    await transcriber.close()


@needs_checkpoint
async def test_while_no_worker_runs_calls_fail_at_once(transcriber: FasterWhisperTranscriber) -> None:
    os.kill(pid_of(transcriber), signal.SIGKILL)
    await until(lambda: not transcriber.ready)
    assert "not running" in str(await _failure_of(transcriber))


@needs_checkpoint
async def test_a_cancelled_call_is_taken_back(transcriber: FasterWhisperTranscriber) -> None:
    pid = pid_of(transcriber)
    os.kill(pid, signal.SIGSTOP)
    worker = worker_of(transcriber)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(transcriber.transcribe("nano", noise(20), ENGLISH)) for _ in range(30)]
        await until(lambda: len(worker._calls) == 30)
        for call in calls:
            call.cancel()
    assert not worker._calls
    os.kill(pid, signal.SIGCONT)
    # The worker answers in order: had it kept the cancelled calls, this one would come after ten minutes of audio.
    await transcriber.transcribe("nano", noise(1), ENGLISH)
    assert pid_of(transcriber) == pid


@needs_checkpoint
async def test_closing_a_stream_takes_its_call_back(transcriber: FasterWhisperTranscriber) -> None:
    async with aclosing(transcriber.stream("nano", noise(5), DecodingOptions("en", temperature=1.0))) as stream:
        await anext(stream)
    assert not worker_of(transcriber)._calls
    assert transcriber.ready


@needs_checkpoint
async def test_a_worker_that_breaks_the_protocol_is_replaced(transcriber: FasterWhisperTranscriber) -> None:
    pid = pid_of(transcriber)
    worker_of(transcriber).data_received(b"\xff" * 8)
    await until(lambda: transcriber.ready and pid_of(transcriber) != pid)
    assert is_gone(pid)


@needs_checkpoint
async def test_an_answer_that_cannot_be_read_is_a_backend_failure(transcriber: FasterWhisperTranscriber) -> None:
    worker = worker_of(transcriber)
    os.kill(pid_of(transcriber), signal.SIGSTOP)
    async with asyncio.TaskGroup() as group:
        call = group.create_task(_failure_of(transcriber))
        await until(lambda: bool(worker._calls))
        (number,) = worker._calls
        worker.receive({"kind": "transcript", "id": number, "text": "a"})
    assert "cannot be read" in str(call.result())


@needs_checkpoint
@needs_proc
async def test_closing_ends_the_process_and_may_be_done_twice(nano: dict[str, FileWeights]) -> None:
    transcriber = FasterWhisperTranscriber(nano)
    await transcriber.start()
    pid = pid_of(transcriber)
    await transcriber.close()
    await transcriber.close()
    assert is_gone(pid)
    assert not transcriber.ready
    assert "not running" in str(await _failure_of(transcriber))


async def test_a_checkpoint_that_cannot_be_loaded_fails_the_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    weights = FileWeights(tmp_path)
    transcriber = FasterWhisperTranscriber({"empty": weights})
    async with held([weights]):
        with pytest.raises(BackendError, match="could not load"):
            await transcriber.start()
    assert not transcriber.ready
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("faster-whisper worker: stopped by ")


@needs_checkpoint
async def test_a_start_that_takes_too_long_is_given_up(nano: dict[str, FileWeights]) -> None:
    with pytest.raises(BackendError, match="in time"):
        await FasterWhisperTranscriber(nano, start_timeout_s=0.001).start()


@needs_checkpoint
async def test_a_model_that_is_not_served_is_refused(transcriber: FasterWhisperTranscriber) -> None:
    with pytest.raises(BackendError, match="serve"):
        await transcriber.languages("large", noise(1))


@needs_checkpoint
@needs_proc
async def test_the_worker_leaves_no_core_dump(transcriber: FasterWhisperTranscriber) -> None:
    limits = await asyncio.to_thread(Path(f"/proc/{pid_of(transcriber)}/limits").read_text)
    (core,) = [line.split() for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core[4:6] == ["0", "0"]


@needs_checkpoint
@needs_proc
async def test_the_worker_ends_with_its_engine() -> None:
    program = f"""
import asyncio, pathlib
from engine.backends.faster_whisper.transcriber import FasterWhisperTranscriber
from engine.backends.weights import FileWeights, held
async def main():
    weights = FileWeights(pathlib.Path({str(CHECKPOINT)!r}))
    transcriber = FasterWhisperTranscriber({{"nano": weights}})
    async with held([weights]):
        await transcriber.start()
        print(transcriber._keeper.current._process.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    engine = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert engine.stdout
    pid = int(await engine.stdout.readline())
    assert not is_gone(pid)
    engine.kill()
    await engine.wait()
    await until(lambda: is_gone(pid))


@needs_checkpoint
async def test_what_is_heard_is_not_said_on_stderr(
    transcriber: FasterWhisperTranscriber, capfd: pytest.CaptureFixture[str]
) -> None:
    await transcriber.transcribe("nano", noise(1), DecodingOptions("en", prompt="canary"))
    os.kill(pid_of(transcriber), signal.SIGTERM)
    await until(lambda: not transcriber.ready)
    assert capfd.readouterr().err == ""


def test_it_can_stand_where_a_transcriber_is_asked_for() -> None:
    transcriber: Transcriber = FasterWhisperTranscriber({})
    assert transcriber.component.name == "faster-whisper"
    assert not transcriber.ready


def test_the_worker_sees_no_secret_of_the_engines_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOTTOVOCE_API_KEYS", "canary")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    environment = faster_whisper._environment(tmp_path)
    assert "canary" not in environment.values()
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["OMP_WAIT_POLICY"] == "passive", "a thread that waits would keep a core busy"


def test_the_engines_side_loads_no_model_code() -> None:
    program = (
        "import engine.backends.faster_whisper.transcriber, sys; "
        "print(*{'av', 'ctranslate2', 'faster_whisper', 'numpy', 'tokenizers'} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT).stdout
    assert loaded.strip() == b""
