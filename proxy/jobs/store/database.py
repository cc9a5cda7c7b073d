"""How is the database asked? Transactions with the time that counts in them, and errors in our own words.

SQLite is one process's: a lock on a file beside it says so, and leases are counted on a clock that nobody can step.
Every transaction takes the write lock as it begins. PostgreSQL is many replicas', and its clock is everybody's.

What is deleted is overwritten in SQLite (`secure_delete`); PostgreSQL keeps it until a vacuum, and in its log.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from sqlalchemy import URL, CursorResult, Executable, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util.concurrency import await_, in_greenlet

from proxy.jobs.errors import StoreError
from proxy.jobs.ports import Clock
from proxy.jobs.store.migrations import migrate
from proxy.jobs.store.notices import CHANNEL, Notices

BUSY_TIMEOUT_MS: Final = 30_000
CONNECT_TIMEOUT_S: Final = 10.0
COMMAND_TIMEOUT_S: Final = 60.0

_PRAGMAS: Final = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "secure_delete = ON",
    f"busy_timeout = {BUSY_TIMEOUT_MS}",
)
_NOTIFY: Final = text("SELECT pg_notify(:channel, :topic)")
_NOW: Final = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)")


class SystemClock:
    """The time as it was when this was made, and what has passed since: who steps the clock does not step this."""

    def __init__(self) -> None:
        self._ahead_ms = time.time_ns() // 1_000_000 - _steady_ms()

    def now_ms(self) -> int:
        return _steady_ms() + self._ahead_ms


def _steady_ms() -> int:
    """Of a clock that goes on while the machine sleeps, and that nobody can step."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000


@dataclass(frozen=True, slots=True)
class Tx:
    """A transaction. now_ms: for what people see. lease_now_ms: for leases. topics: what is told once it holds."""

    connection: AsyncConnection
    now_ms: int
    lease_now_ms: int
    topics: set[str] = field(default_factory=set)

    def tell(self, topic: str) -> None:
        """Wake who waits for `topic`, in every replica, when this is committed."""
        self.topics.add(topic)

    async def run(self, statement: Executable) -> CursorResult[Any]:
        return cast("CursorResult[Any]", await self.connection.execute(statement))


class Database:
    """Transactions of one database; `opened` makes one."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self.engine = engine
        self._clock = clock
        self.notices = Notices()

    @property
    def is_postgres(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Tx]:
        """A transaction, which is committed unless it raises. Raises StoreError."""
        with _translated():
            async with self.engine.begin() as connection:
                tx = Tx(connection, *await self._now(connection))
                yield tx
                if self.is_postgres:
                    for topic in tx.topics:
                        await connection.execute(_NOTIFY, {"channel": CHANNEL, "topic": topic})
        for topic in tx.topics:
            self.notices.tell(topic)

    async def _now(self, connection: AsyncConnection) -> tuple[int, int]:
        if not self.is_postgres:
            return self._clock.now_ms(), _steady_ms()
        now_ms = (await connection.execute(_NOW)).scalar_one()
        return now_ms, now_ms

    async def listen(self) -> None:
        """Hear of what other replicas write, for ever."""
        from proxy.jobs.store.listening import listen  # needs PostgreSQL's driver  # noqa: PLC0415

        await listen(self.engine.url, self.notices)

    async def migrate(self) -> None:
        """Raises StoreError."""
        with _translated():
            async with self.engine.begin() as connection:
                await connection.run_sync(migrate)


@contextmanager
def _translated() -> Iterator[None]:
    """The library's sentences quote statements and their values, so only the kind of an error is told."""
    try:
        yield
    except DBAPIError as exc:
        raise StoreError(f"the database of jobs: {type(exc.orig).__name__}") from None
    except (SQLAlchemyError, OSError) as exc:
        raise StoreError(f"the database of jobs: {type(exc).__name__}") from None


@asynccontextmanager
async def opened(url: str | Path, clock: Clock | None = None, *, alone: bool = True) -> AsyncIterator[Database]:
    """The database at a URL of PostgreSQL, or in a file. Raises StoreError.

    alone: whether this process works off the jobs of the file, which only one may; a command beside it does not.
    """
    async with AsyncExitStack() as stack:
        engine = stack.enter_context(_sqlite(url, alone=alone)) if isinstance(url, Path) else _postgres(url)
        stack.push_async_callback(engine.dispose)
        database = Database(engine, clock or SystemClock())
        await database.migrate()
        yield database


def parse_url(text_of: str) -> URL:
    """A URL of a PostgreSQL database. Raises ValueError, which quotes nothing: there may be a password in it."""
    try:
        url = make_url(text_of)
    except ArgumentError:
        raise ValueError("not a URL of a database") from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError("the database must be postgresql://...")
    return url.set(drivername="postgresql+asyncpg")


def _postgres(url: str) -> AsyncEngine:
    return create_async_engine(
        parse_url(url),
        hide_parameters=True,
        pool_pre_ping=True,
        pool_timeout=CONNECT_TIMEOUT_S,
        connect_args={"timeout": CONNECT_TIMEOUT_S, "command_timeout": COMMAND_TIMEOUT_S},
    )


@contextmanager
def _sqlite(path: Path, *, alone: bool) -> Iterator[AsyncEngine]:
    _make(path)
    with _alone(path) if alone else nullcontext():
        engine = create_async_engine(
            URL.create("sqlite+aiosqlite", database=str(path)), hide_parameters=True, pool_size=4, max_overflow=0
        )
        engine.sync_engine.dialect.do_terminate = _terminate  # type: ignore[assignment,method-assign]
        event.listen(engine.sync_engine, "connect", _prepare)
        event.listen(engine.sync_engine, "begin", _begin_immediately)
        yield engine


def _terminate(connection: Any) -> None:
    """Close the connection of whoever was cancelled, whose thread ends behind what it is at.

    The dialect's own way ends the thread at once where the closing is cancelled too, and leaves a task that waits for
    an answer of it: a program that cancels that at its end never ends (wapiti-scanner/wapiti#802).
    """
    if in_greenlet():
        await_(asyncio.shield(_abandon(connection.driver_connection)))
    else:  # it is collected as garbage
        connection.terminate()


async def _abandon(connection: Any) -> None:
    """A connection with an unread result lives on behind its closing, and would keep the write lock."""
    try:
        await connection.rollback()
    finally:
        await connection.close()


def _make(path: Path) -> None:
    """A file that is there, and its owner's alone: SQLite's log and index then are too. Raises StoreError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}") from exc


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """The only process that works off the jobs of this file. Raises StoreError."""
    try:
        handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}") from exc
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StoreError(f"{path}: another process uses it; many need --jobs-database postgresql://...") from None
    else:
        yield
    finally:
        os.close(handle)


def _prepare(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediately(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
