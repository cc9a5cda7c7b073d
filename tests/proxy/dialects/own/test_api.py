"""What an app gets at /v1/jobs, from a real proxy in front of a fake engine."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import numpy as np
import pytest

from attestation.statement import SUMMARIES, Component, LoadedModel
from proxy.app import RunningProxy
from proxy.jobs.vault import KeyFile
from proxy.sender import StartError
from tests.core.media.sounds import wav
from tests.proxy.conftest import StartProxy, url_of
from tests.proxy.fake_engine import CONFIG, JSON_HEADERS, FakeEngine, Reply, Script, outer
from tests.waiting import until

SPEC = json.loads((files("proxy.dialects.own") / "openapi.json").read_text())
VERBOSE = {
    "task": "transcribe",
    "language": "english",
    "language_code": "en",
    "duration": 2.5,
    "text": "Good morning.",
    "segments": [{"id": 0, "start": 0.0, "end": 2.5, "text": " Good morning.", "tokens": [1], "avg_logprob": -0.1}],
    "words": [{"word": "Good", "start": 0.1, "end": 0.5}, {"word": "morning", "start": 0.5, "end": 1.0}],
}


VOICE_URL = "data:audio/wav;base64,UklGRg=="
KNOWN = {"known_speaker_names[]": "Ada", "known_speaker_references[]": VOICE_URL}


def fits(value: object, schema: str) -> None:
    """Raises ValidationError for what is not as the document says."""
    jsonschema.validate(value, {"$ref": f"#/components/schemas/{schema}", "components": SPEC["components"]})


async def verbose(reply: Reply) -> Any:
    await reply.head()
    await reply.content(json.dumps(VERBOSE).encode())
    return await reply.end()


def refusing(status: int, code: str) -> Script:
    async def play(reply: Reply) -> Any:
        await reply.head(status, JSON_HEADERS)
        await reply.content(json.dumps({"error": {"message": "", "type": "", "param": None, "code": code}}).encode())
        return await reply.end()

    return Script(play=play)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    KeyFile.make(tmp_path / "jobs.key")
    return {"jobs": True, "jobs_cut": False, "jobs_dir": tmp_path / "jobs", "jobs_key": tmp_path / "jobs.key"}


@pytest.fixture
async def proxy(start_proxy: StartProxy, options: dict[str, Any]) -> AsyncIterator[RunningProxy]:
    async with start_proxy(**options) as running:
        yield running


@pytest.fixture
async def app(proxy: RunningProxy) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url_of(proxy)) as session:
        yield session


def form(**fields: str) -> aiohttp.FormData:
    data = aiohttp.FormData()
    for name, value in fields.items():
        data.add_field(name, value)
    data.add_field("file", b"RIFF sound", filename="morning.wav", content_type="audio/wav")
    return data


async def submitted(app: aiohttp.ClientSession, **fields: str) -> dict[str, Any]:
    async with app.post("/v1/jobs", data=form(**fields)) as answer:
        job: dict[str, Any] = await answer.json()
        assert answer.status == 201, job
    fits(job, "Job")
    return job


async def shown(app: aiohttp.ClientSession, job: dict[str, Any]) -> dict[str, Any]:
    async with app.get(f"/v1/jobs/{job['id']}") as answer:
        assert answer.status == 200
        found: dict[str, Any] = await answer.json()
    fits(found, "Job")
    return found


async def over(app: aiohttp.ClientSession, job: dict[str, Any]) -> dict[str, Any]:
    async def is_over() -> bool:
        return (await shown(app, job))["status"] in ("completed", "failed", "cancelled")

    await until(is_over)
    return await shown(app, job)


async def refused(answer: aiohttp.ClientResponse) -> tuple[int, str, str | None]:
    body = await answer.json()
    fits(body, "Error")
    return answer.status, body["error"]["code"], body["error"]["param"]


async def test_a_recording_is_heard_and_its_text_is_there_in_every_form(
    app: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    engine.scripts.append(Script(play=verbose))
    job = await submitted(app, language="EN", words="true")
    assert (job["name"], job["language"], job["size_bytes"]) == ("morning.wav", "en", 10)
    ended = await over(app, job)
    assert (ended["status"], ended["progress"], ended["duration_s"]) == ("completed", 100, 2.5)
    async with app.get(f"/v1/jobs/{job['id']}/result") as answer:
        result = await answer.json()
    fits(result, "Result")
    assert result["text"] == "Good morning."
    assert [word["word"] for word in result["segments"][0]["words"]] == ["Good", "morning"]
    for wanted, expected in (("text", "Good morning.\n"), ("srt", "1\n00:00:00,000"), ("vtt", "WEBVTT\n\n00:00")):
        async with app.get(f"/v1/jobs/{job['id']}/result", params={"format": wanted}) as answer:
            assert (await answer.text()).startswith(expected)


async def test_the_receipts_of_a_job_are_there_once_it_completed(
    app: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    engine.scripts.append(refusing(400, "unsupported_file"))
    job = await submitted(app)
    assert (await over(app, job))["status"] == "failed"
    async with app.get(f"/v1/jobs/{job['id']}/receipts") as answer:
        assert (await refused(answer))[0] == 409
    engine.scripts.append(Script(play=verbose))
    job = await submitted(app)
    await over(app, job)
    async with app.get(f"/v1/jobs/{job['id']}/receipts") as answer:
        receipts = await answer.json()
    fits(receipts, "Receipts")
    assert (receipts["job"], receipts["receipts"]) == (job["id"], [])  # of an engine that gives none


async def test_the_engine_hears_the_options_and_not_the_name_of_the_file(
    app: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    engine.scripts.append(Script(play=verbose))
    await over(app, await submitted(app, language="de", prompt="Greetings", vocabulary="Sottovoce", words="1"))
    content = bytes(engine.received[-1].content)
    for expected in (
        b'"language"\r\n\r\nde',
        b"Greetings, Sottovoce",
        b"verbose_json",
        b"RIFF sound",
        b'"recording.wav"',
    ):
        assert expected in content
    assert b"morning" not in content


async def test_what_was_given_to_keep_is_told_again(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    engine.scripts.append(Script(play=verbose))
    job = await submitted(app, metadata='{"order": "7"}', priority="high", delete_after_s="3600")
    assert (job["metadata"], job["priority"]) == ({"order": "7"}, "high")
    assert (await over(app, job))["metadata"] == {"order": "7"}
    async with app.get("/v1/jobs") as answer:
        page = await answer.json()
    fits(page, "Page")
    assert page["data"][0]["metadata"] == {"order": "7"}


async def test_personal_data_is_left_out_of_every_form(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    said = "Write to jane@example.org."

    async def spoken(reply: Reply) -> Any:
        segment = {"id": 0, "start": 0.0, "end": 2.5, "text": f" {said}"}
        words = [{"word": word, "start": 0.1, "end": 0.5} for word in said.split()]
        await reply.head()
        await reply.content(json.dumps({**VERBOSE, "text": said, "segments": [segment], "words": words}).encode())
        return await reply.end()

    engine.scripts.append(Script(play=spoken))
    data = form(words="true")
    for kind in ("email_address", "phone_number"):
        data.add_field("redact", kind)
    async with app.post("/v1/jobs", data=data) as answer:
        job = await answer.json()
    assert (await over(app, job))["status"] == "completed"
    for wanted in ("json", "text", "srt", "vtt"):
        async with app.get(f"/v1/jobs/{job['id']}/result", params={"format": wanted}) as answer:
            text = await answer.text()
        assert ("jane" in text, "[EMAIL_ADDRESS]" in text) == (False, True)
    async with app.get(f"/v1/jobs/{job['id']}/result") as answer:
        result = await answer.json()
    fits(result, "Result")
    assert result["redacted"] == {"email_address": 1, "phone_number": 0}


async def test_a_summary_is_of_what_was_said_and_says_so(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    engine.scripts.append(Script(play=verbose))
    job = await submitted(app, summary="true")
    await over(app, job)
    async with app.get(f"/v1/jobs/{job['id']}/result") as answer:
        result = await answer.json()
    fits(result, "Result")
    assert (result["summary"], result["summary_method"]) == ("Good morning.", "extractive")
    assert len(engine.received) == 1, "an engine without a model is not asked for one"


WRITER = Component(SUMMARIES, (), attached=False, plugins=(), models=(LoadedModel("instruct", "cd" * 32),))


async def summary(reply: Reply) -> Any:
    await reply.head()
    told = {"object": "summary", "model": "instruct", "summary": "A greeting.", "topics": ["mornings"], "usage": {}}
    await reply.content(json.dumps(told).encode())
    return await reply.end()


async def result_of(app: aiohttp.ClientSession, job: dict[str, Any]) -> dict[str, Any]:
    assert (await over(app, job))["status"] == "completed"
    async with app.get(f"/v1/jobs/{job['id']}/result") as answer:
        result: dict[str, Any] = await answer.json()
    fits(result, "Result")
    return result


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra `summaries` is not installed."""
    monkeypatch.setattr("proxy.dialects.serving._extract", lambda: None)


async def until_taken(app: aiohttp.ClientSession) -> dict[str, Any]:
    """A job that asks for a summary, once the engine has proved itself."""
    taken: list[dict[str, Any]] = []

    async def is_taken() -> bool:
        async with app.post("/v1/jobs", data=form(summary="true")) as answer:
            if answer.status == 201:
                taken.append(await answer.json())
            return answer.status == 201

    await until(is_taken)
    return taken[0]


async def test_a_summary_is_the_models_where_the_statement_names_one(
    without_extra: None, start_proxy: StartProxy, engine: FakeEngine, options: dict[str, Any]
) -> None:
    engine.config_changes["components"] = (*CONFIG.components, WRITER)
    engine.scripts.extend([Script(play=verbose), Script(play=summary)])
    async with start_proxy(**options) as running, aiohttp.ClientSession(url_of(running)) as app:
        result = await result_of(app, await until_taken(app))
    told = [result[name] for name in ("summary", "topics", "summary_method", "summary_model")]
    assert told == ["A greeting.", ["mornings"], "model", "instruct"]
    asked = engine.received[-1]
    assert asked.head is not None
    assert (asked.head.method, asked.head.path) == ("POST", "/v1/summaries")
    assert json.loads(asked.content) == {"segments": [{"text": " Good morning."}], "language": "en"}
    assert b"Good morning" not in b"".join(str(header).encode() for header in asked.outer_headers)


@pytest.mark.parametrize("status", [400, 404, 413])
async def test_a_model_that_refuses_costs_no_more_than_the_summary_of_its_own(
    start_proxy: StartProxy, engine: FakeEngine, options: dict[str, Any], status: int
) -> None:
    engine.config_changes["components"] = (*CONFIG.components, WRITER)
    engine.scripts.extend([Script(play=verbose), refusing(status, "no")])
    async with start_proxy(**options) as running, aiohttp.ClientSession(url_of(running)) as app:
        result = await result_of(app, await submitted(app, summary="true"))
    assert (result["summary"], result["summary_method"], result["summary_model"]) == (
        *("Good morning.", "extractive"),
        None,
    )


async def test_without_a_model_and_without_the_extra_a_summary_is_refused(
    without_extra: None, start_proxy: StartProxy, options: dict[str, Any]
) -> None:
    async with (
        start_proxy(**options) as running,
        aiohttp.ClientSession(url_of(running)) as app,
        app.post("/v1/jobs", data=form(summary="true")) as answer,
    ):
        assert await refused(answer) == (400, "unsupported_parameter", "summary")


async def test_channels_are_heard_one_by_one(
    start_proxy: StartProxy, engine: FakeEngine, options: dict[str, Any]
) -> None:
    said = iter(["Hello?", "Good morning."])

    async def next_one(reply: Reply) -> Any:
        text = next(said)
        segment = {"id": 0, "start": 0.0 if text == "Hello?" else 1.0, "end": 2.0, "text": text}
        await reply.head()
        await reply.content(json.dumps({**VERBOSE, "text": text, "segments": [segment], "words": []}).encode())
        return await reply.end()

    engine.scripts.extend([Script(play=next_one)] * 2)
    tone = np.sin(np.arange(48_000) / 10) * 3_000
    file = wav(np.stack([tone, tone * 0.5], axis=1).astype("<i2").tobytes(), channels=2)
    data = aiohttp.FormData()
    data.add_field("channels", "true")
    data.add_field("start_s", "1")
    data.add_field("file", file, filename="call.wav")
    settings = options | {"jobs_cut": True, "jobs_parts_at_once": 1}
    async with start_proxy(**settings) as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        async with app.post("/v1/jobs", data=data) as answer:
            job = await answer.json()
        ended = await over(app, job)
        assert (ended["status"], ended["duration_s"]) == ("completed", 2.0)
        async with app.get(f"/v1/jobs/{job['id']}/result") as answer:
            result = await answer.json()
        fits(result, "Result")
        assert [(each["channel"], each["text"]) for each in result["channels"]] == [(1, "Hello?"), (2, "Good morning.")]
        assert [(each["start_s"], each["speaker"]) for each in result["segments"]] == [(1.0, 0), (2.0, 1)]
        assert [speaker["speaker"] for speaker in result["speakers"]] == [0, 1]
        async with app.get(f"/v1/jobs/{job['id']}/result?format=srt&include_speakers=true") as answer:
            assert "SPEAKER 2: Good morning." in await answer.text()


async def test_who_is_known_is_told_to_the_engine_and_named_and_their_voices_go_with_the_end(
    app: aiohttp.ClientSession, engine: FakeEngine, options: dict[str, Any]
) -> None:
    telling = Component("speakers-fake", (), attached=False, plugins=(), models=(LoadedModel("speakers", "cd" * 32),))
    engine.config_changes["components"] = (*CONFIG.components, telling)
    voices: list[int] = []

    def voices_kept() -> int:
        with closing(sqlite3.connect(options["jobs_dir"] / "jobs.sqlite")) as database:
            return int(database.execute("SELECT count(*) FROM known_speakers").fetchone()[0])

    async def ada(reply: Reply) -> Any:
        voices.append(voices_kept())
        segments = [{**VERBOSE["segments"][0], "speaker": "Ada"}]  # type: ignore[index]
        voice = {"speaker": "Ada", "known": True, "seconds": 2.5, "embedding": None, "model": None, "same": None}
        await reply.head()
        await reply.content(json.dumps({**VERBOSE, "segments": segments, "speaker_embeddings": [voice]}).encode())
        return await reply.end()

    engine.scripts.append(Script(play=ada))
    fields = {"diarize": "true", **KNOWN}

    async def is_taken() -> bool:
        async with app.post("/v1/jobs", data=form(**fields)) as answer:
            return answer.status == 201

    await until(is_taken)  # the engine proves itself first
    async with app.get("/v1/jobs") as answer:
        (job,) = (await answer.json())["data"]
    assert (await over(app, job))["status"] == "completed"
    async with app.get(f"/v1/jobs/{job['id']}/result") as answer:
        result = await answer.json()
    fits(result, "Result")
    assert [(who["label"], who["name"]) for who in result["speakers"]] == [("Ada", "Ada")]
    sent = bytes(engine.received[-1].content)
    for name, value in (*KNOWN.items(), ("include[]", "speaker_embeddings")):
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in sent
    assert (voices, voices_kept()) == ([1], 0)
    assert VOICE_URL not in json.dumps([job, result])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("format=srt&max_words=1", "1\n00:00:00,100 --> 00:00:00,500\nGood\n\n2\n"),
        ("format=vtt&max_words=1&strip_chars=.", "WEBVTT\n\n00:00:00.100 --> 00:00:00.500\nGood\n\n"),
        ("format=text&max_words=1", "Good\nmorning\n"),
        ("format=text&output_mode=clean", "Good morning.\n"),
        ("format=srt&output_mode=clean", "1\n00:00:00,000"),
    ],
)
async def test_a_result_is_cut_and_cleaned_as_is_wanted(
    app: aiohttp.ClientSession, engine: FakeEngine, query: str, expected: str
) -> None:
    engine.scripts.append(Script(play=verbose))
    job = await submitted(app, words="true")
    await over(app, job)
    async with app.get(f"/v1/jobs/{job['id']}/result?{query}") as answer:
        assert answer.status == 200
        assert (await answer.text()).startswith(expected)


async def test_a_result_may_be_cleaned_or_for_programs(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    engine.scripts.append(Script(play=verbose))
    job = await submitted(app)
    await over(app, job)
    for mode, schema in (("clean", "Result"), ("agent", "Agent")):
        async with app.get(f"/v1/jobs/{job['id']}/result", params={"output_mode": mode}) as answer:
            fits(await answer.json(), schema)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("format=pdf", "format"),
        ("format=srt&max_words=0", "max_words"),
        ("output_mode=neat", "output_mode"),
        ("format=srt&output_mode=agent", "output_mode"),
        ("max_words=3", "format"),
        ("format=srt&max_words=3&output_mode=clean", "format"),
        ("nightjar=1", None),
    ],
)
async def test_a_result_is_asked_for_in_its_own_words(
    app: aiohttp.ClientSession, query: str, param: str | None
) -> None:
    async with app.get(f"/v1/jobs/0/result?{query}") as answer:
        status, _, found = await refused(answer)
    assert (status, found) == (400, param)


async def test_jobs_are_listed_page_by_page(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    made = [(await submitted(app))["id"] for _ in range(3)]
    async with app.get("/v1/jobs", params={"limit": "2"}) as answer:
        page = await answer.json()
    fits(page, "Page")
    async with app.get("/v1/jobs", params={"limit": "2", "cursor": page["next_cursor"]}) as answer:
        last = await answer.json()
    assert {job["id"] for job in page["data"] + last["data"]} == set(made)
    assert last["next_cursor"] is None


async def test_a_job_is_cancelled_deleted_and_gone(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    engine.scripts.extend([outer(503)] * 20)
    job = await submitted(app)
    async with app.delete(f"/v1/jobs/{job['id']}") as answer:
        assert await refused(answer) == (409, "job_conflict", None)
    for _ in range(2):
        async with app.post(f"/v1/jobs/{job['id']}/cancel") as answer:
            cancelled = await answer.json()
            assert (answer.status, cancelled["status"]) == (200, "cancelled")
            fits(cancelled, "Job")
    async with app.get(f"/v1/jobs/{job['id']}/result") as answer:
        assert await refused(answer) == (409, "job_conflict", None)
    for _ in range(2):
        async with app.delete(f"/v1/jobs/{job['id']}") as answer:
            assert answer.status == 204
    async with app.get(f"/v1/jobs/{job['id']}") as answer:
        assert await refused(answer) == (404, "job_not_found", None)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (refusing(400, "unsupported_file"), "media_unreadable"),
        (refusing(400, "audio_too_short"), "media_too_short"),
        (refusing(400, "invalid_value"), "engine_refused"),
        (refusing(413, "file_too_large"), "media_too_large"),
    ],
)
async def test_what_the_engine_refuses_fails_the_job(
    app: aiohttp.ClientSession, engine: FakeEngine, script: Script, code: str
) -> None:
    engine.scripts.append(script)
    ended = await over(app, await submitted(app))
    assert (ended["status"], ended["failure"]["code"]) == ("failed", code)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"language": "xx"}, (400, "invalid_value", "language")),
        ({"temperature": "2"}, (400, "invalid_value", "temperature")),
        ({"temperature": "nan"}, (400, "invalid_value", "temperature")),
        ({"speaker_count": "2"}, (400, "invalid_value", None)),
        ({"min_speakers": "2"}, (400, "invalid_value", None)),
        ({"diarize": "true", "min_speakers": "3", "max_speakers": "2"}, (400, "invalid_value", None)),
        ({"diarize": "true", "speaker_count": "2", "max_speakers": "2"}, (400, "invalid_value", None)),
        ({"diarize": "true", "max_speakers": "51"}, (400, "invalid_value", "max_speakers")),
        (KNOWN, (400, "invalid_value", None)),
        ({"diarize": "true", "known_speaker_names[]": "Ada"}, (400, "invalid_value", None)),
        ({"diarize": "true", **KNOWN, "known_speaker_names[]": " "}, (400, "invalid_value", "known_speaker_names")),
        (
            {"diarize": "true", **KNOWN, "known_speaker_references[]": "data:audio/wav,AAAA"},
            (400, "invalid_value", "known_speaker_references"),
        ),
        (
            {"diarize": "true", **KNOWN, "known_speaker_references[]": "data:audio/wav;base64,A"},
            (400, "invalid_value", "known_speaker_references"),
        ),
        ({"diarize": "true"}, (400, "unsupported_parameter", "diarize")),
        ({"start_s": "1"}, (400, "unsupported_parameter", "start_s")),
        ({"channels": "1"}, (400, "unsupported_parameter", "channels")),
        ({"metadata": "nightjar"}, (400, "invalid_value", "metadata")),
        ({"webhook_authorization": "Bearer a"}, (400, "invalid_value", "webhook_authorization")),
        ({"task": "sing"}, (400, "invalid_value", "task")),
        ({"nightjar": "1"}, (400, "unknown_parameter", None)),
        ({"url": "https://a.example/x"}, (400, "invalid_value", "url")),
        ({"prompt": "x" * 20_000}, (400, "invalid_value", None)),
    ],
)
async def test_a_field_that_is_not_allowed_is_refused_by_its_name_and_leaves_nothing(
    app: aiohttp.ClientSession, proxy: RunningProxy, options: dict[str, Any], fields: dict[str, str], expected: object
) -> None:
    async with app.post("/v1/jobs", data=form(**fields)) as answer:
        assert await refused(answer) == expected
        assert "nightjar" not in await answer.text()
    assert list((options["jobs_dir"] / "recordings").iterdir()) == []


async def test_a_submission_needs_a_file_or_a_link(app: aiohttp.ClientSession) -> None:
    data = aiohttp.FormData()
    data.add_field("language", "en")
    async with app.post("/v1/jobs", data=aiohttp.MultipartWriter("form-data")) as answer:
        assert answer.status == 400
    for sent, expected in (
        ({"json": {}}, (400, "missing_required_parameter", "url")),
        ({"json": {"url": "https://youtu.be/x"}}, (400, "unsupported_link", "url")),
        ({"json": {"url": "https://a.example:99999/x"}}, (400, "unsupported_link", "url")),
        (
            {"json": {"url": "https://a.example/x", "webhook_url": "http://b.example/"}},
            (400, "invalid_value", "webhook_url"),
        ),
        ({"json": {"url": "ftp://a.example/x"}}, (400, "invalid_value", "url")),
        ({"json": []}, (400, "invalid_json", None)),
        ({"data": b"{", "headers": {"content-type": "application/json"}}, (400, "invalid_json", None)),
        (
            {"data": BytesIO(b" " * 17_000_000), "headers": {"content-type": "application/json"}},
            (413, "body_too_large", None),
        ),
        ({"data": b"x", "headers": {"content-type": "text/plain"}}, (415, "unsupported_media_type", None)),
    ):
        async with app.post("/v1/jobs", **sent) as answer:
            assert await refused(answer) == expected


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("status=odd", "status"),
        ("from=then", "from"),
        ("cursor=AAAA", "cursor"),
        ("order=up", "order"),
        ("unknown=1", None),
        ("limit=1&limit=2", None),
    ],
)
async def test_a_list_is_asked_for_in_its_own_words(app: aiohttp.ClientSession, query: str, param: str | None) -> None:
    async with app.get(f"/v1/jobs?{query}") as answer:
        status, _, found = await refused(answer)
    assert (status, found) == (400, param)


async def test_the_same_submission_under_the_same_key_makes_one_job(
    app: aiohttp.ClientSession, options: dict[str, Any]
) -> None:
    headers = {"Idempotency-Key": "mine"}
    bodies = []
    for _ in range(2):
        async with app.post("/v1/jobs", data=form(language="en"), headers=headers) as answer:
            bodies.append(await answer.read())
            replayed = answer.headers.get("Idempotent-Replay")
    assert bodies[0] == bodies[1]
    assert replayed == "true"
    async with app.post("/v1/jobs", data=form(language="de"), headers=headers) as answer:
        assert await refused(answer) == (422, "idempotency_key_reused", None)
    async with app.get("/v1/jobs") as answer:
        assert len((await answer.json())["data"]) == 1
    assert len(list((options["jobs_dir"] / "recordings").iterdir())) == 1


async def test_a_file_that_is_too_large_is_refused(start_proxy: StartProxy, options: dict[str, Any]) -> None:
    async with (
        start_proxy(**options, jobs_max_file_bytes=9) as proxy,
        aiohttp.ClientSession(url_of(proxy)) as app,
        app.post("/v1/jobs", data=form()) as answer,
    ):
        assert await refused(answer) == (413, "file_too_large", "file")


@pytest.mark.parametrize(("method", "path"), [("PUT", "/v1/jobs"), ("GET", "/v1/jobs/a/b/c"), ("POST", "/v1/jobs/a")])
async def test_what_is_not_there_is_not_sent_to_the_engine(
    app: aiohttp.ClientSession, engine: FakeEngine, method: str, path: str
) -> None:
    async with app.request(method, path) as answer:
        assert (await refused(answer))[:2] == (404, "not_found")
    assert engine.received == []


async def test_the_document_is_served(app: aiohttp.ClientSession) -> None:
    async with app.get("/v1/jobs/openapi.json") as answer:
        assert await answer.json() == SPEC


async def test_accounts_see_their_own_jobs_and_nobody_elses(start_proxy: StartProxy, options: dict[str, Any]) -> None:
    from proxy.jobs.model import PlanTerms
    from proxy.jobs.service import kept, places_of
    from proxy.jobs_options import JobsOptions

    places = places_of(JobsOptions(jobs_dir=options["jobs_dir"], jobs_key=options["jobs_key"]), {})
    async with kept(places) as store:
        await store.accounts.put_plan(PlanTerms("plan"))
        keys = []
        for name in ("one", "two"):
            account = await store.accounts.add(name, "plan")
            keys.append((await store.accounts.add_key(account.id, "key"))[1])
    async with start_proxy(**options, jobs_accounts=True) as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        async with app.get("/v1/jobs") as answer:
            assert (await refused(answer))[:2] == (401, "invalid_api_key")
        async with app.post("/v1/jobs", data=form(), headers={"Authorization": f"Bearer {keys[0]}"}) as answer:
            job = await answer.json()
            assert answer.status == 201
        async with app.get(f"/v1/jobs/{job['id']}", headers={"X-Api-Key": keys[0]}) as answer:
            assert answer.status == 200
        async with app.get(f"/v1/jobs/{job['id']}", headers={"Authorization": keys[1]}) as answer:
            assert (await refused(answer))[:2] == (404, "job_not_found")


async def test_a_plan_limits_the_file(start_proxy: StartProxy, options: dict[str, Any]) -> None:
    from proxy.jobs.model import PlanTerms
    from proxy.jobs.service import kept, places_of
    from proxy.jobs_options import JobsOptions

    places = places_of(JobsOptions(jobs_dir=options["jobs_dir"], jobs_key=options["jobs_key"]), {})
    async with kept(places) as store:
        await store.accounts.put_plan(PlanTerms("local", max_upload_bytes=9))
    async with (
        start_proxy(**options) as proxy,
        aiohttp.ClientSession(url_of(proxy)) as app,
        app.post("/v1/jobs", data=form()) as answer,
    ):
        assert await refused(answer) == (413, "file_too_large", "file")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/1", "/v1/jobs/1/result"])
async def test_without_jobs_their_place_says_what_to_switch_on(
    start_proxy: StartProxy, engine: FakeEngine, path: str
) -> None:
    async with start_proxy() as proxy, aiohttp.ClientSession(url_of(proxy)) as app, app.get(path) as answer:
        body = await answer.json()
        assert (answer.status, body["error"]["code"]) == (404, "jobs_off")
        assert "--jobs" in body["error"]["message"]
    assert engine.received == []


async def test_a_proxy_whose_keys_are_lost_does_not_start(start_proxy: StartProxy, options: dict[str, Any]) -> None:
    async with start_proxy(**options):
        pass
    options["jobs_key"].unlink()
    with pytest.raises(StartError, match=r"--jobs: .*no such file"):
        async with start_proxy(**options):
            pass


@pytest.mark.parametrize(
    ("more", "body", "expected"),
    [
        ({"jobs_links": False}, {"url": "https://a.example/x"}, (400, "unsupported_parameter", "url")),
        ({"jobs_link_resolver": Path("/bin/false")}, {"url": "https://youtu.be/x"}, 201),
        (
            {"jobs_link_resolver": Path("/bin/false")},
            {"url": "https://drive.google.com/"},
            (400, "unsupported_link", "url"),
        ),
        (
            {"jobs_allow_network": "127.0.0.0/8"},
            {"url": "http://127.0.0.1:1/", "webhook_url": "http://127.0.0.1:1/"},
            201,
        ),
    ],
)
async def test_what_the_operator_named_decides_on_links(
    start_proxy: StartProxy, options: dict[str, Any], more: dict[str, Any], body: dict[str, Any], expected: object
) -> None:
    async with (
        start_proxy(**options | more) as running,
        aiohttp.ClientSession(url_of(running)) as app,
        app.post("/v1/jobs", json=body) as answer,
    ):
        assert (answer.status if answer.status == 201 else await refused(answer)) == expected


async def test_jobs_are_counted(app: aiohttp.ClientSession, proxy: RunningProxy, engine: FakeEngine) -> None:
    engine.scripts.append(Script(play=verbose))
    await over(app, await submitted(app))
    text = proxy.service.sender.telemetry.snapshot().exposition().decode()
    assert 'sottovoce_proxy_jobs_ended_total{outcome="completed"} 1.0' in text
    assert "morning" not in text
