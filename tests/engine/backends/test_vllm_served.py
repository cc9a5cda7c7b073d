"""The backend with a real vLLM (its CPU build) and the project's own small checkpoint.

One server serves the whole run: it takes a minute or more to start. The tests that end it stand last.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from engine.backends import vllm_server
from engine.backends.vllm import AttachedVllm, VllmTranscriber
from engine.backends.vllm_server import Serving
from engine.errors import BackendError
from engine.types import SAMPLE_RATE_HZ, Clip, ClipTranscript, DecodingOptions, Task, TextDelta
from tests.engine.backends.real_vllm import CHECKPOINT, LIMIT_S, find_vllm
from tests.engine.backends.test_faster_whisper import is_gone, needs_espeak, spoken

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

ENGLISH = DecodingOptions("en")
SENTENCE = "please close the window"
PROMPT = "yellow river house"

MANY = 32
"""So many clips of 30 s take the server some seconds, and can so be interrupted."""

printed = bytearray()
"""All that vLLM has printed, which the backend itself throws away."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def transcriber() -> AsyncIterator[VllmTranscriber]:
    program = find_vllm()

    async def record(process: Process) -> None:
        assert process.stdout
        while piece := await process.stdout.read(1 << 16):
            printed.extend(piece)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_server, "_read_causes", record)
        serving = Serving(device="cpu", dtype="float32", max_num_seqs=4, max_num_batched_tokens=6000)
        made = VllmTranscriber(
            {"nano": CHECKPOINT}, program=str(program), serving=serving, start_timeout_s=LIMIT_S, restart_delay_s=0
        )
        try:
            await made.start()
        except BackendError:
            pytest.fail(printed.decode(errors="replace")[-10_000:])
        yield made
        await made.close()


async def until(condition: Callable[[], Awaitable[bool]], patience_s: float = 60) -> None:
    async with asyncio.timeout(patience_s):
        while not await condition():  # noqa: ASYNC110  another process's work is no event of ours
            await asyncio.sleep(0.05)


def noise(seconds: float) -> Clip:
    return Clip(0.0, random.Random(7).randbytes(int(2 * SAMPLE_RATE_HZ * seconds)))


async def running(transcriber: VllmTranscriber) -> float:
    """How many requests vLLM is at work on or has waiting."""
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    return sum(sample.value for sample in await transcriber.metrics("nano") if sample.name in names)


# --- what it hears


@needs_espeak
async def test_speech_becomes_text_with_times(transcriber: VllmTranscriber) -> None:
    clip = spoken(SENTENCE)
    transcript = await transcriber.transcribe("nano", clip, ENGLISH)
    assert transcript.text.split() == SENTENCE.split()
    assert transcript.output_tokens == len(SENTENCE.split())
    assert all(segment.avg_logprob < 0 and segment.compression_ratio > 0 for segment in transcript.segments)
    assert 0 <= transcript.segments[0].start_s < transcript.segments[-1].end_s <= clip.duration_s


@needs_espeak
async def test_the_language_is_told_by_its_probability(transcriber: VllmTranscriber) -> None:
    for voice, language, sentence in (("en-us", "en", "good morning"), ("de", "de", "sieben katze")):
        probabilities = await transcriber.languages("nano", spoken(sentence, voice))
        assert max(probabilities, key=lambda one: probabilities[one]) == language
        assert 0.5 < sum(probabilities.values()) < 1.01


@needs_espeak
async def test_speech_is_translated(transcriber: VllmTranscriber) -> None:
    transcript = await transcriber.transcribe(
        "nano", spoken("sieben katze", "de"), DecodingOptions("de", Task.TRANSLATE)
    )
    assert transcript.text.split() == ["seven", "cat"]


@needs_espeak
async def test_the_pieces_of_a_stream_are_its_text(transcriber: VllmTranscriber) -> None:
    async with aclosing(transcriber.stream("nano", spoken(SENTENCE), DecodingOptions("en", prompt=PROMPT))) as stream:
        *pieces, last = [piece async for piece in stream]
    assert isinstance(last, ClipTranscript)
    assert "".join(piece.text for piece in pieces if isinstance(piece, TextDelta)) == last.text
    assert len(pieces) > 1
    assert last.text.split() == SENTENCE.split()
    assert last.prompt_tokens == 1 + len(PROMPT.split()), "the words and the token before them"
    assert last.output_tokens == len(SENTENCE.split()) + 1, "the words and the end"


async def test_silence_is_no_text(transcriber: VllmTranscriber) -> None:
    transcript = await transcriber.transcribe("nano", Clip(0.0, bytes(32_000 * 30)), ENGLISH)
    assert (transcript.text, transcript.segments) == ("", ())


@pytest.mark.parametrize("language", ["bn", "te", "yue", "haw"])
async def test_languages_that_vllm_itself_does_not_know_are_served(transcriber: VllmTranscriber, language: str) -> None:
    await transcriber.transcribe("nano", noise(1), DecodingOptions(language, max_tokens=20))


async def test_a_language_without_a_token_is_a_backend_error(transcriber: VllmTranscriber) -> None:
    with pytest.raises(BackendError):
        await transcriber.transcribe("nano", noise(1), DecodingOptions("xx"))


@pytest.mark.parametrize("seed", range(3))
async def test_segments_follow_each_other_however_wild_the_decoding(transcriber: VllmTranscriber, seed: int) -> None:
    options = DecodingOptions("en", temperature=1.0, sampling={"seed": float(seed)}, prompt="red " * 500)
    clip = noise(30)
    transcript = await transcriber.transcribe("nano", clip, options)
    times = [time for segment in transcript.segments for time in (segment.start_s, segment.end_s)]
    assert times == sorted(times)
    assert all(segment.tokens for segment in transcript.segments)
    assert not [segment for segment in transcript.segments if "<|" in segment.text]


async def test_tokens_are_as_many_as_asked_for(transcriber: VllmTranscriber) -> None:
    transcript = await transcriber.transcribe("nano", noise(5), DecodingOptions("en", temperature=1.0, max_tokens=5))
    assert transcript.output_tokens <= 5


async def test_clips_are_heard_side_by_side(transcriber: VllmTranscriber) -> None:
    clips = [noise(seconds) for seconds in (1, 2, 3, 4, 5, 6)]
    alone = [await transcriber.transcribe("nano", clip, ENGLISH) for clip in clips]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(transcriber.transcribe("nano", clip, ENGLISH)) for clip in clips]
        ballot = group.create_task(transcriber.languages("nano", clips[0]))
    assert [task.result().text for task in tasks] == [transcript.text for transcript in alone]
    assert ballot.result() == await transcriber.languages("nano", clips[0])


async def test_vllms_own_metrics_are_read(transcriber: VllmTranscriber) -> None:
    samples = {(sample.name, sample.reason): sample.value for sample in await transcriber.metrics("nano")}
    assert samples["vllm:request_success_total", "stop"] > 0
    assert samples["vllm:num_requests_running", ""] == 0
    assert samples["vllm:generation_tokens_total", ""] > 0


async def test_a_server_that_runs_already_is_used_as_it_is(transcriber: VllmTranscriber) -> None:
    attached = AttachedVllm("another-name", uds=transcriber.server("nano").directories.socket)
    await attached.start()
    mine = await transcriber.transcribe("nano", noise(1), ENGLISH)
    assert await attached.transcribe("another-name", noise(1), ENGLISH) == mine
    await attached.close()


# --- what it leaves behind


async def test_nothing_is_written_to_a_file_meanwhile(transcriber: VllmTranscriber) -> None:
    directories = transcriber.server("nano").directories

    def files() -> dict[Path, int]:
        found = [path for path in directories.private.rglob("*") if path.is_file()]
        return {path: path.stat().st_mtime_ns for path in found if not path.name.startswith("vllm_dist_")}

    before = files()
    await transcriber.transcribe("nano", noise(30), DecodingOptions("en", prompt=PROMPT * 20))
    await transcriber.languages("nano", noise(30))
    assert files() == before
    assert not [path for path in before if directories.temporary in path.parents]


@needs_espeak
async def test_nothing_of_a_clip_is_printed(transcriber: VllmTranscriber) -> None:
    clip, options = spoken("seven black horse"), DecodingOptions("en", prompt=PROMPT)
    transcript = await transcriber.transcribe("nano", clip, options)
    assert transcript.text.split() == ["seven", "black", "horse"]
    with pytest.raises(BackendError):
        await transcriber.transcribe("nano", clip, replace(options, temperature=-3.0))
    async with aclosing(transcriber.stream("nano", clip, options)) as stream:
        assert [piece async for piece in stream]
    assert printed, "it is captured at all"
    for words in (PROMPT, "yellow", "seven", "black", "horse", "Auto-detected"):
        assert words.encode() not in printed


async def finished(transcriber: VllmTranscriber) -> float:
    """How many requests vLLM has seen through."""
    samples = await transcriber.metrics("nano")
    return sum(sample.value for sample in samples if sample.reason in ("stop", "length"))


async def test_a_cancelled_call_is_aborted(transcriber: VllmTranscriber) -> None:
    before = await finished(transcriber)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(transcriber.transcribe("nano", noise(30), ENGLISH)) for _ in range(MANY)]
        await until(lambda: _is(transcriber, at_work=True))
        for task in tasks:
            task.cancel()
    await until(lambda: _is(transcriber, at_work=False))
    assert await finished(transcriber) - before < MANY


async def _is(transcriber: VllmTranscriber, *, at_work: bool) -> bool:
    return (await running(transcriber) > 0) == at_work


@needs_espeak
async def test_a_stream_that_is_closed_leaves_no_work_behind(transcriber: VllmTranscriber) -> None:
    async with aclosing(transcriber.stream("nano", spoken(SENTENCE), ENGLISH)) as stream:
        await anext(stream)
    await until(lambda: _is(transcriber, at_work=False))


# --- how it ends; each of these starts vLLM anew


def processes(group: int) -> list[int]:
    """All processes of a process group."""
    members = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(directory.name)) == group and not is_gone(int(directory.name)):
                members.append(int(directory.name))
        except ProcessLookupError:
            continue
    return members


async def _is_ready(transcriber: VllmTranscriber, *, expected: bool) -> bool:
    return transcriber.ready == expected


async def test_a_server_that_is_killed_in_a_call_fails_it_and_comes_back(transcriber: VllmTranscriber) -> None:
    first = transcriber.server("nano")
    assert len(processes(first.pid)) > 1, "an API server and an engine"

    tasks = [asyncio.create_task(transcriber.transcribe("nano", noise(30), ENGLISH)) for _ in range(MANY)]  # noqa: TID251
    await until(lambda: _is(transcriber, at_work=True))
    os.kill(first.pid, signal.SIGKILL)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(result, BackendError) for result in results)
    assert all(isinstance(result, (ClipTranscript, BackendError)) for result in results)
    await until(lambda: _is_ready(transcriber, expected=False))
    await until(lambda: _is_ready(transcriber, expected=True), LIMIT_S)
    assert not processes(first.pid), "the engine did not outlive its API server"
    assert not first.directories.private.exists()
    await transcriber.transcribe("nano", noise(1), ENGLISH)
