"""A policy that changed is in force within seconds if it may be used, and the old one if not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import LogCapture

from attestation.errors import PolicyError
from attestation.policy import Policy
from attestation.release.signature import signature_path
from attestation.release.trust import PolicyTrust
from core.channel.kem import Kem
from core.program.files import WATCH_PERIOD_S
from proxy.app import RunningProxy
from proxy.engines.policy_file import PolicyFile
from proxy.sender import ProxyParts
from tests.attestation.policies import INSECURE, INSECURE_ROOTS, KEY, NOW, OTHER_KEY, SNP, release, written
from tests.proxy.conftest import StartProxy, url_of
from tests.proxy.fake_engine import FakeEngine
from tests.waiting import until

PATH = "/v1/audio/transcriptions"
OTHER_SNP = SNP + "[statement]\nrequire_api_keys = true\n"
STRICT = INSECURE + "[statement]\nrequire_api_keys = true\n"


def _clock() -> datetime:
    return NOW


def _file(path: Path, trust: PolicyTrust | None = None) -> PolicyFile:
    return PolicyFile(path, trust or PolicyTrust(), _clock)


def _signed(directory: Path) -> PolicyTrust:
    return PolicyTrust((KEY.signer,), state_dir=directory / "state")


def _events(log: LogCapture) -> list[str]:
    return [entry["event"] for entry in log.entries]


def test_a_policy_that_cannot_be_used_is_none_from_the_start(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        _file(tmp_path / "missing.toml")
    with pytest.raises(PolicyError):
        _file(written(tmp_path, "version = 1"))


def test_what_did_not_change_is_not_read_again(tmp_path: Path, log: LogCapture) -> None:
    file = _file(written(tmp_path, SNP))
    assert file.changed() is None
    assert _events(log) == []


def test_a_new_policy_takes_the_place_of_the_old_one_once(tmp_path: Path, log: LogCapture) -> None:
    file = _file(written(tmp_path, SNP))
    written(tmp_path, OTHER_SNP)
    changed = file.changed()
    assert changed is not None
    assert changed.statement.require_api_keys
    assert file.policy is changed
    assert file.changed() is None
    assert [(entry["event"], entry["policy"]) for entry in log.entries] == [("policy_reloaded", changed.digest)]


def test_a_policy_that_is_replaced_by_renaming_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path, SNP)
    status = path.stat()
    file = _file(path)
    other = tmp_path / "other"
    other.write_text(OTHER_SNP)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert file.changed() is not None


def test_a_file_that_is_written_anew_with_the_same_content_changes_nothing(tmp_path: Path, log: LogCapture) -> None:
    path = written(tmp_path, SNP)
    file = _file(path)
    before = file.policy
    os.utime(path, ns=(1, 1))
    assert file.changed() is None
    assert file.policy is before
    assert _events(log) == []


@pytest.mark.parametrize(
    "text", ["", "version = 1", "not toml [", "version = 2\n" + SNP, SNP + release(expires="2026-01-01T00:00:00Z")]
)
def test_a_policy_that_cannot_be_used_leaves_the_old_one_in_force(tmp_path: Path, log: LogCapture, text: str) -> None:
    file = _file(written(tmp_path, SNP))
    before = file.policy
    written(tmp_path, text)
    assert file.changed() is None
    assert file.changed() is None  # told once
    assert file.policy is before
    assert _events(log) == ["policy_not_reloaded"]
    written(tmp_path, OTHER_SNP)
    assert file.changed() is not None


def test_a_policy_that_could_not_be_used_for_a_while_is_tried_again(tmp_path: Path, log: LogCapture) -> None:
    path = written(tmp_path, SNP)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    file = PolicyFile(path, PolicyTrust(), lambda: now)
    written(tmp_path, OTHER_SNP + release(expires="2026-06-01T00:00:00Z"))
    now = datetime(2026, 7, 1, tzinfo=UTC)  # a clock that is wrong
    assert file.changed() is None
    now = datetime(2026, 2, 1, tzinfo=UTC)
    assert file.changed() is not None
    assert _events(log) == ["policy_not_reloaded", "policy_reloaded"]


def test_a_policy_that_is_gone_leaves_the_old_one_in_force(tmp_path: Path, log: LogCapture) -> None:
    path = written(tmp_path, SNP)
    file = _file(path)
    before = file.policy
    path.unlink()
    assert file.changed() is None
    assert file.policy is before
    assert _events(log) == ["policy_not_reloaded"]


def test_development_evidence_is_not_accepted_by_a_proxy_that_started_without(tmp_path: Path, log: LogCapture) -> None:
    file = _file(written(tmp_path, SNP))
    before = file.policy
    written(tmp_path, INSECURE)
    assert file.changed() is None
    assert file.policy is before
    assert _events(log) == ["policy_not_reloaded"]


def test_a_proxy_that_started_with_development_evidence_may_have_other_rules(tmp_path: Path) -> None:
    file = _file(written(tmp_path, INSECURE))
    for text in (STRICT, SNP):
        written(tmp_path, text)
        assert file.changed() is file.policy
    written(tmp_path, INSECURE)  # from then on as one that started without
    assert file.changed() is None


def test_a_signed_policy_is_replaced_when_its_signature_is_there(tmp_path: Path, log: LogCapture) -> None:
    path = written(tmp_path, SNP + release(1), key=KEY)
    file = _file(path, _signed(tmp_path))
    before, text = file.policy, OTHER_SNP + release(2)
    written(tmp_path, text)  # and still the signature of the one before
    assert file.changed() is None
    signature_path(path).write_bytes(OTHER_KEY.sign(text.encode()))
    assert file.changed() is None
    assert file.policy is before
    assert _events(log) == ["policy_not_reloaded"] * 2
    signature_path(path).write_bytes(KEY.sign(text.encode()))
    assert file.changed() is file.policy is not before


def test_a_signed_policy_is_not_replaced_by_an_older_or_a_weaker_one(tmp_path: Path, log: LogCapture) -> None:
    file = _file(written(tmp_path, SNP + release(2), key=KEY), _signed(tmp_path))
    before = file.policy
    others = [OTHER_SNP + release(1), INSECURE + release(3), SNP + INSECURE_ROOTS + release(3), OTHER_SNP]
    for text in others:
        written(tmp_path, text, key=KEY)
        assert file.changed() is None
    assert file.policy is before
    assert _events(log) == ["policy_not_reloaded"] * len(others)


def test_a_signature_that_is_taken_away_leaves_the_old_policy_in_force(tmp_path: Path) -> None:
    path = written(tmp_path, SNP + release(1), key=KEY)
    file = _file(path, _signed(tmp_path))
    before = file.policy
    signature_path(path).unlink()
    assert file.changed() is None
    assert file.policy is before


# --- in a running proxy


async def test_a_proxy_that_requires_post_quantum_keys_sends_nothing_without_them(
    engine: FakeEngine, start_proxy: StartProxy
) -> None:
    async with start_proxy(require_pq=True) as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        async with app.post(PATH, data=b"audio") as response:
            assert response.status == 502
            assert (await response.json())["error"]["code"] == "attestation_refused"
        assert engine.received == []
        engine.rotate(Kem.MLKEM768_X25519)
        proxy.trust.adopt(proxy.trust.policy)
        async with app.post(PATH, data=b"audio") as response:
            assert response.status == 200
        assert len(engine.received) == 1


@dataclass
class Ticks:
    """A nap that ends when the test says so, for whoever looks at the policy; the others nap as ever."""

    due: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    looks: int = 0

    async def nap(self, seconds: float) -> None:
        if seconds != WATCH_PERIOD_S:
            await asyncio.sleep(seconds)
            return
        self.looks += 1
        await self.due.get()

    async def look(self) -> None:
        """Return once the file has been looked at."""
        await until(lambda: self.looks)
        before = self.looks
        self.due.put_nowait(None)
        await until(lambda: self.looks > before)


@dataclass
class World:
    proxy: RunningProxy
    app: aiohttp.ClientSession
    ticks: Ticks
    path: Path

    async def write(self, text: str) -> None:
        self.path.write_text(text)
        await self.ticks.look()

    async def post(self) -> int:
        async with self.app.post(PATH, data=b"audio") as response:
            await response.read()
            return response.status

    @property
    def policy(self) -> Policy:
        return self.proxy.trust.policy


@pytest.fixture
async def world(start_proxy: StartProxy, policy: Path) -> AsyncIterator[World]:
    async with _world(start_proxy, policy) as running:
        yield running


@asynccontextmanager
async def _world(start_proxy: StartProxy, policy: Path) -> AsyncIterator[World]:
    ticks = Ticks()
    async with start_proxy(ProxyParts(nap=ticks.nap)) as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        await until(lambda: proxy.trust.is_ready)
        yield World(proxy, app, ticks, policy)


async def test_after_a_reload_nothing_is_sealed_before_the_engine_has_met_the_new_policy(
    world: World, engine: FakeEngine
) -> None:
    assert await world.post() == 200
    assert (engine.attestations, len(engine.received)) == (1, 1)
    engine.attestation_gate.clear()
    await world.write(INSECURE + "# the same rules, in another file\n")
    assert not world.proxy.trust.is_ready
    async with asyncio.TaskGroup() as group:
        request = group.create_task(world.post())
        await until(lambda: engine.attestations == 2)
        assert len(engine.received) == 1
        engine.attestation_gate.set()
    assert request.result() == 200
    assert len(engine.received) == 2


async def test_an_engine_that_does_not_meet_the_new_policy_gets_nothing(world: World, engine: FakeEngine) -> None:
    assert await world.post() == 200
    await world.write(STRICT)
    assert world.policy.statement.require_api_keys
    assert await world.post() == 502
    assert len(engine.received) == 1
    await world.write(INSECURE)
    assert await world.post() == 200


async def test_a_verification_that_runs_during_a_reload_does_not_count(world: World, engine: FakeEngine) -> None:
    engine.attestation_gate.clear()
    world.proxy.trust.adopt(world.policy)
    async with asyncio.TaskGroup() as group:
        request = group.create_task(world.post())
        await until(lambda: engine.attestations == 2)
        await world.write(STRICT)
        engine.attestation_gate.set()
    assert request.result() == 503
    assert engine.received == []


async def test_a_policy_that_cannot_be_used_disturbs_nobody(world: World, engine: FakeEngine, log: LogCapture) -> None:
    before = world.policy
    await world.write("not toml [")
    assert world.policy is before
    assert await world.post() == 200
    assert engine.attestations == 1
    assert "policy_not_reloaded" in _events(log)
