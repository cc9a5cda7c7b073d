"""A program that keeps its memory private leaves none of it behind when it crashes, and shows none meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

CANARY = "private-canary-4711"
HOLDS = f"import os, sys\nheld = bytearray(b'{CANARY}')\n"
PRIVATE = "from core.program.memory import keep_memory_private\nkeep_memory_private()\n"
KEEPS = "from core.program.memory import keep_freed_memory\nkeep_freed_memory()\n"
FAULTS = """
import resource
for number in range(4):
    recording = [bytes([1]) * 262_144 for _ in range(100)]
    del recording
    first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt if number == 0 else first
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)
"""
LIMITS = "print([line for line in open('/proc/self/limits') if 'core' in line][0].split()[4:6])\n"
DUMPABLE = "from core.program.memory import prctl\nimport ctypes\nprint(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"


def run(source: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """A program in `directory` that may dump as much as it likes."""
    command = ["sh", "-c", 'ulimit -c unlimited && exec "$@"', "sh", sys.executable, "-c", source]
    environment = {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environment, check=False)


def test_no_core_dump_is_written(tmp_path: Path) -> None:
    careless, private = tmp_path / "careless", tmp_path / "private"
    for directory in (careless, private):
        directory.mkdir()
    run(HOLDS + "os.abort()", careless)
    if not [dump for dump in careless.iterdir() if CANARY.encode() in dump.read_bytes()]:
        pytest.skip("this system writes no core dump where it can be found")
    run(HOLDS + PRIVATE + "os.abort()", private)
    assert list(private.iterdir()) == []


def test_the_limit_is_nothing_for_good_and_dumps_are_forbidden(tmp_path: Path) -> None:
    assert run(LIMITS + DUMPABLE, tmp_path).stdout.splitlines() == ["['unlimited', 'unlimited']", "1"]
    assert run(PRIVATE + LIMITS + DUMPABLE, tmp_path).stdout.splitlines() == ["['0', '0']", "0"]


def test_a_system_without_prctl_has_the_limit_all_the_same(tmp_path: Path) -> None:
    without = "import ctypes\nclass Bare:\n    def __init__(self, *_, **__): ...\nctypes.CDLL = Bare\n"
    assert run(without + PRIVATE + LIMITS, tmp_path).stdout == "['0', '0']\n"


def test_a_call_that_the_kernel_refuses_raises(tmp_path: Path) -> None:
    refused = run("from core.program.memory import prctl\nprctl(-1)", tmp_path)
    assert "OSError: [Errno 22]" in refused.stderr


def test_memory_that_was_freed_is_there_for_the_next_recording(tmp_path: Path) -> None:
    careless, keeps = (int(run(first + FAULTS, tmp_path).stdout) for first in ("", KEEPS))
    assert careless > 5_000  # a recording is 6,400 pages
    assert keeps < careless / 10
