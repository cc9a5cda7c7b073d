"""Where does a vLLM server put its files? In memory, where nobody else can enter, and for as long as it runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from engine.backends.surroundings import PrivateDirectory


@dataclass(frozen=True, slots=True)
class Directories:
    """Where one server puts things; only we can enter.

    memory: the sockets, and temporary files. caches: compiled kernels and the like, which say nothing of any clip;
    beside them, unless programs in that memory may not be run.
    """

    memory: PrivateDirectory
    caches: Path

    @classmethod
    def make(cls) -> Directories:
        """Raises BackendError where there is no place in memory, OSError where there is no room."""
        memory = PrivateDirectory("vllm")
        private = memory.path
        if os.statvfs(private).f_flag & os.ST_NOEXEC:
            caches = Path(tempfile.mkdtemp(prefix="sottovoce-vllm-"))
        else:
            caches = private / "cache"
        for path in (private / "tmp", private / "rpc", caches):
            path.mkdir(mode=0o700, exist_ok=True)
        return cls(memory, caches)

    @property
    def private(self) -> Path:
        return self.memory.path

    @property
    def socket(self) -> Path:
        return self.private / "api.sock"

    @property
    def temporary(self) -> Path:
        return self.private / "tmp"

    def remove(self) -> None:
        self.memory.remove()
        shutil.rmtree(self.caches, ignore_errors=True)
