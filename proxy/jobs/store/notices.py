"""Who waits for what? Within a process by events; between replicas by PostgreSQL's LISTEN and NOTIFY.

A notice may be lost, with its connection: whoever waits also looks from time to time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

CHANNEL: Final = "sottovoce_jobs"

QUEUE: Final = "queue"
"""There may be a job to begin."""
OUTBOX: Final = "outbox"
"""There may be a message to send."""


def job_topic(job: str) -> str:
    """Whoever works on this job shall look whether it is still theirs."""
    return f"job:{job}"


class Notices:
    """Events of this process, by topic."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def waiting(self, topic: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever somebody tells `topic`."""
        event = asyncio.Event()
        self._waiting[topic].add(event)
        try:
            yield event
        finally:
            self._waiting[topic].discard(event)
            if not self._waiting[topic]:
                del self._waiting[topic]

    def tell(self, topic: str) -> None:
        for event in self._waiting.get(topic, ()):
            event.set()

    def tell_all(self) -> None:
        """Something may have been missed."""
        for topic in list(self._waiting):
            self.tell(topic)
