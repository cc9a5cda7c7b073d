"""How does the relying party keep what it must not forget, through a crash and beside a second process?

Files of the user's data directory, readable for their owner alone. Whoever changes one holds an exclusive lock; a file
that is replaced is written whole under another name, flushed, and renamed, and the directory is flushed too. So a
reader sees the old content or the new, and what a caller was told is kept is on the disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from attestation.errors import AttestationError


class StateError(AttestationError):
    """What must be remembered cannot be kept or read: no permission, no space, no such place."""


def state_directory() -> Path:
    """Where this user's versions of policies and log of identities are kept unless told otherwise."""
    return platformdirs.user_data_path("sottovoce", appauthor=False)


def cache_directory() -> Path:
    """Where this user's collateral is cached unless told otherwise."""
    return platformdirs.user_cache_path("sottovoce", appauthor=False) / "collateral"


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
