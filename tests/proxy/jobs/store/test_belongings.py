"""What is whose stands under the keys too: who has the database and a key of their own reads nothing of others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from sqlalchemy import text

from proxy.jobs.errors import DeniedError, KeysAwayError, MissingError, VaultError
from proxy.jobs.model import LOCAL_ACCOUNT, AccountId, FailureKind, Job, JobStatus, PlanTerms
from proxy.jobs.service import Kept, Places
from proxy.jobs.store.queue import Claim, Queue
from proxy.jobs.vault import Kek, KeyFile, KeyRing
from proxy.jobs.worker import Pace
from tests.proxy.jobs.fakes import FakeEngine
from tests.proxy.jobs.made import completed, content, queue, submitted
from tests.proxy.jobs.test_worker import means, working
from tests.waiting import until


@pytest.fixture
async def mallory(store: Kept) -> AccountId:
    await store.accounts.put_plan(PlanTerms("plan"))
    return (await store.accounts.add("mallory", "plan")).id


async def by_hand(store: Kept, statement: str) -> None:
    async with store.database.begin() as tx:
        assert (await tx.run(text(statement))).rowcount > 0


async def ended(store: Kept, job: Job) -> Job:
    async def is_over() -> bool:
        return (await store.jobs.get(job.account, job.id)).status.is_final

    await until(is_over)
    return await store.jobs.get(job.account, job.id)


async def test_a_job_that_was_put_into_another_account_does_not_open_there(store: Kept, mallory: AccountId) -> None:
    job = await completed(store)
    await by_hand(store, f"UPDATE job SET account = '{mallory}'")
    with pytest.raises(MissingError):
        await store.jobs.get(mallory, job.id)
    with pytest.raises(MissingError):
        await store.jobs.result(mallory, job.id)


async def test_a_recording_that_was_put_into_another_job_is_not_heard(store: Kept, mallory: AccountId) -> None:
    secret = await submitted(store)
    await store.jobs.cancel(LOCAL_ACCOUNT, secret.id)
    job = await submitted(store, account=mallory)
    await by_hand(store, f"UPDATE job SET blob = '{secret.blob}' WHERE id = '{job.id}'")
    engine = FakeEngine()
    async with working(store, means(store, engine)) as watcher:
        later = await submitted(store, account=mallory)
        assert (await ended(store, later)).status is JobStatus.COMPLETED
    with pytest.raises(VaultError):
        await store.jobs.get(mallory, job.id)
    assert len(engine.heard) == watcher.outcomes["completed"] == 1


@pytest.mark.parametrize("of_another", ["NULL", "(SELECT sealed_blob FROM job WHERE id = '{other}')"])
async def test_what_was_kept_anew_for_one_job_is_not_anothers(store: Kept, of_another: str) -> None:
    mine, claims = queue(store), []
    for _ in range(2):
        await submitted(store)
        claim = await mine.claim()
        assert claim is not None
        blob, size_bytes = await store.blobs.put(content(b"made"))
        await mine.downloaded(claim, blob, size_bytes)
        due_ms = round(time.time() * 1000) + 300_000
        await by_hand(store, f"UPDATE job SET due_ms = {due_ms} WHERE id = '{claim.job.id}'")
        claims.append(claim)
    first, other = claims
    assert (await store.jobs.get(LOCAL_ACCOUNT, first.job.id)).blob != first.job.blob
    await by_hand(
        store, f"UPDATE job SET sealed_blob = {of_another.format(other=other.job.id)} WHERE id = '{first.job.id}'"
    )
    with pytest.raises(VaultError):
        await store.jobs.get(LOCAL_ACCOUNT, first.job.id)


async def test_an_upload_has_its_own_file_and_account(store: Kept, mallory: AccountId) -> None:
    secret = await submitted(store)
    upload = await store.uploads.issue(mallory, "a.wav", "audio/wav", lifetime_ms=60_000)
    await store.uploads.receive(upload.id, content(b"mine"))
    await by_hand(store, f"UPDATE upload SET blob = '{secret.blob}'")
    with pytest.raises(VaultError):
        await store.uploads.consume(mallory, upload.id)
    await by_hand(store, f"UPDATE upload SET account = '{LOCAL_ACCOUNT}'")
    with pytest.raises(MissingError):
        await store.uploads.get(LOCAL_ACCOUNT, upload.id)


@pytest.mark.parametrize(
    "changed",
    [
        "account = 'local'",
        "is_session = true",
        "expires_ms = NULL",
        "expires_ms = expires_ms + 1",
        "name = 'another'",
    ],
)
async def test_a_key_that_was_changed_opens_nothing(store: Kept, mallory: AccountId, changed: str) -> None:
    _, key = await store.accounts.add_key(mallory, "key", lifetime_ms=3_600_000)
    await store.accounts.authenticate(key)
    await by_hand(store, f"UPDATE api_key SET {changed}")
    with pytest.raises(DeniedError):
        await store.accounts.authenticate(key)


async def test_a_key_that_was_revoked_stays_so_and_takes_nobodys_place(store: Kept, mallory: AccountId) -> None:
    mine, key = await store.accounts.add_key(mallory, "key")
    theirs, _ = await store.accounts.add_key(LOCAL_ACCOUNT, "key")
    await store.accounts.revoke(mallory, mine.id)
    await by_hand(store, f"UPDATE api_key SET revoked_ms = NULL WHERE id = '{mine.id}'")
    with pytest.raises(DeniedError):
        await store.accounts.authenticate(key)
    async with store.database.begin() as tx:
        rows = (await tx.run(text("SELECT id, digest FROM api_key"))).all()
        digests = {row.id: row.digest for row in rows}
        for owner, digest in ((mine.id, b"away"), (theirs.id, digests[mine.id])):
            statement = text("UPDATE api_key SET digest = :digest WHERE id = :id")
            await tx.run(statement.bindparams(digest=digest, id=owner))
    with pytest.raises(DeniedError):
        await store.accounts.authenticate(key)


async def test_a_job_that_does_not_open_ends_and_stops_no_worker(store: Kept) -> None:
    broken = await submitted(store)
    await _spoilt(store, broken)
    async with working(store, means(store, FakeEngine())):
        assert (await ended(store, await submitted(store))).status is JobStatus.COMPLETED
    async with store.database.begin() as tx:
        row = (await tx.run(text(f"SELECT status, failure FROM job WHERE id = '{broken.id}'"))).one()
    assert (row.status, row.failure) == (JobStatus.FAILED, FailureKind.SOURCE_LOST)


async def _spoilt(store: Kept, job: Job) -> None:
    async with store.database.begin() as tx:
        statement = text("UPDATE job SET sealed_details = :value WHERE id = :id")
        await tx.run(statement.bindparams(value=b"spoilt", id=job.id))


class _KeysAway(Queue):
    """Whose keys come back at the third try."""

    tries = 0

    async def claim(self, **given: object) -> Claim | None:
        self.tries += 1
        if self.tries < 3:
            raise KeysAwayError
        return await super().claim()


async def test_while_a_key_is_away_jobs_wait(store: Kept) -> None:
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    away = _KeysAway(store.database, store.records, store.funds, "w", lease_ms=60_000)
    async with working(store, means(store, FakeEngine()), mine=away, pace=Pace(nap=nap)) as watcher:
        assert (await ended(store, await submitted(store))).status is JobStatus.COMPLETED
    assert watcher.store_failures == 2


async def test_a_job_whose_key_is_wrapped_by_one_that_is_away_is_not_given_up(store: Kept, places: Places) -> None:
    job = await submitted(store)
    assert isinstance(places.key, Path)
    KeyFile(places.key).write(KeyRing((Kek.new(),)))
    store.vault.changed()
    with pytest.raises(KeysAwayError):
        await queue(store).claim()
    async with store.database.begin() as tx:
        row = (await tx.run(text(f"SELECT status FROM job WHERE id = '{job.id}'"))).one()
    assert row.status == JobStatus.PENDING
