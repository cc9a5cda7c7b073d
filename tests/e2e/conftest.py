"""The whole path in one process: app, proxy, a machine in the middle, engine. Only speech and codec are fakes."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import pytest

from engine.app import EngineParts, RunningEngine, running_engine
from engine.backends.choose import Backend
from engine.settings import EngineSettings
from proxy.app import RunningProxy, running_proxy
from proxy.sender import ProxyParts
from proxy.settings import ProxySettings
from tests.e2e.middle import Middle, middle
from tests.e2e.processes import POLICY
from tests.engine.fakes import FakeDecoder, FakeTranscriber, scripted, speech

TEXT = "the quick brown fox"
TRANSCRIPTIONS = "/v1/audio/transcriptions"


@dataclass(slots=True)
class Reply:
    """What the app saw."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error_code(self) -> str | None:
        try:
            return str(json.loads(self.body)["error"]["code"])
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(slots=True)
class Whole:
    """Handles for everything on the path."""

    engine: RunningEngine
    transcriber: FakeTranscriber
    middle: Middle
    proxy: RunningProxy
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://{self.proxy.addresses[0]}"

    async def transcribe(self, file: bytes = speech(2.0), **fields: str) -> Reply:
        """Send a file as an OpenAI client does."""
        async with self.session.post(self.url + TRANSCRIPTIONS, data=form(file, **fields)) as response:
            return Reply(response.status, dict(response.headers), await response.read())


def form(file: bytes = speech(2.0), file_name: str = "a.wav", **fields: str) -> aiohttp.FormData:
    data = aiohttp.FormData()
    for name, value in ({"model": "nano"} | fields).items():
        data.add_field(name, value)
    data.add_field("file", io.BytesIO(file), filename=file_name, content_type="audio/wav")
    return data


def engine_settings(directory: Path, **options: Any) -> EngineSettings:
    (directory / "weights").write_bytes(b"fake")
    return EngineSettings(
        listen="127.0.0.1:0",
        status_listen="127.0.0.1:0",
        model=(f"nano={directory}",),
        insecure_evidence=True,
        **{"drain_s": 0.0} | options,
    )


def proxy_settings(engine_url: str, **options: Any) -> ProxySettings:
    defaults: dict[str, Any] = {
        "policy": POLICY,
        "listen": ("127.0.0.1:0",),
        "status_listen": "127.0.0.1:0",
        "overall_timeout_s": 120.0,
    }
    return ProxySettings(engine=engine_url, **defaults | options)


@asynccontextmanager
async def whole_path(
    directory: Path,
    transcriber: FakeTranscriber | None = None,
    parts: EngineParts | None = None,
    *,
    of_engine: Mapping[str, Any] = MappingProxyType({}),
    proxy_parts: ProxyParts | None = None,
    **options: Any,
) -> AsyncIterator[Whole]:
    """Everything running; `options` are the proxy's settings, `of_engine` the engine's."""
    transcriber = transcriber or FakeTranscriber(script=scripted(TEXT))
    parts = parts or EngineParts(backend=Backend(transcriber), decoder=FakeDecoder())
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running_engine(engine_settings(directory, **of_engine), parts))
        box = await stack.enter_async_context(middle(f"http://{engine.address}"))
        proxy = await stack.enter_async_context(running_proxy(proxy_settings(box.url, **options), proxy_parts))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Whole(engine, transcriber, box, proxy, session)


@pytest.fixture
async def whole(tmp_path: Path) -> AsyncIterator[Whole]:
    async with whole_path(tmp_path) as everything:
        yield everything
