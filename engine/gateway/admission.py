"""Is there room for this request, and does it arrive fast enough to keep its place?

Decided when the header section has opened, before the audio is read. A request holds its declared size, or the largest
one allowed, until it is answered: that bounds the memory of all uploads together.

Nobody may fill the room alone. Who holds some of it (a key, or where none is asked for a source) gets more only while
that is no more than `SHARE` times what is free, of places and of bytes: so one holder leaves a quarter for others, two
a seventh, and so on, and whoever holds nothing finds room as long as there is any.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from core.transcript.faults import Fault, FaultKind

RETRY_AFTER_S = 2.0
SHARE = 3


@dataclass(slots=True)
class _Room:
    """Places and bytes, held or free."""

    requests: int = 0
    bytes: int = 0

    def add(self, requests: int, body_bytes: int) -> None:
        self.requests += requests
        self.bytes += body_bytes


class Admission:
    """Counts the requests admitted and the bytes set aside for them."""

    def __init__(self, *, max_requests: int, max_body_bytes: int) -> None:
        self._max_requests = max_requests
        self._free = _Room(max_requests, max_body_bytes)
        self._held: dict[str, _Room] = {}

    @contextmanager
    def hold(self, body_bytes: int, holder: str) -> Iterator[None]:
        """A place for one request of `body_bytes`. Raises Fault (OVERLOADED) when there is none for this holder."""
        held = self._held.get(holder, _Room())
        if not (_fits(1, held.requests, self._free.requests) and _fits(body_bytes, held.bytes, self._free.bytes)):
            raise Fault(FaultKind.OVERLOADED, retry_after_s=RETRY_AFTER_S)
        self._held[holder] = held
        held.add(1, body_bytes)
        self._free.add(-1, -body_bytes)
        try:
            yield
        finally:
            self._free.add(1, body_bytes)
            held.add(-1, -body_bytes)
            if not held.requests:
                del self._held[holder]

    @property
    def requests(self) -> int:
        return self._max_requests - self._free.requests


def _fits(wanted: int, held: int, free: int) -> bool:
    return wanted <= free and held + wanted <= SHARE * free


def source_of(address: str | None) -> str:
    """Whom a peer's address stands for: of IPv6 the network of 64 bits, which is one subscriber's to number."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((parsed, 64), strict=False))
    return str(parsed)


@dataclass(frozen=True, slots=True)
class UploadPace:
    """The slowest upload that is still served; a slower one holds memory that others need.

    min_bytes_per_s: on average since the upload began. grace_s: no rate is asked for before this.
    idle_s: the longest silence; also how long a client may leave an answer unread.
    deadline_s: the longest upload. The more memory one holds, the faster it has to come, so as to end by then.
    """

    min_bytes_per_s: int = 4_096
    grace_s: float = 30.0
    idle_s: float = 30.0
    deadline_s: float = 900.0

    def too_slow(self, received_bytes: int, elapsed_s: float, *, size_bytes: int = 0) -> bool:
        """size_bytes: what is set aside for it."""
        if elapsed_s > self.deadline_s:
            return True
        bytes_per_s = max(self.min_bytes_per_s, size_bytes / self.deadline_s)
        return elapsed_s > self.grace_s and received_bytes < bytes_per_s * elapsed_s
