"""Which files was a model loaded from? One digest for a directory, the same wherever the directory lies.

::

    digest = SHA-256( for each file, sorted by its path:  path in UTF-8 || 00 || SHA-256(content) )

Paths are relative, with `/`. A link to a file counts as that file, as model caches have it. Whatever else a loader
could follow or read unseen (a link to a directory, a device, a dangling link) is refused. `sottovoce-engine digest
PATH` prints what a policy's `weights_sha256` must name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def weights_digest(directory: Path) -> str:
    """SHA-256 of a model directory, 64 hexadecimal digits. Raises OSError, also for what is no file or no directory."""
    digest = hashlib.sha256()
    for name, path in _files(directory):
        with path.open("rb") as file:
            digest.update(name.encode() + b"\x00" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _files(directory: Path) -> list[tuple[str, Path]]:
    entries = [path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()]
    if not entries:
        raise FileNotFoundError(f"{directory} holds no files")
    for path in entries:
        if not path.is_file():
            raise OSError(f"{path} is not a file")
    return sorted((path.relative_to(directory).as_posix(), path) for path in entries)
