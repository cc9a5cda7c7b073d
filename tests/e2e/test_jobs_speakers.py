"""Who spoke in a recording that is cut: the shipped programs, a real recogniser, voices of real people.

No part is longer than fifteen seconds, so that a call of more than thirty is at least three. The call is made of
public-domain recordings of two people, who take turns; a real one, which is cut in three, is heard too where
`SOTTOVOCE_TEST_SPEECH` names a corpus that has it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import pytest_asyncio

from benchmarks.recordings import RATE_HZ
from engine.speech.attribution import Turn
from proxy.jobs.vault import KeyFile
from tests.e2e.processes import POLICY, Program, program, proxy, until_ready
from tests.e2e.test_speakers import CORPUS, GE2E, HE, LIMIT_S, SHE, TURN, wav
from tests.proxy.dialects import published
from tests.proxy.dialects.test_published import python
from tests.proxy.test_jobs_commands import typed
from tests.requirements import need, need_weights
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PART_S = 15
SPEAKING = 3 * RATE_HZ
TURNS = 6


def call() -> bytes:
    """She, he, she, he, she, he, for 31 s."""
    samples = np.zeros(TURNS * TURN + RATE_HZ, np.int16)
    for turn in range(TURNS):
        start, spoken = turn * TURN, turn // 2 * SPEAKING
        samples[start : start + SPEAKING] = (SHE, HE)[turn % 2][spoken : spoken + SPEAKING]
    return wav(samples)


CALL = call()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    weights, place = need_weights("tiny.en"), tmp_path_factory.mktemp("jobs")
    need(GE2E.exists(), "the encoder that `make speakers` makes")
    KeyFile.make(place / "jobs.key")
    speakers = ("--speakers", "basic", "--speaker-model", str(GE2E))
    serve = ("serve", "--insecure-evidence", "--model", f"tiny.en={weights}", *speakers)
    kept = ("--jobs-dir", str(place / "kept"), "--jobs-key", str(place / "jobs.key"))
    jobs = ("--jobs", *kept, "--jobs-part-s", str(PART_S), "--jobs-parts-at-once", "3")
    async with program("sottovoce-engine", serve, place / "engine.log") as behind:
        await until_ready(behind, LIMIT_S)
        async with proxy(place / "proxy.log", behind.url, *jobs, policy=POLICY) as running:
            await until_ready(running, LIMIT_S)
            yield running
            await running.stop()
        await behind.stop()


async def heard(front: Program, audio: bytes, **fields: str) -> Any:
    """The result of a job."""
    form = aiohttp.FormData({"diarize": "true", "words": "true", **fields})
    form.add_field("file", audio, filename="call.wav")
    async with aiohttp.ClientSession(front.url) as app:
        async with app.post("/v1/jobs", data=form) as answer:
            assert answer.status == 201, await answer.text()
            job = (await answer.json())["id"]

        async def status() -> str:
            async with app.get(f"/v1/jobs/{job}") as answer:
                return str((await answer.json())["status"])

        async def is_over() -> bool:
            return await status() in ("completed", "failed")

        await until(is_over, give_up_s=5 * LIMIT_S)
        assert await status() == "completed"
        async with app.get(f"/v1/jobs/{job}/result") as answer:
            return await answer.json()


def sides(segments: Sequence[dict[str, Any]]) -> list[int]:
    """Which speaker either side was in nine tenths of what it said."""
    called: list[Counter[int]] = [Counter(), Counter()]
    for segment in segments:
        side = int((segment["start_s"] + segment["end_s"]) / 2 // (TURN / RATE_HZ)) % 2
        called[side][segment["speaker"]] += len(segment["text"])
    assert all(max(one.values()) >= 0.9 * one.total() for one in called), segments
    return [max(one, key=one.__getitem__) for one in called]


async def test_two_who_speak_in_every_part_are_two_all_through(front: Program) -> None:
    result = await heard(front, CALL, max_speakers="2")
    assert [who["label"] for who in result["speakers"]] == ["A", "B"]
    assert sides(result["segments"]) == [0, 1]
    assert {word["speaker"] for segment in result["segments"] for word in segment["words"]} == {0, 1}
    assert "embedding" not in json.dumps(result)


async def test_those_whom_the_caller_knows_have_their_names_all_through(front: Program, tmp_path: Path) -> None:
    for name, samples in {"call": None, "he": HE[-6 * RATE_HZ :], "she": SHE[-5 * RATE_HZ :]}.items():
        (tmp_path / f"{name}.wav").write_bytes(CALL if samples is None else wav(samples))
    known = ("--speaker", f"Kennedy={tmp_path / 'he.wav'}", "--speaker", f"Linda={tmp_path / 'she.wav'}")
    asked = ("jobs", "submit", str(tmp_path / "call.wav"), "--diarize", "--speaker-count", "2", *known)
    done = await typed(*asked, "--wait", "--url", front.url)
    assert done.exit_code == 0, done.output
    shown = await typed("jobs", "export", done.stdout.strip(), "--format", "json", "--url", front.url)
    result = json.loads(shown.stdout)
    assert [(who["label"], who["name"]) for who in result["speakers"]] == [("Linda", "Linda"), ("Kennedy", "Kennedy")]
    assert sides(result["segments"]) == [0, 1]


async def test_published_examples_that_ask_who_speaks_run_as_they_are(front: Program, tmp_path: Path) -> None:
    for name in ("meeting.mp3", "audio.mp3"):
        (tmp_path / name).write_bytes(CALL)
    upload = published.SCRIPTIVOX_TRANSCRIBE.replace('"a1b2c3d4-e5f6-7890-abcd-ef1234567890"', 'upload["upload_id"]')
    shown = "\nprint(result['result']['speakers'])\n"
    code = published.SCRIPTIVOX_UPLOAD + upload + published.SCRIPTIVOX_RESULT + shown
    assert (await python(tmp_path, front.url, code)).splitlines()[-1] == "['SPEAKER 1', 'SPEAKER 2']"
    printed = await python(tmp_path, front.url, published.AUDIOTOTEXT_PYTHON)
    assert "printing" in printed


@pytest.mark.skipif(CORPUS is None, reason="SOTTOVOCE_TEST_SPEECH names no corpus")
async def test_a_real_call_in_parts_is_told_apart_about_as_well_as_whole(front: Program) -> None:
    """By words, with the benchmark's error rates; `docs/speakers.md` has the figures."""
    pytest.importorskip("pyannote.metrics")
    from benchmarks.speakers import errors, read_rttm

    folder = Path(CORPUS or "") / "turns"
    said = read_rttm((folder / "turns.rttm").read_text())["sample"]
    audio = (folder / "sample.wav").read_bytes()
    segments = (await heard(front, audio, max_speakers="2"))["segments"]
    joined = [turn(word, "start_s", "end_s") for segment in segments for word in segment["words"]]
    whole = [turn(word, "start", "end") for word in (await heard_whole(front, audio))["words"]]
    one = [Turn(each.start_s, each.end_s, 0) for each in joined]
    rates = {
        name: [errors(said, turns)[collar_s].rate for collar_s in (0.0, 0.25)]
        for name, turns in {"joined": joined, "whole": whole, "one": one}.items()
    }
    print(rates)  # noqa: T201 - for whoever keeps the figures
    assert len({each.speaker for each in joined}) == 2
    assert rates["joined"][1] < rates["whole"][1] + 0.1, rates
    assert rates["joined"][1] < 0.5 * rates["one"][1], rates


def turn(word: dict[str, Any], start: str, end: str) -> Turn:
    return Turn(word[start], word[end], hash(word["speaker"]))


async def heard_whole(front: Program, audio: bytes) -> Any:
    """The answer to one request."""
    asked = {"model": "tiny.en", "response_format": "verbose_json", "diarize": "true", "max_speakers": "2"}
    form = aiohttp.FormData({**asked, "timestamp_granularities[]": "word"})
    form.add_field("file", audio, filename="call.wav")
    async with (
        aiohttp.ClientSession(front.url) as app,
        app.post("/v1/audio/transcriptions", data=form) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.json()
