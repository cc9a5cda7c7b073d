"""One browser for each module, and proxies of its loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from proxy.app import RunningProxy, running_proxy
from proxy.settings import ProxySettings
from tests.e2e.processes import POLICY, engine, proxy, until_ready
from tests.proxy.fake_engine import FakeEngine
from tests.proxy.local.page.browser import chromium


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Of a proxy with a real engine and the nano checkpoint behind it."""
    logs = tmp_path_factory.mktemp("logs")
    async with engine(logs / "engine") as behind, proxy(logs / "proxy", behind.url) as front:
        await until_ready(front)
        yield front.url


@asynccontextmanager
async def fronted(fake: FakeEngine, **settings: Any) -> AsyncIterator[RunningProxy]:
    """A proxy in front of a fake engine that runs."""
    given: dict[str, Any] = {"policy": POLICY, "listen": ("127.0.0.1:0",), "status_listen": "127.0.0.1:0"}
    async with running_proxy(ProxySettings(engine=fake.url, **given | settings)) as running:
        yield running
