"""An engine, a splitter and an observer by script."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from core.transcript.types import Segment, Task, Transcript
from proxy.jobs.errors import FailedError
from proxy.jobs.limits import check_length
from proxy.jobs.model import Capabilities, JobOptions, PartPlan, Plan, QueueState, Receipt, SummaryMethod
from proxy.jobs.parts import WholeContent
from proxy.jobs.ports import Heard, PartContent, Recording


@dataclass
class FakeEngine:
    """Hears every part as its own bytes. faults: raised first, one for each call. gate: what it waits for.

    parts: of how many each was said to be one.
    """

    faults: list[Exception] = field(default_factory=list)
    gate: asyncio.Event | None = None
    heard: list[str] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    under_way: int = 0
    cancelled: int = 0
    capabilities: Capabilities = field(default_factory=Capabilities)
    signs: bool = False

    async def hear(self, part: PartContent, options: JobOptions, *, request_id: str, of: int) -> Heard:
        self.heard.append(request_id)
        self.parts.append(of)
        if self.faults:
            raise self.faults.pop(0)
        text = b"".join([piece async for piece in part.stream()]).decode()
        self.under_way += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        heard = Transcript(Task.TRANSCRIBE, options.language or "en", 1.0, text, (Segment(0.0, 1.0, text),))
        return Heard(heard, receipt_of(request_id) if self.signs else None)


def receipt_of(request_id: str) -> Receipt:
    """As an engine would have signed it, whose signature nobody looks at."""
    return Receipt("instance", 64 * "5", 64 * "6", 64 * "7", f"{request_id}.signed")


@dataclass(frozen=True)
class Slice:
    recording: Recording
    start: int
    length: int
    filename: str = "part"
    content_type: str = "application/octet-stream"

    async def stream(self) -> AsyncIterator[bytes]:
        yield await self.recording.read(self.start, self.length)


@dataclass
class Letters:
    """Every byte of a recording is a second, and a part of its own."""

    plans: int = 0

    async def plan(self, recording: Recording, _: JobOptions, *, max_audio_ms: int | None = None) -> Plan:
        self.plans += 1
        check_length(recording.size_bytes * 1000, max_audio_ms)
        parts = [PartPlan(at, at * 1000, (at + 1) * 1000) for at in range(recording.size_bytes)]
        return Plan(tuple(parts), recording.size_bytes * 1000)

    async def cut(self, recording: Recording, part: PartPlan) -> Slice:
        return Slice(recording, part.index, 1)


class Unreadable:
    """Raises what it is given."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def plan(self, _: Recording, __: JobOptions, *, max_audio_ms: int | None = None) -> Plan:
        raise self._error

    async def cut(self, recording: Recording, _: PartPlan) -> WholeContent:
        raise self._error


@dataclass(frozen=True)
class FakeFetched:
    name: str | None
    content: bytes

    async def stream(self) -> AsyncIterator[bytes]:
        yield self.content


@dataclass
class FakeFetcher:
    content: bytes | FailedError

    async def fetch(self, url: str, *, max_bytes: int | None = None) -> FakeFetched:
        if isinstance(self.content, FailedError):
            raise self.content
        return FakeFetched(url.rpartition("/")[2], self.content)


@dataclass
class Watcher:
    """Counts, as `JobsObserver`."""

    outcomes: Counter[str] = field(default_factory=Counter)
    summaries: Counter[SummaryMethod | None] = field(default_factory=Counter)
    store_failures: int = 0
    sweeps: Counter[str] = field(default_factory=Counter)
    state: QueueState | None = None

    def ended(self, outcome: str, seconds: float | None) -> None:
        self.outcomes[outcome] += 1

    def summarised(self, method: SummaryMethod | None) -> None:
        self.summaries[method] += 1

    def store_failed(self) -> None:
        self.store_failures += 1

    def swept(self, counts: Mapping[str, int]) -> None:
        self.sweeps.update(counts)

    def queue(self, state: QueueState) -> None:
        self.state = state
