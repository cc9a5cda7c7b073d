"""Which files was a model loaded from? One digest for a directory, the same wherever the directory lies.

::

    digest = SHA-256( for each file, sorted by its path:  path in UTF-8 || 00 || SHA-256(content) )

Paths are relative, with `/`. A link to a file counts as that file, as model caches have it. Whatever else a loader
could follow or read unseen (a link to a directory, a device, a dangling link) is refused. `sottovoce-engine digest
PATH` prints what a policy's `weights_sha256` must name; `engine.backends.weights` sees to it that what is loaded is
what was digested.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from io import FileIO
from pathlib import Path


def weights_digest(directory: Path) -> str:
    """SHA-256 of a model directory, 64 hexadecimal digits. Raises OSError, also for what is no file or no directory."""
    digests = {}
    for name, path in files_of(directory).items():
        with open_file(path) as file:
            digests[name] = content_digest(file)
    return digest_of(digests)


def digest_of(contents: Mapping[str, bytes]) -> str:
    """The digest of a model whose files have these names and digests."""
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(name.encode() + b"\x00" + content)
    return digest.hexdigest()


def content_digest(file: FileIO) -> bytes:
    """SHA-256 of a whole file, wherever it has been read to."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").digest()


def files_of(directory: Path) -> dict[str, Path]:
    """Each file of a model directory under its name in the digest. Raises OSError, likewise."""
    entries = [path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()]
    if not entries:
        raise FileNotFoundError(f"{directory} holds no files")
    for path in entries:
        if not path.is_file():
            raise OSError(f"{path} is not a file")
    return {path.relative_to(directory).as_posix(): path for path in entries}


def open_file(path: Path) -> FileIO:
    """Open a file to read it, without a buffer. Raises OSError, also for what has become something else meanwhile."""
    file = os.fdopen(
        os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0
    )  # to open a pipe could take for ever
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is not a file")
    return file
