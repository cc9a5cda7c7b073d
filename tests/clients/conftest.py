"""One engine and one proxy, as shipped, for every client that is tried here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import openai
import pytest
import pytest_asyncio

from tests.e2e.processes import engine, proxy, until_ready

KEY = "sk-app"
ALIAS = "whisper-1"
"""What many apps ask for without being told. The engine here serves the checkpoint under this name too."""


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def base_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """What a user gives any client: the address of a proxy, with a real engine and the nano checkpoint behind it."""
    logs = tmp_path_factory.mktemp("logs")
    alias = ("--alias", f"{ALIAS}=nano")
    async with engine(logs / "engine", *alias) as behind, proxy(logs / "proxy", behind.url) as front:
        await until_ready(front)
        yield f"{front.url}/v1"


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    """OpenAI's SDK, told to check every answer against its types; without that it takes what comes."""
    with openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0, _strict_response_validation=True) as client:
        yield client


@pytest_asyncio.fixture
async def async_client(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=base_url, api_key=KEY, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client
