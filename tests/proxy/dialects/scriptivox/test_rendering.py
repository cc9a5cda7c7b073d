"""The JSON of jobs, results and balances, member by member."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from core.transcript.types import Segment, Task, Transcript, Word
from proxy.dialects.scriptivox import rendering
from proxy.dialects.scriptivox.errors import FAILURES, STATUSES, Code, ScriptivoxError, failure
from proxy.jobs.model import (
    Account,
    AccountId,
    Balance,
    BlobId,
    BlobSource,
    Failure,
    FailureKind,
    Job,
    JobId,
    JobOptions,
    JobResult,
    JobStatus,
    LinkSource,
    Meter,
    Page,
    PlanTerms,
    Upload,
    UploadId,
    UploadState,
)
from tests.proxy.dialects.fakes import ME, START_MS

LINK = LinkSource("https://example.com/podcast.mp3")
FILE = BlobSource(BlobId("b"), "meeting.mp3")
NEW = Job(
    id=JobId("b2c3d4e5-f6a7-8901-bcde-f12345678901"),
    account=ME,
    key=None,
    dialect="scriptivox",
    source=LINK,
    options=JobOptions(language="en", words=True, diarize=True, speaker_count=2),
    status=JobStatus.CREATED,
    created_ms=START_MS,
)
DONE = replace(
    NEW,
    status=JobStatus.COMPLETED,
    started_ms=START_MS + 1_000,
    completed_ms=START_MS + 45_999,
    progress_pct=100,
    audio_ms=11_700,
    size_bytes=1_920_000,
    amount=Decimal("0.061111"),
)
RESULT = JobResult(
    Transcript(
        Task.TRANSCRIBE,
        "en",
        11.7,
        "Hello, yes.",
        (
            Segment(0.5, 3.2004, " Hello,", words=(Word(" Hello,", 0.5, 0.9, 0.98, speaker=1),), speaker=1),
            Segment(3.5, 4.0, "yes.", words=(Word("yes.", 3.5, 4.0, speaker=0),), speaker=0),
        ),
    )
)


def result(options: JobOptions) -> dict[str, Any]:
    told: dict[str, Any] = rendering.detail(replace(DONE, options=options), RESULT)["result"]
    return told


def test_a_completed_job_is_told_whole() -> None:
    assert rendering.detail(DONE, RESULT) == {
        "id": "b2c3d4e5-f6a7-8901-bcde-f12345678901",
        "status": "completed",
        "audio_duration_seconds": 11,
        "file_size_bytes": 1_920_000,
        "language": "en",
        "diarize": True,
        "speaker_count": 2,
        "align": True,
        "cost_cents": 0.061111,
        "source_url": "https://example.com/podcast.mp3",
        "progress": "Transcription completed successfully.",
        "created_at": "2025-01-15T10:30:00Z",
        "started_at": "2025-01-15T10:30:01Z",
        "completed_at": "2025-01-15T10:30:45Z",
        "result": {
            "full_transcript": "Hello, yes.",
            "language": "en",
            "duration_seconds": 11,
            "speakers": ["SPEAKER 2", "SPEAKER 1"],
            "utterances": [
                {
                    "start": 0.5,
                    "end": 3.2,
                    "text": "Hello,",
                    "speaker": "SPEAKER 2",
                    "confidence": 0.98,
                    "words": [{"word": "Hello,", "start": 0.5, "end": 0.9, "confidence": 0.98, "speaker": "SPEAKER 2"}],
                },
                {
                    "start": 3.5,
                    "end": 4.0,
                    "text": "yes.",
                    "speaker": "SPEAKER 1",
                    "confidence": None,
                    "words": [{"word": "yes.", "start": 3.5, "end": 4.0, "confidence": None, "speaker": "SPEAKER 1"}],
                },
            ],
        },
    }


def test_a_new_job_knows_nothing_yet() -> None:
    told = rendering.detail(replace(NEW, options=JobOptions()), None)
    unknown = ("audio_duration_seconds", "file_size_bytes", "language", "speaker_count", "cost_cents")
    assert [told[name] for name in (*unknown, "started_at", "completed_at", "result")] == [None] * 8
    assert "error" not in told


def test_without_speakers_there_are_none_anywhere() -> None:
    told = result(JobOptions(words=True))
    assert told["speakers"] is None
    assert [utterance["speaker"] for utterance in told["utterances"]] == [None, None]
    assert all("speaker" not in word for utterance in told["utterances"] for word in utterance["words"])
    assert told["utterances"][0]["words"]


def test_without_alignment_there_are_no_words() -> None:
    told = result(JobOptions(words=False))
    assert [utterance["words"] for utterance in told["utterances"]] == [[], []]


def test_metadata_is_the_same_whatever_the_flags() -> None:
    plain = rendering.detail(replace(DONE, options=JobOptions(words=False)), RESULT)
    assert plain.keys() == rendering.detail(DONE, RESULT).keys()


def test_a_file_has_no_source_url() -> None:
    assert "source_url" not in rendering.item(replace(DONE, source=FILE))


def test_the_language_is_that_detected_or_that_asked_for() -> None:
    assert rendering.detail(replace(DONE, options=JobOptions()), RESULT)["language"] == "en"
    asked = rendering.detail(replace(DONE, options=JobOptions(extra={"language": "zu"})), RESULT)
    assert (asked["language"], asked["result"]["language"]) == ("zu", "zu")


@pytest.mark.parametrize("status", JobStatus)
def test_every_status_is_shown_and_has_a_sentence(status: JobStatus) -> None:
    told = rendering.item(replace(NEW, status=status, progress_pct=45))
    assert told["status"] == status.value
    assert told["progress"]


@pytest.mark.parametrize("kind", FailureKind)
def test_every_failure_has_a_code_and_a_sentence(kind: FailureKind) -> None:
    told = rendering.item(replace(NEW, status=JobStatus.FAILED, failure=Failure(kind)))
    assert set(told["error"]) == {"code", "message"}
    assert Code(told["error"]["code"])
    assert "{" not in told["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (FailureKind.SOURCE_UNREACHABLE, "URL_NOT_ACCESSIBLE"),
        (FailureKind.SOURCE_INTERRUPTED, "DOWNLOAD_FAILED"),
        (FailureKind.MEDIA_UNREADABLE, "INVALID_MEDIA_FORMAT"),
        (FailureKind.MEDIA_TOO_SHORT, "INVALID_MEDIA_FORMAT"),
        (FailureKind.MEDIA_TOO_LONG, "DURATION_TOO_LONG"),
        (FailureKind.MEDIA_TOO_LARGE, "FILE_TOO_LARGE"),
        (FailureKind.ENGINE_FAILED, "PROCESSING_ERROR"),
        (FailureKind.ENGINE_REFUSED, "PROCESSING_ERROR"),
        (FailureKind.CREATED_TIMEOUT, "CREATED_TIMEOUT"),
        (FailureKind.DOWNLOAD_TIMEOUT, "DOWNLOAD_TIMEOUT"),
        (FailureKind.PROCESSING_TIMEOUT, "PROCESSING_TIMEOUT"),
        (FailureKind.BILLING, "BILLING_ERROR"),
        (FailureKind.INTERNAL, "INTERNAL_ERROR"),
        (FailureKind.SOURCE_LOST, "INTERNAL_ERROR"),
        (FailureKind.FUNDS, "INSUFFICIENT_BALANCE"),
        (FailureKind.CANCELLED, "CANCELLED"),
    ],
)
def test_a_failure_has_the_code_of_the_document(kind: FailureKind, code: str) -> None:
    assert failure(Failure(kind))["code"] == code
    assert set(FAILURES) == set(FailureKind)


def test_a_recording_that_is_too_short_has_its_length_named() -> None:
    told = failure(Failure(FailureKind.MEDIA_TOO_SHORT, {"audio_ms": 100}))
    assert told["message"] == "Audio too short (0.10s). Minimum duration is 1 second."


@pytest.mark.parametrize("code", STATUSES)
def test_every_error_that_answers_a_request_has_a_status_and_a_sentence(code: Code) -> None:
    error = ScriptivoxError(code)
    assert 400 <= error.status <= 500
    assert error.message


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("INVALID_REQUEST", 400),
        ("INVALID_FILENAME", 400),
        ("INVALID_MEDIA_FORMAT", 400),
        ("FILE_NOT_UPLOADED", 400),
        ("FILE_TOO_LARGE", 400),
        ("UPLOAD_ALREADY_USED", 400),
        ("UPLOAD_EXPIRED", 400),
        ("INVALID_API_KEY", 401),
        ("API_KEY_REVOKED", 401),
        ("INSUFFICIENT_BALANCE", 402),
        ("ZERO_BALANCE", 402),
        ("UPLOAD_NOT_FOUND", 404),
        ("TRANSCRIPTION_NOT_FOUND", 404),
        ("NOT_FOUND", 404),
        ("METHOD_NOT_ALLOWED", 405),
        ("UNSUPPORTED_MEDIA_TYPE", 415),
        ("CONFLICT", 409),
        ("IDEMPOTENCY_KEY_LOCKED", 409),
        ("IDEMPOTENCY_KEY_CONFLICT", 422),
        ("RATE_LIMIT_EXCEEDED", 429),
        ("INTERNAL_ERROR", 500),
    ],
)
def test_an_error_has_the_status_of_the_document(code: str, status: int) -> None:
    assert STATUSES[Code(code)][0] == status


def test_submissions_are_answered_in_the_words_of_the_document() -> None:
    assert rendering.created(NEW) == {
        "id": "b2c3d4e5-f6a7-8901-bcde-f12345678901",
        "status": "created",
        "message": "Transcription created. The file will be downloaded and processed. "
        "Poll GET /v1/transcribe/{id} for status updates.",
    }
    of_file = rendering.created(replace(NEW, source=FILE, status=JobStatus.PENDING))
    assert of_file["status"] == "created"
    assert of_file["message"].startswith("Transcription created. The file will be validated and processed.")


def test_an_upload_says_where_and_how_the_file_goes() -> None:
    made = Upload(UploadId("u"), ME, "a.mp3", "audio/mpeg", UploadState.ISSUED, START_MS, START_MS + 3_600_000)
    assert rendering.upload(made, "http://localhost:8080/uploads/u") == {
        "upload_id": "u",
        "upload_url": "http://localhost:8080/uploads/u",
        "expires_in": 3600,
        "method": "PUT",
        "headers": {"Content-Type": "audio/mpeg"},
    }


def test_a_list_has_no_results() -> None:
    told = rendering.page(Page((DONE, NEW), "next"))
    assert ["result" in item for item in told["items"]] == [False, False]
    assert told["next_cursor"] == "next"


def test_what_was_held_for_a_cancelled_job_is_told() -> None:
    job = replace(NEW, status=JobStatus.FAILED, failure=Failure(FailureKind.CANCELLED), released=Decimal("0.5"))
    assert rendering.cancelled(job) == {
        "id": NEW.id,
        "status": "failed",
        "error": {"code": "CANCELLED", "message": "Cancelled by customer"},
        "released_cents": 0.5,
    }
    assert rendering.cancelled(replace(job, released=None))["released_cents"] == 0


def balance(total: str, held: str, price: str) -> dict[str, Any]:
    account = Account(AccountId("me"), "me", PlanTerms("paid", Meter.CENTS, price_per_hour=Decimal(price)), START_MS)
    funds = Balance(Meter.CENTS, Decimal(total), Decimal(held))
    return dict(rendering.balance(account, funds, deposit_url="https://pay.example", now_ms=START_MS))


def test_a_balance_is_told_and_how_long_it_lasts() -> None:
    assert balance("1500", "100", "20") == {
        "balance_cents": 1500,
        "reserved_cents": 100,
        "available_cents": 1400,
        "price_per_hour_cents": 20,
        "estimated_hours_available": 70.0,
        "deposit_url": "https://pay.example",
        "updated_at": "2025-01-15T10:30:00Z",
    }


def test_hours_have_one_decimal_and_none_where_nothing_is_paid() -> None:
    assert balance("1400", "0", "15")["estimated_hours_available"] == 93.3
    assert balance("0", "0", "0")["estimated_hours_available"] is None


@pytest.mark.parametrize(
    ("amount", "told"), [("0.061111", 0.061111), ("0.5", 0.5), ("20", 20), ("0", 0), ("0.0611111111", 0.061111)]
)
def test_amounts_have_six_decimals_at_most(amount: str, told: float) -> None:
    assert rendering.cents(Decimal(amount)) == told
