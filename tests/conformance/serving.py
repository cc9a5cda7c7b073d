"""The shipped engine, with a recogniser that is none: what the vectors are tried against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from engine.app import EngineParts, running_engine
from engine.backends.choose import Backend
from tests.beats import Hurried
from tests.e2e.conftest import engine_settings
from tests.engine.fakes import FakeDecoder, FakeTranscriber
from tests.engine.gateway.fake_live import FakeLiveApplication


@asynccontextmanager
async def engine_at(directory: Path) -> AsyncIterator[str]:
    """The URL of an engine that serves requests and live sessions."""
    parts = EngineParts(
        backend=Backend(FakeTranscriber()), decoder=FakeDecoder(), live=FakeLiveApplication(), metronome=Hurried
    )
    async with running_engine(engine_settings(directory), parts) as engine:
        yield f"http://{engine.address}"
