"""What is a job, in words of no API? Frozen values: jobs, uploads, their options and results, accounts and money.

States; only the last two are final, and a final state never changes::

    CREATED -> DOWNLOADING (links only) -> PENDING -> PROCESSING -> COMPLETED | FAILED(kind)

CREATED: accepted, its source not looked at. PENDING: its recording is here, and it waits for its turn. A job that was
cancelled has FAILED with that kind. Deletion is a mark on a final job, which is then found no more.

Times are milliseconds, of recordings from their beginning and of clocks since 1970 in UTC; amounts are `Decimal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import Final, NewType

from core.transcript.types import Task, Transcript

JobId = NewType("JobId", str)
"""A UUID of version 7 (RFC 9562, section 5.7): later ids are greater."""
UploadId = NewType("UploadId", str)
BlobId = NewType("BlobId", str)
AccountId = NewType("AccountId", str)
KeyId = NewType("KeyId", str)

LOCAL_ACCOUNT: Final = AccountId("local")
"""Whose jobs all are where the proxy keeps no accounts."""


class JobStatus(StrEnum):
    CREATED = "created"
    DOWNLOADING = "downloading"
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self in (JobStatus.COMPLETED, JobStatus.FAILED)


class FailureKind(StrEnum):
    """Why a job failed; each dialect has its own words for them. The values are kept in the database."""

    BILLING = "billing"
    """The price could not be taken: nothing was, and the result is withheld."""
    CANCELLED = "cancelled"
    CREATED_TIMEOUT = "created_timeout"
    DOWNLOAD_TIMEOUT = "download_timeout"
    ENGINE_FAILED = "engine_failed"
    """The engine failed, or could not be reached or trusted, each time that it was tried."""
    ENGINE_REFUSED = "engine_refused"
    """The engine did not want this request; another try would be refused too."""
    FUNDS = "funds"
    """The account cannot pay for a recording of this length."""
    INTERNAL = "internal"
    """A defect of ours."""
    MEDIA_TOO_LARGE = "media_too_large"
    MEDIA_TOO_LONG = "media_too_long"
    MEDIA_TOO_SHORT = "media_too_short"
    MEDIA_ONE_CHANNEL = "media_one_channel"
    """Two channels were to be heard, and there is one, or both are the same."""
    MEDIA_UNREADABLE = "media_unreadable"
    """No codec, no audio, damaged, or no recording at all."""
    PROCESSING_TIMEOUT = "processing_timeout"
    SOURCE_INTERRUPTED = "source_interrupted"
    """A download began and broke off."""
    SOURCE_LOST = "source_lost"
    """The recording was kept here, and cannot be opened any more."""
    SOURCE_UNREACHABLE = "source_unreachable"
    """Also of addresses that are not asked for: the two look the same from outside."""


@dataclass(frozen=True, slots=True)
class Failure:
    """numbers: limits and counts that a sentence may quote, for example `limit_bytes`; no text of a request."""

    kind: FailureKind
    numbers: Mapping[str, int] = field(default_factory=dict)


class Priority(StrEnum):
    """Which of one account's jobs is begun first; the turns of other accounts are theirs all the same."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class PersonalData(StrEnum):
    """What can be left out of a text, as far as it is written in a form that rules find."""

    CREDIT_CARD = "credit_card"
    CRYPTO = "crypto"
    EMAIL_ADDRESS = "email_address"
    IBAN_CODE = "iban_code"
    IP_ADDRESS = "ip_address"
    PHONE_NUMBER = "phone_number"
    URL = "url"
    US_SSN = "us_ssn"


@dataclass(frozen=True, slots=True)
class KnownSpeaker:
    """Somebody whom the caller can name. reference: their voice, as the data URL that an engine is asked with.

    It is biometric, kept sealed beside the job until that is over, and here only where it is submitted or heard.
    """

    name: str
    reference: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What shall be heard. Every default that an API documents is put in by its dialect, never here.

    model: as the engine names it; None for the first that it serves. language: Whisper's code; None to detect it.
    words: times of words. segments: of segments. min_audio_ms: a shorter recording fails its job. longest_part_s: where
    the text of a part is wanted before the others were heard. speaker_count: as many as are expected, as a hint, which
    is kept to at most. min_speakers, max_speakers: how many there are, as far as is known. known_speakers: some of
    them. vocabulary: words that occur. webhook_url: who is told when the job is final, with webhook_authorization as
    its `Authorization`. start_ms, end_ms: what of the recording is heard; its length then counts from there. channels:
    each of two is heard by itself. redact: what is left out of the text. metadata: the caller's own, told again with
    the job. delete_after_ms: its end, and so long after it its content is forgotten. extra: what only its dialect reads
    again when it renders, by that dialect's names. All of it is sealed where it is kept, but that the store keeps
    priority and delete_after_ms in the clear as well.
    """

    model: str | None = None
    task: Task = Task.TRANSCRIBE
    language: str | None = None
    prompt: str | None = None
    vocabulary: tuple[str, ...] = ()
    temperature: float | None = None
    segments: bool = True
    words: bool = False
    longest_part_s: int | None = None
    min_audio_ms: int = 0
    diarize: bool = False
    speaker_count: int | None = None
    min_speakers: int | None = None
    max_speakers: int | None = None
    known_speakers: tuple[KnownSpeaker, ...] = ()
    summary: bool = False
    webhook_url: str | None = None
    webhook_authorization: str | None = field(default=None, repr=False)
    start_ms: int = 0
    end_ms: int | None = None
    channels: bool = False
    redact: tuple[PersonalData, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    priority: Priority = Priority.NORMAL
    delete_after_ms: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = (self.speaker_count, self.min_speakers, self.max_speakers)
        if any(count is not None for count in counts) and not self.diarize:
            raise ValueError("how many speakers there are needs diarize")
        if self.known_speakers and not self.diarize:
            raise ValueError("known speakers need diarize")
        if (self.min_speakers or 1) > (self.most_speakers or self.min_speakers or 1):
            raise ValueError("there are more speakers at least than at most")
        if self.channels and self.diarize:
            raise ValueError("channels and diarize exclude each other")
        if self.end_ms is not None and self.end_ms <= self.start_ms:
            raise ValueError("the end is not after the start")

    @property
    def is_excerpt(self) -> bool:
        return self.start_ms > 0 or self.end_ms is not None

    @property
    def most_speakers(self) -> int | None:
        """None where nobody said."""
        return self.max_speakers or self.speaker_count


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What can be done beyond text and times of segments. An option that is lacking is refused at submission.

    words, diarize: by the engine. redact: by this installation. summary: by either. cut: recordings are cut here, so
    that a stretch, or a channel, can be heard by itself.
    """

    words: bool = True
    diarize: bool = False
    summary: bool = False
    cut: bool = False
    redact: bool = False


class SourceKind(StrEnum):
    BLOB = "blob"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class BlobSource:
    """A recording that was sent here. name: of the file, as its sender calls it; sealed where it is kept."""

    blob: BlobId
    name: str | None = None


@dataclass(frozen=True, slots=True)
class LinkSource:
    """A recording that is fetched. url: sealed where it is kept."""

    url: str


Source = BlobSource | LinkSource


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as it is submitted.

    dialect: whose words it is told in, to webhooks also. key: with which it was submitted. audio_ms: where its length
    is known already; then an account that pays is asked for it now, and otherwise once it is known. at_most: how many
    jobs of its account and dialect may be there and not final, this one included, in all replicas.
    """

    account: AccountId
    dialect: str
    source: Source
    options: JobOptions
    key: KeyId | None = None
    size_bytes: int | None = None
    audio_ms: int | None = None
    at_most: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is now.

    progress_pct: 0 to 100. started_ms: when the first work on it began. audio_ms, size_bytes: None until known.
    amount: what it cost in the unit of its account's plan; None until known, 0 when it failed.
    released: what was given back of what was held for it, when it failed.
    blob: its recording, until that is purged. attempts: how many workers have begun on it.
    """

    id: JobId
    account: AccountId
    key: KeyId | None
    dialect: str
    source: Source
    options: JobOptions
    status: JobStatus
    created_ms: int
    started_ms: int | None = None
    completed_ms: int | None = None
    progress_pct: int = 0
    audio_ms: int | None = None
    size_bytes: int | None = None
    amount: Decimal | None = None
    released: Decimal | None = None
    failure: Failure | None = None
    blob: BlobId | None = None
    attempts: int = 0

    @property
    def is_cancelled(self) -> bool:
        return self.failure is not None and self.failure.kind is FailureKind.CANCELLED


class SummaryMethod(StrEnum):
    """How a summary came to be."""

    EXTRACTIVE = "extractive"
    """Out of what was said, by rules."""
    MODEL = "model"
    """Written by an instruct model in an attested engine."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a transcript is about. model: the one that wrote it, by the name that its engine's statement has for it."""

    text: str | None
    topics: tuple[str, ...]
    method: SummaryMethod
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an engine signed of one request, and this side's own account of it.

    instance, statement_sha256: which engine, and what it had proved. request_sha256, answer_sha256: of sealed bytes.
    signed: the receipt as it came.
    """

    instance: str
    statement_sha256: str
    request_sha256: str
    answer_sha256: str
    signed: str


@dataclass(frozen=True, slots=True)
class PartReceipt:
    """The receipt of one part of a recording. end_ms: as of a `PartPlan`."""

    index: int
    start_ms: int
    end_ms: int | None
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class JobResult:
    """What was heard; kept as one sealed value.

    summary_method: how the summary and the topics came to be; None where there are none. summary_model: by which model.
    channels: of each channel by itself, where that was asked for. redacted: how often each kind was left out.
    receipts: of all parts, in their order; of engines that give none, none.
    """

    transcript: Transcript
    summary: str | None = None
    topics: tuple[str, ...] = ()
    summary_method: SummaryMethod | None = None
    summary_model: str | None = None
    channels: tuple[Transcript, ...] = ()
    redacted: Mapping[PersonalData, int] = field(default_factory=dict)
    receipts: tuple[PartReceipt, ...] = ()

    def about(self, summary: Summary) -> JobResult:
        """The same with this summary."""
        return replace(
            self,
            summary=summary.text,
            topics=summary.topics,
            summary_method=summary.method,
            summary_model=summary.model,
        )


@dataclass(frozen=True, slots=True)
class PartPlan:
    """A stretch of a recording that is one request to an engine. Its index counts from 0.

    end_ms: None for the end of the recording, where its length is not known.
    """

    index: int
    start_ms: int = 0
    end_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a recording is cut.

    audio_ms: its length; None where that is known only once it was heard. blob: the recording made ready for cutting,
    which takes the place of the job's own from here on; None where it is cut as it came.
    """

    parts: tuple[PartPlan, ...]
    audio_ms: int | None = None
    blob: BlobId | None = None


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which jobs, newest first unless `ascending`. from_ms: the first moment; to_ms: the first that is too late.

    cursor: the `next_cursor` of the page before, which repeats the rest of its query.
    """

    status: JobStatus | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    ascending: bool = False
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """next_cursor: None at the end."""

    jobs: tuple[Job, ...]
    next_cursor: str | None = None


class UploadState(StrEnum):
    ISSUED = "issued"
    RECEIVED = "received"
    CONSUMED = "consumed"


@dataclass(frozen=True, slots=True)
class Upload:
    """A place for one file, which one job may use. expires_ms: when it can be filled no more."""

    id: UploadId
    account: AccountId
    name: str
    content_type: str
    state: UploadState
    created_ms: int
    expires_ms: int
    blob: BlobId | None = None
    size_bytes: int | None = None


class WebhookEvent(StrEnum):
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message to a webhook that is due. attempt: counts from 1, this one included. fence: of the claim on it.

    id: the same for every attempt.
    """

    id: str
    job: JobId
    account: AccountId
    event: WebhookEvent
    attempt: int
    fence: int


class Meter(StrEnum):
    """What an account's plan counts."""

    NONE = "none"
    HOURS_28D = "hours_28d"
    """Audio in windows of 28 days from the first use."""
    CENTS = "cents"
    """Prepaid, by the hour."""
    CREDITS = "credits"
    """Prepaid, by the minute."""


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """What accounts on a plan may do. Every None is without a limit.

    concurrency: jobs at a time. price_per_hour: in the unit of the meter; 0 where it is none or hours.
    """

    name: str
    meter: Meter = Meter.NONE
    max_active_keys: int | None = None
    requests_per_minute: int | None = None
    concurrency: int | None = None
    max_audio_ms: int | None = None
    max_upload_bytes: int | None = None
    quota_ms: int | None = None
    price_per_hour: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Account:
    id: AccountId
    name: str
    plan: PlanTerms
    created_ms: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it may be shown again: its beginning. expires_ms: None for never.

    is_session: it is no key of a program's but somebody's who has signed in, and may manage keys.
    """

    id: KeyId
    account: AccountId
    name: str
    prefix: str
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None
    is_session: bool = False


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. is_session: with a session, whose id is then the `key`."""

    account: AccountId
    key: KeyId | None = None
    is_session: bool = False


class EntryKind(StrEnum):
    """What a line of the ledger is for.

    DEPOSIT: paid in. HOLD: put aside for a job. RELEASE: a hold given back. CAPTURE: spent on a job. ADJUST: by hand.
    """

    DEPOSIT = "deposit"
    HOLD = "hold"
    RELEASE = "release"
    CAPTURE = "capture"
    ADJUST = "adjust"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A line of the ledger, which is only ever added to; each job has at most one of each kind.

    amount: at least 0, but of ADJUST any; in `unit`, a meter's.
    """

    account: AccountId
    kind: EntryKind
    unit: Meter
    amount: Decimal
    at_ms: int
    job: JobId | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """total: paid in and not spent, what is held included."""

    unit: Meter
    total: Decimal
    held: Decimal

    @property
    def available(self) -> Decimal:
        return self.total - self.held


@dataclass(frozen=True, slots=True)
class QueueState:
    """jobs: how many are in each state that is not final. oldest_ms: how long the oldest has waited that is due.

    messages: how many webhooks are to be told something.
    """

    jobs: Mapping[JobStatus, int]
    oldest_ms: int
    messages: int


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer that is given again, byte by byte, to the same request under the same idempotency key."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
