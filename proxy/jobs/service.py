"""What makes jobs work, wired: database, keys, recordings, workers, sweeps.

Nothing here is imported unless jobs are on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from core.program.files import watch
from proxy.jobs.blobs import ObjectStore, StoredBlobs, local_store, s3_store
from proxy.jobs.errors import StoreError, VaultError
from proxy.jobs.model import QueueState
from proxy.jobs.ports import Clock
from proxy.jobs.store.accounts import StoredAccounts
from proxy.jobs.store.answers import StoredAnswers
from proxy.jobs.store.database import Database, opened
from proxy.jobs.store.funds import Funds
from proxy.jobs.store.jobs import StoredJobs
from proxy.jobs.store.lines import Lines
from proxy.jobs.store.outbox import StoredOutbox
from proxy.jobs.store.queue import Queue
from proxy.jobs.store.records import Records
from proxy.jobs.store.retention import Periods, Sweeper
from proxy.jobs.store.uploads import StoredUploads
from proxy.jobs.vault import KeyFile, KeySource, Pepper, Vault
from proxy.jobs.worker import Means, Pace, Worker, WorkerObserver
from proxy.jobs_options import JobsOptions

_log = structlog.get_logger(__name__)

SWEEP_S: Final = 30.0
STATE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class KeyringEntry:
    name: str


@dataclass(frozen=True, slots=True)
class Places:
    """Where jobs are kept. database: a file, or a URL of PostgreSQL. blobs: a directory, or s3://BUCKET[/PREFIX].

    key: the file of key-encryption keys, or an entry of the operating system's keyring.
    """

    database: Path | str = field(repr=False)
    blobs: Path | str
    key: Path | KeyringEntry
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)


def places_of(options: JobsOptions, environ: Mapping[str, str]) -> Places:
    """Where the settings say that jobs are kept."""
    directory = options.jobs_directory
    database = options.jobs_database.get_secret_value() if options.jobs_database else directory / "jobs.sqlite"
    key = options.jobs_key_file if options.jobs_keyring is None else KeyringEntry(options.jobs_keyring)
    return Places(database, options.jobs_blobs or directory / "recordings", key, environ)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept, opened: all that a dialect or a command asks."""

    database: Database
    vault: Vault
    records: Records
    pepper: Pepper
    funds: Funds
    blobs: StoredBlobs
    jobs: StoredJobs
    uploads: StoredUploads
    accounts: StoredAccounts
    answers: StoredAnswers
    outbox: StoredOutbox


@asynccontextmanager
async def kept(places: Places, clock: Clock | None = None, *, alone: bool = True) -> AsyncIterator[Kept]:
    """Open what is kept. alone: as of `opened`.

    Raises StoreError, VaultError, and ValueError for a bucket without keys.
    """
    async with opened(places.database, clock, alone=alone) as database:
        vault = Vault(await _keys(places.key, database))
        records = Records(database, vault)
        pepper = await records.pepper()
        objects, directory = _objects(places)
        blobs = StoredBlobs(database, records, objects, directory=directory)
        funds = Funds(Lines(pepper))
        accounts = StoredAccounts(database, pepper, funds)
        await accounts.ensure_local()
        answers = StoredAnswers(database, records, pepper)
        yield Kept(
            database=database,
            vault=vault,
            records=records,
            pepper=pepper,
            funds=funds,
            blobs=blobs,
            jobs=StoredJobs(database, records, pepper, answers, funds),
            uploads=StoredUploads(database, records, blobs),
            accounts=accounts,
            answers=answers,
            outbox=StoredOutbox(database),
        )


async def _keys(place: Path | KeyringEntry, database: Database) -> KeySource:
    """Where the keys are; new ones only for a database that is new too, and one process's. Raises VaultError."""
    opened, made, exists = _ways(place)
    if await asyncio.to_thread(exists):
        return await asyncio.to_thread(opened)
    if database.is_postgres or await Records.any_in(database):
        what = f"{place}: there is no such file" if isinstance(place, Path) else "the keyring has no such entry"
        raise VaultError(f"{what}, and without its keys nothing that is kept can be read")
    return await asyncio.to_thread(made)


def _ways(place: Path | KeyringEntry) -> tuple[Callable[[], KeySource], Callable[[], KeySource], Callable[[], bool]]:
    """To open keys, to make them, and to ask whether they are there. Raises VaultError."""
    if isinstance(place, Path):
        return partial(KeyFile, place), partial(KeyFile.make, place), place.exists
    try:
        from proxy.jobs.keyring_keys import KeyringKeys  # noqa: PLC0415
    except ImportError as exc:
        raise VaultError(f"--jobs-keyring needs the extra `keyring`: {exc.name} is not installed") from exc
    entry = place.name
    return partial(KeyringKeys, entry), partial(KeyringKeys.make, entry), partial(KeyringKeys.exists, entry)


def _objects(places: Places) -> tuple[ObjectStore, Path | None]:
    if isinstance(places.blobs, Path):
        return local_store(places.blobs), places.blobs
    return s3_store(places.blobs, places.environ), None


class JobsObserver(WorkerObserver, Protocol):
    """Who counts what happens to jobs."""

    def swept(self, counts: Mapping[str, int]) -> None: ...

    def queue(self, state: QueueState) -> None: ...


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What must go on, for jobs to be done."""

    kept: Kept
    means: Means
    observer: JobsObserver
    _: KW_ONLY
    pace: Pace
    periods: Periods
    lease_ms: int

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What must run for ever."""
        nap, database = self.pace.nap, self.kept.database
        kept = self.kept
        sweeper = Sweeper(database, kept.records, kept.blobs, kept.answers, self.periods, funds=kept.funds)

        async def sweep() -> None:
            self.observer.swept(await sweeper.sweep())

        async def look() -> None:
            self.observer.queue(await sweeper.state())

        work = [
            self._jobs(),
            _for_ever(sweep, SWEEP_S, self.observer, nap),
            _for_ever(look, STATE_S, self.observer, nap),
        ]
        if self.kept.vault.watchable:
            work.append(watch(self.kept.vault.changed, lambda _: None, nap))
        return [*work, database.listen()] if database.is_postgres else work

    async def _jobs(self) -> None:
        kept = self.kept
        queue = Queue(kept.database, kept.records, kept.funds, secrets.token_hex(8), lease_ms=self.lease_ms)
        if recovered := await queue.recover():
            _log.info("jobs_recovered", jobs=recovered)
        await Worker(queue, self.kept.database.notices, self.means, self.observer, self.pace).run()


async def _for_ever(
    step: Callable[[], Awaitable[None]],
    period_s: float,
    observer: JobsObserver,
    nap: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    while True:
        try:
            await step()
        except (StoreError, VaultError) as exc:
            observer.store_failed()
            _log.warning("job_upkeep_failed", error=str(exc))
        await nap(period_s)
