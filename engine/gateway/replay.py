"""Has this very request been seen before?

Every request carries a fresh encapsulated key, `enc`, so remembering each for the whole life of the key it was sealed
to refuses every replay, without clocks (RFC 9458 section 6.5.1). Sixteen bytes of its SHA-256 are kept.
"""

from __future__ import annotations

import hashlib


class ReplaySet:
    """The encapsulated keys seen under one gateway key."""

    __slots__ = ("_capacity", "_seen")

    def __init__(self, capacity: int) -> None:
        """capacity: entries after which `full` asks for a new key; an entry costs about 90 bytes."""
        self._capacity = capacity
        self._seen: set[bytes] = set()

    def claim(self, enc: bytes) -> bool:
        """Remember `enc`; false when it was there already. Atomic: there is no await between look and store."""
        digest = hashlib.sha256(enc).digest()[:16]
        if digest in self._seen:
            return False
        self._seen.add(digest)
        return True

    @property
    def full(self) -> bool:
        return len(self._seen) >= self._capacity
