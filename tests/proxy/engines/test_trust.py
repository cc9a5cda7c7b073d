"""A key is used from its verification to its expiry, and nobody can make us verify too often."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from structlog.testing import LogCapture

from attestation.collateral.store import Cache, CollateralStore
from attestation.document import AttestationDocument
from attestation.errors import EvidenceError, FetchError
from attestation.statement import live_keys_extension
from attestation.types import Nonce
from core.channel.keyconfig import GatewayKey
from proxy.engines.trust import MAX_BACKOFF_S, MAX_NAP_S, Outcome, Reason, Trust
from proxy.engines.verifier import EngineVerifier
from proxy.errors import ErrorCode, ProxyError
from proxy.telemetry import Telemetry
from tests.attestation.samples import DEFAULT_POLICY, NOW, attested, statement_with
from tests.waiting import until

LIFETIME_S = 3600
OTHER_POLICY = replace(DEFAULT_POLICY, digest="another")


class World:
    """A clock, and an engine that answers a nonce as the test says."""

    def __init__(self) -> None:
        self.now = NOW
        self.key = GatewayKey.generate(())
        self.live_key: GatewayKey | None = None
        self.more_keys: list[GatewayKey] = []
        self.more_live_keys: list[GatewayKey] = []
        self.fetches = 0
        self.failure: Exception | None = None
        self.log_level = "info"
        self.instance = "here"
        self.gate = asyncio.Event()
        self.gate.set()
        self.naps: list[float] = []
        self.wake_at, self.woken = NOW, asyncio.Event()
        self.telemetry = Telemetry()
        store = CollateralStore(Cache(None), None, lambda: self.now)
        self.verifier = EngineVerifier("http://engine", self.fetch, store, self.telemetry, clock=lambda: self.now)
        self.trust = Trust(self.verifier.verify, DEFAULT_POLICY, self.telemetry, clock=lambda: self.now, nap=self.nap)

    async def fetch(self, nonce: Nonce) -> AttestationDocument:
        self.fetches += 1
        await self.gate.wait()
        if self.failure:
            raise self.failure
        not_after = int(self.now.timestamp()) + LIFETIME_S
        statement = statement_with(
            ohttp_keys=tuple(key.config for key in (self.key, *self.more_keys)),
            not_after=not_after,
            log_level=self.log_level,
            instance=self.instance,
            extensions=live_keys_extension(
                [key.config for key in ([self.live_key] if self.live_key else []) + self.more_live_keys]
            ),
        )
        return attested(statement, (nonce,))

    async def nap(self, seconds: float) -> None:
        """Time goes by only while somebody naps."""
        self.naps.append(seconds)
        self.later(seconds)
        if self.now >= self.wake_at:
            self.woken.set()
        await asyncio.sleep(0)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    async def keep_fresh_until(self, moment: datetime) -> None:
        async with asyncio.TaskGroup() as group:
            self.wake_at, self.woken = moment, asyncio.Event()
            task = group.create_task(self.trust.keep_fresh())
            await self.woken.wait()
            task.cancel()


@pytest.fixture
def world() -> World:
    return World()


async def refused(world: World) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        await world.trust.engine()
    return caught.value


async def mismatch(world: World, key: GatewayKey) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        await world.trust.after_mismatch(key.config)
    return caught.value


async def test_the_first_request_verifies_and_the_next_ones_do_not(world: World) -> None:
    for _ in range(3):
        engine = await world.trust.engine()
        assert engine.choose_key() == world.key.config
    assert world.fetches == 1
    assert world.trust.is_ready


async def test_many_requests_wait_for_one_verification(world: World) -> None:
    world.gate.clear()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(world.trust.engine()) for _ in range(50)]
        await until(lambda: world.fetches)
        world.gate.set()
    assert world.fetches == 1
    assert {task.result().digests for task in waiting} == {frozenset({world.key.config.digest})}


async def test_one_who_leaves_does_not_disturb_the_others(world: World) -> None:
    world.gate.clear()
    async with asyncio.TaskGroup() as group:
        leaver = group.create_task(world.trust.engine())
        stayer = group.create_task(world.trust.engine())
        await until(lambda: world.fetches)
        leaver.cancel()
        world.gate.set()
    assert stayer.result().choose_key() == world.key.config


async def test_the_key_is_renewed_after_about_seventy_percent_of_its_life(world: World) -> None:
    await world.keep_fresh_until(NOW + timedelta(seconds=0.66 * LIFETIME_S))
    assert world.fetches == 1
    await world.keep_fresh_until(NOW + timedelta(seconds=0.75 * LIFETIME_S))
    assert world.fetches == 2
    assert max(world.naps) <= MAX_NAP_S


async def test_a_renewal_under_way_holds_no_request_up(world: World) -> None:
    old = await world.trust.engine()
    world.key = GatewayKey.generate(())
    world.later(0.8 * LIFETIME_S)
    world.gate.clear()
    async with asyncio.TaskGroup() as group:
        renewing = group.create_task(world.trust.keep_fresh())
        await until(lambda: world.fetches == 2)
        asking = group.create_task(world.trust.engine())
        await asyncio.sleep(0)
        assert asking.done()
        assert asking.result() is old
        world.gate.set()
        await world.woken.wait()  # not until(): naps take no time here, and it would be renewed again and again
        renewing.cancel()
    assert world.trust.held is not old
    assert (await world.trust.engine()).choose_key() == world.key.config
    assert world.fetches == 2


async def test_the_old_key_serves_while_renewing_fails_and_not_a_second_longer(world: World) -> None:
    old = await world.trust.engine()
    world.failure = FetchError("away")
    await world.keep_fresh_until(old.result.expires_at - timedelta(seconds=MAX_NAP_S))
    assert world.fetches > 5
    assert await world.trust.engine() is old
    world.now = old.result.expires_at
    assert (await refused(world)).code is ErrorCode.NO_ATTESTED_ENGINE


async def test_a_refusal_does_not_drop_a_key_that_only_the_attested_engine_holds(world: World) -> None:
    old = await world.trust.engine()
    world.log_level = "debug"
    await world.keep_fresh_until(NOW + timedelta(seconds=0.8 * LIFETIME_S))
    assert await world.trust.engine() is old
    assert world.trust.last_attempt is not None
    assert world.trust.last_attempt.outcome is Outcome.REFUSED
    assert not world.trust.refused.is_set()


async def test_after_a_long_sleep_the_first_request_verifies_anew(world: World) -> None:
    await world.trust.engine()
    world.key = GatewayKey.generate(())
    world.later(10 * LIFETIME_S)
    assert (await world.trust.engine()).choose_key() == world.key.config
    assert world.fetches == 2


async def test_a_clock_that_was_set_back_voids_what_was_verified(world: World) -> None:
    await world.trust.engine()
    world.later(-1000 * LIFETIME_S)
    assert world.trust.held is None
    await world.trust.engine()
    assert world.fetches == 2


async def test_an_engine_that_cannot_be_reached_is_asked_again_with_growing_pauses(world: World) -> None:
    world.failure = FetchError("away")
    await world.keep_fresh_until(NOW + timedelta(seconds=20 * MAX_BACKOFF_S))
    assert 20 <= world.fetches <= 60
    error = await refused(world)
    assert error.code is ErrorCode.NO_ATTESTED_ENGINE
    assert error.retry_after_s is not None
    assert 1 <= error.retry_after_s <= MAX_BACKOFF_S


async def test_requests_do_not_ask_more_often_than_the_pauses_allow(world: World) -> None:
    world.failure = FetchError("away")
    for _ in range(100):
        await refused(world)
    assert world.fetches == 1


async def test_a_refused_engine_gets_nothing_and_its_checks_are_kept(world: World) -> None:
    world.log_level = "debug"
    assert (await refused(world)).code is ErrorCode.ATTESTATION_REFUSED
    attempt = world.trust.last_attempt
    assert attempt is not None
    assert attempt.outcome is Outcome.REFUSED
    assert [check.name for check in attempt.checks if check.failed] == ["log level"]
    assert any(not check.failed for check in attempt.checks)
    assert world.trust.refused.is_set()
    assert not world.trust.is_ready


async def test_what_is_no_evidence_at_all_is_a_refusal(world: World) -> None:
    world.failure = EvidenceError("not JSON")
    assert (await refused(world)).code is ErrorCode.ATTESTATION_REFUSED


async def test_a_document_for_another_nonce_is_refused(world: World) -> None:
    fetch = world.fetch
    world.verifier._fetch = lambda _: fetch(Nonce(bytes(32)))
    assert (await refused(world)).code is ErrorCode.ATTESTATION_REFUSED


async def test_details_that_the_engine_may_have_chosen_are_not_logged(world: World, log: LogCapture) -> None:
    world.log_level = "canary"
    await refused(world)
    assert "canary" not in repr(log.entries)
    assert "log level" in repr(log.entries)


async def test_a_mismatch_leads_to_the_new_key(world: World) -> None:
    old, world_key = world.key, GatewayKey.generate(())
    await world.trust.engine()
    world.key = world_key
    assert (await world.trust.after_mismatch(old.config)).choose_key() == world_key.config
    assert world.trust.last_attempt is not None
    assert world.trust.last_attempt.reason is Reason.KEY_MISMATCH
    assert world.trust.is_ready


async def test_a_mismatch_of_a_key_already_replaced_asks_nobody(world: World) -> None:
    old = world.key
    await world.trust.engine()
    world.key = GatewayKey.generate(())
    await world.trust.after_mismatch(old.config)
    for _ in range(10):
        await world.trust.after_mismatch(old.config)
    assert world.fetches == 2


async def test_the_same_key_again_opens_the_circuit_for_a_while(world: World) -> None:
    await world.trust.engine()
    assert (await mismatch(world, world.key)).code is ErrorCode.UPSTREAM_KEY_MISMATCH
    assert not world.trust.is_ready
    error = await refused(world)
    assert error.code is ErrorCode.NO_ATTESTED_ENGINE
    assert error.retry_after_s is not None
    world.later(error.retry_after_s)
    await world.trust.engine()
    assert world.trust.is_ready


async def test_the_circuit_stays_open_longer_each_time_and_an_answer_closes_it(world: World) -> None:
    await world.trust.engine()
    pauses: list[float] = []
    for _ in range(3):
        await mismatch(world, world.key)
        pause = (await refused(world)).retry_after_s
        assert pause is not None
        pauses.append(pause)
        world.later(pause)
    assert pauses[0] < pauses[1] < pauses[2]
    await mismatch(world, world.key)
    world.trust.key_accepted()
    assert world.trust.is_ready


async def test_a_hundred_forged_mismatches_cause_one_verification(world: World) -> None:
    await world.trust.engine()
    for _ in range(100):
        await mismatch(world, world.key)
    assert world.fetches == 2
    world.later(8)
    await mismatch(world, world.key)
    assert world.fetches == 3


async def test_answers_between_forged_mismatches_do_not_lift_the_limit(world: World) -> None:
    await world.trust.engine()
    for _ in range(100):
        await mismatch(world, world.key)
        world.trust.key_accepted()
    assert world.fetches == 2


async def test_a_hundred_mismatches_at_once_share_one_verification(world: World) -> None:
    old = world.key
    await world.trust.engine()
    world.key = GatewayKey.generate(())
    world.gate.clear()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(world.trust.after_mismatch(old.config)) for _ in range(100)]
        await until(lambda: world.fetches == 2)
        world.gate.set()
    assert world.fetches == 2
    assert {task.result().choose_key() for task in waiting} == {world.key.config}


async def test_a_mismatch_of_an_engine_that_is_now_refused_is_told_as_that(world: World) -> None:
    await world.trust.engine()
    world.log_level = "debug"
    assert (await mismatch(world, world.key)).code is ErrorCode.ATTESTATION_REFUSED
    assert not world.trust.is_ready


async def test_a_renewal_with_a_new_key_closes_the_circuit(world: World) -> None:
    await world.trust.engine()
    await mismatch(world, world.key)
    world.key = GatewayKey.generate(())
    await world.trust._verify(Reason.SCHEDULED)
    assert world.trust.is_ready


# Another policy


async def test_a_policy_that_is_adopted_drops_what_was_accepted(world: World) -> None:
    await world.trust.engine()
    world.trust.adopt(OTHER_POLICY)
    assert world.trust.policy is OTHER_POLICY
    assert world.trust.held is None
    assert not world.trust.is_ready
    await world.trust.engine()
    assert world.fetches == 2


@pytest.mark.parametrize("log_level", ["info", "debug"], ids=["accepts", "refuses"])
async def test_what_the_policy_before_says_of_the_engine_does_not_count(world: World, log_level: str) -> None:
    world.log_level = log_level
    world.gate.clear()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(refused(world))
        await until(lambda: world.fetches)
        world.trust.adopt(OTHER_POLICY)
        world.gate.set()
    assert waiting.result().code is ErrorCode.NO_ATTESTED_ENGINE
    assert world.trust.held is None
    assert not world.trust.refused.is_set()
    assert world.trust.last_attempt is not None
    assert world.trust.last_attempt.outcome is Outcome.UNREACHABLE
