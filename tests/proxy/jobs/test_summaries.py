"""Where the summary of a job comes from, and what becomes of the job where it fails."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from core.transcript.types import Segment, Speaker, Task, Transcript
from proxy.jobs.errors import FailedError, TransientError
from proxy.jobs.extracts import extract
from proxy.jobs.model import (
    LOCAL_ACCOUNT,
    Failure,
    FailureKind,
    JobOptions,
    JobResult,
    JobStatus,
    Summary,
    SummaryMethod,
)
from proxy.jobs.parts import WholeFile
from proxy.jobs.service import Kept
from proxy.jobs.stitch import PartStitcher
from proxy.jobs.store.queue import MAX_ATTEMPTS
from proxy.jobs.summaries import Summaries, _body
from proxy.jobs.worker import Means
from tests.proxy.jobs.fakes import FakeEngine
from tests.proxy.jobs.made import submitted
from tests.proxy.jobs.test_worker import over, working

FAILED = Failure(FailureKind.ENGINE_FAILED)
WRITTEN = Summary("They greet.", ("greetings",), SummaryMethod.MODEL, "instruct")
HEARD = JobResult(Transcript(Task.TRANSCRIBE, "en", 2.0, "Good morning. It rains.", ()))


@dataclass
class FakeAuthor:
    """faults: raised first, one for each call. asked: the ids of all calls."""

    summary: Summary | None = WRITTEN
    faults: list[FailedError] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def write(self, transcript: Transcript, *, request_id: str) -> Summary | None:
        self.asked.append(request_id)
        if self.faults:
            raise self.faults.pop(0)
        return self.summary


async def made(author: FakeAuthor | None, *, with_extra: bool = True, is_last: bool = False) -> JobResult:
    summaries = Summaries(author, extract if with_extra else None)
    return await summaries.summarise(HEARD, request_id="r", is_last=is_last)


def told(result: JobResult) -> tuple[str | None, SummaryMethod | None, str | None]:
    return result.summary, result.summary_method, result.summary_model


async def test_a_model_writes_it_and_is_named() -> None:
    result = await made(FakeAuthor())
    assert told(result) == ("They greet.", SummaryMethod.MODEL, "instruct")
    assert result.topics == ("greetings",)
    assert result.transcript == HEARD.transcript


async def test_without_a_model_it_is_taken_out_of_what_was_said_and_told_so() -> None:
    for author in (FakeAuthor(summary=None), None):
        summary, method, model = told(await made(author))
        assert summary
        assert summary in HEARD.transcript.text
        assert (method, model) == (SummaryMethod.EXTRACTIVE, None)


async def test_without_either_there_is_none() -> None:
    assert await made(FakeAuthor(summary=None), with_extra=False) == HEARD


async def test_of_no_words_there_is_none_and_nobody_is_asked() -> None:
    author = FakeAuthor()
    silence = JobResult(Transcript(Task.TRANSCRIBE, "en", 2.0, " ", ()))
    assert await Summaries(author, extract).summarise(silence, request_id="r", is_last=False) == silence
    assert not author.asked


async def test_a_refusal_is_not_tried_again() -> None:
    assert (await made(FakeAuthor(faults=[FailedError(FAILED)]))).summary_method is SummaryMethod.EXTRACTIVE


async def test_a_failure_is_tried_again_until_the_last_attempt() -> None:
    with pytest.raises(TransientError):
        await made(FakeAuthor(faults=[TransientError(FAILED)]))
    last = await made(FakeAuthor(faults=[TransientError(FAILED)]), is_last=True)
    assert last.summary_method is SummaryMethod.EXTRACTIVE


async def test_where_no_engine_is_reached_the_job_waits_however_often_it_was_tried() -> None:
    with pytest.raises(TransientError):
        await made(FakeAuthor(faults=[TransientError(FAILED, untouched=True)]), is_last=True)


# --- what is sent


def test_who_speaks_is_told_by_name_or_by_number_and_nobody_is_made_up() -> None:
    segments = tuple(Segment(0.0, 1.0, f" {text}", speaker=who) for text, who in (("a", 0), ("b", 1), ("c", None)))
    speakers = (Speaker("Jane"), Speaker())
    whole = Transcript(Task.TRANSCRIBE, "de", 3.0, "a b c", segments, speakers=speakers)
    assert json.loads(_body(whole)) == {
        "segments": [{"text": " a", "speaker": "Jane"}, {"text": " b", "speaker": "Speaker 2"}, {"text": " c"}],
        "language": "de",
    }
    nobody = Transcript(Task.TRANSLATE, "de", 3.0, "a", segments[:1])
    assert json.loads(_body(nobody)) == {"segments": [{"text": " a"}], "language": "en"}
    assert json.loads(_body(HEARD.transcript)) == {"text": HEARD.transcript.text, "language": "en"}


# --- a job


def means(store: Kept, author: FakeAuthor, engine: FakeEngine | None = None) -> Means:
    summaries = Summaries(author, extract)
    return Means(store.blobs, engine or FakeEngine(), WholeFile(), PartStitcher(), summariser=summaries)


WANTED = JobOptions(summary=True)


async def test_a_job_that_asks_has_its_summary(store: Kept) -> None:
    author = FakeAuthor()
    async with working(store, means(store, author)) as watcher:
        job = await submitted(store, options=WANTED)
        ended = await over(store, job)
    assert ended.status is JobStatus.COMPLETED
    assert told(await store.jobs.result(LOCAL_ACCOUNT, job.id)) == ("They greet.", SummaryMethod.MODEL, "instruct")
    assert watcher.summaries == {SummaryMethod.MODEL: 1}
    (asked,) = author.asked
    assert asked.startswith(f"{job.id}-summary-")


async def test_a_job_that_does_not_ask_has_none(store: Kept) -> None:
    author = FakeAuthor()
    async with working(store, means(store, author)) as watcher:
        job = await submitted(store)
        await over(store, job)
    assert not author.asked
    assert told(await store.jobs.result(LOCAL_ACCOUNT, job.id)) == (None, None, None)
    assert not watcher.summaries


async def test_a_model_that_fails_each_time_costs_the_summary_and_no_part_is_heard_again(store: Kept) -> None:
    faults: list[FailedError] = [TransientError(FAILED, retry_after_s=0.0) for _ in range(MAX_ATTEMPTS)]
    author, engine = FakeAuthor(faults=faults), FakeEngine()
    async with working(store, means(store, author, engine)) as watcher:
        job = await submitted(store, options=WANTED)
        ended = await over(store, job)
    assert ended.status is JobStatus.COMPLETED
    result = await store.jobs.result(LOCAL_ACCOUNT, job.id)
    assert (result.summary, result.summary_method) == ("sound", SummaryMethod.EXTRACTIVE)
    assert len(author.asked) == MAX_ATTEMPTS
    assert len(engine.heard) == 1
    assert watcher.outcomes["postponed"] == MAX_ATTEMPTS - 1
