"""The client code of the documents runs against the job APIs, over real sockets."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from proxy.jobs.model import BlobSource, Job, JobId, JobResult, JobStatus, LinkSource
from tests.places import ROOT
from tests.proxy.dialects import published
from tests.proxy.dialects.conftest import CAN_ALL, Apis, serving
from tests.proxy.dialects.fakes import ME
from tests.proxy.dialects.scriptivox.test_rendering import DONE, RESULT
from tests.requirements import need, need_program

JS_MODULES = ROOT / "tests" / "clients" / "js" / "node_modules"


def done(job: Job) -> tuple[Job, JobResult]:
    """Any job, heard."""
    audio = {"audio_ms": 120_000, "amount": Decimal("0.666667"), "completed_ms": DONE.completed_ms}
    return replace(job, status=JobStatus.COMPLETED, **audio), RESULT  # type: ignore[arg-type]


@pytest.fixture
async def apis() -> AsyncIterator[Apis]:
    async with serving(CAN_ALL) as served:
        served.jobs.outcome = done
        yield served


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the examples run: with the files that they open."""
    for name in ("meeting.mp3", "audio.mp3", "recording.wav"):
        (tmp_path / name).write_bytes(b"sound")
    return tmp_path


async def run(place: Path, *command: str) -> str:
    environment = {**os.environ, "NO_PROXY": "*", "NODE_PATH": str(JS_MODULES), "PRIVOCIO_API_KEY": "YOUR_API_KEY"}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=place, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    return printed.decode()


async def python(place: Path, url: str, code: str) -> str:
    return await run(place, sys.executable, "-c", published.adapted(code, url))


async def shell(place: Path, url: str, code: str) -> str:
    need_program("curl")
    code = published.adapted(code, url).replace("curl ", "curl --silent --show-error --fail --noproxy '*' ")
    return await run(place, "sh", "-ec", code)


async def test_scriptivox_of_a_link(apis: Apis, place: Path) -> None:
    code = published.SCRIPTIVOX_LINK + published.SCRIPTIVOX_RESULT
    assert await python(place, apis.url, code) == "Hello, yes.\n"
    assert apis.jobs.submitted[0].source == LinkSource("https://example.com/podcast-episode.mp3")
    assert apis.jobs.submitted[0].options.diarize


async def test_scriptivox_of_a_file(apis: Apis, place: Path) -> None:
    of_this_upload = published.SCRIPTIVOX_TRANSCRIBE.replace(
        '"a1b2c3d4-e5f6-7890-abcd-ef1234567890"', 'upload["upload_id"]'
    )
    code = published.SCRIPTIVOX_UPLOAD + of_this_upload + published.SCRIPTIVOX_RESULT
    assert await python(place, apis.url, code) == "Hello, yes.\n"
    source = apis.jobs.submitted[0].source
    assert isinstance(source, BlobSource)
    assert apis.uploads.content[source.blob] == b"sound"


async def test_scriptivox_lists_page_by_page(apis: Apis, place: Path) -> None:
    for number in range(21):
        apis.jobs.set(replace(DONE, id=JobId(f"job-{number:02}"), created_ms=DONE.created_ms + number), RESULT)
    printed = await python(place, apis.url, published.SCRIPTIVOX_LIST + 'print(resp.json()["items"][0]["id"])')
    assert printed.splitlines()[0] == "job-20 completed"
    assert printed.splitlines()[-1] == "job-00"


async def test_scriptivox_cancels_and_deletes(apis: Apis, place: Path) -> None:
    apis.jobs.outcome = None
    answer = await apis.ask("POST", "/v1/transcribe", json={"url": "https://example.com/audio.mp3"})
    job = JobId(answer.json()["id"])
    names = f"transcription_id = {job!r}\n"
    await python(place, apis.url, names + published.SCRIPTIVOX_CANCEL)
    assert apis.jobs.jobs[job].is_cancelled
    await python(place, apis.url, names + published.SCRIPTIVOX_DELETE)
    assert apis.jobs.deleted == {job}


async def test_scriptivox_tells_a_balance(apis: Apis, place: Path) -> None:
    apis.accounts.pay(ME, "1500", "100")
    assert await python(place, apis.url, published.SCRIPTIVOX_BALANCE) == "Available: $14.00\nHours remaining: 70.0\n"


async def test_scriptivox_by_curl(apis: Apis, place: Path) -> None:
    apis.jobs.set(DONE, RESULT)
    printed = await shell(place, apis.url, published.SCRIPTIVOX_CAPTIONS.replace("{id}", DONE.id))
    assert printed.count("-->") == 6
    assert "<v SPEAKER 2>Hello</v>" in printed
    assert printed.endswith("Hello,\n\nyes.\n")


async def test_scriptivox_sent_again_by_curl(apis: Apis, place: Path) -> None:
    once, again = [await shell(place, apis.url, published.SCRIPTIVOX_IDEMPOTENCY) for _ in range(2)]
    assert once == again
    assert len(apis.jobs.submitted) == 1


async def test_audiototext_by_python(apis: Apis, place: Path) -> None:
    printed = await python(place, apis.url, published.AUDIOTOTEXT_PYTHON)
    assert printed.splitlines()[1] == "Hello, yes."
    assert list(apis.uploads.content.values()) == [b"sound"]


async def test_audiototext_by_node(apis: Apis, place: Path) -> None:
    need_program("node")
    need((JS_MODULES / "axios").exists(), "axios, which `make clients` fetches")
    (place / "example.cjs").write_text(published.adapted(published.AUDIOTOTEXT_NODE, apis.url))
    printed = await run(place, "node", "example.cjs")
    assert "transcript: 'Hello, yes.'" in printed
    assert list(apis.uploads.content.values()) == [b"sound"]


async def test_audiototext_by_curl(apis: Apis, place: Path) -> None:
    for code in (published.AUDIOTOTEXT_CURL_FILE, published.AUDIOTOTEXT_CURL_LINK, published.AUDIOTOTEXT_CURL_WEBHOOK):
        assert '"status": "processing"' in await shell(place, apis.url, code)
    of_file, of_link, with_webhook = apis.jobs.submitted
    assert (of_file.options.diarize, of_file.options.language) == (True, "en")
    assert of_link.source == LinkSource("https://example.com/podcast.mp3")
    assert with_webhook.options.webhook_url == "https://yourapp.com/transcription-complete"


@pytest.mark.parametrize("code", [published.PRIVOCIO_HTTPX, published.PRIVOCIO_GUIDE])
async def test_privocio_by_python(apis: Apis, place: Path, code: str) -> None:
    assert "'text': 'Hello, yes.'" in await python(place, apis.url, code)


async def test_privocio_by_fetch(apis: Apis, place: Path) -> None:
    need_program("node")
    before = """import { openAsBlob } from "node:fs";
    const audioBlob = await openAsBlob("recording.wav"), audioFile = audioBlob;
    """
    for code, printed in ((published.PRIVOCIO_FETCH, "Hello, yes.\n"), (published.PRIVOCIO_STREAM, "Hello,\nyes.\n")):
        (place / "example.mjs").write_text(before + published.adapted(code, apis.url))
        assert await run(place, "node", "example.mjs") == printed


async def test_privocio_by_curl(apis: Apis, place: Path) -> None:
    need_program("jq")
    printed = await shell(place, apis.url, published.PRIVOCIO_CURL)
    assert '"status": "ok"' in printed
    assert '"plan": "free"' in printed
    assert printed.count('"text": "Hello, yes."') == 3
    assert printed.count("event: segment") == 4
