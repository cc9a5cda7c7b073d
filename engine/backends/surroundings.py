"""What of the machine does a process beside the engine see?

What the image decides, and which GPUs there are. The engine's own environment comes from whoever started it, who is not
trusted: a variable or path of theirs that names code to load is passed on to nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from core.errors import BackendError

MEMORY_DIRECTORY = Path("/dev/shm")  # noqa: S108  a directory in memory is the point
PREFIX = "sottovoce-engine-"
"""How everything begins that we put there."""
NEW_S = 60.0
"""So young a directory may belong to somebody who is about to lock it."""

VLLM_PROGRAMS = (Path(sys.executable).with_name("vllm"), Path("/opt/vllm/bin/vllm"))
"""Where an image has vLLM: in our own environment, or in one of its own."""

PASSED_ON = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES")
"""All that is passed on; it names no code."""

PATIENT = {"OMP_WAIT_POLICY": "passive"}
"""For processes that compute on several threads: one that waits for the others leaves its core to whoever has work.

By OpenMP's default it keeps the core busy instead. On two cores with eight other processes a sentence of 3 s then took
`whisper-base` 4.1 s of processor time and 17 s in all; so, 1.1 s and 3.6 s.
"""

CUDA = Path("/usr/local/cuda")
SEARCH_PATH = f"{CUDA}/bin:/usr/local/bin:/usr/bin:/bin"
"""For programs that kernels are compiled with."""


def gpus() -> dict[str, str]:
    """The variables that say which GPUs there are."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def cuda_libraries(packages: Path | None = None) -> dict[str, str]:
    """The variable that tells CTranslate2, which has no CUDA of its own, where there is one.

    packages: where Python's packages are installed; by default, ours.
    """
    installed = (packages or Path(sysconfig.get_path("purelib"))) / "nvidia"
    found = [str(path) for path in (*sorted(installed.glob("*/lib")), CUDA / "lib64") if path.is_dir()]
    return {"LD_LIBRARY_PATH": os.pathsep.join(found)} if found else {}


class PrivateDirectory:
    """A directory in memory that only we can enter: what was meant to be temporary is on no disk.

    kind: what it is called. It is locked for as long as we live, by which `remove_leftovers` knows. Raises BackendError
    where there is no place in memory, OSError where there is no room.
    """

    def __init__(self, kind: str) -> None:
        if not MEMORY_DIRECTORY.is_dir():
            raise BackendError(f"there is no directory in memory ({MEMORY_DIRECTORY})")
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-", dir=MEMORY_DIRECTORY))
        self._lock: int | None = _locked(self.path)

    def remove(self) -> None:
        """Remove it with all that is in it; safe to call twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def remove_leftovers() -> None:
    """Remove what engines that were killed have left in memory: gigabytes of weights, which nobody else would miss."""
    for path in MEMORY_DIRECTORY.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, a living engine's, or gone meanwhile
            if path.stat().st_mtime < time.time() - NEW_S:
                lock = _locked(path)
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _locked(directory: Path) -> int:
    """Lock a directory for as long as the descriptor is open. Raises OSError where somebody else has."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def find_vllm(given: Path | None) -> Path:
    """The `vllm` executable: the one that is given, else the image's. Raises BackendError where there is none."""
    programs = VLLM_PROGRAMS if given is None else (given,)
    for program in programs:
        if os.access(program, os.X_OK) and program.is_file():
            return program.absolute()
    raise BackendError(f"there is no such vllm program: {', '.join(map(str, programs))}")
