"""The client code of the job APIs' documents runs against the shipped programs, and gets what was said.

The engine here tells nobody apart, so `diarize` is left out of the examples; all else is as published. With an engine
that does, `test_jobs_speakers` runs them as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from proxy.jobs.vault import KeyFile
from tests.e2e.processes import RECORDING, SAID, Program, engine, proxy, until_ready
from tests.proxy.dialects import published
from tests.proxy.dialects.test_published import JS_MODULES, python, run, shell
from tests.requirements import need, need_program

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    place = tmp_path_factory.mktemp("jobs")
    KeyFile.make(place / "jobs.key")
    jobs = ("--jobs", "--jobs-dir", str(place / "kept"), "--jobs-key", str(place / "jobs.key"))
    async with engine(place / "engine.log") as behind, proxy(place / "proxy.log", behind.url, *jobs) as running:
        await until_ready(running)
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("meeting.mp3", "audio.mp3", "recording.wav"):
        (tmp_path / name).write_bytes(RECORDING.read_bytes())
    return tmp_path


@pytest.mark.asyncio(loop_scope="module")
async def test_scriptivox_of_a_file_with_captions(front: Program, place: Path) -> None:
    transcribe = published.SCRIPTIVOX_TRANSCRIBE.replace(
        '"a1b2c3d4-e5f6-7890-abcd-ef1234567890","diarize": True,"speaker_count": 2', 'upload["upload_id"]'
    )
    code = published.SCRIPTIVOX_UPLOAD + transcribe + published.SCRIPTIVOX_RESULT + "\nprint(job['id'])\n"
    text, job = (await python(place, front.url, code)).splitlines()
    assert text == SAID
    captions = await shell(place, front.url, published.SCRIPTIVOX_CAPTIONS.replace("{id}", job))
    srt, _, after = captions.partition("WEBVTT")
    assert re.match(r"1\n\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}\n\S", srt)
    assert after.rstrip().endswith(SAID)
    assert job in await python(place, front.url, published.SCRIPTIVOX_LIST)
    await python(place, front.url, f"transcription_id = {job!r}\n" + published.SCRIPTIVOX_DELETE)
    assert job not in await python(place, front.url, published.SCRIPTIVOX_LIST)


@pytest.mark.asyncio(loop_scope="module")
async def test_audiototext_by_python_and_curl(front: Program, place: Path) -> None:
    code = published.AUDIOTOTEXT_PYTHON.replace('"diarization": "true"', '"diarization": "false"')
    assert (await python(place, front.url, code)).splitlines()[1] == SAID
    submitted = published.AUDIOTOTEXT_CURL_FILE.replace("diarization=true", "diarization=false")
    assert json.loads(await shell(place, front.url, submitted))["status"] == "processing"


@pytest.mark.asyncio(loop_scope="module")
async def test_audiototext_by_node(front: Program, place: Path) -> None:
    need_program("node")
    need((JS_MODULES / "axios").exists(), "axios, which `make clients` fetches")
    code = published.AUDIOTOTEXT_NODE.replace("'diarization', 'true'", "'diarization', 'false'")
    (place / "example.cjs").write_text(published.adapted(code, front.url))
    assert SAID in await run(place, "node", "example.cjs")


@pytest.mark.asyncio(loop_scope="module")
async def test_privocio_by_python_fetch_and_curl(front: Program, place: Path) -> None:
    for code in (published.PRIVOCIO_HTTPX, published.PRIVOCIO_GUIDE):
        assert SAID in await python(place, front.url, code)
    need_program("jq")
    answers = await shell(place, front.url, published.PRIVOCIO_CURL)
    assert '"status": "ok"' in answers
    assert answers.count("event: done") == 2


@pytest.mark.asyncio(loop_scope="module")
async def test_nothing_of_what_was_said_or_sent_is_in_a_log(front: Program) -> None:
    printed = front.printed()
    assert SAID.encode() not in printed
    for name in (b"meeting.mp3", b"audio.mp3", b"recording.wav"):
        assert name not in printed
