"""An engine on real evidence: what it does not send is fetched, and who was trusted is noted down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import LogCapture

import attestation.log
from attestation.bundle import parse_bundle
from attestation.collateral.source import Sources
from attestation.collateral.store import Cache, CollateralStore, ask_over
from attestation.document import AttestationDocument
from attestation.errors import RefusedError
from attestation.gpu.nras import NrasPolicy
from attestation.log import LOG_FILE, IdentityLog, read_log
from attestation.policy import Policy
from attestation.types import Nonce
from attestation.verification import verify
from core.program.http.client import open_session
from proxy.engines.verifier import AttestedEngine, EngineVerifier
from proxy.telemetry import PREFIX, Telemetry
from tests.attestation.collateral.fake_vendors import Vendors
from tests.attestation.gpu.forge import Machine
from tests.attestation.machines import alone, snp_document, snp_policy
from tests.attestation.samples import DEFAULT_POLICY, MEASURED, NOW, attested, statement_with
from tests.attestation.snp.forge import ForgedAmd
from tests.waiting import GIVE_UP_S

AMD, MACHINE = ForgedAmd(), Machine.build()
POLICY = snp_policy(AMD, MACHINE)


class World:
    """An SEV-SNP machine with a GPU that sends no collateral, and the vendors who have it."""

    def __init__(self, directory: Path, sources: Sources, vendors: Vendors, store: CollateralStore) -> None:
        self.log_file = directory / LOG_FILE
        self.vendors = vendors
        self.telemetry = Telemetry()
        self.log_level = "info"
        self.is_real = True
        self.verifier = EngineVerifier(
            "https://engine.example",
            self.fetch,
            store,
            self.telemetry,
            log=IdentityLog(self.log_file),
            clock=lambda: NOW.replace(microsecond=7),
        )

    async def fetch(self, nonce: Nonce) -> AttestationDocument:
        if not self.is_real:
            return attested(nonces=(nonce,))
        statement = statement_with(**MEASURED, log_level=self.log_level)
        document = alone(snp_document(statement, (nonce,), MACHINE, AMD))
        self.vendors.published |= {**AMD.collateral(document.evidence.report), **MACHINE.collateral()}
        return document

    async def verify(self, policy: Policy = POLICY) -> AttestedEngine:
        return await self.verifier.verify(policy)

    @property
    def log_failures(self) -> float | None:
        return self.telemetry.registry.get_sample_value(f"{PREFIX}_identity_log_failures_total")


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with _world(tmp_path) as running:
        yield running


@asynccontextmanager
async def _world(directory: Path) -> AsyncIterator[World]:
    vendors = Vendors()
    async with (
        vendors.running() as sources,
        open_session(tls=None, loopback_only=True, connect_timeout_s=GIVE_UP_S, idle_timeout_s=GIVE_UP_S) as session,
    ):
        store = CollateralStore(Cache(None), ask_over(session), lambda: NOW, sources)
        yield World(directory, sources, vendors, store)


async def test_what_the_engine_did_not_send_is_fetched_and_handed_on(world: World) -> None:
    engine = await world.verify()
    assert engine.result.claims["gpu_count"] == "1"
    assert engine.collateral_at == NOW
    assert len(world.vendors.asked) == len(engine.bundle.document.collateral) > 0
    await world.verify()
    assert len(world.vendors.asked) == len(engine.bundle.document.collateral)  # all of it is at hand now


async def test_a_bundle_verifies_again_with_nothing_but_itself(world: World) -> None:
    engine = await world.verify()
    bundle = parse_bundle(engine.bundle.encode())
    again = verify(bundle.document, POLICY, bundle.document.collateral, expected=bundle.nonce, now=NOW)
    assert again == engine.result


async def test_nvidia_is_asked_for_its_verdict_where_the_policy_says_so(world: World) -> None:
    await world.verify()
    assert not [line for line in world.vendors.asked if "/nras/" in line]
    assert POLICY.gpu
    engine = await world.verify(replace(POLICY, gpu=replace(POLICY.gpu, nras=NrasPolicy())))
    assert {check.name: check.status for check in engine.result.checks}["nras gpu result"] == "pass"
    assert "POST /nras/v4/attest/gpu" in world.vendors.asked


async def test_an_identity_is_noted_down_only_when_it_changes(world: World, log: LogCapture) -> None:
    for level, records in (("info", 1), ("info", 1), ("warning", 2), ("warning", 2), ("info", 3)):
        world.log_level = level
        await world.verify()
        assert len(read_log(world.log_file).records) == records
    first = read_log(world.log_file).records[0]
    assert (first.identity.engine, first.identity.evidence) == ("https://engine.example", "snp")
    assert first.identity.policy_sha256 == POLICY.digest
    assert first.identity.claims["product"] == "Milan"
    assert [entry["event"] for entry in log.entries] == ["engine_identity_changed"] * 3
    assert world.log_failures == 0


async def test_a_refused_engine_is_not_noted_down(world: World) -> None:
    world.log_level = "debug"
    with pytest.raises(RefusedError, match="debug"):
        await world.verify()
    assert not world.log_file.exists()


async def test_development_evidence_is_not_noted_down(world: World) -> None:
    world.is_real = False
    await world.verify(DEFAULT_POLICY)
    assert not world.log_file.exists()


async def test_without_a_log_nothing_is_noted_down(world: World) -> None:
    world.verifier._identities = None
    await world.verify()
    assert not world.log_file.exists()


async def _fails_to_note_down(world: World, log: LogCapture) -> None:
    before = world.log_file.read_bytes()
    world.log_level = "error"
    log.entries.clear()
    for count in (1, 2):
        assert (await world.verify()).digests
        assert world.log_failures == count
    assert {entry["event"] for entry in log.entries} == {"identity_not_logged"}
    assert world.log_file.read_bytes() == before


async def test_a_broken_log_is_counted_and_stops_nothing(world: World, log: LogCapture) -> None:
    await world.verify()
    world.log_level = "warning"
    await world.verify()
    text = world.log_file.read_bytes()
    world.log_file.write_bytes(text.replace(b'"sequence":0', b'"sequence":7'))
    await _fails_to_note_down(world, log)


async def test_a_full_log_is_counted_and_stops_nothing(
    world: World, log: LogCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.verify()
    monkeypatch.setattr(attestation.log, "MAX_LOG_BYTES", world.log_file.stat().st_size + 10)
    await _fails_to_note_down(world, log)
