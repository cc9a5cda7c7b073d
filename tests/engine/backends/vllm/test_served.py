"""What the backend hears from a real vLLM (its CPU build) with the project's own small checkpoint.

The server is the one that the shipped engine has started for the whole run; here its socket is attached to.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import BackendError
from core.program.http.client import open_unix_session
from core.transcript.types import Task
from engine.backends.vllm.transcriber import AttachedVllm
from engine.types import Clip, ClipTranscript, DecodingOptions, TextDelta
from tests.e2e.test_memory import descendants
from tests.engine.backends.faster_whisper.test_transcriber import needs_espeak, noise, spoken
from tests.engine.backends.vllm.real_vllm import VllmEngine
from tests.waiting import until

pytestmark = pytest.mark.slow

ENGLISH = DecodingOptions("en")
SENTENCE = "please close the window"
PROMPT = "yellow river house"

MANY = 24
"""More clips of 30 s than the server hears in one step (21), so that some are still waiting when it is interrupted."""


@pytest.fixture
async def transcriber(vllm_engine: VllmEngine) -> AsyncIterator[AttachedVllm]:
    attached = AttachedVllm("nano", uds=vllm_engine.server().socket)
    await attached.start()
    yield attached
    await attached.close()


async def running(transcriber: AttachedVllm) -> float:
    """How many requests vLLM is at work on or has waiting."""
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    return sum(sample.value for sample in await transcriber.metrics("nano") if sample.name in names)


# --- what it hears


@needs_espeak
async def test_speech_becomes_text_with_times(transcriber: AttachedVllm) -> None:
    clip = spoken(SENTENCE)
    transcript = await transcriber.transcribe("nano", clip, ENGLISH)
    assert transcript.text.split() == SENTENCE.split()
    assert transcript.output_tokens == len(SENTENCE.split())
    assert all(segment.avg_logprob < 0 and segment.compression_ratio > 0 for segment in transcript.segments)
    assert 0 <= transcript.segments[0].start_s < transcript.segments[-1].end_s <= clip.duration_s


@needs_espeak
async def test_the_language_is_told_by_its_probability(transcriber: AttachedVllm) -> None:
    for voice, language, sentence in (("en-us", "en", "good morning"), ("de", "de", "sieben katze")):
        probabilities = await transcriber.languages("nano", spoken(sentence, voice))
        assert max(probabilities, key=lambda one: probabilities[one]) == language
        assert 0.5 < sum(probabilities.values()) < 1.01


@needs_espeak
async def test_speech_is_translated(transcriber: AttachedVllm) -> None:
    transcript = await transcriber.transcribe(
        "nano", spoken("sieben katze", "de"), DecodingOptions("de", Task.TRANSLATE)
    )
    assert transcript.text.split() == ["seven", "cat"]


@needs_espeak
async def test_the_pieces_of_a_stream_are_its_text(transcriber: AttachedVllm) -> None:
    async def heard() -> tuple[list[str], ClipTranscript]:
        options = DecodingOptions("en", prompt=PROMPT)
        async with aclosing(transcriber.stream("nano", spoken(SENTENCE), options)) as stream:
            *pieces, last = [piece async for piece in stream]
        assert isinstance(last, ClipTranscript)
        return [piece.text for piece in pieces if isinstance(piece, TextDelta)], last

    async def came_in_pieces() -> bool:
        """vLLM joins those for which its server has no time: on a busy machine, all of so short a sentence."""
        return len((await heard())[0]) > 1

    await until(came_in_pieces)
    pieces, last = await heard()
    assert "".join(pieces) == last.text
    assert last.text.split() == SENTENCE.split()
    assert last.prompt_tokens == 1 + len(PROMPT.split()), "the words and the token before them"
    assert last.output_tokens == len(SENTENCE.split()) + 1, "the words and the end"


@needs_espeak
async def test_how_likely_there_is_no_speech_is_told(transcriber: AttachedVllm) -> None:
    for clip, likely in ((noise(5), True), (Clip(0.0, bytes(32_000)), True), (spoken(SENTENCE), False)):
        report = await transcriber._client("nano")._report(clip)
        assert report is not None
        assert report.no_speech > 0.9 if likely else report.no_speech < 0.1


async def test_silence_is_no_text(transcriber: AttachedVllm) -> None:
    transcript = await transcriber.transcribe("nano", Clip(0.0, bytes(32_000 * 30)), ENGLISH)
    assert (transcript.text, transcript.segments) == ("", ())


@pytest.mark.parametrize("language", ["bn", "te", "yue", "haw"])
async def test_languages_that_vllm_itself_does_not_know_are_served(transcriber: AttachedVllm, language: str) -> None:
    await transcriber.transcribe("nano", noise(1), DecodingOptions(language, max_tokens=20))


async def test_a_language_without_a_token_is_a_backend_error(transcriber: AttachedVllm) -> None:
    with pytest.raises(BackendError):
        await transcriber.transcribe("nano", noise(1), DecodingOptions("xx"))


@pytest.mark.parametrize("seed", range(3))
async def test_segments_follow_each_other_however_wild_the_decoding(transcriber: AttachedVllm, seed: int) -> None:
    options = DecodingOptions("en", temperature=1.0, sampling={"seed": float(seed)}, prompt="red " * 500)
    clip = noise(30)
    transcript = await transcriber.transcribe("nano", clip, options)
    times = [time for segment in transcript.segments for time in (segment.start_s, segment.end_s)]
    assert times == sorted(times)
    assert all(segment.tokens for segment in transcript.segments)
    assert not [segment for segment in transcript.segments if "<|" in segment.text]


async def test_tokens_are_as_many_as_asked_for(transcriber: AttachedVllm) -> None:
    transcript = await transcriber.transcribe("nano", noise(5), DecodingOptions("en", temperature=1.0, max_tokens=5))
    assert transcript.output_tokens <= 5


async def test_clips_are_heard_side_by_side(transcriber: AttachedVllm) -> None:
    clips = [noise(seconds) for seconds in (1, 2, 3, 4, 5, 6)]
    alone = [await transcriber.transcribe("nano", clip, ENGLISH) for clip in clips]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(transcriber.transcribe("nano", clip, ENGLISH)) for clip in clips]
        ballot = group.create_task(transcriber.languages("nano", clips[0]))
    assert [task.result().text for task in tasks] == [transcript.text for transcript in alone]
    assert ballot.result() == await transcriber.languages("nano", clips[0])


async def test_vllms_own_metrics_are_read(transcriber: AttachedVllm) -> None:
    samples = {(sample.name, sample.reason): sample.value for sample in await transcriber.metrics("nano")}
    assert samples["vllm:request_success_total", "stop"] > 0
    assert samples["vllm:num_requests_running", ""] == 0
    assert samples["vllm:generation_tokens_total", ""] > 0


async def test_no_cache_is_shared_between_requests(vllm_engine: VllmEngine, transcriber: AttachedVllm) -> None:
    for _ in range(2):
        await transcriber.transcribe("nano", noise(5), DecodingOptions("en", prompt=PROMPT))
    async with (
        open_unix_session(vllm_engine.server().socket, connect_timeout_s=5, idle_timeout_s=60) as session,
        session.get("http://vllm/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    hits = [line for line in lines if "cache_hits_total" in line and not line.startswith("#")]
    assert hits, "it counts them"
    assert {float(line.rsplit(maxsplit=1)[1]) for line in hits} == {0.0}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees the sockets of processes that hide")
def test_nothing_of_it_listens_to_another_machine(vllm_engine: VllmEngine) -> None:
    listens_to_this_machine_alone(vllm_engine.program.process.pid)


def listens_to_this_machine_alone(engine: int) -> None:
    """Check a process and all that it has started."""
    held = {file for pid in descendants(engine) for file in open_files(pid)}
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    listening = {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in held}
    loopback = {address for address in listening if address.startswith(("0100007F:", f"{'0' * 24}01000000:"))}
    assert len(listening) >= 2, "the engine's own, if nothing else"
    assert listening == loopback


def open_files(pid: int) -> Iterator[str]:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield str(descriptor.readlink())


async def test_a_server_may_call_the_model_by_another_name(vllm_engine: VllmEngine) -> None:
    attached = AttachedVllm("another-name", uds=vllm_engine.server().socket)
    await attached.start()
    await attached.transcribe("another-name", noise(1), ENGLISH)
    await attached.close()


# --- what it leaves behind


async def test_nothing_is_written_to_a_file_meanwhile(vllm_engine: VllmEngine, transcriber: AttachedVllm) -> None:
    private = vllm_engine.server().private

    def files() -> dict[Path, int]:
        found = [path for path in private.rglob("*") if path.is_file()]
        return {path: path.stat().st_mtime_ns for path in found if not path.name.startswith("vllm_dist_")}

    before = files()
    await transcriber.transcribe("nano", noise(30), DecodingOptions("en", prompt=PROMPT * 20))
    await transcriber.languages("nano", noise(30))
    assert files() == before
    assert not [path for path in before if private / "tmp" in path.parents]


@needs_espeak
async def test_nothing_of_a_clip_is_printed(vllm_engine: VllmEngine, transcriber: AttachedVllm) -> None:
    clip, options = spoken("seven black horse"), DecodingOptions("en", prompt=PROMPT)
    transcript = await transcriber.transcribe("nano", clip, options)
    assert transcript.text.split() == ["seven", "black", "horse"]
    with pytest.raises(BackendError):
        await transcriber.transcribe("nano", clip, replace(options, temperature=-3.0))
    async with aclosing(transcriber.stream("nano", clip, options)) as stream:
        assert [piece async for piece in stream]
    printed = vllm_engine.printed.read_bytes()
    assert printed, "it is captured at all"
    for words in (PROMPT, "yellow", "seven", "black", "horse", "Auto-detected"):
        assert words.encode() not in printed


async def finished(transcriber: AttachedVllm) -> float:
    """How many requests vLLM has seen through."""
    samples = await transcriber.metrics("nano")
    return sum(sample.value for sample in samples if sample.reason in ("stop", "length"))


async def test_a_cancelled_call_is_aborted(transcriber: AttachedVllm) -> None:
    before = await finished(transcriber)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(transcriber.transcribe("nano", noise(30), ENGLISH)) for _ in range(MANY)]
        await until(lambda: _is(transcriber, at_work=True))
        for task in tasks:
            task.cancel()
    await transcriber.transcribe("nano", noise(1), ENGLISH)  # vLLM counts anew only when there is work
    await until(lambda: _is(transcriber, at_work=False))
    assert await finished(transcriber) - before <= MANY


async def _is(transcriber: AttachedVllm, *, at_work: bool) -> bool:
    return (await running(transcriber) > 0) == at_work


@needs_espeak
async def test_a_stream_that_is_closed_leaves_no_work_behind(transcriber: AttachedVllm) -> None:
    async with aclosing(transcriber.stream("nano", spoken(SENTENCE), ENGLISH)) as stream:
        await anext(stream)
    await transcriber.transcribe("nano", noise(1), ENGLISH)
    await until(lambda: _is(transcriber, at_work=False))
