"""Jobs for tests to submit, and what was heard in them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from core.transcript.types import Segment, Task, Transcript
from proxy.jobs.model import LOCAL_ACCOUNT, AccountId, BlobSource, Job, JobOptions, JobResult, NewJob
from proxy.jobs.service import Kept
from proxy.jobs.store.queue import Claim, Queue

OPTIONS = JobOptions(language="en", vocabulary=("Sottovoce",), webhook_url="https://hooks.example/1", words=True)
HEARD = Transcript(Task.TRANSCRIBE, "en", 2.5, "Good morning.", (Segment(0.0, 2.5, "Good morning."),))


async def content(data: bytes = b"sound") -> AsyncIterator[bytes]:
    yield data


async def submitted(store: Kept, *, options: JobOptions = OPTIONS, account: AccountId = LOCAL_ACCOUNT) -> Job:
    blob, size_bytes = await store.blobs.put(content())
    new = NewJob(account, "test", BlobSource(blob, "morning.wav"), options, size_bytes=size_bytes)
    return await store.jobs.submit(new)


def queue(store: Kept, worker: str = "w", *, lease_ms: int = 60_000) -> Queue:
    return Queue(store.database, store.records, store.funds, worker, lease_ms=lease_ms)


async def completed(store: Kept) -> Job:
    job = await submitted(store)
    mine = queue(store)
    claim = await mine.claim()
    assert claim is not None
    assert claim.job.id == job.id
    await mine.complete(claim, JobResult(HEARD), 2500)
    return job


async def claimed(mine: Queue) -> Claim:
    claim = await mine.claim()
    assert claim is not None
    return claim
