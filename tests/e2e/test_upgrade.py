"""An upgrade in the order of `docs/operate/upgrade.md`: requests are heard at every step, by what the policy names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from core.program.files import WATCH_PERIOD_S
from proxy.app import RunningProxy, running_proxy
from proxy.sender import ProxyParts
from tests.e2e.conftest import TRANSCRIPTIONS, form, proxy_settings
from tests.e2e.forged import AMD, SNP_RULES, written
from tests.e2e.middle import Middle, middle
from tests.e2e.processes import RECORDING, SAID, Program
from tests.e2e.test_evidence_sources import in_a_pod, pod
from tests.waiting import until

pytestmark = pytest.mark.slow

OLD, NEW = bytes(range(32)), bytes(range(32, 64))


def rules(*releases: bytes) -> str:
    """Of a policy that names the pods of these releases."""
    named = json.dumps([release.hex() for release in releases])
    return SNP_RULES.replace("[snp]", f"[snp]\nhost_data = {named}")


async def nap(seconds: float) -> None:
    """What is looked at now and then is looked at often."""
    await asyncio.sleep(0.05 if seconds == WATCH_PERIOD_S else seconds)


@asynccontextmanager
async def release(directory: Path, host_data: bytes, policy: str) -> AsyncIterator[Program]:
    """The engine of a release, held to the policy of its day."""
    directory.mkdir()
    coco = pod(report=lambda data: AMD.report(data, host_data=host_data))
    async with in_a_pod(directory, coco, written(directory / "policy", policy, "snp")) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Users:
    """A proxy at an address that leads to one engine, and what it is told to believe."""

    address: Middle
    proxy: RunningProxy
    policy: Path
    session: aiohttp.ClientSession

    async def believe(self, *releases: bytes) -> None:
        """Put a policy in force that names these releases, and wait until the proxy has it."""
        before = self.proxy.trust.policy.digest
        written(self.policy.with_suffix(".next"), rules(*releases), "snp").replace(self.policy)
        await until(lambda: self.proxy.trust.policy.digest != before)

    async def ask(self) -> tuple[int, Any]:
        url = f"http://{self.proxy.addresses[0]}{TRANSCRIPTIONS}"
        async with self.session.post(url, data=form(RECORDING.read_bytes())) as response:
            return response.status, await response.json()

    async def are_heard_by(self, engine: bytes) -> None:
        status, answer = await self.ask()
        assert (status, answer.get("text")) == (200, SAID), answer
        held = self.proxy.trust.held
        assert held is not None
        assert held.result.claims["host_data"] == engine.hex()


@asynccontextmanager
async def users(directory: Path, engine: Program) -> AsyncIterator[Users]:
    policy = written(directory / "policy.toml", rules(OLD), "snp")
    options: dict[str, Any] = {"policy": policy, "offline_collateral": True, "state_dir": directory / "state"}
    async with middle(engine.url) as address, aiohttp.ClientSession() as session:
        settings = proxy_settings(address.url, collateral_dir=directory / "none", **options)
        async with running_proxy(settings, ProxyParts(nap=nap)) as front:
            yield Users(address, front, policy, session)


async def test_an_upgrade_in_that_order_leaves_no_gap_and_ends_the_old_release(tmp_path: Path) -> None:
    async with release(tmp_path / "old", OLD, rules(OLD)) as old, users(tmp_path, old) as here:
        await here.are_heard_by(OLD)
        await here.believe(OLD, NEW)  # 2
        await here.are_heard_by(OLD)
        async with release(tmp_path / "new", NEW, rules(OLD, NEW)) as new:  # 3
            await here.are_heard_by(OLD)
            here.address.engine_url = new.url  # 4
            await here.are_heard_by(NEW)
            assert await old.stop() == 0  # 5
            await here.are_heard_by(NEW)
            await here.believe(NEW)  # 6
            await here.are_heard_by(NEW)


async def test_without_the_new_values_the_new_release_is_refused_and_hears_nothing(tmp_path: Path) -> None:
    async with (
        release(tmp_path / "old", OLD, rules(OLD)) as old,
        release(tmp_path / "new", NEW, rules(OLD, NEW)) as new,
        users(tmp_path, old) as here,
    ):
        await here.are_heard_by(OLD)
        here.address.engine_url = new.url
        status, answer = await here.ask()
        assert (status, answer["error"]["code"]) == (502, "attestation_refused")
        await here.believe(NEW)
        await here.are_heard_by(NEW)
