"""The job APIs in a real proxy, over jobs that are kept and worked off, before an engine that says what it must."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from attestation.statement import Component, LoadedModel
from proxy.app import RunningProxy
from proxy.jobs.vault import KeyFile
from tests.proxy.conftest import StartProxy, url_of
from tests.proxy.fake_engine import CONFIG, FakeEngine, Reply, Script
from tests.waiting import until

VERBOSE: dict[str, Any] = {
    "task": "transcribe",
    "language": "english",
    "language_code": "en",
    "duration": 2.5,
    "text": "Good morning. It rains.",
    "segments": [
        {"id": 0, "start": 0.0, "end": 1.0, "text": " Good morning.", "tokens": [1], "avg_logprob": -0.1},
        {"id": 1, "start": 1.0, "end": 2.5, "text": " It rains.", "tokens": [1], "avg_logprob": -0.2},
    ],
    "words": [
        {"word": "Good", "start": 0.1, "end": 0.5},
        {"word": "morning.", "start": 0.5, "end": 1.0},
        {"word": "It", "start": 1.1, "end": 1.5},
        {"word": "rains.", "start": 1.5, "end": 2.4},
    ],
}


async def heard(reply: Reply) -> Any:
    await reply.head()
    await reply.content(json.dumps(VERBOSE).encode())
    return await reply.end()


def jobs_in(place: Path) -> dict[str, Any]:
    """Settings: recordings go to the engine as they came, and none is fetched."""
    KeyFile.make(place / "jobs.key")
    return {
        "jobs": True,
        "jobs_dir": place / "jobs",
        "jobs_key": place / "jobs.key",
        "jobs_cut": False,
        "jobs_links": False,
    }


async def two_speakers(reply: Reply) -> Any:
    segments = [segment | {"speaker": label} for segment, label in zip(VERBOSE["segments"], "AB", strict=True)]
    await reply.head()
    await reply.content(json.dumps(VERBOSE | {"segments": segments}).encode())
    return await reply.end()


@pytest.fixture
async def proxy(start_proxy: StartProxy, tmp_path: Path) -> AsyncIterator[RunningProxy]:
    async with start_proxy(**jobs_in(tmp_path)) as running:
        await until(lambda: running.trust.held)  # Privocio's API waits for no engine
        yield running


@pytest.fixture
async def app(proxy: RunningProxy) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url_of(proxy), headers={"Authorization": "Bearer sk_live_any"}) as session:
        yield session


async def asked(app: aiohttp.ClientSession, method: str, path: str, **given: Any) -> Any:
    async with app.request(method, path, **given) as answer:
        assert answer.ok, await answer.text()
        return await answer.json() if answer.content_type == "application/json" else await answer.text()


@pytest.mark.parametrize("page", ["https://pay.example/acme", ""])
async def test_a_balance_says_where_to_pay(start_proxy: StartProxy, tmp_path: Path, page: str) -> None:
    settings = jobs_in(tmp_path) | {"jobs_deposit_url": page}
    async with start_proxy(**settings) as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        assert (await asked(app, "GET", "/v1/balance"))["deposit_url"] == page


async def test_scriptivox_hears_a_file_and_writes_captions(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    engine.scripts.append(Script(play=heard))
    upload = await asked(app, "POST", "/v1/upload", json={"filename": "meeting.mp3"})
    await asked(app, "PUT", upload["upload_url"].removeprefix(str(app._base_url).rstrip("/")), data=b"sound")
    job = await asked(app, "POST", "/v1/transcribe", json={"upload_id": upload["upload_id"], "language": "en"})

    async def is_over() -> bool:
        told = await asked(app, "GET", f"/v1/transcribe/{job['id']}")
        return str(told["status"]) == "completed"

    await until(is_over)
    told = await asked(app, "GET", f"/v1/transcribe/{job['id']}")
    assert told["result"]["full_transcript"] == "Good morning. It rains."
    assert [word["word"] for word in told["result"]["utterances"][1]["words"]] == ["It", "rains."]
    assert (told["audio_duration_seconds"], told["file_size_bytes"], told["cost_cents"]) == (2, 5, 0)
    captions = await asked(app, "GET", f"/v1/transcribe/{job['id']}?format=srt")
    assert captions.startswith("1\n00:00:00,100 --> 00:00:01,000\nGood morning.\n\n2\n")
    assert [item["id"] for item in (await asked(app, "GET", "/v1/transcriptions"))["items"]] == [job["id"]]


async def test_audiototext_hears_a_file(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    engine.scripts.append(Script(play=heard))
    data = aiohttp.FormData()
    data.add_field("file", b"sound", filename="audio.mp3")
    data.add_field("word_timestamps", "true")
    data.add_field("summary", "true")
    job = await asked(app, "POST", "/api/v1/transcribe/", data=data)

    async def is_over() -> bool:
        told = await asked(app, "GET", f"/api/v1/transcribe/{job['id']}/")
        return str(told["status"]) == "completed"

    await until(is_over)
    told = await asked(app, "GET", f"/api/v1/transcribe/{job['id']}/?segments=true")
    assert (told["transcript"], told["duration_seconds"]) == ("Good morning. It rains.", 2.5)
    assert told["segments"][0]["words"][0]["word"] == "Good"
    assert (told["summary"] in told["transcript"], told["summary_method"]) == (True, "extractive")
    assert told["topics"]


async def test_the_same_request_is_answered_again_by_what_was_kept(app: aiohttp.ClientSession) -> None:
    given = {"json": {"filename": "a.mp3"}, "headers": {"Idempotency-Key": "once"}}
    first, again = [await asked(app, "POST", "/v1/upload", **given) for _ in range(2)]
    assert first == again


async def test_an_upload_that_is_unknown_and_a_page_that_is_forged_are_refused(app: aiohttp.ClientSession) -> None:
    for method, path, given, code in [
        ("POST", "/v1/transcribe", {"json": {"upload_id": "nothing"}}, "UPLOAD_NOT_FOUND"),
        ("GET", "/v1/transcriptions?cursor=forged", {}, "INVALID_REQUEST"),
        ("GET", "/v1/transcribe/nothing", {}, "TRANSCRIPTION_NOT_FOUND"),
        ("POST", "/v1/transcribe", {"json": {"url": "https://a.example/"}}, "INVALID_REQUEST"),
    ]:
        async with app.request(method, path, **given) as answer:  # type: ignore[arg-type]
            assert (await answer.json())["error"]["code"] == code


async def test_who_shows_no_good_key_is_refused_where_accounts_are_kept(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    async with (
        start_proxy(**jobs_in(tmp_path), jobs_accounts=True) as running,
        aiohttp.ClientSession(url_of(running)) as session,
    ):
        for path, code in [("/v1/balance", "INVALID_API_KEY"), ("/api/v1/languages/", "unauthorized")]:
            async with session.get(path, headers={"Authorization": "Bearer wrong"}) as answer:
                assert answer.status == 401
                assert code in await answer.text()


async def test_privocio_waits_or_sends_events(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    for path, expected in [
        ("/v1/transcriptions", '"text": "Good morning. It rains."'),
        ("/v1/transcriptions/stream", "event: done"),
    ]:
        engine.scripts.append(Script(play=heard))
        data = aiohttp.FormData()
        data.add_field("file", b"sound", filename="recording.wav", content_type="audio/wav")
        async with app.post(path, data=data) as answer:
            assert (answer.status, answer.headers["Server"]) == (200, "sottovoce")
            assert expected in await answer.text()
    assert (await asked(app, "GET", "/v1/transcriptions"))["items"] == []
    assert (await asked(app, "GET", "/v1/me"))["api_key"] is None
    assert await asked(app, "GET", "/healthz") == {"status": "ok"}


async def test_privocio_says_502_while_no_engine_has_proved_itself(
    start_proxy: StartProxy, tmp_path: Path, engine: FakeEngine
) -> None:
    async with (
        start_proxy(**jobs_in(tmp_path), engine="http://127.0.0.1:9") as running,
        aiohttp.ClientSession(url_of(running)) as session,
    ):
        data = aiohttp.FormData()
        data.add_field("file", b"sound", filename="recording.wav")
        async with session.post("/v1/transcriptions", data=data) as answer:
            told = await answer.json()
            assert (answer.status, told["error"]["code"]) == (502, "runtime_unavailable")
    assert not engine.received


async def test_speakers_are_told_apart_where_the_statement_names_what_does_so(
    start_proxy: StartProxy, tmp_path: Path, engine: FakeEngine
) -> None:
    telling = Component("speakers-fake", (), attached=False, plugins=(), models=(LoadedModel("speakers", "cd" * 32),))
    engine.config_changes["components"] = (*CONFIG.components, telling)
    engine.scripts.append(Script(play=two_speakers))
    async with start_proxy(**jobs_in(tmp_path)) as running, aiohttp.ClientSession(url_of(running)) as session:
        upload = await asked(session, "POST", "/v1/upload", json={"filename": "meeting.mp3"})
        await asked(session, "PUT", upload["upload_url"].removeprefix(url_of(running)), data=b"sound")

        async def is_taken() -> bool:
            wanted = {"upload_id": upload["upload_id"], "diarize": True, "speaker_count": 2}
            async with session.post("/v1/transcribe", json=wanted) as answer:
                return answer.status == 200

        await until(is_taken)  # the engine proves itself first
        (job,) = (await asked(session, "GET", "/v1/transcriptions"))["items"]

        async def is_over() -> bool:
            return str((await asked(session, "GET", f"/v1/transcribe/{job['id']}"))["status"]) == "completed"

        await until(is_over)
        told = await asked(session, "GET", f"/v1/transcribe/{job['id']}")
    assert told["result"]["speakers"] == ["SPEAKER 1", "SPEAKER 2"]
    assert [utterance["speaker"] for utterance in told["result"]["utterances"]] == ["SPEAKER 1", "SPEAKER 2"]
    content = bytes(engine.received[-1].content)
    assert b'"diarize"\r\n\r\ntrue' in content
    assert b'"min_speakers"\r\n\r\n2' in content
    assert b'"max_speakers"\r\n\r\n2' in content
