"""Real speech through the shipped programs, heard by both backends with the same real weights.

The weights are those of `make weights`; vLLM's form of them is made here. Beside the recordings in `recordings`, which
may be passed on, those of a corpus are heard if `SOTTOVOCE_TEST_SPEECH` names one (`benchmarks.recordings` reads it).
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import openai
import pytest
import pytest_asyncio
from openai.types.audio import TranscriptionVerbose

from benchmarks.recordings import RATE_HZ, Recording, TimedWord, as_wav, read_corpus
from benchmarks.scores import count_errors, word_time_errors
from core.transcript.languages import name_of
from tests.checkpoints.convert import convert
from tests.e2e.conftest import form
from tests.e2e.processes import POLICY, Program, program, proxy, until_ready
from tests.engine.backends.vllm.real_vllm import LIMIT_S, find_vllm
from tests.requirements import REQUIRE_ALL, need_weights

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

BACKENDS = ("faster-whisper", "vllm")
FOLDER = Path(__file__).with_name("recordings")
PAUSE_S = 0.6
NEAR_S = 0.25
APART = 3
"""So many words may one backend get wrong that the other gets right, of all the recordings."""

CORPUS = os.environ.get("SOTTOVOCE_TEST_SPEECH")


@dataclass(frozen=True, slots=True)
class Known:
    """A recording and what is known of it. allowed: how many of its words may be wrong."""

    recording: Recording
    allowed: int


def _read_known() -> dict[str, Known]:
    lines = [json.loads(line) for line in (FOLDER / "recordings.jsonl").read_text("utf-8").splitlines()]
    return {
        Path(line["file"]).stem: Known(
            Recording(
                Path(line["file"]).stem,
                line["language"],
                line["text"],
                (FOLDER / line["file"]).read_bytes(),
                words=tuple(TimedWord(*word) for word in line.get("words", ())),
            ),
            line["allowed"],
        )
        for line in lines
    }


KNOWN = _read_known()


@dataclass(frozen=True, slots=True)
class Service:
    """An engine with one backend, and a proxy before it."""

    backend: str
    engine: Program
    front: Program
    session: aiohttp.ClientSession

    @property
    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.front.url}/v1", api_key="x", max_retries=0, timeout=LIMIT_S)

    async def hear(self, recording: Recording) -> TranscriptionVerbose:
        async with self.client as client:
            return await client.audio.transcriptions.create(
                model="whisper-base",
                file=(recording.name, recording.audio),
                response_format="verbose_json",
                timestamp_granularities=["word", "segment"],
            )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Service]]:
    """Both backends, or only the one for which everything is there; tests of the other are then skipped."""
    weights, logs = need_weights("whisper-base"), tmp_path_factory.mktemp("logs")
    options = {"faster-whisper": ["--model", f"whisper-base={weights}"]}
    if REQUIRE_ALL or _has_vllm():
        convert(weights, logs / "whisper-base")
        options["vllm"] = ["--model", f"whisper-base={logs / 'whisper-base'}", "--allow-vllm-program", str(find_vllm())]
    policy = logs / "policy.toml"
    policy.write_text(f'{POLICY.read_text()}\n[statement]\nallow_options = ["allow_vllm_program"]\n')
    async with AsyncExitStack() as stack:
        patience = aiohttp.ClientTimeout(total=LIMIT_S)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=patience))
        served = {}
        for name, chosen in options.items():
            arguments = ("serve", "--insecure-evidence", "--backend", name, *chosen)
            behind = await stack.enter_async_context(program("sottovoce-engine", arguments, logs / f"{name}.engine"))
            await until_ready(behind, LIMIT_S)
            front = await stack.enter_async_context(proxy(logs / f"{name}.proxy", behind.url, policy=policy))
            await until_ready(front, LIMIT_S)
            served[name] = Service(name, behind, front, session)
        yield served
        for one in served.values():
            await one.engine.stop()  # in good order, so that nothing stays behind in memory


def _has_vllm() -> bool:
    try:
        return find_vllm().exists()
    except pytest.skip.Exception:
        return False


@pytest.fixture(params=BACKENDS)
def service(services: dict[str, Service], request: pytest.FixtureRequest) -> Service:
    if request.param not in services:
        find_vllm()
    return services[request.param]


def errors(recording: Recording, text: str) -> int:
    language = "en" if recording.language == "english" else ""
    return count_errors(recording.text, text, language).total


# --- each recording


@pytest.mark.parametrize("name", KNOWN)
async def test_real_speech_is_heard(service: Service, name: str) -> None:
    known = KNOWN[name]
    answer = await service.hear(known.recording)
    assert errors(known.recording, answer.text) <= known.allowed, answer.text
    assert answer.language == known.recording.language
    assert " ".join(segment.text.strip() for segment in answer.segments or []) == answer.text


async def test_words_have_the_times_at_which_they_are_spoken(service: Service) -> None:
    recording = KNOWN["en-sense-0870"].recording
    words = (await service.hear(recording)).words or []
    found = word_time_errors(recording.words, [TimedWord(word.word, word.start, word.end) for word in words])
    assert len(found) >= len(recording.words) - 2
    assert sum(error <= NEAR_S for error in found) >= 0.9 * len(found), found


async def test_what_is_longer_than_a_clip_is_heard_whole(service: Service) -> None:
    english = [known for known in KNOWN.values() if known.recording.language == "english"]
    pause = np.zeros(int(PAUSE_S * RATE_HZ), np.float32)
    pieces = [piece for known in english for piece in (known.recording.samples, pause)]
    text = " ".join(known.recording.text for known in english)
    joined = Recording("joined.wav", "english", text, as_wav(np.concatenate(pieces)))
    answer = await service.hear(joined)
    assert answer.duration > 35
    assert errors(joined, answer.text) <= sum(known.allowed for known in english) + 2, answer.text
    times = [edge for segment in answer.segments or [] for edge in (segment.start, segment.end)]
    assert times == sorted(times)


async def test_the_deltas_of_a_stream_spell_what_was_said(service: Service) -> None:
    recording = KNOWN["kennedy"].recording
    async with service.client as client:
        stream = await client.audio.transcriptions.create(
            model="whisper-base", file=(recording.name, recording.audio), stream=True
        )
        events = [event async for event in stream]
    text = "".join(event.delta for event in events if event.type == "transcript.text.delta")
    assert errors(recording, text) == 0
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == text


async def test_real_speech_is_translated(service: Service) -> None:
    data = form(KNOWN["es-tamayo"].recording.audio, model="whisper-base")
    async with service.session.post(f"{service.front.url}/v1/audio/translations", data=data) as response:
        text = (await response.json())["text"]
    assert re.search(r"academy", text, re.IGNORECASE), text


async def test_noise_and_hum_are_no_text(service: Service) -> None:
    seconds = np.arange(8 * RATE_HZ) / RATE_HZ
    hum = 0.05 * np.sum([np.sin(2 * np.pi * 50 * order * seconds) / order for order in range(1, 10)], axis=0)
    noise = 0.02 * np.random.default_rng(0).standard_normal(len(seconds))
    for name, sound in (("silence", 0 * seconds), ("hum", hum), ("noise", noise)):
        answer = await service.hear(Recording(f"{name}.wav", "", "", as_wav(sound)))
        assert answer.text == "", name


async def test_both_backends_hear_the_same(services: dict[str, Service]) -> None:
    if set(services) != set(BACKENDS):
        find_vllm()
    wrong = Counter[str]()
    for name, service in services.items():
        for known in KNOWN.values():
            wrong[name] += errors(known.recording, (await service.hear(known.recording)).text)
    assert abs(wrong[BACKENDS[0]] - wrong[BACKENDS[1]]) <= APART, wrong


# --- a corpus that is not ours to pass on


@pytest.mark.skipif(CORPUS is None, reason="SOTTOVOCE_TEST_SPEECH names no corpus")
async def test_a_corpus_is_heard(service: Service) -> None:
    recordings = {one.language: one for one in read_corpus(Path(CORPUS or ""))}
    answers = {language: await service.hear(one) for language, one in recordings.items()}
    right = [language for language, answer in answers.items() if answer.language == name_of(language)]
    assert len(right) >= len(recordings) - 1, right
    counts = [count_errors(one.text, answers[language].text, language) for language, one in recordings.items()]
    assert sum(count.total for count in counts) <= 0.35 * sum(count.words for count in counts)
