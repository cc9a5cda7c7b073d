"""What webhooks are told, in the words of each API."""

from __future__ import annotations

import json
from dataclasses import replace

from proxy.dialects.audiototext import rendering as audiototext
from proxy.dialects.notices import AudioToTextBodies, ScriptivoxBodies, bodies
from proxy.dialects.scriptivox import rendering as scriptivox
from proxy.jobs.model import Failure, FailureKind, JobStatus, WebhookEvent
from tests.proxy.dialects.audiototext.test_rendering import DONE, RESULT
from tests.proxy.dialects.fakes import FakeClock, FakeJobs

FAILED = replace(DONE, status=JobStatus.FAILED, failure=Failure(FailureKind.CANCELLED))


def test_each_dialect_with_webhooks_has_its_body() -> None:
    assert set(bodies(FakeJobs(FakeClock()))) == {"scriptivox", "audiototext"}


async def test_scriptivox_is_told_the_event_and_the_job_without_what_was_said() -> None:
    body = await ScriptivoxBodies().body(DONE, WebhookEvent.COMPLETED)
    assert json.loads(body or b"") == {"event": "transcription.completed", "data": scriptivox.item(DONE)}
    assert b"Hello" not in (body or b"")


async def test_a_cancelled_job_is_told_as_failed() -> None:
    body = await ScriptivoxBodies().body(FAILED, WebhookEvent.FAILED)
    told = json.loads(body or b"")
    assert (told["event"], told["data"]["error"]["code"]) == ("transcription.failed", "CANCELLED")
    assert told["data"]["align"] is True


async def test_audiototext_is_told_the_results() -> None:
    jobs = FakeJobs(FakeClock())
    jobs.set(DONE, RESULT)
    body = await AudioToTextBodies(jobs).body(DONE, WebhookEvent.COMPLETED)
    assert json.loads(body or b"") == audiototext.job(DONE, RESULT, segments=True)


async def test_audiototext_is_told_of_failures_too() -> None:
    body = await AudioToTextBodies(FakeJobs(FakeClock())).body(FAILED, WebhookEvent.FAILED)
    assert json.loads(body or b"") == {
        "id": DONE.id,
        "status": "failed",
        "error_message": "The transcription was cancelled.",
    }
