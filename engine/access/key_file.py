"""How does the file of API keys change, under the engine's eyes and under those of two people at once?

A writer holds a lock beside the file, writes a new file and renames it into place, so that a reader, who takes no lock,
sees the old one or the new one whole. The engine looks at the file's stamp now and then, and keeps what it has when the
new file cannot be used.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from core.program.files import Watched
from engine.access.api_keys import MAX_FILE_BYTES, ApiKeys, encode_keys, parse_keys
from engine.errors import KeyFileError

_log = structlog.get_logger(__name__)


def read_keys(path: Path) -> ApiKeys:
    """The keys of a file. Raises KeyFileError."""
    try:
        with path.open("rb") as file:
            return parse_keys(file.read(MAX_FILE_BYTES + 1))
    except OSError as exc:
        raise KeyFileError(exc.strerror or "cannot be read") from exc


class KeyFile:
    """A file of keys that is read again when it changes. Raises KeyFileError when it cannot be used at the start."""

    def __init__(self, path: Path) -> None:
        self._watched = Watched((path,), lambda _: read_keys(path), faults=(KeyFileError,), tell=_not_reloaded)

    @property
    def keys(self) -> ApiKeys:
        return self._watched.value

    def changed(self) -> ApiKeys | None:
        """The new keys, if the file changed and can be used; why it cannot is logged once for each version of it."""
        keys = self._watched.changed()
        if keys is not None:
            _log.info("api_keys_reloaded", keys=len(keys.keys))
        return keys


def _not_reloaded(exc: Exception) -> None:
    _log.error("api_keys_not_reloaded", detail=str(exc))


def edit_keys(path: Path, change: Callable[[ApiKeys], ApiKeys], *, create: bool = False) -> None:
    """Replace the keys of a file by what `change` makes of them; nobody else edits it meanwhile.

    create: whether a file that does not exist is one without keys. Raises KeyFileError, as does `change`.
    """
    try:
        target = path.resolve()  # of a symbolic link the file is replaced, and not the link
        with _locked(target):
            before = ApiKeys() if create and not target.exists() else read_keys(target)
            after = encode_keys(change(before))
            parse_keys(after)  # what could not be read again, a file too long say, must not replace what can
            _write(target, after)
    except (OSError, RuntimeError) as exc:  # RuntimeError: a loop of links, before Python 3.13
        raise KeyFileError(getattr(exc, "strerror", None) or "cannot be written") from exc


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # A file of its own, which stays: a lock on the file itself would be lost when that is replaced.
    handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # ends the lock


def _write(path: Path, data: bytes) -> None:
    """Put `data` in place of a file at once, readable for its owner alone."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            _keep_owner(path, handle)
            os.fsync(handle)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _keep_owner(path: Path, handle: int) -> None:
    """Leave the file to whoever owned it: root may edit what the engine's own user has to read."""
    with suppress(FileNotFoundError, PermissionError):
        status = path.stat()
        os.fchown(handle, status.st_uid, status.st_gid)
