"""How fast are jobs kept, begun and listed? Of the store alone: recordings of one byte, an engine that answers at once.

python -m benchmarks.jobs                     # SQLite in a directory of its own
python -m benchmarks.jobs postgresql://...    # an empty database, which is filled
python -m benchmarks.jobs ... --listed 100000
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from sqlalchemy import insert

from core.transcript.types import Task, Transcript
from proxy.jobs.contents import DETAILS, Details
from proxy.jobs.model import (
    LOCAL_ACCOUNT,
    BlobSource,
    Capabilities,
    JobOptions,
    JobStatus,
    LinkSource,
    ListQuery,
    NewJob,
    QueueState,
    SummaryMethod,
)
from proxy.jobs.parts import WholeFile
from proxy.jobs.ports import Heard, PartContent
from proxy.jobs.sealing import RecordKey, seal
from proxy.jobs.service import Kept, Places, kept
from proxy.jobs.stitch import PartStitcher
from proxy.jobs.store.ids import new_id
from proxy.jobs.store.queue import Queue
from proxy.jobs.store.rows import details_place, job_record
from proxy.jobs.store.schema import job, record_key
from proxy.jobs.vault import KeyFile
from proxy.jobs.worker import Means, Pace, Worker

_BATCH = 1000


class _Engine:
    capabilities = Capabilities()

    async def hear(self, part: PartContent, options: JobOptions, *, request_id: str, of: int) -> Heard:  # noqa: ARG002
        text = f"{part.filename} {request_id}"
        return Heard(Transcript(Task.TRANSCRIBE, options.language or "en", 1.0, text, ()))


class _Observer:
    """Waits for so many jobs to end."""

    def __init__(self, jobs: int) -> None:
        self._left = jobs
        self.over = asyncio.Event()

    def ended(self, outcome: str, seconds: float | None) -> None:
        if seconds is not None and outcome == JobStatus.COMPLETED:
            self._left -= 1
            if not self._left:
                self.over.set()

    def summarised(self, method: SummaryMethod | None) -> None:
        """Nobody wants one here."""

    def store_failed(self) -> None:
        raise RuntimeError("the store failed")

    def swept(self, counts: Mapping[str, int]) -> None: ...

    def queue(self, state: QueueState) -> None: ...


async def _content() -> AsyncIterator[bytes]:
    yield b"x"


def _ms(seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=100)
    return f"median {1000 * cuts[49]:.1f} ms, 99th {1000 * cuts[98]:.1f} ms"


async def _submitted(store: Kept, jobs: int) -> None:
    blob, _ = await store.blobs.put(_content())
    took = []
    for _ in range(jobs):
        began = time.perf_counter()
        await store.jobs.submit(NewJob(LOCAL_ACCOUNT, "bench", BlobSource(blob), JobOptions()))
        took.append(time.perf_counter() - began)
    print(f"submit: {jobs / sum(took):.0f} a second one after the other, {_ms(took)}")


async def _worked_off(store: Kept, jobs: int) -> None:
    observer = _Observer(jobs)
    queue = Queue(store.database, store.records, store.funds, "bench", lease_ms=30_000)
    means = Means(store.blobs, _Engine(), WholeFile(), PartStitcher())
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(Worker(queue, store.database.notices, means, observer, Pace()).run())
        await observer.over.wait()
        task.cancel()
    print(f"claim to result: {jobs / (time.perf_counter() - began):.0f} jobs a second, four at a time")


async def _filled(store: Kept, jobs: int) -> None:
    """Finished jobs by the thousand, as they would be kept."""
    details = DETAILS.dump_json(Details(LinkSource("https://host.example/"), JobOptions()))
    for first in range(0, jobs, _BATCH):
        async with store.database.begin() as tx:
            rows, keys = [], []
            for number in range(first, min(first + _BATCH, jobs)):
                job_id, key = new_id(tx.now_ms - jobs + number), RecordKey.new()
                wrapped = store.vault.wrap(job_record(LOCAL_ACCOUNT, job_id), key)
                keys.append({"record": job_record(LOCAL_ACCOUNT, job_id), "kek": wrapped.kek, "wrapped": wrapped.data})
                rows.append(
                    {
                        "id": job_id,
                        "account": LOCAL_ACCOUNT,
                        "dialect": "bench",
                        "source": "link",
                        "status": JobStatus.COMPLETED,
                        "state_ms": tx.now_ms,
                        "created_ms": tx.now_ms - jobs + number,
                        "completed_ms": tx.now_ms,
                        "notify": False,
                        "sealed_details": seal(key, details_place(job_id), details),
                    }
                )
            await tx.connection.execute(insert(record_key), keys)
            await tx.connection.execute(insert(job), rows)


async def _listed(store: Kept, jobs: int) -> None:
    await _filled(store, jobs)
    took, query = [], ListQuery(limit=50)
    while True:
        began = time.perf_counter()
        page = await store.jobs.list(LOCAL_ACCOUNT, query)
        took.append(time.perf_counter() - began)
        if page.next_cursor is None:
            break
        query = ListQuery(limit=50, cursor=page.next_cursor)
    tenth = len(took) // 10
    print(f"list of {jobs} in pages of 50: {_ms(took)}")
    print(f"  first tenth {_ms(took[:tenth])}; last tenth {_ms(took[-tenth:])}")


async def _main(database: str | None, jobs: int, listed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        KeyFile.make(Path(directory) / "key")
        places = Places(database or Path(directory) / "jobs.sqlite", Path(directory) / "blobs", Path(directory) / "key")
        async with kept(places) as store:
            await _submitted(store, jobs)
            await _worked_off(store, jobs)
            if listed:
                await _listed(store, listed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("database", nargs="?")
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--listed", type=int, default=0)
    given = parser.parse_args()
    asyncio.run(_main(given.database, given.jobs, given.listed))
