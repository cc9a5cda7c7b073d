"""A disk that is really full: a small file system in memory, mounted for a test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.requirements import need

FILLER: Final = "filler"


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """path: of its root."""

    path: Path

    def fill(self) -> None:
        """Leave not one byte."""
        with (self.path / FILLER).open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4_096))
        left = os.statvfs(self.path)
        assert left.f_bavail == 0

    def make_room(self) -> None:
        (self.path / FILLER).unlink()

    @property
    def names(self) -> list[str]:
        return [path.name for path in self.path.iterdir() if path.name != FILLER]


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """A file system of its own at `path` while the context is open. Skips where none may be mounted."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "sottovoce-test", str(path)]
    need(os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0, "mount")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
