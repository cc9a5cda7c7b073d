from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import pytest

from core.channel.kem import Kem
from core.channel.keyconfig import KeyConfig
from engine.gateway.keyring import CLOCK_GRACE_S, HeldKey, KeyRing
from tests.engine.gateway.fake_application import NOW, ring, statement

X25519 = (Kem.X25519_HKDF_SHA256,)


def configs(keys: Sequence[HeldKey]) -> list[KeyConfig]:
    return [held.key.config for held in keys]


def path_of(keys: KeyRing, now: float) -> str:
    return keys.current(now).keys[0].key.config.path_digest


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
    assert first not in [held.key.config.path_digest for held in keys.held(dies_at)]


def test_the_statement_of_a_key_ends_with_its_overlap() -> None:
    keys = ring()
    epoch = keys.current(NOW)
    assert epoch.statement == statement(configs(epoch.keys), [], int(NOW) + 1100)


def test_an_unknown_digest_finds_nothing() -> None:
    assert ring().find("0" * 32, NOW) is None


def test_an_idle_key_dies_by_the_timer_alone() -> None:
    keys = ring()
    first = keys.current(NOW)
    keys.expire(NOW + 1000 + 100 + CLOCK_GRACE_S)
    assert first not in keys._epochs


def test_after_a_long_sleep_only_new_keys_are_live() -> None:
    keys = ring()
    first = keys.current(NOW)
    (live,) = keys.live(NOW + 1_000_000)
    assert not set(configs(live.keys)) & set(configs(first.keys))


def test_a_clock_that_steps_back_changes_nothing() -> None:
    keys = ring()
    first = path_of(keys, NOW)
    assert path_of(keys, NOW - 500) == first


def test_after_a_clock_was_set_back_by_more_than_a_lifetime_no_key_outlives_what_it_may() -> None:
    keys = ring()
    older = path_of(keys, NOW)
    newer = path_of(keys, NOW + 1000)
    back = NOW - 5000
    current = keys.current(back)
    assert current.keys[0].key.config.path_digest not in (older, newer)
    assert current.retires_at == back + 1000
    dies_at = back + 100 + CLOCK_GRACE_S
    assert keys.find(newer, dies_at - 0.1)
    assert not any(keys.find(digest, dies_at) for digest in (older, newer))
    assert keys.current(dies_at) == current


@pytest.mark.parametrize("kem", Kem)
def test_a_full_replay_set_brings_new_keys_and_an_early_end_of_the_old_ones(kem: Kem) -> None:
    keys = ring(max_enc=2)
    first = keys.current(NOW)
    full = next(held for held in first.keys if held.key.config.kem == kem)
    full.replays.claim(b"one")
    full.replays.claim(b"two")
    assert not set(configs(keys.current(NOW + 1).keys)) & set(configs(first.keys))
    dies_at = NOW + 1 + 100 + CLOCK_GRACE_S
    still = keys.find(full.key.config.path_digest, dies_at - 0.1)
    assert still is not None
    assert not still.replays.claim(b"one")
    assert all(keys.find(config.path_digest, dies_at - 0.1) for config in configs(first.keys))
    assert not any(keys.find(config.path_digest, dies_at) for config in configs(first.keys))


def test_a_full_set_does_not_lengthen_the_life_of_its_key() -> None:
    keys = ring(max_enc=1)
    full = keys.current(NOW)
    full.keys[0].replays.claim(b"one")
    keys.expire(NOW + 1099)
    assert keys.find(full.keys[0].key.config.path_digest, full.dies_at) is None


def test_filling_key_after_key_does_not_pile_up_keys() -> None:
    keys = ring(max_enc=1, kems=X25519)
    for second in range(1000):
        keys.current(NOW + second).keys[0].replays.claim(b"one")
    assert len(keys.live(NOW + 1000)) <= 100 + CLOCK_GRACE_S + 1


@pytest.mark.parametrize("rounds", range(3))
def test_live_keys_never_share_an_id(rounds: int) -> None:
    keys = KeyRing(statement, lifetime_s=1, overlap_s=80, now=NOW, kems=X25519)
    for second in range(200):
        ids = [held.key.config.key_id for held in keys.held(NOW + second)]
        assert len(set(ids)) == len(ids)
    assert len(ids) > 190


def test_each_key_has_a_replay_set_of_its_own() -> None:
    keys = ring()
    claimed = [held.replays.claim(b"one") for now in (NOW, NOW + 1000) for held in keys.current(now).keys]
    assert claimed == [True] * 4


@pytest.mark.parametrize("kems", [tuple(Kem), X25519])
def test_an_epoch_has_a_key_of_each_kem_the_preferred_one_first(kems: tuple[Kem, ...]) -> None:
    epoch = KeyRing(statement, lifetime_s=1000, overlap_s=100, now=NOW, kems=kems, live=True).current(NOW)
    assert [config.kem for config in configs(epoch.keys)] == list(kems)
    assert [config.kem for config in configs(epoch.live_keys)] == list(kems)


def test_after_the_overlap_no_reference_to_a_private_key_remains() -> None:
    keys = live_ring()
    epoch = keys.current(NOW)
    dies_at = epoch.dies_at
    privates = [weakref.ref(held.key.private_key) for held in (*epoch.keys, *epoch.live_keys)]
    del epoch
    keys.expire(dies_at - 0.1)
    gc.collect()
    assert None not in [private() for private in privates]
    keys.expire(dies_at)
    gc.collect()
    assert [private() for private in privates] == [None] * 4


def live_ring(max_enc: int = 1000) -> KeyRing:
    return KeyRing(statement, lifetime_s=1000, overlap_s=100, now=NOW, kems=tuple(Kem), max_enc=max_enc, live=True)


def test_without_live_sessions_there_are_no_keys_for_them() -> None:
    assert ring().current(NOW).live_keys == ()


def test_keys_of_live_sessions_come_and_go_with_their_epoch_and_open_nothing_else() -> None:
    keys = live_ring()
    epoch = keys.current(NOW)
    dies_at = NOW + 1000 + 100 + CLOCK_GRACE_S
    assert epoch.statement == statement(configs(epoch.keys), configs(epoch.live_keys), int(NOW) + 1100)
    for held in epoch.live_keys:
        digest = held.key.config.path_digest
        assert keys.find_live(digest, NOW) is held
        assert keys.find(digest, NOW) is None
    assert keys.find_live(path_of(keys, NOW), NOW) is None
    digests = [config.path_digest for config in configs(epoch.live_keys)]
    assert all(keys.find_live(digest, dies_at - 0.1) for digest in digests)
    assert not any(keys.find_live(digest, dies_at) for digest in digests)
    assert not set(configs(keys.current(dies_at).live_keys)) & set(configs(epoch.live_keys))


def test_sessions_that_fill_their_replay_memory_bring_new_keys_of_both_kinds() -> None:
    keys = live_ring(max_enc=1)
    first = keys.current(NOW)
    first.live_keys[1].replays.claim(b"one")
    assert not any(held.replays.full for held in first.keys)
    second = keys.current(NOW)
    assert not set(configs(second.keys)) & set(configs(first.keys))
    assert not set(configs(second.live_keys)) & set(configs(first.live_keys))


def test_ids_of_all_live_keys_differ() -> None:
    keys = KeyRing(statement, lifetime_s=1, overlap_s=80, now=NOW, kems=X25519, live=True)
    for second in range(60):
        keys.expire(NOW + second)
    ids = [config.key_id for epoch in keys.live(NOW + 60) for config in configs((*epoch.keys, *epoch.live_keys))]
    assert len(ids) == len(set(ids)) > 100
