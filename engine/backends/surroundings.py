"""What of the machine does a process beside the engine see?

What the image decides, and which GPUs there are. The engine's own environment comes from whoever started it, who is not
trusted: a variable or path of theirs that names code to load is passed on to nobody.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from pathlib import Path

from engine.errors import BackendError

MEMORY_DIRECTORY = Path("/dev/shm")  # noqa: S108  a directory in memory is the point

VLLM_PROGRAMS = (Path(sys.executable).with_name("vllm"), Path("/opt/vllm/bin/vllm"))
"""Where an image has vLLM: in our own environment, or in one of its own."""

PASSED_ON = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES")
"""All that is passed on; it names no code."""

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


def memory_directory() -> Path:
    """A directory in memory, so that what was meant to be temporary is on no disk. Raises BackendError."""
    if not MEMORY_DIRECTORY.is_dir():
        raise BackendError(f"there is no directory in memory ({MEMORY_DIRECTORY})")
    return MEMORY_DIRECTORY


def make_private(prefix: str) -> Path:
    """Make a directory in memory that only we can enter. Raises BackendError."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=memory_directory()))


def find_vllm(given: Path | None) -> Path:
    """The `vllm` executable: the one that is given, else the image's. Raises BackendError where there is none."""
    programs = VLLM_PROGRAMS if given is None else (given,)
    for program in programs:
        if os.access(program, os.X_OK) and program.is_file():
            return program.absolute()
    raise BackendError(f"there is no such vllm program: {', '.join(map(str, programs))}")
