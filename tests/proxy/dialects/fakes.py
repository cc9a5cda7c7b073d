"""Jobs, uploads, accounts and answers that are kept in memory, with the Protocols of `proxy.jobs.ports`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from uuid import uuid4

from core.transcript.types import Transcript
from proxy.jobs.errors import (
    BusyError,
    ConflictError,
    DeniedError,
    MissingError,
    ReusedKeyError,
)
from proxy.jobs.limits import check_size, least
from proxy.jobs.model import (
    Account,
    AccountId,
    ApiKey,
    Balance,
    BlobId,
    BlobSource,
    Failure,
    FailureKind,
    Job,
    JobId,
    JobResult,
    JobStatus,
    KeyId,
    ListQuery,
    Meter,
    NewJob,
    Page,
    PartPlan,
    PlanTerms,
    Principal,
    StoredAnswer,
    Upload,
    UploadId,
    UploadState,
)
from proxy.jobs.ports import Once

START_MS = 1_736_937_000_000
"""2025-01-15T10:30:00Z."""

KEY = "sk_live_YOUR_KEY"
PUBLISHED_KEYS = (KEY, "your-api-key", "YOUR_API_KEY")
"""As the documents have them."""
OTHER_KEY = "sk_live_ANOTHER"
REVOKED_KEY = "sk_live_REVOKED"
SESSION = "sess_mine"
ME = AccountId("me")
OTHER = AccountId("other")
SESSIONS = {SESSION: ME, "sess_other": OTHER}


@dataclass(slots=True)
class FakeClock:
    at_ms: int = START_MS

    def now_ms(self) -> int:
        return self.at_ms


@dataclass(slots=True)
class FakeJobs:
    """Nothing happens to a job but what a test does to it by `set`, or once by `outcome` when it is asked for."""

    clock: FakeClock
    jobs: dict[JobId, Job] = field(default_factory=dict)
    results: dict[JobId, JobResult] = field(default_factory=dict)
    deleted: set[JobId] = field(default_factory=set)
    submitted: list[NewJob] = field(default_factory=list)
    parts: list[tuple[PartPlan, Transcript]] = field(default_factory=list)
    failure: Exception | None = None
    outcome: Callable[[Job], tuple[Job, JobResult | None]] | None = None
    answers: FakeAnswers | None = None

    def set(self, job: Job, result: JobResult | None = None) -> Job:
        self.jobs[job.id] = job
        if result is not None:
            self.results[job.id] = result
        return job

    async def submit(self, new: NewJob, *, once: Once | None = None) -> Job:
        if self.failure is not None:
            raise self.failure
        self.submitted.append(new)
        made = self.set(
            Job(
                id=JobId(str(uuid4())),
                account=new.account,
                key=new.key,
                dialect=new.dialect,
                source=new.source,
                options=new.options,
                status=JobStatus.PENDING if isinstance(new.source, BlobSource) else JobStatus.CREATED,
                created_ms=self.clock.now_ms(),
                size_bytes=new.size_bytes,
                audio_ms=new.audio_ms,
            )
        )
        if once is not None and self.answers is not None:
            await self.answers.keep(new.account, once.route, once.key, once.render(made))
        return made

    async def get(self, account: AccountId, job: JobId) -> Job:
        found = self.jobs.get(job)
        if found is None or found.account != account or job in self.deleted:
            raise MissingError
        if self.outcome is not None and not found.status.is_final:
            return self.set(*self.outcome(found))
        return found

    async def result(self, account: AccountId, job: JobId) -> JobResult:
        if (await self.get(account, job)).status is not JobStatus.COMPLETED:
            raise ConflictError
        return self.results[job]

    async def heard(self, account: AccountId, job: JobId, *, after: int = 0) -> Sequence[tuple[PartPlan, Transcript]]:
        await self.get(account, job)
        return self.parts[after:]

    async def list(self, account: AccountId, query: ListQuery) -> Page:
        start = 0
        if query.cursor is not None:
            if not query.cursor.startswith("after-"):
                raise ValueError("not a cursor of this list")
            start = int(query.cursor.removeprefix("after-"))
        mine = [
            job
            for job in self.jobs.values()
            if job.account == account
            and job.id not in self.deleted
            and (query.status is None or job.status is query.status)
            and (query.from_ms is None or job.created_ms >= query.from_ms)
            and (query.to_ms is None or job.created_ms < query.to_ms)
        ]
        mine.sort(key=lambda job: (job.created_ms, job.id), reverse=not query.ascending)
        end = start + query.limit
        return Page(tuple(mine[start:end]), f"after-{end}" if end < len(mine) else None)

    async def cancel(self, account: AccountId, job: JobId) -> Job:
        found = await self.get(account, job)
        if found.is_cancelled:
            return found
        if found.status.is_final:
            raise ConflictError
        failure = Failure(FailureKind.CANCELLED)
        return self.set(replace(found, status=JobStatus.FAILED, failure=failure, released=Decimal("0.5")))

    async def delete(self, account: AccountId, job: JobId) -> None:
        found = self.jobs.get(job)
        if found is None or found.account != account:
            raise MissingError
        if not found.status.is_final:
            raise ConflictError
        self.deleted.add(job)


@dataclass(slots=True)
class FakeUploads:
    clock: FakeClock
    accounts: FakeAccounts
    uploads: dict[UploadId, Upload] = field(default_factory=dict)
    content: dict[BlobId, bytes] = field(default_factory=dict)

    async def issue(self, account: AccountId, name: str, content_type: str, *, lifetime_ms: int) -> Upload:
        now_ms = self.clock.now_ms()
        made = Upload(
            UploadId(str(uuid4())), account, name, content_type, UploadState.ISSUED, now_ms, now_ms + lifetime_ms
        )
        self.uploads[made.id] = made
        return made

    async def receive(
        self,
        upload: UploadId,
        content: AsyncIterator[bytes],
        *,
        max_bytes: int | None = None,
        announced_bytes: int | None = None,
    ) -> Upload:
        found = self.uploads.get(upload)
        if found is None:
            raise MissingError
        if found.state is UploadState.CONSUMED:
            raise ConflictError
        data, limit_bytes = bytearray(), least(max_bytes, self.accounts.plans[found.account].max_upload_bytes)
        check_size(announced_bytes, limit_bytes)
        async for piece in content:
            data += piece
            check_size(len(data), limit_bytes)
        blob = BlobId(str(uuid4()))
        self.content[blob] = bytes(data)
        self.uploads[upload] = replace(found, state=UploadState.RECEIVED, blob=blob, size_bytes=len(data))
        return self.uploads[upload]

    async def get(self, account: AccountId, upload: UploadId) -> Upload:
        found = self.uploads.get(upload)
        if found is None or found.account != account:
            raise MissingError
        return found

    async def consume(self, account: AccountId, upload: UploadId) -> Upload:
        found = await self.get(account, upload)
        if found.state is not UploadState.RECEIVED:
            raise ConflictError
        self.uploads[upload] = replace(found, state=UploadState.CONSUMED)
        return self.uploads[upload]


@dataclass(slots=True)
class FakeAccounts:
    """Two accounts with a key and a session each, and a key that is revoked."""

    plans: dict[AccountId, PlanTerms] = field(default_factory=lambda: {ME: PlanTerms("free"), OTHER: PlanTerms("free")})
    balances: dict[AccountId, Balance] = field(default_factory=dict)
    made: dict[KeyId, ApiKey] = field(default_factory=dict)

    async def authenticate(self, key: str) -> tuple[Principal, Account]:
        if key == REVOKED_KEY:
            raise DeniedError(revoked=True)
        if key in SESSIONS:
            return Principal(SESSIONS[key], KeyId(key), is_session=True), await self.account(SESSIONS[key])
        account = dict.fromkeys(PUBLISHED_KEYS, ME).get(key) or {OTHER_KEY: OTHER}.get(key)
        if account is None:
            raise DeniedError
        return Principal(account, KeyId(f"key of {account}")), await self.account(account)

    async def account(self, account: AccountId) -> Account:
        return Account(account, str(account), self.plans[account], START_MS)

    async def keys(self, account: AccountId) -> Sequence[ApiKey]:
        mine = ApiKey(KeyId(f"key of {account}"), account, "mine", "sk_live_", START_MS)
        session = ApiKey(KeyId(f"session of {account}"), account, "session", "sess_", START_MS, is_session=True)
        return [mine, session, *(key for key in self.made.values() if key.account == account)]

    async def add_key(self, account: AccountId, name: str, *, lifetime_ms: int | None = None) -> tuple[ApiKey, str]:
        limit = self.plans[account].max_active_keys
        if limit is not None and len(self.made) >= limit:
            raise ConflictError
        key = ApiKey(KeyId(str(uuid4())), account, name, "sk_live_abcd", START_MS)
        self.made[key.id] = key
        return key, "sk_live_abcdef"

    async def revoke(self, account: AccountId, key: KeyId) -> ApiKey:
        self.made[key] = replace(self.made[key], revoked_ms=START_MS)
        return self.made[key]

    async def balance(self, account: AccountId) -> Balance:
        return self.balances.get(account, Balance(self.plans[account].meter, Decimal(0), Decimal(0)))

    def pay(
        self, account: AccountId, total: str, held: str = "0", *, meter: Meter = Meter.CENTS, price: str = "20"
    ) -> None:
        self.plans[account] = PlanTerms("paid", meter, price_per_hour=Decimal(price))
        self.balances[account] = Balance(meter, Decimal(total), Decimal(held))


@dataclass(slots=True)
class FakeAnswers:
    kept: dict[tuple[str, ...], StoredAnswer] = field(default_factory=dict)
    bodies: dict[tuple[str, ...], bytes] = field(default_factory=dict)

    async def begin(self, account: AccountId, route: str, key: str, body: bytes) -> StoredAnswer | None:
        place = (account, route, key)
        if self.bodies.setdefault(place, body) != body:
            raise ReusedKeyError
        if place in self.kept:
            return self.kept[place]
        if place in self._begun:
            raise BusyError(2.0)
        self._begun.add(place)
        return None

    _begun: set[tuple[str, ...]] = field(default_factory=set)

    async def keep(self, account: AccountId, route: str, key: str, answer: StoredAnswer) -> None:
        self.kept[account, route, key] = answer

    async def drop(self, account: AccountId, route: str, key: str) -> None:
        self._begun.discard((account, route, key))
        self.bodies.pop((account, route, key), None)
