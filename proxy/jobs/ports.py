"""What do jobs need of the world, and what may the dialects ask of jobs? Protocols, so that each side is made alone.

Given to jobs: `Clock`, `Engine`, `Author`, `Splitter`, `Fetcher`. Kept by jobs: `Blobs`. Asked by dialects: `Jobs`,
`Uploads`, `Accounts`, `Answers`. Worked off beside them: `Outbox`.

Everything asynchronous may raise `StoreError`, which is not told again below.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from core.transcript.types import Transcript
from proxy.jobs.model import (
    Account,
    AccountId,
    ApiKey,
    Balance,
    BlobId,
    Capabilities,
    Delivery,
    Job,
    JobId,
    JobOptions,
    JobResult,
    KeyId,
    ListQuery,
    NewJob,
    Page,
    PartPlan,
    Plan,
    Principal,
    Receipt,
    StoredAnswer,
    Summary,
    Upload,
    UploadId,
)


class Clock(Protocol):
    def now_ms(self) -> int:
        """Milliseconds since 1970 in UTC."""


class Recording(Protocol):
    """A recording that is kept here sealed; what is read of it is in the clear, in memory alone.

    name: of the file, as its sender calls it; None where nobody said.
    """

    @property
    def name(self) -> str | None: ...

    @property
    def size_bytes(self) -> int: ...

    async def read(self, start: int, length: int) -> bytes:
        """The bytes from `start`, `length` of them or as many as there are. Raises VaultError."""

    def stream(self) -> AsyncIterator[bytes]:
        """All of it, piece by piece. Raises VaultError."""


class Blobs(Protocol):
    """Recordings, sealed one by one under keys of their own."""

    async def put(self, content: AsyncIterator[bytes], *, max_bytes: int | None = None) -> tuple[BlobId, int]:
        """Keep a recording; its id, and its size in bytes. Nothing is kept when `content` raises.

        Raises FailedError(MEDIA_TOO_LARGE) as soon as there are more than `max_bytes`.
        """

    async def open(self, blob_id: BlobId, *, name: str | None = None) -> Recording:
        """Raises MissingError."""

    async def forget(self, blob_id: BlobId) -> None:
        """Forget its key, then the rest; one that is not there is forgotten."""


class Splitter(Protocol):
    """Cuts recordings into what an engine takes as one request.

    A job may be planned in one process and cut in another, so a plan says all that is needed to cut.
    """

    async def plan(self, recording: Recording, options: JobOptions, *, max_audio_ms: int | None = None) -> Plan:
        """At least one part. Raises FailedError: MEDIA_UNREADABLE, MEDIA_TOO_SHORT, MEDIA_TOO_LONG.

        max_audio_ms: what is longer is given up as soon as that is known.
        """

    async def cut(self, recording: Recording, part: PartPlan) -> PartContent:
        """Raises FailedError."""


class PartContent(Protocol):
    """One part as it goes to an engine. filename: one whose extension fits the content; never its sender's."""

    @property
    def filename(self) -> str: ...

    @property
    def content_type(self) -> str: ...

    def stream(self) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Heard:
    """What an engine made of a part. receipt: None of one that gives none."""

    transcript: Transcript
    receipt: Receipt | None = None


class Engine(Protocol):
    """Hears one part, in an attested engine and nowhere else."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def hear(self, part: PartContent, options: JobOptions, *, request_id: str, of: int) -> Heard:
        """Cancelling it ends the request to the engine. Times count from the beginning of the part.

        of: how many parts its recording has; of several, each speaker has a voice if the engine knows it.
        Raises FailedError for what another try would not mend, TransientError for what it may.
        """


class Stitcher(Protocol):
    """Makes one result of the transcripts of all parts."""

    def stitch(self, parts: Sequence[tuple[PartPlan, Transcript]], options: JobOptions) -> JobResult: ...


class Author(Protocol):
    """Writes about a whole transcript, in an attested engine and nowhere else."""

    async def write(self, transcript: Transcript, *, request_id: str) -> Summary | None:
        """None where the engine has no model that does. Cancelling it ends the request to the engine.

        Raises FailedError for what another try would not mend, TransientError for what it may.
        """


class Summariser(Protocol):
    """Adds a summary to a result."""

    async def summarise(self, made: JobResult, *, request_id: str, is_last: bool) -> JobResult:
        """is_last: nobody tries again after this. Raises TransientError where trying again may help."""


class Fetched(Protocol):
    """A recording on its way here. name: None where the other end did not say."""

    @property
    def name(self) -> str | None: ...

    def stream(self) -> AsyncIterator[bytes]:
        """Raises FailedError(SOURCE_INTERRUPTED), TransientError."""


class Fetcher(Protocol):
    """Fetches recordings from links."""

    async def fetch(self, url: str, *, max_bytes: int | None = None) -> Fetched:
        """The caller reads all of it, or closes its stream.

        Raises FailedError(SOURCE_UNREACHABLE), TransientError, and FailedError(MEDIA_TOO_LARGE) where that is told.
        """


@dataclass(frozen=True, slots=True)
class Once:
    """How a submission is answered, now and when it comes again. render: the answer, of the job that was made."""

    route: str
    key: str
    render: Callable[[Job], StoredAnswer]


class Jobs(Protocol):
    """What a dialect can do with jobs. Whatever is another account's, or deleted, is missing."""

    async def submit(self, new: NewJob, *, once: Once | None = None) -> Job:
        """once: its answer is kept in the same transaction; `Answers.begin` came before.

        Raises FundsError, CrowdedError, MissingError for a blob that is not there, and for what the plan of its account
        does not allow FailedError(MEDIA_TOO_LARGE, MEDIA_TOO_LONG).
        """

    async def get(self, account: AccountId, job_id: JobId) -> Job:
        """Raises MissingError."""

    async def result(self, account: AccountId, job_id: JobId) -> JobResult:
        """Raises MissingError, and ConflictError for a job that has not completed."""

    async def heard(
        self, account: AccountId, job_id: JobId, *, after: int = 0
    ) -> Sequence[tuple[PartPlan, Transcript]]:
        """The parts from number `after` on that were heard, up to the first that was not; none once it is over.

        Raises MissingError.
        """

    async def list(self, account: AccountId, query: ListQuery) -> Page:
        """Raises ValueError for a cursor that is not ours, or a limit that is not 1 to 200."""

    async def cancel(self, account: AccountId, job_id: JobId) -> Job:
        """The job, FAILED(CANCELLED), also when it was so before.

        Raises MissingError, and ConflictError when it is final for another reason.
        """

    async def delete(self, account: AccountId, job_id: JobId) -> None:
        """Forget the content of a final job; one that was deleted already is as it shall be.

        Raises MissingError, ConflictError while it is not final.
        """


class Uploads(Protocol):
    """Places for files that come before their job."""

    async def issue(self, account: AccountId, name: str, content_type: str, *, lifetime_ms: int) -> Upload: ...

    async def receive(
        self,
        upload_id: UploadId,
        content: AsyncIterator[bytes],
        *,
        max_bytes: int | None = None,
        announced_bytes: int | None = None,
    ) -> Upload:
        """Fill it; again, as long as no job uses it. The caller has checked who may.

        max_bytes: beside what its account's plan allows. announced_bytes: what its sender says that there will be.
        Raises MissingError, ConflictError when it is used or over, FailedError(MEDIA_TOO_LARGE).
        """

    async def get(self, account: AccountId, upload_id: UploadId) -> Upload:
        """Raises MissingError."""

    async def consume(self, account: AccountId, upload_id: UploadId) -> Upload:
        """Take its file for a job, once. Raises MissingError, ConflictError when it is empty or used."""


class Accounts(Protocol):
    async def authenticate(self, key: str) -> tuple[Principal, Account]:
        """Whose key this is. Raises DeniedError."""

    async def account(self, account_id: AccountId) -> Account:
        """Raises MissingError."""

    async def keys(self, account_id: AccountId) -> Sequence[ApiKey]:
        """Its keys and sessions, those that were revoked too."""

    async def add_key(self, account_id: AccountId, name: str, *, lifetime_ms: int | None = None) -> tuple[ApiKey, str]:
        """A new key and its text, which nobody can find out again. Raises MissingError, ConflictError for too many."""

    async def revoke(self, account_id: AccountId, key: KeyId) -> ApiKey:
        """Raises MissingError. What was revoked stays so."""

    async def balance(self, account_id: AccountId) -> Balance:
        """Raises MissingError."""


class Answers(Protocol):
    """Answers that are given again (`Idempotency-Key`). Keys and bodies are kept as keyed hashes."""

    async def begin(self, account: AccountId, route: str, key: str, body: bytes) -> StoredAnswer | None:
        """The answer that was given before; None when this request is the first, which then ends with `keep` or `drop`.

        Raises BusyError, ReusedKeyError.
        """

    async def keep(self, account: AccountId, route: str, key: str, given: StoredAnswer) -> None: ...

    async def drop(self, account: AccountId, route: str, key: str) -> None:
        """The request failed: it may come again."""


class Outbox(Protocol):
    """Messages to webhooks. Each was written in the transaction that made its job final.

    At least once, in no promised order. What is sent is made from the job by its dialect, each time; a job that is
    deleted takes its messages with it.
    """

    async def claim(self, *, lease_ms: int) -> Delivery | None:
        """The next that is due, for this worker alone for so long. The attempt is counted before it is made."""

    async def delivered(self, message: Delivery) -> None:
        """Raises LostError, as the next two do: another worker has it by now, or its job was deleted."""

    async def postpone(self, message: Delivery, *, delay_ms: int) -> None: ...

    async def give_up(self, message: Delivery) -> None: ...
