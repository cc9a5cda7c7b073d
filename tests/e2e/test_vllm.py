"""The shipped programs with a real vLLM behind them, from an app's request to the words and their times."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
import pytest_asyncio

from engine.backends.vllm.transcriber import AttachedVllm
from tests.e2e.conftest import TRANSCRIPTIONS, form
from tests.e2e.processes import POLICY, RECORDING, SAID, Program, proxy, until_ready
from tests.engine.backends.faster_whisper.test_transcriber import is_gone
from tests.engine.backends.vllm.real_vllm import LIMIT_S, VllmEngine, find_vllm
from tests.speaker import Recording, record
from tests.waiting import until
from tests.word_errors import word_errors

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

SENTENCES = {
    "en": (
        *(
            "good morning my blue bird",
            "please open the garden door",
            "seven black horse",
            "the city is red and yellow",
        ),
        *("open the window", "milk bread and water", "my house is green", "zero four nine two"),
    ),
    "de": (
        *("sieben schwarz katze", "vier fünf acht drei", "wasser brot tisch fenster", "hund vogel katze"),
        *("fluss stadt berg nacht", "geld rot grün gelb"),
    ),
    "es": (
        *("gato negro caballo", "uno dos tres cuatro", "agua pan mesa ventana", "perro río ciudad"),
        *("montaña noche dinero", "rojo verde amarillo cinco"),
    ),
    "fr": (
        *("maison rouge fenêtre", "un deux trois quatre", "lait chat chien", "rivière ville oiseau cheval"),
        *("montagne nuit argent porte", "vert noir jaune cinq"),
    ),
}
"""With pauses between them that are cut out, so that vLLM hears each as a clip of its own."""

APART_S = 11.0
"""More silence than stays in a clip: of several sentences in one the small checkpoint, decoded greedily, loses some."""

NEAR_S = 0.2
NAMES = {"en": "english", "de": "german", "es": "spanish", "fr": "french"}


@dataclass(frozen=True, slots=True)
class Served:
    """The engine and a proxy in front of it."""

    vllm: VllmEngine
    proxy: Program
    session: aiohttp.ClientSession

    @property
    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.proxy.url}/v1", api_key="x", max_retries=0, timeout=LIMIT_S)

    async def post(self, file: bytes, **fields: str) -> bytes:
        """What a request without an SDK is answered with."""
        async with self.session.post(self.proxy.url + TRANSCRIPTIONS, data=form(file, **fields)) as response:
            body = await response.read()
            assert response.status == 200, body
            return body


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(vllm_engine: VllmEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    log = tmp_path_factory.mktemp("logs") / "proxy"
    patience = aiohttp.ClientTimeout(total=LIMIT_S)
    # vLLM lies where its tests want it, which no image does.
    policy = log.with_name("policy.toml")
    policy.write_text(f'{POLICY.read_text()}\n[statement]\nallow_options = ["allow_vllm_program"]\n')
    async with (
        proxy(log, vllm_engine.program.url, policy=policy) as front,
        aiohttp.ClientSession(timeout=patience) as session,
    ):
        await until_ready(front, LIMIT_S)
        yield Served(vllm_engine, front, session)


def few() -> Recording:
    return record("en", *SENTENCES["en"][:3], pause_s=APART_S)


def errors_s(found: Iterable[tuple[float, float]], true: Iterable[tuple[float, float]]) -> list[float]:
    """How far off each pair of times is at its worse end."""
    pairs = zip(found, true, strict=True)
    return [max(abs(start - true_start), abs(end - true_end)) for (start, end), (true_start, true_end) in pairs]


# --- times


@pytest.mark.parametrize("language", SENTENCES)
async def test_every_word_has_its_time(
    served: Served, language: str, record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    recording = record(language, *SENTENCES[language], pause_s=APART_S)
    async with served.client as client:
        answer = await client.audio.transcriptions.create(
            model="nano",
            file=("words.wav", recording.wav),
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    words = answer.words or []
    assert answer.language == NAMES[language]
    assert tuple(word.word for word in words) == recording.words
    errors = errors_s([(word.start, word.end) for word in words], recording.times_s)
    near = sum(error <= NEAR_S for error in errors) / len(errors)
    summary = f"{len(errors)} words, median error {median(errors):.3f} s, greatest {max(errors):.3f} s"
    record_property(f"word_times_{language}", summary)
    with capsys.disabled():
        sys.stdout.write(f"\nword times, vLLM, {language}: {summary}\n")
    assert near >= 0.95, summary


async def test_segments_have_times_and_figures_and_bear_words_only_when_asked(served: Served) -> None:
    recording = few()
    async with served.client as client:
        answer = await client.audio.transcriptions.create(
            model="nano", file=("a.wav", recording.wav), response_format="verbose_json"
        )
    segments = answer.segments or []
    assert answer.words is None
    assert answer.text == recording.text
    assert tuple(segment.text.strip() for segment in segments) == recording.sentences
    assert max(errors_s([(one.start, one.end) for one in segments], recording.sentence_times_s)) <= NEAR_S
    assert [segment.id for segment in segments] == [*range(len(segments))]
    assert all(segment.avg_logprob < 0 and segment.tokens and segment.no_speech_prob == 0 for segment in segments)


CUE = re.compile(r"(\d\d):(\d\d):(\d\d)[.,](\d{3}) --> (\d\d):(\d\d):(\d\d)[.,](\d{3})\n(.*)\n\n")


@pytest.mark.parametrize("format_", ["srt", "vtt"])
async def test_subtitles_stand_where_the_sentences_are(served: Served, format_: str) -> None:
    recording = few()
    body = (await served.post(recording.wav, response_format=format_)).decode()
    assert body.startswith("1\n" if format_ == "srt" else "WEBVTT\n\n")
    cues = [(_seconds(*found[:4]), _seconds(*found[4:8]), found[8]) for found in CUE.findall(body)]
    assert tuple(text for *_, text in cues) == recording.sentences
    assert max(errors_s([(start, end) for start, end, _ in cues], recording.sentence_times_s)) <= NEAR_S


def _seconds(hours: str, minutes: str, seconds: str, thousandths: str) -> float:
    return (int(hours) * 60 + int(minutes)) * 60 + int(seconds) + int(thousandths) / 1000


# --- long silences

SILENCE_S = 20.0
SENTENCES_IN_LONG = 14
MORE_ERRORS = 1
"""How many words the long recording may get wrong beyond those of its sentences alone: where a clip begins may differ
by a window of silence, which a model can notice."""


async def test_long_silences_cost_no_word_and_invent_none(served: Served) -> None:
    recording = record("en", *islice(cycle(SENTENCES["en"]), SENTENCES_IN_LONG), pause_s=SILENCE_S)
    apart = {one: json.loads(await served.post(record("en", one).wav))["text"].split() for one in SENTENCES["en"]}
    async with served.client as client:
        answer = await client.audio.transcriptions.create(
            model="nano",
            file=("long.wav", recording.wav),
            language="en",
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    in_pieces = sum(word_errors(one.split(), apart[one]) for one in recording.sentences)
    assert answer.duration > 300
    assert word_errors(recording.words, answer.text.split()) <= in_pieces + MORE_ERRORS

    words, segments = answer.words or [], answer.segments or []
    assert " ".join(word.word for word in words) == answer.text
    times = [(one.start, one.end) for one in words] + [(one.start, one.end) for one in segments]
    assert [time for time in times if not is_in_speech(time, recording)] == []
    edges = [edge for word in words for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert [segment.id for segment in segments] == [*range(len(recording.sentences))], "one for each, each once"


def is_in_speech(time: tuple[float, float], recording: Recording) -> bool:
    start_s, end_s = time
    return any(first - NEAR_S <= start_s <= end_s <= last + NEAR_S for first, last in recording.sentence_times_s)


# --- text


async def test_plain_text_and_json_hold_the_words(served: Served) -> None:
    assert await served.post(RECORDING.read_bytes(), response_format="text") == SAID.encode() + b"\n"
    answer = json.loads(await served.post(RECORDING.read_bytes()))
    assert answer == {"text": SAID, "languages": [{"code": "en"}], "usage": {"type": "duration", "seconds": 4}}


async def test_speech_is_translated(served: Served) -> None:
    data = form(record("de", "sieben schwarz katze").wav)
    async with served.session.post(f"{served.proxy.url}/v1/audio/translations", data=data) as response:
        assert await response.json() == {"text": "seven black cat"}


async def test_the_deltas_of_a_stream_spell_its_text(served: Served) -> None:
    recording = few()
    async with served.client as client:
        stream = await client.audio.transcriptions.create(model="nano", file=("a.wav", recording.wav), stream=True)
        events = [event async for event in stream]
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) == len(recording.words), "as vLLM makes them, token by token"
    assert "".join(deltas) == recording.text
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == recording.text


async def test_sampling_fields_reach_the_model(served: Served) -> None:
    speech = np.frombuffer(record("en", *SENTENCES["en"][:3]).pcm, "<i2")
    hiss = np.random.default_rng(7).standard_normal(len(speech)) * 500  # so that the model is unsure
    noisy = Recording((), (), np.clip(speech + hiss, -32768, 32767).astype("<i2").tobytes()).wav

    async def guess(**sampling: int) -> str:
        async with served.client as client:
            stream = await client.audio.transcriptions.create(
                model="nano",
                file=("noisy.wav", noisy),
                language="en",
                temperature=1,
                stream=True,
                chunking_strategy={"type": "server_vad", "threshold": 0},
                extra_body=sampling,
            )
            *_, done = [event async for event in stream]
        assert done.type == "transcript.text.done"
        return done.text

    first, again, other = await guess(seed=1), await guess(seed=1), await guess(seed=2)
    assert first == again != other
    assert await guess(seed=1, top_k=1) == await guess(seed=2, top_k=1)


# --- how likely each token is


def check_logprobs(logprobs: Any, text: str) -> None:
    assert "".join(one.token for one in logprobs).strip() == text
    assert all(one.logprob <= 0 and bytes(map(int, one.bytes)).decode() == one.token for one in logprobs)
    assert sum(one.logprob for one in logprobs) / len(logprobs) > -0.5, "the model is sure of what it was trained on"


async def test_tokens_bear_their_log_probabilities_when_asked_for(served: Served) -> None:
    recording = few()
    async with served.client as client:
        answer = await client.audio.transcriptions.create(
            model="nano", file=("a.wav", recording.wav), include=["logprobs"]
        )
        plain = await client.audio.transcriptions.create(model="nano", file=RECORDING)
    check_logprobs(answer.logprobs, recording.text)
    assert plain.logprobs is None


async def test_a_stream_bears_log_probabilities_a_clip_at_a_time(served: Served) -> None:
    recording = few()
    async with served.client as client:
        stream = await client.audio.transcriptions.create(
            model="nano", file=("a.wav", recording.wav), include=["logprobs"], stream=True
        )
        *deltas, done = [event async for event in stream]
    assert len(deltas) == len(recording.sentences)
    for delta, sentence in zip(deltas, recording.sentences, strict=True):
        assert delta.type == "transcript.text.delta"
        assert delta.delta.strip() == sentence
        check_logprobs(delta.logprobs, sentence)
    assert done.type == "transcript.text.done"
    check_logprobs(done.logprobs, done.text)


# --- vLLM's own load generator

BENCH = """
import asyncio, json, sys
import aiohttp, soundfile
from vllm.benchmarks.lib.endpoint_request_func import RequestFuncInput, async_request_openai_audio

async def main(url, path):
    asked = RequestFuncInput(prompt="", api_url=url, prompt_len=1, output_len=256, model="nano",
                             multi_modal_content={"audio": soundfile.read(path)})
    async with aiohttp.ClientSession() as session:
        got = await async_request_openai_audio(asked, session)
    print(json.dumps([got.success, got.generated_text, got.output_tokens, len(got.itl), got.error]))

asyncio.run(main(*sys.argv[1:]))
"""
"""The client of `vllm bench serve --backend openai-audio`, without its data sets, which come from a hub."""


async def test_vllms_own_load_generator_understands_the_stream(served: Served, tmp_path: Path) -> None:
    command = [str(find_vllm().with_name("python")), "-P", "-s", "-B", "-c", BENCH]
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "HOME": str(tmp_path)}
    arguments = [served.proxy.url + TRANSCRIPTIONS, str(RECORDING)]

    async def came_word_by_word() -> bool:
        """vLLM joins chunks for which its server has no time, on a busy machine; nothing else may differ."""
        done = await asyncio.to_thread(
            subprocess.run,
            command + arguments,
            capture_output=True,
            check=True,
            timeout=LIMIT_S,
            env=environment,
            cwd="/",
        )
        success, text, tokens, gaps, error = json.loads(done.stdout.splitlines()[-1])
        assert (success, text, error) == (True, SAID, "")
        assert tokens == len(SAID.split()) + 1, "the words and the end"
        return bool(gaps == len(SAID.split()))  # between as many chunks, and the one that says why it ends

    await until(came_word_by_word)


# --- how it ends; starts vLLM anew


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


async def test_a_server_that_is_killed_fails_its_requests_and_comes_back(served: Served) -> None:
    first, file = served.vllm.server(), record("en", *SENTENCES["en"], pause_s=APART_S).wav
    assert len(processes(first.pid)) > 1, "an API server and an engine"
    attached = AttachedVllm("nano", uds=first.socket)
    await attached.start()

    async def at_work() -> bool:
        samples = await attached.metrics("nano")
        return any(sample.name == "vllm:num_requests_running" and sample.value > 0 for sample in samples)

    async def status(path: str) -> int:
        async with served.session.get(served.vllm.program.status_url + path) as response:
            return response.status

    async def ask() -> int:
        data = form(file, language="en")
        async with served.session.post(served.proxy.url + TRANSCRIPTIONS, data=data) as response:
            return response.status

    async def answered() -> bool:
        return await ask() == 200

    asking = [asyncio.create_task(ask()) for _ in range(8)]  # noqa: TID251  awaited below, whatever they raise
    await until(at_work)
    await attached.close()
    shutil.rmtree(served.vllm.checkpoint)  # the next one has its model from the engine, as this one had
    os.kill(first.pid, signal.SIGKILL)
    statuses = await asyncio.gather(*asking)
    assert 503 in statuses
    assert set(statuses) <= {200, 503}
    async with asyncio.timeout(LIMIT_S):
        await until(lambda: _is(status, 503), give_up_s=LIMIT_S)
        await until(lambda: _is(status, 200), give_up_s=LIMIT_S)
        await until(answered, give_up_s=LIMIT_S)
    assert not processes(first.pid), "the engine did not outlive its API server"
    assert not first.private.exists()
    assert served.vllm.server() != first


async def _is(status: Callable[[str], Awaitable[int]], expected: int) -> bool:
    return await status("/readyz") == expected
