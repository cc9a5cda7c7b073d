"""How do jobs get done? Each is claimed, its parts are heard, and what comes of it is kept under the claim's fence.

What happened to a job, and what becomes of it::

    its lease ran out, it was cancelled       LostError         drop the work, and say nothing
    this process shall end                    CancelledError    back to the queue, its parts kept
    nobody took the work                      TransientError    back to the queue for a while; no attempt is counted
    the engine failed over it                 TransientError    the same, counted; FAILED after the last attempt
    another try would fail too                FailedError       FAILED
    the database is away                      StoreError        what is done is kept as soon as it is back
    the recordings are, or a disk is full     StoreError        back to the queue for a while; no attempt is counted
    a defect of ours                          anything          FAILED(INTERNAL)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeVar

import structlog

from proxy.jobs.errors import (
    FailedError,
    FundsError,
    KeysAwayError,
    LedgerError,
    LostError,
    MissingError,
    StoreError,
    TransientError,
    VaultError,
)
from proxy.jobs.limits import least
from proxy.jobs.model import (
    BlobSource,
    Failure,
    FailureKind,
    JobOptions,
    JobStatus,
    LinkSource,
    PartPlan,
    PartReceipt,
    SummaryMethod,
)
from proxy.jobs.ports import Blobs, Engine, Fetcher, Recording, Splitter, Stitcher, Summariser
from proxy.jobs.store.notices import QUEUE, Notices, job_topic
from proxy.jobs.store.queue import MAX_ATTEMPTS, Claim, PartState, Queue

_log = structlog.get_logger(__name__)

T = TypeVar("T")

POLL_S: Final = 1.0
"""How long a notice that was lost goes unnoticed."""

STORE_PAUSE_S: Final = 1.0
RELEASE_TIMEOUT_S: Final = 5.0
_BACKOFF_S: Final = 5.0
_MAX_BACKOFF_S: Final = 60.0


class WorkerObserver(Protocol):
    """Who counts what workers do."""

    def ended(self, outcome: str, seconds: float | None) -> None:
        """outcome: completed, the kind of a failure, or why it went back. seconds: since its submission, at its end."""

    def summarised(self, method: SummaryMethod | None) -> None:
        """A summary was wanted, and made so; None where there is none."""

    def store_failed(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Means:
    """What a worker works with. fetcher: None where links are not fetched. summariser: where there are no summaries."""

    blobs: Blobs
    engine: Engine
    splitter: Splitter
    stitcher: Stitcher
    fetcher: Fetcher | None = None
    summariser: Summariser | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How much at a time, how often, and for how long.

    jobs: at a time. parts: of one job. renew_s: how often a lease is renewed. max_fetched_bytes: of a link.
    fetching_s: how long it may take to fetch one. stuck_s: how long nothing may come of a job, neither its plan nor a
    part. away_s: after which a job is tried again whose recording could not be reached or written.

    These times are of the loop's clock, which nobody can step, and begin anew with whoever takes a job over: what a job
    waited for while no proxy ran, or while a machine slept, is not held against it.
    """

    jobs: int = 4
    parts: int = 2
    renew_s: float = 10.0
    max_fetched_bytes: int | None = None
    fetching_s: float = 15 * 60
    stuck_s: float = 45 * 60
    away_s: float = 5.0
    nap: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep)


class Worker:
    """Works off the queue for ever, as many jobs at a time as its pace says."""

    def __init__(self, queue: Queue, notices: Notices, means: Means, observer: WorkerObserver, pace: Pace) -> None:
        self._queue = queue
        self._notices = notices
        self._means = means
        self._observer = observer
        self._pace = pace
        self._free = asyncio.Semaphore(pace.jobs)
        self._mine: list[Claim] = []

    async def run(self) -> None:
        """Until it is cancelled; then each job goes back to the queue."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._free.acquire()
                claim = await self._next()
                group.create_task(self._work(claim))

    async def _next(self) -> Claim:
        with self._notices.waiting(QUEUE) as event:
            while True:
                event.clear()  # before looking: what comes while we look is looked for again
                try:
                    claim = await self._queue.claim(besides=[mine.job.id for mine in self._mine])
                except (KeysAwayError, StoreError) as exc:
                    self._store_failed(exc)
                    await self._pace.nap(STORE_PAUSE_S)
                    continue
                if claim is not None:
                    return claim
                await _either(event, POLL_S)

    async def _work(self, claim: Claim) -> None:
        self._mine.append(claim)
        try:
            await self._ended(claim)
        except LostError:
            self._observer.ended("lost", None)
        except asyncio.CancelledError:
            await asyncio.shield(self._give_back(claim))
            raise
        finally:
            self._mine.remove(claim)
            self._free.release()

    async def _ended(self, claim: Claim) -> None:
        """Bring a job to its end, or back to the queue. Raises LostError."""
        try:
            await self._in_time(claim)
        except TransientError as exc:
            await self._again(claim, exc)
        except FailedError as exc:
            await self._fail(claim, exc.failure)
        except FundsError:
            await self._fail(claim, Failure(FailureKind.FUNDS))
        except LedgerError:
            await self._fail(claim, Failure(FailureKind.BILLING))
        except (MissingError, VaultError):
            await self._fail(claim, Failure(FailureKind.SOURCE_LOST))
        except StoreError as exc:
            self._store_failed(exc)
            away = Failure(FailureKind.INTERNAL)
            await self._again(claim, TransientError(away, retry_after_s=self._pace.away_s, untouched=True))
        except LostError:
            raise
        except Exception as exc:  # noqa: BLE001 - a defect that one job meets is the end of that job alone
            _log.error("job_failed", error=type(exc).__name__)  # its message may quote the recording
            await self._fail(claim, Failure(FailureKind.INTERNAL))

    async def _in_time(self, claim: Claim) -> None:
        """Raises FailedError(DOWNLOAD_TIMEOUT), FailedError(PROCESSING_TIMEOUT)."""
        is_fetched = claim.job.status is JobStatus.DOWNLOADING
        limit_s = self._pace.fetching_s if is_fetched else self._pace.stuck_s
        try:
            async with asyncio.timeout(limit_s) as deadline:
                await self._while_renewed(claim, _Progress(deadline, limit_s))
        except TimeoutError as exc:
            if not deadline.expired():
                raise
            kind = FailureKind.DOWNLOAD_TIMEOUT if is_fetched else FailureKind.PROCESSING_TIMEOUT
            raise FailedError(Failure(kind)) from exc

    async def _while_renewed(self, claim: Claim, progress: _Progress) -> None:
        """Work on a job as long as it is ours."""
        try:
            async with asyncio.TaskGroup() as group:
                renewing = group.create_task(self._renew(claim, progress))
                await self._process(claim, progress)
                renewing.cancel()
        except ExceptionGroup as failures:
            raise _first(failures) from failures

    async def _renew(self, claim: Claim, progress: _Progress) -> None:
        with self._notices.waiting(job_topic(claim.job.id)) as event:
            while True:
                await _either(event, self._pace.renew_s)
                event.clear()
                try:
                    await self._queue.renew(claim, progress.percent)
                except StoreError as exc:  # it may be back before the lease runs out, and if not, the fence holds
                    self._store_failed(exc)

    async def _process(self, claim: Claim, progress: _Progress) -> None:
        if claim.job.status is JobStatus.DOWNLOADING:
            await self._download(claim)
            return
        name = claim.job.source.name if isinstance(claim.job.source, BlobSource) else None
        if claim.job.blob is None:
            raise MissingError
        recording = await self._means.blobs.open(claim.job.blob, name=name)
        recording, states = await self._planned(claim, recording)
        progress.planned(len(states), sum(state.transcript is not None for state in states))
        left = [state.plan for state in states if state.transcript is None]
        options = await self._insist(lambda: self._queue.options(claim))
        await self._hear_all(claim, options, recording, left, progress)
        heard = await self._insist(lambda: self._queue.parts(claim))
        whole = [(state.plan, state.transcript) for state in heard if state.transcript is not None]
        if len(whole) != len(heard):
            raise LostError
        # It may take seconds for hours of speech.
        made = await asyncio.to_thread(self._means.stitcher.stitch, whole, claim.job.options)
        made = replace(made, receipts=_receipts(heard))
        if claim.job.options.summary and self._means.summariser is not None:
            request_id = f"{claim.job.id}-summary-{claim.fence}"
            is_last = claim.job.attempts >= MAX_ATTEMPTS
            made = await self._means.summariser.summarise(made, request_id=request_id, is_last=is_last)
            self._observer.summarised(made.summary_method)
        audio_ms = round(made.transcript.duration_s * 1000) - claim.job.options.start_ms
        ended_s = await self._insist(lambda: self._queue.complete(claim, made, audio_ms))
        self._observer.ended(JobStatus.COMPLETED.value, ended_s)

    async def _planned(self, claim: Claim, recording: Recording) -> tuple[Recording, list[PartState]]:
        """What was planned by whoever had the job before, or is planned now; and the recording that it is of."""
        if states := await self._insist(lambda: self._queue.parts(claim)):
            return recording, list(states)
        limit_ms = claim.terms.max_audio_ms
        made = await self._means.splitter.plan(recording, claim.job.options, max_audio_ms=limit_ms)
        await self._insist(lambda: self._queue.keep_plan(claim, made))
        if made.blob is not None:
            made_blob = made.blob
            recording = await self._insist(lambda: self._means.blobs.open(made_blob))
        return recording, [PartState(plan, None) for plan in made.parts]

    async def _hear_all(
        self, claim: Claim, options: JobOptions, recording: Recording, plans: list[PartPlan], progress: _Progress
    ) -> None:
        slots = asyncio.Semaphore(self._pace.parts)

        async def hear(plan: PartPlan) -> None:
            async with slots:
                content = await self._means.splitter.cut(recording, plan)
                request_id = f"{claim.job.id}-{plan.index}-{claim.fence}"
                heard = await self._means.engine.hear(content, options, request_id=request_id, of=progress.total)
                await self._insist(lambda: self._queue.keep_part(claim, plan.index, heard.transcript, heard.receipt))
                progress.got_on()

        async with asyncio.TaskGroup() as group:
            for plan in plans:
                group.create_task(hear(plan))

    async def _download(self, claim: Claim) -> None:
        if self._means.fetcher is None or not isinstance(claim.job.source, LinkSource):
            raise FailedError(Failure(FailureKind.SOURCE_UNREACHABLE))
        limit_bytes = least(self._pace.max_fetched_bytes, claim.terms.max_upload_bytes)
        fetched = await self._means.fetcher.fetch(claim.job.source.url, max_bytes=limit_bytes)
        blob, size_bytes = await self._means.blobs.put(fetched.stream(), max_bytes=limit_bytes)
        await self._insist(lambda: self._queue.downloaded(claim, blob, size_bytes))
        self._observer.ended("downloaded", None)

    async def _again(self, claim: Claim, exc: TransientError) -> None:
        attempts = claim.job.attempts
        if not exc.untouched and attempts >= MAX_ATTEMPTS:
            await self._fail(claim, exc.failure)
            return
        backoff_s = min(_BACKOFF_S * 2 ** (attempts - 1), _MAX_BACKOFF_S)
        delay_ms = round(1000 * (backoff_s if exc.retry_after_s is None else exc.retry_after_s))
        await self._insist(lambda: self._queue.release(claim, delay_ms=delay_ms, counted=not exc.untouched))
        self._observer.ended("postponed", None)

    async def _fail(self, claim: Claim, failure: Failure) -> None:
        await self._insist(lambda: self._queue.fail(claim, failure))
        self._observer.ended(failure.kind.value, None)

    async def _give_back(self, claim: Claim) -> None:
        """At the end of the process, which waits no longer than it must: the lease runs out by itself."""
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await self._queue.release(claim)
        except (LostError, StoreError, TimeoutError) as exc:
            _log.warning("job_not_given_back", error=type(exc).__name__)
        self._observer.ended("given_back", None)

    async def _insist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Until the database is there. Raises LostError once another worker has the job.

        Where it went away between a commit and the word of it, the second try finds the job changed: lost, and done.
        """
        while True:
            try:
                return await write()
            except StoreError as exc:
                self._store_failed(exc)
                await self._pace.nap(STORE_PAUSE_S)

    def _store_failed(self, exc: KeysAwayError | StoreError) -> None:
        self._observer.store_failed()
        _log.warning("job_store_failed", error=str(exc))


def _receipts(parts: Sequence[PartState]) -> tuple[PartReceipt, ...]:
    return tuple(
        PartReceipt(part.plan.index, part.plan.start_ms, part.plan.end_ms, part.receipt)
        for part in parts
        if part.receipt is not None
    )


@dataclass(slots=True)
class _Progress:
    """How many parts there are, and how many were heard. deadline: put off by `limit_s` whenever a job gets on."""

    deadline: asyncio.Timeout
    limit_s: float
    total: int = 0
    done: int = 0

    def planned(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self._put_off()

    def got_on(self) -> None:
        self.done += 1
        self._put_off()

    def _put_off(self) -> None:
        self.deadline.reschedule(asyncio.get_running_loop().time() + self.limit_s)

    @property
    def percent(self) -> int:
        return 100 * self.done // self.total if self.total else 0


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Until the event, or until so much time has passed."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    """The one that says most: a lost job is lost, whatever else went wrong."""
    flat: list[Exception] = []
    waiting: list[Exception] = [failures]
    while waiting:
        exc = waiting.pop(0)
        if isinstance(exc, ExceptionGroup):
            waiting += exc.exceptions
        else:
            flat.append(exc)
    return next((exc for exc in flat if isinstance(exc, LostError)), flat[0])
