"""The shipped engine and the real checkpoint, and an application that needs no proxy beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
import pytest_asyncio

from sottovoce.transport import AsyncSottovoceTransport, SottovoceTransport
from tests.e2e.processes import POLICY, RECORDING, SAID, Program, engine

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("logging_as_it_was"), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    async with engine(tmp_path_factory.mktemp("logs") / "engine") as running:
        yield running


def heard(url: str) -> list[str]:
    """The words of six threads that share a client, and at last those of a stream."""
    transport = SottovoceTransport(engine=url, policy=POLICY)
    with openai.OpenAI(
        base_url="http://sottovoce/v1", api_key="x", http_client=httpx2.Client(transport=transport)
    ) as client:

        def text(_: int) -> str:
            return client.audio.transcriptions.create(model="nano", file=RECORDING).text

        with ThreadPoolExecutor(6) as threads:
            texts = list(threads.map(text, range(6)))
        events = list(client.audio.transcriptions.create(model="nano", file=RECORDING, stream=True))
        return [*texts, "".join(event.delta for event in events if event.type == "transcript.text.delta")]


async def test_an_application_with_threads_gets_the_words(behind: Program) -> None:
    assert await asyncio.to_thread(heard, behind.url) == [SAID] * 7


async def test_an_application_with_a_loop_gets_the_words(behind: Program) -> None:
    transport = AsyncSottovoceTransport(engine=behind.url, policy=POLICY)
    async with openai.AsyncOpenAI(
        base_url="http://sottovoce/v1", api_key="x", http_client=httpx2.AsyncClient(transport=transport)
    ) as client:
        assert [model.id async for model in client.models.list()] == ["nano"]
        whole = client.audio.transcriptions.create(model="nano", file=RECORDING)
        stream = await client.audio.transcriptions.create(model="nano", file=RECORDING, stream=True)
        events = [event async for event in stream]
        assert (await whole).text == SAID
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == SAID


async def test_the_engines_own_refusals_arrive_as_they_are(behind: Program) -> None:
    transport = AsyncSottovoceTransport(engine=behind.url, policy=POLICY)
    async with openai.AsyncOpenAI(
        base_url="http://sottovoce/v1", api_key="x", http_client=httpx2.AsyncClient(transport=transport)
    ) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.audio.transcriptions.create(model="other", file=RECORDING)
    assert caught.value.code == "model_not_found"
