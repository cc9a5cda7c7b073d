"""A real vLLM to test with: named by `SOTTOVOCE_VLLM_PROGRAM`, or made by `make vllm`.

It takes a minute to start, so that one serves the whole run (`vllm_engine`, known to all tests through
`tests/conftest.py`): behind the engine that is shipped, for tests of the whole path, and on its socket for tests of the
backend alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.processes import Program, program, unprivileged, until_ready
from tests.places import ROOT
from tests.requirements import need

CHECKPOINT = ROOT / "tests/checkpoints/nano/hf"
USE_VLLM = frozenset(
    {"tests/e2e/test_memory.py", "tests/e2e/test_vllm.py", "tests/engine/backends/vllm/test_served.py"}
)
"""Whose tests share it, and so have to run in one process."""
LIMIT_S = 1200
"""For a test that starts vLLM, which takes a minute or two on an idle machine and far longer on a busy one."""


def find_vllm() -> Path:
    """The `vllm` program; skips the test where there is none, or fails it where all must run."""
    found = Path(os.environ.get("SOTTOVOCE_VLLM_PROGRAM") or ROOT / ".venv-vllm/bin/vllm")
    need(found.exists(), "vLLM, which `make vllm` installs")
    need(CHECKPOINT.exists(), "the small checkpoint")
    return found


@dataclass(frozen=True, slots=True)
class VllmEngine:
    """The shipped engine with a vLLM of its own.

    checkpoint: where its model came from. printed: all that vLLM has printed, which the engine throws away.
    """

    program: Program
    checkpoint: Path
    printed: Path

    def server(self) -> Server:
        """The server that runs now; it may be another than a while ago."""
        return server_of(self.program)


@dataclass(frozen=True, slots=True)
class Server:
    """A vLLM server. pid: of its API server, and of its process group."""

    pid: int
    socket: Path

    @property
    def private(self) -> Path:
        """The directory that only its owner can enter."""
        return self.socket.parent


def server_of(engine: Program) -> Server:
    """The only server of an engine."""
    pid = engine.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        for argument in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
            if argument.startswith(b"--uds="):
                return Server(int(child), Path(os.fsdecode(argument.removeprefix(b"--uds="))))
    raise AssertionError("the engine has no vLLM now")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    directory = tmp_path_factory.mktemp("vllm")
    printed = directory / "printed"
    vllm = telling(find_vllm(), directory, printed)
    checkpoint = shutil.copytree(CHECKPOINT, directory / "nano")
    model = ("--model", f"nano={checkpoint}", "--backend", "vllm", "--allow-vllm-program", str(vllm))
    arguments = ("serve", "--insecure-evidence", "--sampling-fields", *model)
    # Without root's privileges, so that a test can find out who may look into it.
    async with program("sottovoce-engine", arguments, directory / "engine.log", prefix=unprivileged()) as running:
        try:
            await until_ready(running, LIMIT_S)
        except (AssertionError, TimeoutError):
            said = printed.read_bytes() if printed.exists() else b""
            pytest.fail((running.printed() + said).decode(errors="replace")[-10_000:])
        yield VllmEngine(running, checkpoint, printed)
        await running.stop()  # in good order, so that nothing stays behind in memory


def telling(vllm: Path, directory: Path, printed: Path) -> Path:
    """A program that is vLLM and also writes down what it prints, with the Python of its environment beside it."""
    real, python, log = (shlex.quote(str(path.absolute())) for path in (vllm, vllm.with_name("python"), printed))
    scripts = {
        "vllm": f'exec > >(exec tee -a {log}) 2>&1\nexec {real} "$@"\n',
        "python": f'exec {python} "$@"\n',
    }
    for name, script in scripts.items():
        (directory / name).write_text(f"#!/bin/bash\n{script}")
        (directory / name).chmod(0o755)
    return directory / "vllm"
