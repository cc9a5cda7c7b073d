from __future__ import annotations

from engine.gateway.replay import ReplaySet


def test_a_key_is_claimed_once() -> None:
    seen = ReplaySet(10)
    assert seen.claim(b"one")
    assert not seen.claim(b"one")
    assert seen.claim(b"two")


def test_a_set_is_full_at_its_capacity_and_still_refuses_replays() -> None:
    seen = ReplaySet(2)
    fullness = []
    for enc in (b"one", b"two"):
        seen.claim(enc)
        fullness.append(seen.full)
    assert fullness == [False, True]
    assert seen.claim(b"three")
    assert not seen.claim(b"one")


def test_a_replay_does_not_count_twice() -> None:
    seen = ReplaySet(2)
    seen.claim(b"one")
    seen.claim(b"one")
    assert not seen.full
