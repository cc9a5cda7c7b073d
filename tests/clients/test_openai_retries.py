"""When does OpenAI's SDK send a recording again? As often as its author meant, and when it was told to.

Every sealed request is counted by the machine in the middle. Speech is a fake here, since only a fake can be made to
fail on cue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from engine.app import EngineParts, running_engine
from engine.backends.choose import Backend
from engine.gateway.admission import RETRY_AFTER_S
from proxy.app import running_proxy
from tests.e2e.conftest import TEXT, engine_settings, proxy_settings
from tests.e2e.middle import Middle, middle
from tests.engine.fakes import FakeDecoder, FakeTranscriber, scripted, speech
from tests.waiting import until

FILE = ("a.wav", speech(2.0))


@asynccontextmanager
async def running(
    directory: Path, transcriber: FakeTranscriber, token: Path | None = None, **engine_options: Any
) -> AsyncIterator[tuple[openai.AsyncOpenAI, Middle]]:
    """An SDK with its usual two retries, and what stands between proxy and engine."""
    parts = EngineParts(backend=Backend(transcriber), decoder=FakeDecoder())
    secrets = {"token": f"@{token}", "api_key": f"@{token}"} if token else {}
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        engine = await enter(running_engine(engine_settings(directory, **engine_options), parts))
        box = await enter(middle(f"http://{engine.address}"))
        proxy = await enter(running_proxy(proxy_settings(box.url, **secrets)))
        url = f"http://{proxy.addresses[0]}/v1"
        yield await enter(openai.AsyncOpenAI(base_url=url, api_key="sk-app")), box


async def test_a_busy_engine_is_asked_again_after_the_time_it_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, waits = asyncio.Event(), list[float]()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        gate.set()
        await asyncio.wait([first])

    monkeypatch.setattr("openai._base_client.anyio.sleep", sleep)
    transcriber = FakeTranscriber(script=scripted(TEXT), gate=gate)
    async with running(tmp_path, transcriber, max_requests=1) as (client, box), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(client.audio.transcriptions.create(model="nano", file=FILE))
        await until(lambda: transcriber.live)
        second = tasks.create_task(client.audio.transcriptions.create(model="nano", file=FILE))
        assert {(await first).text, (await second).text} == {TEXT}
    assert waits == [RETRY_AFTER_S], "on its own the SDK waits half a second"
    assert len(box.requests) == 3


async def test_a_busy_engine_is_a_503_once_all_tries_are_used_up(tmp_path: Path) -> None:
    transcriber = FakeTranscriber(fail_after=0)
    async with running(tmp_path, transcriber) as (client, box):
        with pytest.raises(openai.InternalServerError) as raised:
            await client.with_options(max_retries=0).audio.transcriptions.create(model="nano", file=FILE)
    headers = raised.value.response.headers
    assert (raised.value.status_code, raised.value.code) == (503, "backend_unavailable")
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("5", "5000")
    assert "x-should-retry" not in headers
    assert len(box.requests) == 1


@pytest.mark.parametrize(
    ("transcriber", "options", "status", "code"),
    [
        (FakeTranscriber(gate=asyncio.Event()), {"request_timeout_s": 0.05}, 504, "timeout"),
        (FakeTranscriber(failure=ZeroDivisionError("a defect"), fail_after=0), {}, 500, "internal_error"),  # type: ignore[arg-type]
    ],
    ids=["too long for the deadline", "a defect"],
)
async def test_what_would_fail_again_is_sent_once(
    tmp_path: Path, transcriber: FakeTranscriber, options: dict[str, Any], status: int, code: str
) -> None:
    async with running(tmp_path, transcriber, **options) as (client, box):
        with pytest.raises(openai.InternalServerError) as raised:
            await client.audio.transcriptions.create(model="nano", file=FILE)
    assert (raised.value.status_code, raised.value.code) == (status, code)
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert len(box.requests) == 1


async def test_a_failure_within_a_stream_is_raised_and_not_sent_again(tmp_path: Path) -> None:
    async with running(tmp_path, FakeTranscriber(script=scripted(TEXT), fail_after_words=2)) as (client, box):
        stream = await client.audio.transcriptions.create(model="nano", file=FILE, stream=True)
        heard = [(await anext(stream)).type for _ in range(2)]
        with pytest.raises(openai.APIError) as raised:
            await anext(stream)
    assert heard == ["transcript.text.delta"] * 2
    assert raised.value.code == "backend_unavailable"
    assert len(box.requests) == 1


async def test_the_token_of_the_proxy_is_asked_for_in_words_that_the_sdk_knows(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("sesame")
    token.chmod(0o600)
    async with running(tmp_path, FakeTranscriber(script=scripted(TEXT)), token) as (client, box):
        with pytest.raises(openai.AuthenticationError) as raised:
            await client.audio.transcriptions.create(model="nano", file=FILE)
        assert raised.value.code == "invalid_local_token"
        assert box.requests == []
        known = client.with_options(api_key="sesame")
        assert (await known.audio.transcriptions.create(model="nano", file=FILE)).text == TEXT
