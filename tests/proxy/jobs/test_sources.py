"""A job from its link to its message: fetched, cut in the sandbox, heard part by part, put together, told."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import pytest
from aiohttp import web
from sqlalchemy import select
from standardwebhooks.webhooks import Webhook

from core.transcript.types import Segment, Task, Transcript
from proxy.jobs.model import (
    LOCAL_ACCOUNT,
    BlobSource,
    Capabilities,
    FailureKind,
    JobOptions,
    JobStatus,
    LinkSource,
    NewJob,
)
from proxy.jobs.ports import Heard, PartContent
from proxy.jobs.service import Kept
from proxy.jobs.sources import Sources, sources
from proxy.jobs.stitch import PartStitcher
from proxy.jobs.store.schema import blob
from proxy.jobs.webhooks import account_secret
from proxy.jobs.worker import Means, Pace, Worker
from proxy.settings import ProxySettings
from tests.core.media.sounds import kennedy, wav
from tests.proxy.jobs.fakes import Watcher
from tests.proxy.jobs.made import queue
from tests.proxy.jobs.sites import site
from tests.proxy.jobs.test_webhooks import Receiver, Told
from tests.proxy.jobs.test_worker import over
from tests.waiting import until

SPEECH = np.tile(np.concatenate([kennedy(), np.zeros(16_000, np.int16)]), 8).tobytes()
"""96 s."""


@dataclass
class Listening:
    """An engine that says how long each part is. heard: its request ids."""

    heard: list[str] = field(default_factory=list)
    capabilities: Capabilities = field(default_factory=Capabilities)

    async def hear(self, part: PartContent, options: JobOptions, *, request_id: str, of: int) -> Heard:
        data = b"".join([piece async for piece in part.stream()])
        with av.open(Bytes(data), "r") as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
        self.heard.append(request_id)
        seconds = samples / 16_000
        segments = (Segment(0.0, seconds, f"{seconds:.0f}"),)
        return Heard(Transcript(Task.TRANSCRIBE, "en", seconds, f"{seconds:.0f}", segments))


class Bytes:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece


def settings(**more: object) -> ProxySettings:
    networks = (ipaddress.ip_network("127.0.0.1/32"),)
    given = {"jobs_part_s": 60, "jobs_allow_network": networks} | more
    return ProxySettings(engine="http://127.0.0.1:1", policy=Path("/dev/null"), **given)  # type: ignore[arg-type]


@pytest.fixture
async def found(store: Kept) -> AsyncIterator[Sources]:
    async with sources(settings(), store, Told()) as made:
        yield made


class Working:
    """Workers and deliveries, until it is left."""

    def __init__(self, store: Kept, found: Sources, engine: Listening) -> None:
        means = Means(store.blobs, engine, found.splitter, PartStitcher(), found.fetcher)
        self._worker = Worker(queue(store), store.database.notices, means, Watcher(), Pace(max_fetched_bytes=10**9))
        self._found = found

    async def __aenter__(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(work) for work in (self._worker.run(), *self._found.work())]

    async def __aexit__(self, *_: object) -> None:
        import asyncio

        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def sent(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_from_a_link_to_a_message(store: Kept, found: Sources) -> None:
    receiver, engine = Receiver(), Listening()

    async def serve(request: web.Request) -> web.StreamResponse:
        return await receiver(request) if request.method == "POST" else web.Response(body=wav(SPEECH))

    async with site(serve) as url, Working(store, found, engine):
        options = JobOptions(webhook_url=f"{url}/hook")
        job = await store.jobs.submit(NewJob(LOCAL_ACCOUNT, "own", LinkSource(f"{url}/talk.wav"), options))
        ended = await over(store, job)
        await until(lambda: receiver.got)
    assert (ended.status, ended.audio_ms, ended.size_bytes) == (JobStatus.COMPLETED, 96_000, len(wav(SPEECH)))
    transcript = (await store.jobs.result(LOCAL_ACCOUNT, job.id)).transcript
    assert len(engine.heard) == len(transcript.segments) == 2
    assert sum(float(text) for text in transcript.text.split()) == pytest.approx(96, abs=1)
    assert transcript.segments[0].end_s == pytest.approx(transcript.segments[1].start_s, abs=0.001)
    ((headers, body),) = receiver.got
    told = Webhook(account_secret(store.pepper, LOCAL_ACCOUNT).shown()).verify(body, dict(headers))
    assert told["data"] == {"id": job.id, "status": "completed"}


async def test_only_what_was_made_ready_is_kept_and_a_takeover_goes_on_with_it(store: Kept, found: Sources) -> None:
    original, size_bytes = await store.blobs.put(sent(wav(SPEECH)))
    new = NewJob(LOCAL_ACCOUNT, "own", BlobSource(original, "talk.wav"), JobOptions(), size_bytes=size_bytes)
    job = await store.jobs.submit(new)
    first = queue(store, "first")
    claim = await first.claim()
    assert claim is not None
    plan = await found.splitter.plan(await store.blobs.open(original), JobOptions())
    await first.keep_plan(claim, plan)
    async with store.database.begin() as tx:
        states = {row.id: row.state for row in await tx.run(select(blob))}
    assert states == {original: "forgotten", plan.blob: "kept"}
    await first.release(claim)
    async with Working(store, found, Listening()):
        assert (await over(store, job)).status is JobStatus.COMPLETED
    assert len((await store.jobs.result(LOCAL_ACCOUNT, job.id)).transcript.segments) == 2


async def test_a_recording_in_which_nothing_is_fails_its_job_and_the_message_says_so(
    store: Kept, found: Sources
) -> None:
    receiver = Receiver()

    async def serve(request: web.Request) -> web.StreamResponse:
        return await receiver(request) if request.method == "POST" else web.Response(body=b"rubbish" * 1_000)

    async with site(serve) as url, Working(store, found, Listening()):
        options = JobOptions(webhook_url=f"{url}/hook")
        job = await store.jobs.submit(NewJob(LOCAL_ACCOUNT, "own", LinkSource(f"{url}/talk.wav"), options))
        ended = await over(store, job)
        await until(lambda: receiver.got)
    assert ended.failure is not None
    assert ended.failure.kind is FailureKind.MEDIA_UNREADABLE
    assert b'"transcription.failed"' in receiver.got[0][1]


async def test_links_may_be_switched_off(store: Kept) -> None:
    async with sources(settings(jobs_links=False), store, Told()) as made:
        assert made.fetcher is None
