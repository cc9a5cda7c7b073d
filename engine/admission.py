"""Is there room for this request, and does it arrive fast enough to keep its place?

Decided when the header section has opened, before the audio is read. A request holds its declared size, or the largest
one allowed, until it is answered: that bounds the memory of all uploads together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engine.errors import ErrorCode, RequestError

RETRY_AFTER_S = 2.0


class Admission:
    """Counts the requests admitted and the bytes set aside for them."""

    def __init__(self, *, max_requests: int, max_body_bytes: int) -> None:
        self._max_requests = max_requests
        self._free_bytes = max_body_bytes
        self._requests = 0

    @contextmanager
    def hold(self, body_bytes: int) -> Iterator[None]:
        """A place for one request of `body_bytes`. Raises RequestError (overloaded) when there is none."""
        if self._requests >= self._max_requests or body_bytes > self._free_bytes:
            raise RequestError(ErrorCode.OVERLOADED, retry_after_s=RETRY_AFTER_S)
        self._requests += 1
        self._free_bytes -= body_bytes
        try:
            yield
        finally:
            self._requests -= 1
            self._free_bytes += body_bytes

    @property
    def requests(self) -> int:
        return self._requests


@dataclass(frozen=True, slots=True)
class UploadPace:
    """The slowest upload that is still served; a slower one holds memory that others need.

    min_bytes_per_s: on average since the upload began. grace_s: no rate is asked for before this.
    idle_s: the longest silence; also how long a client may leave an answer unread. deadline_s: the longest upload.
    """

    min_bytes_per_s: int = 4_096
    grace_s: float = 30.0
    idle_s: float = 30.0
    deadline_s: float = 3_600.0

    def too_slow(self, received_bytes: int, elapsed_s: float) -> bool:
        if elapsed_s > self.deadline_s:
            return True
        return elapsed_s > self.grace_s and received_bytes < self.min_bytes_per_s * elapsed_s
