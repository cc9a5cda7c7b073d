"""Who spoke when, through the shipped programs and OpenAI's client: by channels, and by voices of real people.

The call is made of public-domain recordings of two people, who take turns. A real one is heard too where
`SOTTOVOCE_TEST_SPEECH` names a corpus that has it.
"""

from __future__ import annotations

import base64
import io
import os
import wave
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import openai
import pytest
import pytest_asyncio
from openai.types.audio import TranscriptionDiarized, TranscriptionDiarizedSegment

from benchmarks.recordings import RATE_HZ
from engine.backends.digest import weights_digest
from tests.e2e.processes import POLICY, Program, program, proxy, until_ready
from tests.places import ROOT
from tests.requirements import need, need_weights

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

KINDS = ("channels", "basic")
LIMIT_S = 120.0
CORPUS = os.environ.get("SOTTOVOCE_TEST_SPEECH")

Samples = npt.NDArray[np.int16]


def samples_of(path: Path) -> Samples:
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]).astype(np.int16)


def wav(*channels: Samples) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as output:
        output.setparams((len(channels), 2, RATE_HZ, 0, "NONE", ""))
        output.writeframes(np.stack(channels, axis=1).astype("<i2").tobytes())
    return file.getvalue()


SHE = samples_of(Path(__file__).with_name("recordings") / "en-lj-0001.flac")
HE = samples_of(ROOT / "examples" / "kennedy.flac")
GE2E = ROOT / ".weights" / "ge2e"
SPEAKING = 4 * RATE_HZ
TURN = 5 * RATE_HZ
"""Somebody speaks for 4 s, then there is a pause, as there is when people take turns."""


def call() -> tuple[Samples, Samples]:
    """Both sides of a call: she, he, she, he."""
    sides = (np.zeros(4 * TURN, np.int16), np.zeros(4 * TURN, np.int16))
    for turn in range(4):
        start, spoken = turn * TURN, turn // 2 * SPEAKING
        sides[turn % 2][start : start + SPEAKING] = (SHE, HE)[turn % 2][spoken : spoken + SPEAKING]
    return sides


def data_url(samples: Samples) -> str:
    return "data:audio/wav;base64," + base64.b64encode(wav(samples)).decode()


@dataclass(frozen=True, slots=True)
class Service:
    """An engine that tells speakers apart in one way, and a proxy before it."""

    engine: Program
    front: Program

    @property
    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.front.url}/v1", api_key="x", max_retries=0, timeout=LIMIT_S)

    async def hear(self, audio: bytes, **fields: Any) -> TranscriptionDiarized:
        async with self.client as client:
            answer = await client.audio.transcriptions.create(
                model="tiny.en", file=("call.wav", audio), response_format="diarized_json", **fields
            )
        assert isinstance(answer, TranscriptionDiarized)
        return answer


async def embeddings(service: Service, audio: bytes, **fields: Any) -> list[dict[str, Any]]:
    answer = await service.hear(audio, include=["speaker_embeddings"], **fields)
    told: list[dict[str, Any]] = (answer.model_extra or {})["speaker_embeddings"]
    return told


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Service]]:
    weights, logs = need_weights("tiny.en"), tmp_path_factory.mktemp("logs")
    need(GE2E.exists(), "the encoder that `make speakers` makes")
    options = {"channels": (), "basic": ("--speaker-model", str(GE2E))}
    async with AsyncExitStack() as stack:
        served = {}
        for kind in KINDS:
            arguments = ("serve", "--insecure-evidence", "--model", f"tiny.en={weights}", "--speakers", kind)
            behind = await stack.enter_async_context(
                program("sottovoce-engine", (*arguments, *options[kind]), logs / f"{kind}.engine")
            )
            await until_ready(behind, LIMIT_S)
            front = await stack.enter_async_context(proxy(logs / f"{kind}.proxy", behind.url, policy=POLICY))
            await until_ready(front, LIMIT_S)
            served[kind] = Service(behind, front)
        yield served
        for one in served.values():
            await one.engine.stop()  # in good order, so that nothing stays behind in memory


def side(segment: TranscriptionDiarizedSegment) -> int:
    """Whose turn it was in the middle of a segment."""
    return int((segment.start + segment.end) / 2 // (TURN / RATE_HZ)) % 2


def labels(segments: Sequence[TranscriptionDiarizedSegment]) -> list[str]:
    """What either side was called in nine tenths of what it said: a word's time may be wrong at the end of a turn."""
    called: list[Counter[str]] = [Counter(), Counter()]
    for segment in segments:
        called[side(segment)][segment.speaker] += len(segment.text)
    assert all(max(one.values()) >= 0.9 * one.total() for one in called), segments
    return [max(one, key=one.__getitem__) for one in called]


async def test_each_channel_of_a_call_is_a_speaker(services: dict[str, Service]) -> None:
    answer = await services["channels"].hear(wav(*call()))
    assert labels(answer.segments) == ["A", "B"]
    assert len(answer.segments) >= 4
    assert "".join(answer.text.split()) == "".join("".join(one.text for one in answer.segments).split())
    assert [segment.id for segment in answer.segments][:2] == ["seg_001", "seg_002"]
    assert (answer.task, answer.usage and answer.usage.type) == ("transcribe", "duration")


async def test_two_voices_in_one_channel_are_two_speakers(services: dict[str, Service]) -> None:
    she, he = call()
    answer = await services["basic"].hear(wav(she + he), extra_body={"num_speakers": 2})
    assert labels(answer.segments) == ["A", "B"]


async def test_known_voices_have_their_names(services: dict[str, Service]) -> None:
    she, he = call()
    answer = await services["basic"].hear(
        wav(she + he),
        known_speaker_names=["Kennedy", "Linda"],
        known_speaker_references=[data_url(HE[-6 * RATE_HZ :]), data_url(SHE[-5 * RATE_HZ :])],
    )
    assert labels(answer.segments) == ["Linda", "Kennedy"]


async def test_each_voice_is_told_to_who_asks_and_is_in_no_log(services: dict[str, Service]) -> None:
    she, he = call()
    alone = await embeddings(services["basic"], wav(SHE[: 6 * RATE_HZ]))
    both = await embeddings(services["basic"], wav(she + he), extra_body={"num_speakers": 2})
    assert [one["speaker"] for one in both] == ["A", "B"]
    assert {one["model"] for one in (*alone, *both)} == {f"basic:{weights_digest(GE2E)}"}
    likenesses = [float(np.dot(one["embedding"], alone[0]["embedding"])) for one in both]
    assert likenesses[0] >= both[0]["same"] > likenesses[1]
    for one in (*alone, *both):
        assert len(one["embedding"]) == 256
        assert np.linalg.norm(one["embedding"]) == pytest.approx(1.0, abs=1e-3)
        for number in (str(value) for value in one["embedding"] if abs(value) > 0.01):
            for printed in (services["basic"].engine.printed(), services["basic"].front.printed()):
                assert number.encode() not in printed


async def test_without_being_asked_for_no_voice_is_told(services: dict[str, Service]) -> None:
    assert "speaker_embeddings" not in (await services["basic"].hear(wav(SHE))).model_fields_set
    with pytest.raises(openai.BadRequestError) as caught:
        await embeddings(services["channels"], wav(*call()))
    assert (caught.value.code, caught.value.param) == ("unsupported_value", "include")


async def test_a_stream_tells_each_segment_with_its_speaker(services: dict[str, Service]) -> None:
    async with services["channels"].client as client:
        stream = await client.audio.transcriptions.create(
            model="tiny.en", file=("call.wav", wav(*call())), response_format="diarized_json", stream=True
        )
        events = [event async for event in stream]
    segments = [event for event in events if event.type == "transcript.text.segment"]
    deltas = [event for event in events if event.type == "transcript.text.delta"]
    assert [event.speaker for event in segments][:2] == ["A", "B"]
    assert [(event.segment_id, event.delta) for event in deltas] == [(event.id, event.text) for event in segments]
    assert events[-1].type == "transcript.text.done"


async def test_a_recording_of_one_channel_is_refused_where_channels_are_speakers(services: dict[str, Service]) -> None:
    she, he = call()
    for audio in (wav(she + he), wav(she + he, she + he)):
        with pytest.raises(openai.BadRequestError, match="by their channels") as caught:
            await services["channels"].hear(audio)
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "file")


async def test_a_model_says_how_it_tells_speakers_apart(services: dict[str, Service]) -> None:
    for kind, told_by in {"channels": "channels", "basic": "voices"}.items():
        async with services[kind].client as client:
            model = await client.models.retrieve("tiny.en")
        assert (model.model_extra or {})["speakers"] == told_by


BAD = {
    "silence": np.zeros(4 * RATE_HZ, np.int16),
    "noise": np.random.default_rng(3).normal(0, 1500, 4 * RATE_HZ).astype(np.int16),
    "half a second": SHE[: RATE_HZ // 2],
    "half a minute": np.tile(SHE, 6)[: 30 * RATE_HZ],
    "two voices": np.concatenate([SHE[: 4 * RATE_HZ], HE[: 4 * RATE_HZ]]),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_recording_that_is_not_one_voice_is_refused(services: dict[str, Service], what: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await services["basic"].hear(
            wav(*call()), known_speaker_names=["Ada"], known_speaker_references=[data_url(BAD[what])]
        )
    assert caught.value.param == "known_speaker_references"


async def test_a_name_without_its_recording_is_refused(services: dict[str, Service]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await services["basic"].hear(
            wav(*call()), known_speaker_names=["Ada", "Bo"], known_speaker_references=[data_url(SHE[: 4 * RATE_HZ])]
        )
    assert caught.value.param == "known_speaker_names"


async def test_silence_has_no_speakers_and_one_voice_is_one(services: dict[str, Service]) -> None:
    silent = await services["basic"].hear(wav(np.zeros(3 * RATE_HZ, np.int16)))
    assert (silent.segments, silent.text) == ([], "")
    alone = await services["basic"].hear(wav(SHE))
    assert {segment.speaker for segment in alone.segments} == {"A"}


@pytest.mark.skipif(CORPUS is None, reason="SOTTOVOCE_TEST_SPEECH names no corpus")
async def test_a_real_call_of_two_is_told_apart_for_the_most_part(services: dict[str, Service]) -> None:
    from benchmarks.speakers import read_rttm

    folder = Path(CORPUS or "") / "turns"
    said = read_rttm((folder / "turns.rttm").read_text())["sample"]
    answer = await services["basic"].hear((folder / "sample.wav").read_bytes(), extra_body={"num_speakers": 2})
    agreeing = {True: Fraction(0), False: Fraction(0)}
    names = {name for *_, name in said}
    first = min(names)
    for segment in answer.segments:
        middle = (segment.start + segment.end) / 2
        spoke = [name for start, end, name in said if start <= middle <= end]
        if len(spoke) == 1:
            agreeing[(spoke[0] == first) == (segment.speaker == "A")] += Fraction(segment.end - segment.start)
    assert max(agreeing.values()) >= sum(agreeing.values()) * Fraction(7, 10), answer.segments
