from __future__ import annotations

import pytest

from engine.api_keys import ApiKey, ApiKeys, digest
from engine.authority import Anyone, Authority, KeyHolders
from engine.errors import ErrorCode, RequestError
from tests.engine.fake_application import Clock

SECRET = "sk-sv-canary"


def keys(*, name: str = "newsroom", secret: str = SECRET, per_minute: int | None = 2, at_a_time: int = 9) -> ApiKeys:
    return ApiKeys(keys=(ApiKey(name, digest(secret), per_minute, at_a_time, 10),))


def visited(authority: Authority, secret: str = SECRET) -> int | None:
    with authority.identify(f"Bearer {secret}").admit(audio=True) as visit:
        return visit.allowance.remaining if visit.allowance else None


@pytest.mark.parametrize("shown", [None, "", f"Bearer {SECRET}"])
def test_where_no_key_is_asked_for_anyone_is_admitted(shown: str | None) -> None:
    caller = Anyone().identify(shown)
    with caller.admit(audio=True) as visit:
        visit.hear(1e9)
    with caller.admit(audio=True) as visit:
        assert (caller.name, visit.allowance) == (None, None)


@pytest.mark.parametrize("shown", [None, "", "Bearer", "Bearer sk-sv-other"])
def test_whoever_shows_no_key_is_refused(shown: str | None) -> None:
    with pytest.raises(RequestError) as refused:
        KeyHolders(keys(), clock=Clock()).identify(shown)
    assert refused.value.code is ErrorCode.INVALID_API_KEY
    assert "other" not in str(refused.value)


def test_a_holder_is_known_by_the_name_of_the_key() -> None:
    assert KeyHolders(keys(), clock=Clock()).identify(f"Bearer {SECRET}").name == "newsroom"


def test_a_place_is_given_back_however_a_visit_ends() -> None:
    caller = KeyHolders(keys(per_minute=None, at_a_time=1), clock=Clock()).identify(f"Bearer {SECRET}")
    with pytest.raises(KeyError), caller.admit(audio=True):
        raise KeyError
    with caller.admit(audio=True), pytest.raises(RequestError), caller.admit(audio=True):
        pass


def test_a_visit_is_charged_by_the_clock_of_its_authority() -> None:
    clock = Clock()
    holders = KeyHolders(keys(per_minute=None), clock=clock)
    with holders.identify(f"Bearer {SECRET}").admit(audio=True) as visit:
        visit.hear(10)
    with pytest.raises(RequestError):
        visited(holders)
    clock.now += 86_400
    visited(holders)


def test_new_keys_keep_the_counts_of_those_that_stayed() -> None:
    holders = KeyHolders(keys(), clock=Clock())
    assert visited(holders) == 1
    holders.replace(keys(name="renamed", per_minute=10))
    assert visited(holders) == 8


def test_a_key_that_was_gone_for_a_moment_finds_its_counts_again() -> None:
    holders = KeyHolders(keys(), clock=Clock())
    visited(holders)
    holders.replace(ApiKeys())
    with pytest.raises(RequestError):
        visited(holders)
    holders.replace(keys())
    assert visited(holders) == 0


def test_a_new_key_under_an_old_name_begins_anew() -> None:
    holders = KeyHolders(keys(), clock=Clock())
    visited(holders)
    holders.replace(keys(secret="sk-sv-new"))
    assert visited(holders, "sk-sv-new") == 1


def test_a_visit_of_a_revoked_key_ends_as_it_would_have() -> None:
    holders = KeyHolders(keys(at_a_time=1), clock=Clock())
    with holders.identify(f"Bearer {SECRET}").admit(audio=True) as visit:
        holders.replace(ApiKeys())
        visit.hear(1)
    holders.replace(keys(at_a_time=1))
    assert visited(holders) == 0


def test_one_keys_limits_are_not_anothers() -> None:
    both = ApiKeys(keys=(*keys(per_minute=1).keys, *keys(name="other", secret="other", per_minute=1).keys))
    holders = KeyHolders(both, clock=Clock())
    visited(holders)
    assert visited(holders, "other") == 0
