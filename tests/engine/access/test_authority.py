from __future__ import annotations

import asyncio

import pytest

from core.transcript.faults import API_KEY, Fault, FaultKind
from engine.access.api_keys import ApiKey, ApiKeys, digest
from engine.access.authority import Anyone, Authority, Caller, KeyHolders
from engine.access.limits import LimitFault, RequestAllowance
from tests.engine.gateway.fake_application import Clock
from tests.waiting import until

SECRET = "sk-sv-canary"


def keys(*, name: str = "newsroom", secret: str = SECRET, per_minute: int | None = 2, at_a_time: int = 9) -> ApiKeys:
    return ApiKeys(keys=(ApiKey(name, digest(secret), per_minute, at_a_time, 10),))


def holders_of(keys: ApiKeys, clock: Clock | None = None, *, places: int = 9) -> KeyHolders:
    """Holders who wait for no place."""
    return KeyHolders(keys, places=places, clock=clock or Clock(), monotonic=Clock(), place_wait_s=0.0)


def holder_of(authority: Authority, secret: str = SECRET) -> Caller:
    return authority.identify(f"Bearer {secret}", "")


async def visited(authority: Authority, secret: str = SECRET) -> int | None:
    visit = await holder_of(authority, secret).admit(audio=True)
    visit.end()
    return visit.allowance.remaining if visit.allowance else None


@pytest.mark.parametrize("shown", [None, "", f"Bearer {SECRET}"])
async def test_where_no_key_is_asked_for_anyone_is_admitted(shown: str | None) -> None:
    caller = Anyone().identify(shown, "")
    visits = [await caller.admit(audio=True) for _ in range(1000)]
    visits[0].hear(1e9)
    visit = await caller.admit(audio=True)
    assert (caller.name, visit.allowance) == (None, None)


def test_callers_without_keys_are_told_apart_by_where_they_come_from() -> None:
    anyone = Anyone()
    assert {anyone.identify(None, source).holder for source in ("192.0.2.1", "192.0.2.2", "192.0.2.1")} == {
        "192.0.2.1",
        "192.0.2.2",
    }


def test_a_holder_of_a_key_is_the_same_wherever_it_comes_from() -> None:
    holders = holders_of(keys())
    callers = [holders.identify(f"Bearer {SECRET}", source) for source in ("192.0.2.1", "192.0.2.2")]
    assert callers[0].holder == callers[1].holder
    assert digest(SECRET) not in repr(callers[0])


@pytest.mark.parametrize("shown", [None, "", "Bearer", "Bearer ", SECRET, f"Basic {SECRET}"])
def test_whoever_shows_no_key_is_told_that_it_is_missing(shown: str | None) -> None:
    with pytest.raises(Fault) as refused:
        holders_of(keys()).identify(shown, "")
    assert (refused.value.kind, refused.value.subject) == (FaultKind.MISSING, API_KEY)


def test_whoever_shows_another_key_is_told_that_it_is_wrong() -> None:
    with pytest.raises(Fault) as refused:
        holders_of(keys()).identify("Bearer sk-sv-other", "")
    assert (refused.value.kind, refused.value.subject) == (FaultKind.UNAUTHENTICATED, None)
    assert "other" not in str(refused.value)


def test_a_holder_is_known_by_the_name_of_the_key() -> None:
    assert holders_of(keys()).identify(f"Bearer {SECRET}", "").name == "newsroom"


async def test_a_place_is_free_again_when_a_visit_ends() -> None:
    caller = holder_of(holders_of(keys(per_minute=None, at_a_time=1)))
    visit = await caller.admit(audio=True)
    with pytest.raises(LimitFault) as refused:
        await caller.admit(audio=True)
    assert refused.value.kind is FaultKind.OVER_RATE
    visit.end()
    await caller.admit(audio=True)


async def test_a_key_whose_entry_does_not_say_has_the_places_of_any() -> None:
    entry = ApiKey("newsroom", digest(SECRET))
    caller = holder_of(holders_of(ApiKeys(keys=(entry,)), places=2))
    for _ in range(2):
        await caller.admit(audio=True)
    with pytest.raises(LimitFault):
        await caller.admit(audio=True)


async def test_a_visit_without_a_place_takes_nothing_of_the_minute() -> None:
    holders = holders_of(keys(per_minute=3, at_a_time=1))
    visit = await holder_of(holders).admit(audio=True)
    for _ in range(5):
        with pytest.raises(LimitFault) as refused:
            await holder_of(holders).admit(audio=True)
    assert refused.value.allowance == RequestAllowance(3, 2, reset_s=20.0)
    visit.end()
    assert await visited(holders) == 1


async def test_a_visit_beyond_the_minute_takes_no_place() -> None:
    clock = Clock()
    holders = holders_of(keys(per_minute=1, at_a_time=1), clock)
    await visited(holders)
    with pytest.raises(LimitFault):
        await visited(holders)
    clock.now += 60
    await visited(holders)


async def test_a_visit_that_finds_the_minute_spent_after_its_wait_gives_its_place_on() -> None:
    caller = holder_of(KeyHolders(keys(per_minute=1, at_a_time=1), places=9, clock=Clock()))
    places = caller.account.places
    place = await places.take(1, patience_s=0)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(refusal_of(caller))
        await until(lambda: places.waiting)
        caller.account.meter.enter(caller.limits, caller.clock(), audio=True)
        place.leave()
        assert (await waiting).retry_after_s == 60.0
    await places.take(1, patience_s=0)


async def refusal_of(caller: Caller) -> LimitFault:
    with pytest.raises(LimitFault) as refused:
        await caller.admit(audio=True)
    return refused.value


async def test_a_visit_is_charged_by_the_clock_of_its_authority() -> None:
    clock = Clock()
    holders = holders_of(keys(per_minute=None), clock)
    visit = await holder_of(holders).admit(audio=True)
    visit.hear(10)
    with pytest.raises(Fault):
        await visited(holders)
    clock.now += 86_400
    await visited(holders)


async def test_new_keys_keep_the_counts_of_those_that_stayed() -> None:
    holders = holders_of(keys())
    assert await visited(holders) == 1
    holders.replace(keys(name="renamed", per_minute=10))
    assert await visited(holders) == 8


async def test_a_key_that_was_gone_for_a_moment_finds_its_counts_again() -> None:
    holders = holders_of(keys())
    await visited(holders)
    holders.replace(ApiKeys())
    with pytest.raises(Fault):
        await visited(holders)
    holders.replace(keys())
    assert await visited(holders) == 0


async def test_a_new_key_under_an_old_name_begins_anew() -> None:
    holders = holders_of(keys())
    await visited(holders)
    holders.replace(keys(secret="sk-sv-new"))
    assert await visited(holders, "sk-sv-new") == 1


async def test_a_visit_of_a_revoked_key_ends_as_it_would_have() -> None:
    holders = holders_of(keys(at_a_time=1))
    visit = await holder_of(holders).admit(audio=True)
    holders.replace(ApiKeys())
    visit.hear(1)
    visit.end()
    holders.replace(keys(at_a_time=1))
    assert await visited(holders) == 0


async def test_one_keys_limits_are_not_anothers() -> None:
    both = ApiKeys(keys=(*keys(per_minute=1).keys, *keys(name="other", secret="other", per_minute=1).keys))
    holders = holders_of(both)
    await visited(holders)
    assert await visited(holders, "other") == 0
