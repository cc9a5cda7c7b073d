"""Which files was a model loaded from? One digest for a directory, the same wherever the directory lies.

::

    digest = SHA-256( for each file, sorted by its path:  path in UTF-8 || 00 || SHA-256(content) )

Paths are relative, with `/`. `sottovoce-engine digest PATH` prints what a policy's `weights_sha256` must name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def weights_digest(directory: Path) -> str:
    """SHA-256 of a model directory, 64 hexadecimal digits. Raises OSError."""
    files = sorted((path.relative_to(directory).as_posix(), path) for path in directory.rglob("*") if path.is_file())
    if not files:
        raise FileNotFoundError(f"{directory} holds no files")
    digest = hashlib.sha256()
    for name, path in files:
        with path.open("rb") as file:
            digest.update(name.encode() + b"\x00" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
