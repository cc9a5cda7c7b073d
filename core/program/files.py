"""How does a program keep what it must not forget, and how does it notice what others have changed?

Files of the user's data directory, readable for their owner alone. Whoever changes one holds an exclusive lock; a file
that is replaced is written whole under another name, flushed, and renamed, and the directory is flushed too. So a
reader sees the old content or the new, and what a caller was told is kept is on the disk.

Files of other people, a policy say, are looked at now and then (`Watched`). New ones that cannot be used leave in force
what was read last.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Generic, TypeVar

import platformdirs

from core.errors import StateError

WATCH_PERIOD_S: Final = 10.0
"""How long a change may go unnoticed."""

T = TypeVar("T")

_Stamp = tuple[tuple[int, int, int, int] | None, ...]


def state_directory() -> Path:
    """Where this user's versions of policies and log of identities are kept unless told otherwise."""
    return platformdirs.user_data_path("sottovoce", appauthor=False)


def cache_directory() -> Path:
    """Where this user's collateral is cached unless told otherwise."""
    return platformdirs.user_cache_path("sottovoce", appauthor=False) / "collateral"


def configuration_directory() -> Path:
    """Where this user's keys are kept unless told otherwise: not beside what they open."""
    return platformdirs.user_config_path("sottovoce", appauthor=False)


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the exclusive lock of a file and give its descriptor, for reading and appending.

    A missing file is made, and its directory too. Raises StateError, also in place of an OSError of the `with` block.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)  # ends the lock
    except OSError as exc:
        raise StateError(f"{path}: {exc.strerror}") from exc


def read_all(handle: int, *, max_bytes: int) -> bytes:
    """A whole file, or its first `max_bytes` and one more. Raises OSError."""
    with os.fdopen(os.dup(handle), "rb") as file:
        file.seek(0)
        return file.read(max_bytes + 1)


def append(handle: int, data: bytes, *, directory: Path) -> None:
    """Add to the end of a file and flush it. Raises OSError; then a part of `data` may be there."""
    is_new = os.fstat(handle).st_size == 0
    if os.write(handle, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(handle)
    if is_new:
        _flush_directory(directory)


def replace(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put `data` in place of a file at once, readable for its owner alone unless told otherwise. Raises OSError."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _flush_directory(path.parent)


def _flush_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Watched(Generic[T]):
    """What was read from files, and is read again when they change.

    value: what was read last, of all that could be used.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        load: Callable[[T | None], T],
        *,
        faults: tuple[type[Exception], ...],
        tell: Callable[[Exception], None],
    ) -> None:
        """Raises what `load` raises.

        load: reads the files; it is given what was read before, and gives that back where nothing has changed.
        faults: what it raises for files that cannot be used. tell: reports such a fault.
        """
        self._paths = tuple(paths)
        self._load = load
        self._faults = faults
        self._tell = tell
        self._seen = self._told = self._stamp()  # before reading: what changes meanwhile is a change
        self.value = load(None)

    def changed(self) -> T | None:
        """The new value, if the files changed and can be used.

        What cannot be used is told once, and tried again each time: a full disk or a wrong clock passes.
        """
        stamp, before = self._stamp(), self.value
        if stamp == self._seen:
            return None
        try:
            self.value = self._load(before)
        except self._faults as exc:
            if stamp != self._told:
                self._tell(exc)
            self._told = stamp
            return None
        self._seen = stamp
        return self.value if self.value is not before else None

    def _stamp(self) -> _Stamp:
        return tuple(map(_stamp, self._paths))


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    """Changes when a file, or the symbolic link to it, is rewritten, replaced, or made readable; None without one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


async def watch(
    changed: Callable[[], T | None],
    act: Callable[[T], None],
    nap: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Call `act` with every new value, for ever. changed: as that of `Watched`; it reads in a thread."""
    while True:
        await nap(WATCH_PERIOD_S)
        if (value := await asyncio.to_thread(changed)) is not None:
            act(value)
