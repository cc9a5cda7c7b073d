"""The JSON of jobs and results, member by member."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from core.transcript.types import Segment, Speaker, Task, Transcript, Word
from proxy.dialects.audiototext import rendering
from proxy.dialects.audiototext.errors import FAILURES, STATUSES, AudioToTextError, Code, no_credits
from proxy.dialects.languages import NAMES
from proxy.jobs.model import (
    Failure,
    FailureKind,
    Job,
    JobOptions,
    JobResult,
    JobStatus,
    Meter,
    PlanTerms,
    SummaryMethod,
)
from tests.proxy.dialects.scriptivox.test_rendering import NEW

DONE = replace(
    NEW,
    options=JobOptions(words=True, diarize=True, summary=True),
    status=JobStatus.COMPLETED,
    audio_ms=1_847_500,
    amount=Decimal("30.791667"),
)
RESULT = JobResult(
    Transcript(
        Task.TRANSCRIBE,
        "en",
        1847.5,
        "Hello and welcome. Hi.",
        (
            Segment(0.0, 5.2, " Hello and welcome.", words=(Word(" Hello", 0, 1, 0.98),), speaker=0),
            Segment(5.2, 6.0, "Hi.", avg_logprob=-0.1, speaker=1),
            Segment(6.0, 7.0, "Well.", speaker=0),
        ),
        speakers=(Speaker(), Speaker(name="Guest")),
    ),
    summary="They greet.",
    topics=("greetings",),
    summary_method=SummaryMethod.EXTRACTIVE,
)


def test_a_completed_job_is_told_whole() -> None:
    assert rendering.job(DONE, RESULT, segments=True) == {
        "id": NEW.id,
        "status": "completed",
        "transcript": "Hello and welcome. Hi.",
        "duration_seconds": 1847.5,
        "language": "en",
        "credits_used": 30.8,
        "speakers": [
            {"id": "SPEAKER_00", "label": "Speaker 1", "speaking_time": 6.2},
            {"id": "SPEAKER_01", "label": "Guest", "speaking_time": 0.8},
        ],
        "summary": "They greet.",
        "topics": ["greetings"],
        "summary_method": "extractive",
        "segments": [
            {
                "start": 0.0,
                "end": 5.2,
                "text": "Hello and welcome.",
                "speaker": "Speaker 1",
                "confidence": 0.98,
                "words": [{"word": "Hello", "start": 0, "end": 1, "confidence": 0.98}],
            },
            {"start": 5.2, "end": 6.0, "text": "Hi.", "speaker": "Guest", "confidence": 0.9048, "words": []},
            {"start": 6.0, "end": 7.0, "text": "Well.", "speaker": "Speaker 1", "confidence": None, "words": []},
        ],
    }


def test_segments_are_left_out_unless_asked_for() -> None:
    assert "segments" not in rendering.job(DONE, RESULT, segments=False)


def test_nobody_is_named_who_was_not_to_be_told_apart() -> None:
    told = rendering.job(replace(DONE, options=JobOptions()), RESULT, segments=True)
    assert told["speakers"] == []
    assert [segment["speaker"] for segment in told["segments"]] == [None, None, None]
    assert all("words" not in segment for segment in told["segments"])


def test_segments_have_no_times_where_none_are_wanted() -> None:
    told = rendering.job(replace(DONE, options=JobOptions(extra={"untimed": "true"})), RESULT, segments=True)
    assert told["segments"][0] == {"text": "Hello and welcome.", "speaker": None, "confidence": 0.98}


def test_a_summary_that_a_model_wrote_names_it() -> None:
    written = replace(RESULT, summary_method=SummaryMethod.MODEL, summary_model="instruct")
    told = rendering.job(DONE, written, segments=False)
    assert (told["summary_method"], told["summary_model"]) == ("model", "instruct")


def test_a_job_without_a_summary_has_null_and_no_topics() -> None:
    told = rendering.job(DONE, replace(RESULT, summary=None, topics=(), summary_method=None), segments=False)
    assert (told["summary"], told["topics"], "summary_method" in told) == (None, [], False)


@pytest.mark.parametrize("status", [status for status in JobStatus if not status.is_final])
def test_whatever_is_not_over_is_processing(status: JobStatus) -> None:
    told = rendering.job(replace(NEW, status=status, progress_pct=45), None, segments=True)
    assert told == {"id": NEW.id, "status": "processing", "progress": 45}


@pytest.mark.parametrize("kind", FailureKind)
def test_every_failure_has_a_sentence(kind: FailureKind) -> None:
    failed = replace(NEW, status=JobStatus.FAILED, failure=Failure(kind))
    told = rendering.job(failed, None, segments=True)
    assert told == {"id": NEW.id, "status": "failed", "error_message": FAILURES[kind]}


def test_a_submission_is_processing_at_once() -> None:
    assert rendering.submitted(NEW, Decimal("5.46")) == {
        "id": NEW.id,
        "status": "processing",
        "estimated_credits": 5.5,
    }
    assert rendering.submitted(NEW, None)["estimated_credits"] is None


def test_a_language_without_a_token_is_told_as_it_was_asked_for() -> None:
    job: Job = replace(DONE, options=JobOptions(extra={"language": "zu"}))
    assert rendering.job(job, RESULT, segments=False)["language"] == "zu"


def test_languages_begin_as_in_the_document_and_are_all_there() -> None:
    told = rendering.languages()["languages"]
    assert told[:4] == [
        {"code": "", "name": "Auto-detect"},
        {"code": "en", "name": "English"},
        {"code": "es", "name": "Spanish"},
        {"code": "fr", "name": "French"},
    ]
    assert {language["code"] for language in told[1:]} == set(NAMES)
    assert [language["name"] for language in told[4:]] == sorted(language["name"] for language in told[4:])


def test_a_credit_is_what_the_plan_says() -> None:
    plan = PlanTerms("prepaid", Meter.CREDITS, price_per_hour=Decimal(60))
    assert rendering.credits_of(plan, 330_000) == Decimal("5.5")
    assert rendering.credits_of(PlanTerms("free"), 330_000) == 0


def test_missing_credits_are_told_in_the_words_of_the_document() -> None:
    error = no_credits(rendering.plain(Decimal("10.00")), rendering.plain(Decimal(30)))
    assert error.body() == (
        b'{"error": "insufficient_credits", '
        b'"message": "You have 10 credits remaining but this transcription requires 30 credits."}'
    )
    assert error.status == 402


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("bad_request", 400),
        ("unauthorized", 401),
        ("insufficient_credits", 402),
        ("not_found", 404),
        ("server_error", 500),
    ],
)
def test_an_error_has_the_status_of_the_document(code: str, status: int) -> None:
    assert AudioToTextError(Code(code)).status == status


def test_every_code_has_a_status() -> None:
    assert set(STATUSES) == set(Code)
    assert set(FAILURES) == set(FailureKind)
