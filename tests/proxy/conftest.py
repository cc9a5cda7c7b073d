"""A fake engine, and proxies in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import RunningProxy, running_proxy
from proxy.sender import ProxyParts
from proxy.settings import ProxySettings
from tests.proxy.fake_engine import FakeEngine

POLICY = "version = 1\n[insecure]\naccept = true\n"

StartProxy = Callable[..., AbstractAsyncContextManager[RunningProxy]]


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine().running() as running:
        yield running


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def secret_file(tmp_path: Path) -> Callable[[str], str]:
    """Keeps a secret in a file, and gives the reference to it that settings take."""

    def keep(secret: str) -> str:
        path = tmp_path / f"secret-{secret}"
        path.write_text(secret + "\n")
        return f"@{path}"

    return keep


@pytest.fixture
def start_proxy(engine: FakeEngine, policy: Path) -> StartProxy:
    """Starts a proxy in front of the fake engine; keyword arguments are settings."""

    @asynccontextmanager
    async def start(parts: ProxyParts | None = None, **settings: Any) -> AsyncIterator[RunningProxy]:
        given: dict[str, Any] = {
            "engine": engine.url,
            "policy": policy,
            "listen": ("127.0.0.1:0",),
            "status_listen": "127.0.0.1:0",
        }
        async with running_proxy(ProxySettings(**(given | settings)), parts) as proxy:
            yield proxy

    return start


@pytest.fixture
async def proxy(start_proxy: StartProxy) -> AsyncIterator[RunningProxy]:
    async with start_proxy() as running:
        yield running


@pytest.fixture
async def app(proxy: RunningProxy) -> AsyncIterator[aiohttp.ClientSession]:
    """An app next door: a session whose relative URLs go to the proxy."""
    async with aiohttp.ClientSession(url_of(proxy)) as session:
        yield session


def url_of(proxy: RunningProxy) -> str:
    return f"http://{proxy.addresses[0]}"


def status_url_of(proxy: RunningProxy) -> str:
    return f"http://{proxy.status_address}"
