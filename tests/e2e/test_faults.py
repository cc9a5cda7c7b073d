"""What goes wrong on its own: an app that leaves, an engine that comes back with another key, a backend that dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from engine.app import EngineParts, running_engine
from engine.backends.choose import Backend
from tests.e2e.conftest import TEXT, TRANSCRIPTIONS, Whole, engine_settings, form, whole_path
from tests.engine.fakes import FakeDecoder, FakeTranscriber, scripted, speech
from tests.engine.gateway import sealed_client
from tests.waiting import until


async def test_an_app_that_leaves_before_the_answer_stops_the_engines_work(tmp_path: Path) -> None:
    transcriber = FakeTranscriber(gate=asyncio.Event())
    async with whole_path(tmp_path, transcriber) as whole:
        asking = asyncio.create_task(whole.transcribe(language="en"))  # noqa: TID251 - cancelled below
        await until(lambda: transcriber.live == 1)
        asking.cancel()
        await until(lambda: transcriber.live == 0)
        assert transcriber.cancelled == 1
        await until(lambda: whole.engine.application.admission.requests == 0)


async def test_an_app_that_leaves_in_the_middle_of_a_stream_stops_the_engines_work(tmp_path: Path) -> None:
    transcriber = FakeTranscriber(script=scripted(TEXT), word_gate=asyncio.Event())
    async with whole_path(tmp_path, transcriber) as whole:
        asking = asyncio.create_task(whole.transcribe(language="en", stream="true"))  # noqa: TID251 - see above
        await until(lambda: transcriber.live == 1)
        asking.cancel()
        await until(lambda: transcriber.live == 0)


async def test_an_app_that_leaves_in_the_middle_of_its_upload_frees_its_place(whole: Whole) -> None:
    host, port = whole.proxy.addresses[0].host, whole.proxy.addresses[0].port
    _, writer = await asyncio.open_connection(host, port)
    writer.write(
        f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
        + bytes(500_000)
    )
    await writer.drain()
    writer.transport.abort()
    assert (await whole.transcribe()).status == 200
    await until(lambda: whole.engine.application.admission.requests == 0)
    assert len(whole.transcriber.heard) == 1


async def test_an_engine_that_restarts_with_a_new_key_between_two_requests_is_verified_again(tmp_path: Path) -> None:
    (tmp_path / "next").mkdir()
    async with whole_path(tmp_path) as whole:
        assert (await whole.transcribe()).status == 200
        parts = EngineParts(
            backend=Backend(FakeTranscriber(script=scripted("after the restart"))), decoder=FakeDecoder()
        )
        async with running_engine(engine_settings(tmp_path / "next"), parts) as restarted:
            whole.middle.engine_url = f"http://{restarted.address}"
            reply = await whole.transcribe()
        assert json.loads(reply.body)["text"] == "after the restart"
        assert whole.middle.attestations == 2
        old, refused, new = whole.middle.targets
        assert old == refused
        assert new != old


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_a_backend_that_fails_before_any_text_is_a_503(tmp_path: Path, stream: str) -> None:
    async with whole_path(tmp_path, FakeTranscriber(fail_after=0)) as whole:
        reply = await whole.transcribe(stream=stream, language="en")
        assert (reply.status, reply.error_code) == (503, "backend_unavailable")


async def test_a_backend_that_dies_in_the_middle_of_a_stream_is_an_error_event_without_done(tmp_path: Path) -> None:
    async with whole_path(tmp_path, FakeTranscriber(script=scripted(TEXT), fail_after_words=2)) as whole:
        reply = await whole.transcribe(stream="true", language="en")
        assert reply.status == 200
        assert b"transcript.text.delta" in reply.body
        assert b'"backend_unavailable"' in reply.body
        assert b"[DONE]" not in reply.body


async def test_an_engine_that_is_gone_is_a_503_and_comes_back(tmp_path: Path) -> None:
    async with whole_path(tmp_path) as whole:
        assert (await whole.transcribe()).status == 200
        url = whole.middle.engine_url
        whole.middle.engine_url = "http://127.0.0.1:1"
        assert (await whole.transcribe()).status in (502, 503)
        whole.middle.engine_url = url
        assert (await whole.transcribe()).status == 200


async def test_sixty_four_requests_at_a_time_all_get_their_own_answer(tmp_path: Path) -> None:
    transcriber = FakeTranscriber(script=lambda clip, _: f"{round(clip.duration_s * 10)}")
    async with whole_path(tmp_path, transcriber) as whole:
        lengths = [1.0 + n / 10 for n in range(64)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(whole.transcribe(speech(length), language="en")) for length in lengths]
        heard = [int(json.loads(task.result().body)["text"]) for task in tasks]
        assert heard == sorted(heard)
        assert len(set(heard)) == 64


async def test_hundreds_of_early_refusals_while_uploading_leave_the_path_working(whole: Whole) -> None:
    async def refused() -> int:
        data = form(bytes(2_000_000), model="missing")
        async with whole.session.post(whole.url + "/v1/audio/nothing", data=data) as response:
            return response.status

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(refused()) for _ in range(50)]
    assert {task.result() for task in tasks} == {404}
    assert (await whole.transcribe()).status == 200


async def test_models_are_listed_and_found(whole: Whole) -> None:
    async with whole.session.get(whole.url + "/v1/models") as response:
        assert [model["id"] for model in (await response.json())["data"]] == ["nano"]
    async with whole.session.get(whole.url + "/v1/models/nano") as response:
        assert (await response.json())["object"] == "model"
    async with whole.session.get(whole.url + "/v1/models/other") as response:
        assert response.status == 404


async def test_a_request_id_of_the_app_comes_back(whole: Whole) -> None:
    headers = {"X-Request-ID": "mine-42"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(whole.url + "/v1/models", headers=headers) as response,
    ):
        assert response.headers["x-request-id"] == "mine-42"


async def test_an_app_that_sends_a_few_bytes_at_a_time_is_heard(whole: Whole) -> None:
    """What the engine takes for an attack, a body in tiny pieces, the proxy makes of no app's writes."""
    body = sealed_client.form(speech(2.0) + bytes(40_000), ("model", "nano"))

    async def dripping() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100):
            yield body[start : start + 100]
            await asyncio.sleep(0)

    headers = dict([sealed_client.FORM])
    async with whole.session.post(whole.url + TRANSCRIPTIONS, data=dripping(), headers=headers) as response:
        assert (response.status, (await response.json())["text"]) == (200, TEXT)
