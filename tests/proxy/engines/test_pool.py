"""Which engine a request gets, what it is told of it, and what the pool is told of the request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from attestation.errors import FetchError
from attestation.policy import Policy
from core.channel.client_secrets import issuer_of
from core.channel.kem import Kem
from core.channel.keyconfig import GatewayKey
from proxy.engines.health import DEFAULT_RETRY_AFTER_S, MAX_PAUSE_S, MAX_RETRY_AFTER_S, STEP_S
from proxy.engines.lease import EngineId, Way
from proxy.engines.pool import MAX_ENGINES, Pool
from proxy.engines.trust import Outcome, Reason, Trust
from proxy.errors import ErrorCode, ProxyError
from tests.attestation.samples import DEFAULT_POLICY
from tests.proxy.engines.test_trust import OTHER_POLICY, World
from tests.waiting import until

WAY = Way("http://engine", egress_proxy="http://way:3128")


class Found:
    """Says where engines are, whenever a test does."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[tuple[Way, ...]] = asyncio.Queue()

    def say(self, *ways: Way) -> None:
        self._said.put_nowait(ways)

    async def changes(self) -> tuple[Way, ...]:
        return await self._said.get()


async def _for_ever(_: float) -> None:
    await asyncio.Event().wait()


class Several:
    """A pool of engines that each answer as a `World` says, and a clock for how they do."""

    def __init__(self, size: int, finder: Found | None = None) -> None:
        self.ways = tuple(Way(f"http://engine-{number}") for number in range(size))
        self.worlds: dict[Way, World] = {}
        self.now_s = 0.0
        self.pool = Pool(
            () if finder else self.ways, DEFAULT_POLICY, self.admit, finder=finder, nap=self.nap, monotonic=self.clock
        )

    def admit(self, way: Way, policy: Policy) -> Trust:
        world = self.worlds[way] = World()
        world.trust._nap = _for_ever  # no time goes by
        world.trust.adopt(policy)
        return world.trust

    def clock(self) -> float:
        return self.now_s

    async def nap(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)

    def world(self, engine: int) -> World:
        return self.worlds[self.ways[engine]]

    async def prove(self) -> None:
        for member in self.pool.members:
            await member.trust.engine()

    async def chosen(self, times: int = 30, avoiding: frozenset[EngineId] = frozenset()) -> set[int]:
        return {(await self.pool.lease(avoiding=avoiding)).engine for _ in range(times)}


@asynccontextmanager
async def kept_fresh(pool: Pool) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(pool.keep_fresh())
        yield
        keeping.cancel()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def engines(world: World) -> Pool:
    return Pool([WAY], DEFAULT_POLICY, lambda *_: world.trust)


async def unavailable(engines: Pool) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        await engines.lease(avoiding=frozenset({EngineId(0)}))
    return caught.value


async def test_a_lease_says_where_to_send_and_what_to_seal_to(world: World, engines: Pool) -> None:
    lease = await engines.lease()
    assert (lease.engine, lease.way) == (EngineId(0), WAY)
    assert lease.key == world.key.config
    assert lease.statement.ohttp_keys == (world.key.config,)


async def test_an_engine_that_did_not_take_the_request_is_not_leased_for_it_again(engines: Pool) -> None:
    await engines.lease()
    assert (await unavailable(engines)).code is ErrorCode.ENGINE_UNAVAILABLE
    await engines.lease(avoiding=frozenset({EngineId(1)}))


@pytest.mark.parametrize(
    ("said_s", "told_s"), [(7.0, 7.0), (0.0, 0.0), (None, DEFAULT_RETRY_AFTER_S), (1e9, MAX_RETRY_AFTER_S)]
)
async def test_an_app_is_told_when_to_come_back(engines: Pool, said_s: float | None, told_s: float) -> None:
    (await engines.lease()).failed(said_s)
    assert (await unavailable(engines)).retry_after_s == told_s


async def test_a_mismatch_leads_to_a_lease_under_the_new_key(world: World, engines: Pool) -> None:
    lease = await engines.lease()
    world.key = GatewayKey.generate(())
    assert (await lease.mismatched()).key == world.key.config
    with pytest.raises(ProxyError) as caught:
        await (await engines.lease()).mismatched()
    assert caught.value.code is ErrorCode.UPSTREAM_KEY_MISMATCH


async def test_an_engine_without_keys_for_live_sessions_leases_none(engines: Pool) -> None:
    assert (await engines.lease()).live_key is None


async def test_post_quantum_keys_are_leased_where_the_engine_has_them(world: World, engines: Pool) -> None:
    post_quantum = [GatewayKey.generate((), Kem.MLKEM768_X25519) for _ in range(2)]
    world.more_keys, world.more_live_keys = post_quantum[:1], post_quantum[1:]
    world.live_key = GatewayKey.generate(())
    for _ in range(20):
        lease = await engines.lease()
        assert [lease.key, lease.live_key] == [key.config for key in post_quantum]


async def test_a_mismatch_of_a_live_key_leads_to_a_lease_under_the_new_one(world: World, engines: Pool) -> None:
    world.live_key = GatewayKey.generate(())
    lease = await engines.lease()
    assert lease.live_key == world.live_key.config
    world.live_key = GatewayKey.generate(())
    assert (await lease.mismatched(live=True)).live_key == world.live_key.config
    with pytest.raises(ProxyError) as caught:
        await (await engines.lease()).mismatched(live=True)
    assert caught.value.code is ErrorCode.UPSTREAM_KEY_MISMATCH


async def test_what_goes_on_stands_through_a_renewal_and_falls_with_another_policy(world: World, engines: Pool) -> None:
    lease = await engines.lease()
    await world.trust._verify(Reason.SCHEDULED)
    stood = lease.stands
    engines.adopt(OTHER_POLICY)
    assert (stood, lease.stands) == (True, False)
    assert (await engines.lease()).stands


async def test_what_goes_on_falls_when_the_engine_is_refused_though_its_key_still_serves(
    world: World, engines: Pool
) -> None:
    lease = await engines.lease()
    world.log_level = "debug"
    await world.trust._verify(Reason.SCHEDULED)
    assert world.trust.held
    assert not lease.stands


async def test_an_answer_closes_the_circuit(world: World, engines: Pool) -> None:
    lease = await engines.lease()
    with pytest.raises(ProxyError):
        await lease.mismatched()
    assert not world.trust.is_ready
    lease.accepted()
    assert world.trust.is_ready


async def test_a_policy_is_adopted_by_the_engine(world: World, engines: Pool) -> None:
    await engines.lease()
    engines.adopt(OTHER_POLICY)
    assert engines.policy is world.trust.policy is OTHER_POLICY
    assert world.trust.held is None


async def test_one_engine_that_failed_is_asked_again_at_once(engines: Pool) -> None:
    lease = await engines.lease()
    lease.failed(60.0)
    assert not lease.has_spare
    assert (await engines.lease()).engine == lease.engine


async def test_the_engine_with_the_least_to_do_is_chosen() -> None:
    several = Several(3)
    await several.prove()
    with ExitStack() as stack:
        for engine in (0, 1, 2, 0, 1):
            lease = await several.pool.lease(avoiding=frozenset(EngineId(other) for other in {0, 1, 2} - {engine}))
            stack.enter_context(lease.carried())
        assert await several.chosen() == {2}
        assert [member.health.in_flight for member in several.pool.members] == [2, 2, 1]
    assert [member.health.in_flight for member in several.pool.members] == [0, 0, 0]


async def test_among_equals_the_lot_decides() -> None:
    several = Several(3)
    await several.prove()
    assert await several.chosen(200) == {0, 1, 2}


async def test_an_engine_that_was_slow_lately_is_chosen_less() -> None:
    several = Several(2)
    await several.prove()
    (await several.pool.lease(avoiding=frozenset({EngineId(1)}))).answered(3 * STEP_S)
    assert await several.chosen() == {1}
    several.now_s += 60.0
    assert await several.chosen(200) == {0, 1}


async def test_latencies_that_differ_by_nothing_that_counts_decide_nothing() -> None:
    several = Several(2)
    await several.prove()
    (await several.pool.lease(avoiding=frozenset({EngineId(1)}))).answered(0.9 * STEP_S)
    assert await several.chosen(200) == {0, 1}


async def test_an_engine_that_failed_is_set_aside_longer_each_time_until_it_answers() -> None:
    several = Several(2)
    await several.prove()
    lease = await several.pool.lease(avoiding=frozenset({EngineId(1)}))
    health = several.pool.members[0].health
    pauses_s = []
    for _ in range(12):
        lease.failed(None)
        pauses_s.append(health.aside_until_s - several.now_s)
        assert await several.chosen() == {1}
        several.now_s = health.aside_until_s
        assert await several.chosen(200) == {0, 1}
    assert pauses_s[0] <= 1.0
    assert MAX_PAUSE_S / 2 <= pauses_s[-1] <= MAX_PAUSE_S
    lease.answered(0.0)
    lease.failed(None)
    assert health.aside_until_s - several.now_s <= 1.0


async def test_a_busy_engine_is_left_alone_for_as_long_as_it_says() -> None:
    several = Several(2)
    await several.prove()
    (await several.pool.lease(avoiding=frozenset({EngineId(1)}))).failed(7.0)
    several.now_s = 6.9
    assert await several.chosen() == {1}
    several.now_s = 7.0
    assert await several.chosen(200) == {0, 1}


async def test_where_all_engines_failed_the_one_that_comes_back_first_is_tried() -> None:
    several = Several(3)
    await several.prove()
    for engine, wait_s in enumerate((9.0, 7.0, 8.0)):
        several.pool.members[engine].health.failed(wait_s, several.now_s)
    assert await several.chosen() == {1}
    assert await several.chosen(avoiding=frozenset({EngineId(1)})) == {2}


async def test_an_engine_that_answers_others_again_is_leased_once_more_where_nobody_else_is() -> None:
    several = Several(3)
    await several.prove()
    tried = frozenset({EngineId(0), EngineId(1)})
    for engine in tried:
        several.pool.members[engine].health.failed(None, several.now_s)
    several.pool.members[0].health.answered(0.0, several.now_s)
    assert await several.chosen(avoiding=tried) == {2}
    assert await several.chosen(avoiding=tried | {EngineId(2)}) == {0}
    several.pool.members[0].health.failed(None, several.now_s)
    with pytest.raises(ProxyError):
        await several.pool.lease(avoiding=tried | {EngineId(2)})


async def test_no_request_waits_for_an_engine_that_is_slow_to_prove_itself() -> None:
    several = Several(2)
    several.world(0).gate.clear()
    assert await several.chosen() == {1}
    assert several.world(1).fetches == 1


async def test_requests_that_find_no_key_wait_for_whoever_proves_itself_first() -> None:
    several = Several(3)
    for engine in range(3):
        several.world(engine).gate.clear()
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(several.pool.lease()) for _ in range(10)]
        await until(lambda: all(several.world(engine).fetches for engine in range(3)))
        several.world(2).gate.set()
    assert {task.result().engine for task in asking} == {2}


async def test_an_engine_that_is_refused_gets_nothing_and_stops_nobody() -> None:
    several = Several(2)
    several.world(0).log_level = "debug"
    assert await several.chosen() == {1}


async def test_when_none_proves_itself_what_may_still_change_is_told() -> None:
    several = Several(2)
    several.world(0).log_level = "debug"
    several.world(1).failure = FetchError("gone")
    with pytest.raises(ProxyError) as caught:
        await several.pool.lease()
    assert caught.value.code is ErrorCode.NO_ATTESTED_ENGINE
    several = Several(2)
    for engine in range(2):
        several.world(engine).log_level = "debug"
    with pytest.raises(ProxyError) as caught:
        await several.pool.lease()
    assert caught.value.code is ErrorCode.ATTESTATION_REFUSED


async def test_a_request_that_an_engine_lost_waits_for_no_error_but_its_own() -> None:
    several = Several(2)
    several.world(1).log_level = "debug"
    lease = await several.pool.lease()
    lease.failed(4.0)
    with pytest.raises(ProxyError) as caught:
        await several.pool.lease(avoiding=frozenset({lease.engine}))
    assert (caught.value.code, caught.value.retry_after_s) == (ErrorCode.ENGINE_UNAVAILABLE, 4.0)


async def test_at_a_mismatch_another_engine_takes_over_while_the_first_proves_itself_again() -> None:
    several = Several(2)
    await several.prove()
    lease = await several.pool.lease(avoiding=frozenset({EngineId(1)}))
    several.world(0).gate.clear()
    several.world(0).key = GatewayKey.generate(())
    async with kept_fresh(several.pool):
        assert (await lease.mismatched()).engine == 1
        assert await several.chosen() == {1}
        await until(lambda: several.world(0).fetches == 2)
        assert await several.chosen() == {1}
        several.world(0).gate.set()
        await until(lambda: several.pool.members[0].trust.is_ready)
        found = await several.pool.lease(avoiding=frozenset({EngineId(1)}))
    assert found.key == several.world(0).key.config


async def test_an_engine_that_says_mismatch_again_and_again_is_verified_no_oftener_than_it_may() -> None:
    several = Several(2)
    await several.prove()
    lease = await several.pool.lease(avoiding=frozenset({EngineId(1)}))
    for _ in range(50):
        assert (await lease.mismatched()).engine == 1
    async with kept_fresh(several.pool):
        await until(lambda: several.world(0).fetches == 2)
        for _ in range(50):
            assert (await lease.mismatched()).engine == 1
        await asyncio.sleep(0)
        assert several.world(0).fetches == 2


async def test_a_mismatch_with_nobody_else_ready_leads_to_the_engines_new_key() -> None:
    several = Several(2)
    await several.prove()
    lease = await several.pool.lease(avoiding=frozenset({EngineId(1)}))
    several.world(0).key = GatewayKey.generate(())
    assert (await lease.mismatched(avoiding=frozenset({EngineId(1)}))).key == several.world(0).key.config


async def test_a_policy_is_adopted_by_every_engine_and_by_those_that_come() -> None:
    finder = Found()
    several = Several(3, finder)
    async with kept_fresh(several.pool):
        finder.say(*several.ways[:2])
        await until(lambda: len(several.pool.members) == 2)
        several.pool.adopt(OTHER_POLICY)
        finder.say(*several.ways)
        await until(lambda: len(several.pool.members) == 3)
        assert [member.trust.policy for member in several.pool.members] == [OTHER_POLICY] * 3


async def test_engines_come_and_go_and_their_places_are_taken_again() -> None:
    finder = Found()
    several = Several(3, finder)
    zero, one, two = several.ways
    async with kept_fresh(several.pool):
        finder.say(zero, one)
        await until(lambda: len(several.pool.held) == 2)
        first, second = several.pool.members
        finder.say(two, one)
        await until(lambda: [member.way for member in several.pool.members] == [two, one])
        assert several.pool.members[1] is second
        assert several.pool.members[0].id == first.id
        assert first.has_left
        await until(lambda: len(several.pool.held) == 2)
        assert several.world(1).fetches == 1


async def test_what_is_under_way_with_an_engine_that_left_goes_on() -> None:
    finder = Found()
    several = Several(2, finder)
    async with kept_fresh(several.pool):
        finder.say(several.ways[0])
        lease = await several.pool.lease()
        with lease.carried():
            finder.say(several.ways[1])
            await until(lambda: [member.way for member in several.pool.members] == [several.ways[1]])
            assert lease.stands
            lease.accepted()
        assert (await several.pool.lease()).way == several.ways[1]


async def test_an_engine_that_left_is_verified_no_more() -> None:
    finder = Found()
    several = Several(2, finder)
    async with kept_fresh(several.pool):
        finder.say(*several.ways)
        await until(lambda: len(several.pool.held) == 2)
        left = several.pool.members[0].keeper
        assert left is not None
        finder.say(several.ways[1])
        await until(left.done)
        assert left.cancelled()


async def test_requests_wait_until_it_is_known_where_engines_are() -> None:
    finder = Found()
    several = Several(1, finder)
    async with kept_fresh(several.pool), asyncio.TaskGroup() as group:
        asking = group.create_task(several.pool.lease())
        await asyncio.sleep(0)
        finder.say(*several.ways)
        assert (await asking).way == several.ways[0]


async def test_where_there_is_no_engine_the_app_is_told_so() -> None:
    finder = Found()
    several = Several(0, finder)
    async with kept_fresh(several.pool):
        finder.say()
        with pytest.raises(ProxyError) as caught:
            await several.pool.lease()
    assert caught.value.code is ErrorCode.NO_ATTESTED_ENGINE


async def test_a_pool_has_no_more_places_than_it_may() -> None:
    several = Several(MAX_ENGINES + 10)
    assert [member.id for member in several.pool.members] == list(range(MAX_ENGINES))


async def test_the_pool_is_refused_when_each_of_its_engines_is() -> None:
    several = Several(2)
    several.world(0).log_level = "debug"
    for engine in (0, 1):
        await several.pool.members[engine].trust._verify(Reason.SCHEDULED)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(several.pool.until_refused())
        await asyncio.sleep(0)
        assert not waiting.done()
        several.world(1).log_level = "debug"
        several.pool.adopt(replace(OTHER_POLICY))
        for engine in (0, 1):
            await several.pool.members[engine].trust._verify(Reason.SCHEDULED)
    assert {member.trust.last_attempt.outcome for member in several.pool.members if member.trust.last_attempt} == {
        Outcome.REFUSED
    }


async def test_what_an_engine_issued_is_taken_by_that_engine_alone() -> None:
    several = Several(3)
    for number in range(3):
        several.world(number).instance = f"instance-{number}"
    await several.prove()
    several.pool.members[1].health.in_flight = 1000
    for _ in range(10):
        lease = await several.pool.lease(issuer=issuer_of("instance-1"))
        assert (lease.engine, lease.has_spare) == (1, False)
    lease.failed(3.0)
    with pytest.raises(ProxyError) as caught:
        await several.pool.lease(avoiding=frozenset({lease.engine}), issuer=issuer_of("instance-1"))
    assert caught.value.code is ErrorCode.ENGINE_UNAVAILABLE
    several.world(1).key = GatewayKey.generate(())
    assert (await lease.mismatched()).key == several.world(1).key.config


async def test_what_nobody_here_issued_may_be_refused_by_anybody() -> None:
    several = Several(2)
    await several.prove()
    assert {(await several.pool.lease(issuer=issuer_of("elsewhere"))).engine for _ in range(200)} == {0, 1}
