"""Which keys open requests now, and what does the engine say of itself while they do?

A key lives in memory only and is never written or exported: deleting it is the channel's forward secrecy (RFC 9458
section 6.6). For one epoch a key and the statement that names it belong together::

    begins            retires           not_after            dies
      |--- lifetime -----|---- overlap -----|---- grace ---------|
      named by new       still opens what   for clocks that      deleted
      statements         was verified       differ

A key that has seen as many requests as its replay memory should hold retires at once, and dies one overlap and grace
later, whatever its statement promised: who still seals to it then is told to verify again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from attestation.channel.keyconfig import GatewayKey, KeyConfig
from attestation.types import StatementBytes
from engine.replay import ReplaySet

CLOCK_GRACE_S = 120
"""How far a client's clock may lag behind ours."""

MAX_ENC_PER_KEY = 1_000_000
"""About 90 MB of replay memory; a busy engine then takes a new key early."""


@dataclass(frozen=True, slots=True)
class KeyEpoch:
    """A key, the statement that names it, and the requests it has seen. Times are Unix seconds."""

    key: GatewayKey
    statement: StatementBytes
    retires_at: float
    dies_at: float
    replays: ReplaySet


StateClaims = Callable[[KeyConfig, int], StatementBytes]
"""Makes the statement for a key: (key configuration, not_after) -> bytes."""


class KeyRing:
    """The live epochs, the current one last. `now` is passed in everywhere, and never runs backwards for long."""

    def __init__(
        self, state: StateClaims, *, lifetime_s: int, overlap_s: int, now: float, max_enc: int = MAX_ENC_PER_KEY
    ) -> None:
        self._state = state
        self._lifetime_s = lifetime_s
        self._overlap_s = overlap_s
        self._max_enc = max_enc
        self._epochs: list[KeyEpoch] = []
        self._begin(now)

    def current(self, now: float) -> KeyEpoch:
        """The epoch whose statement is handed out."""
        self.expire(now)
        return self._epochs[-1]

    def find(self, path_digest: str, now: float) -> KeyEpoch | None:
        """The live epoch whose key configuration has this digest (32 hexadecimal digits)."""
        self.expire(now)
        return next((epoch for epoch in self._epochs if epoch.key.config.path_digest == path_digest), None)

    def live(self, now: float) -> tuple[KeyEpoch, ...]:
        self.expire(now)
        return tuple(self._epochs)

    def expire(self, now: float) -> None:
        """Delete dead keys and begin a new epoch when it is time; also called on a timer, so that idle keys die."""
        if self._epochs[-1].replays.full:
            self._retire(now)
        if now >= self._epochs[-1].retires_at:
            self._begin(now)
        self._epochs = [epoch for epoch in self._epochs if now < epoch.dies_at]

    def _retire(self, now: float) -> None:
        """End the current epoch early: otherwise whoever fills key after key would fill the memory."""
        newest = self._epochs.pop()
        dies_at = min(newest.dies_at, now + self._overlap_s + CLOCK_GRACE_S)
        self._epochs.append(replace(newest, retires_at=now, dies_at=dies_at))

    def _begin(self, now: float) -> None:
        key = GatewayKey.generate(set(self._live_ids()))
        not_after = now + self._lifetime_s + self._overlap_s
        self._epochs.append(
            KeyEpoch(
                key,
                self._state(key.config, int(not_after)),
                retires_at=now + self._lifetime_s,
                dies_at=not_after + CLOCK_GRACE_S,
                replays=ReplaySet(self._max_enc),
            )
        )

    def _live_ids(self) -> Iterator[int]:
        return (epoch.key.config.key_id for epoch in self._epochs)
