"""Which keys open requests now, and what does the engine say of itself while they do?

A key lives in memory only and is never written or exported: deleting it is the channel's forward secrecy (RFC 9458
section 6.6). For one epoch keys and the statement that names them belong together::

    begins            retires           not_after            dies
      |--- lifetime -----|---- overlap -----|---- grace ---------|
      named by new       still opens what   for clocks that      deleted
      statements         was verified       differ

An epoch of which a key has seen as many requests as its replay memory should hold retires at once, and dies one
overlap and grace later, whatever its statement promised: who still seals to it then is told to verify again. So do all
that began before the clock was set back by more than a lifetime: they would live longer than any may, and clients
refuse statements that promise so much.

An epoch has a key of each KEM that the engine's cryptographic library has (`core.channel.kem`), and all of them begin
and end together. Where live sessions are served it has as many again for them, which open nothing else (RFC 9458
section 6.4). A request or a session that is under way when its key dies goes on: it has keys of its own by then, and
nothing of it holds on to the dead one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from attestation.types import StatementBytes
from core.channel.kem import Kem
from core.channel.keyconfig import GatewayKey, KeyConfig
from engine.gateway.replay import ReplaySet

CLOCK_GRACE_S = 120
"""How far a client's clock may lag behind ours."""

MAX_ENC_PER_KEY = 1_000_000
"""About 90 MB of replay memory; a busy engine then takes a new key early."""


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key, and what it has seen of what is sealed to it."""

    key: GatewayKey
    replays: ReplaySet


@dataclass(frozen=True, slots=True)
class KeyEpoch:
    """Keys, and the statement that names them. Times are Unix seconds.

    keys: for requests, one of each KEM, the preferred one first. live_keys: the same for live sessions, where these are
    served.
    """

    keys: tuple[HeldKey, ...]
    live_keys: tuple[HeldKey, ...]
    statement: StatementBytes
    retires_at: float
    dies_at: float


StateClaims = Callable[[Sequence[KeyConfig], Sequence[KeyConfig], int], StatementBytes]
"""Makes the statement for an epoch: (key configurations, those of live sessions, not_after) -> bytes."""


class KeyRing:
    """The live epochs, the current one last. `now` is passed in everywhere, and never runs backwards for long."""

    def __init__(
        self,
        state: StateClaims,
        *,
        lifetime_s: int,
        overlap_s: int,
        now: float,
        kems: Sequence[Kem],
        max_enc: int = MAX_ENC_PER_KEY,
        live: bool = False,
    ) -> None:
        """kems: at least one, the preferred one first. live: whether there are keys for live sessions."""
        self._state = state
        self._kems = kems
        self._live = live
        self._lifetime_s = lifetime_s
        self._overlap_s = overlap_s
        self._max_enc = max_enc
        self._epochs: list[KeyEpoch] = []
        self._begin(now)

    def current(self, now: float) -> KeyEpoch:
        """The epoch whose statement is handed out."""
        self.expire(now)
        return self._epochs[-1]

    def find(self, path_digest: str, now: float) -> HeldKey | None:
        """The key for requests whose configuration has this digest (32 hexadecimal digits)."""
        return _named(path_digest, self.held(now))

    def find_live(self, path_digest: str, now: float) -> HeldKey | None:
        """The key for live sessions whose configuration has this digest."""
        return _named(path_digest, (held for epoch in self.live(now) for held in epoch.live_keys))

    def held(self, now: float) -> tuple[HeldKey, ...]:
        """Every key that opens requests."""
        return tuple(held for epoch in self.live(now) for held in epoch.keys)

    def live(self, now: float) -> tuple[KeyEpoch, ...]:
        self.expire(now)
        return tuple(self._epochs)

    def expire(self, now: float) -> None:
        """Delete dead keys and begin a new epoch when it is time; also called on a timer, so that idle keys die."""
        newest = self._epochs[-1]
        if newest.retires_at > now + 2 * self._lifetime_s:  # the clock was set back
            self._epochs = [self._retired(epoch, now) for epoch in self._epochs]
        elif any(held.replays.full for held in (*newest.keys, *newest.live_keys)):
            self._epochs[-1] = self._retired(newest, now)
        if now >= self._epochs[-1].retires_at:
            self._begin(now)
        self._epochs = [epoch for epoch in self._epochs if now < epoch.dies_at]

    def _retired(self, epoch: KeyEpoch, now: float) -> KeyEpoch:
        """An epoch that ends early: otherwise whoever fills key after key would fill the memory."""
        return replace(epoch, retires_at=now, dies_at=min(epoch.dies_at, now + self._overlap_s + CLOCK_GRACE_S))

    def _begin(self, now: float) -> None:
        taken = {
            held.key.config.key_id for epoch in self._epochs for held in (*epoch.keys, *epoch.live_keys)
        }  # and of each key drawn
        keys = self._drawn(taken)
        live_keys = self._drawn(taken) if self._live else ()
        not_after = now + self._lifetime_s + self._overlap_s
        self._epochs.append(
            KeyEpoch(
                keys,
                live_keys,
                self._state(_configs(keys), _configs(live_keys), int(not_after)),
                retires_at=now + self._lifetime_s,
                dies_at=not_after + CLOCK_GRACE_S,
            )
        )

    def _drawn(self, taken: set[int]) -> tuple[HeldKey, ...]:
        """A key of each KEM, its id added to those that are taken."""
        drawn = []
        for kem in self._kems:
            key = GatewayKey.generate(taken, kem)
            taken.add(key.config.key_id)
            drawn.append(HeldKey(key, ReplaySet(self._max_enc)))
        return tuple(drawn)


def _configs(keys: Sequence[HeldKey]) -> list[KeyConfig]:
    return [held.key.config for held in keys]


def _named(path_digest: str, keys: Iterable[HeldKey]) -> HeldKey | None:
    return next((held for held in keys if held.key.config.path_digest == path_digest), None)
