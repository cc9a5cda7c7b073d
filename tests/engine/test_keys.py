from __future__ import annotations

import pytest

from engine.keys import CLOCK_GRACE_S, KeyRing
from tests.engine.fake_application import NOW, ring, statement


def path_of(keys: KeyRing, now: float) -> str:
    return keys.current(now).key.config.path_digest


def test_a_key_is_current_for_its_lifetime() -> None:
    keys = ring()
    first = path_of(keys, NOW)
    assert path_of(keys, NOW + 999.9) == first
    assert path_of(keys, NOW + 1000) != first


def test_a_retired_key_opens_requests_through_overlap_and_grace_and_not_a_moment_longer() -> None:
    keys = ring()
    first = path_of(keys, NOW)
    dies_at = NOW + 1000 + 100 + CLOCK_GRACE_S
    assert keys.find(first, dies_at - 0.1) is not None
    assert keys.find(first, dies_at) is None
    assert first not in [epoch.key.config.path_digest for epoch in keys.live(dies_at)]


def test_the_statement_of_a_key_ends_with_its_overlap() -> None:
    keys = ring()
    epoch = keys.current(NOW)
    assert epoch.statement == statement(epoch.key.config, int(NOW) + 1100)


def test_an_unknown_digest_finds_nothing() -> None:
    assert ring().find("0" * 32, NOW) is None


def test_an_idle_key_dies_by_the_timer_alone() -> None:
    keys = ring()
    first = keys.current(NOW).key
    keys.expire(NOW + 1000 + 100 + CLOCK_GRACE_S)
    assert first not in [epoch.key for epoch in keys._epochs]


def test_after_a_long_sleep_only_a_new_key_is_live() -> None:
    keys = ring()
    first = keys.current(NOW).key
    live = keys.live(NOW + 1_000_000)
    assert len(live) == 1
    assert live[0].key is not first


def test_a_clock_that_steps_back_changes_nothing() -> None:
    keys = ring()
    first = path_of(keys, NOW)
    assert path_of(keys, NOW - 500) == first


def test_a_full_replay_set_brings_a_new_key_and_an_early_end_of_the_old_one() -> None:
    keys = ring(max_enc=2)
    full = keys.current(NOW)
    full.replays.claim(b"one")
    full.replays.claim(b"two")
    assert path_of(keys, NOW + 1) != full.key.config.path_digest
    still = keys.find(full.key.config.path_digest, NOW + 1 + 100 + CLOCK_GRACE_S - 0.1)
    assert still is not None
    assert not still.replays.claim(b"one")
    assert keys.find(full.key.config.path_digest, NOW + 1 + 100 + CLOCK_GRACE_S) is None


def test_a_full_set_does_not_lengthen_the_life_of_its_key() -> None:
    keys = ring(max_enc=1)
    full = keys.current(NOW)
    full.replays.claim(b"one")
    keys.expire(NOW + 1099)
    assert keys.find(full.key.config.path_digest, full.dies_at) is None


def test_filling_key_after_key_does_not_pile_up_keys() -> None:
    keys = ring(max_enc=1)
    for second in range(1000):
        keys.current(NOW + second).replays.claim(b"one")
    assert len(keys.live(NOW + 1000)) <= 100 + CLOCK_GRACE_S + 1


@pytest.mark.parametrize("rounds", range(3))
def test_live_keys_never_share_an_id(rounds: int) -> None:
    keys = KeyRing(statement, lifetime_s=1, overlap_s=80, now=NOW)
    for second in range(200):
        ids = [epoch.key.config.key_id for epoch in keys.live(NOW + second)]
        assert len(set(ids)) == len(ids)
    assert len(ids) > 190


def test_each_key_has_a_replay_set_of_its_own() -> None:
    keys = ring()
    assert keys.current(NOW).replays.claim(b"one")
    assert keys.current(NOW + 1000).replays.claim(b"one")
