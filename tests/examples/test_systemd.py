"""The units of systemd: how little they leave a program, and that it is enough for it.

Whether a unit starts at all shows only under systemd as PID 1. What can be seen without: that systemd reads it, how it
judges it, and that every system call and every kind of socket that a program uses from its start to its end is one
that its unit allows.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.e2e.processes import POLICY, engine, program, until_ready
from tests.places import ROOT
from tests.requirements import need_program

PLACE = ROOT / "examples" / "systemd"
UNITS = sorted(PLACE.glob("*.service"))
MOST_EXPOSED = 30
"""Tenths: 3.0."""


class Unit:
    """A unit's file. Assignments to a name that is given several times are one behind the other."""

    def __init__(self, path: Path) -> None:
        self.lines = re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE)

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.lines if key == name]

    @property
    def allowed_calls(self) -> set[str]:
        """As SystemCallFilter= says: what a line lists is added, or taken away after a `~`."""
        allowed: set[str] = set()
        for value in self.values("SystemCallFilter"):
            calls = {call for group in value.removeprefix("~").split() for call in calls_of(group)}
            allowed = allowed - calls if value.startswith("~") else allowed | calls
        return allowed


@cache
def calls_of(group: str) -> frozenset[str]:
    """The system calls of a group such as @system-service, and of those in it."""
    listed = subprocess.run(["systemd-analyze", "syscall-filter", group], check=True, capture_output=True, text=True)
    names = [
        line.strip() for line in listed.stdout.splitlines()[1:] if line.strip() and not line.strip().startswith("#")
    ]
    return frozenset(call for name in names for call in (calls_of(name) if name.startswith("@") else [name]))


@pytest.fixture(autouse=True)
def _systemd() -> None:
    need_program("systemd-analyze")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_leaves_a_program_little(path: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(path)]
    judged = subprocess.run(command, check=False, capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout


def test_a_unit_that_leaves_a_program_more_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "bare.service").write_text("[Service]\nExecStart=/bin/true\n")
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}"]
    judged = subprocess.run([*command, str(tmp_path / "bare.service")], check=False, capture_output=True)
    assert judged.returncode != 0


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_reads_every_line_of_a_unit(path: Path) -> None:
    told = subprocess.run(["systemd-analyze", "verify", str(path)], check=False, capture_output=True, text=True).stderr
    faults = [line for line in told.splitlines() if path.name in line and "is not executable" not in line]
    assert faults == []


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_what_no_new_start_would_mend_is_not_started_again(path: Path) -> None:
    unit = Unit(path)
    assert unit.values("Type") == ["notify"]
    assert unit.values("RestartPreventExitStatus") == ["2 10"]


TRACED = ("strace", "-f", "-qq", "-o")


def traced(trace: Path) -> tuple[str, ...]:
    need_program("strace")
    return (*TRACED, str(trace))


def fits(unit: Unit, trace: str) -> None:
    """That a unit would have let a program do what it did."""
    used = set(re.findall(r"^\d+ +(\w+)\(", trace, re.MULTILINE)) | set(re.findall(r"<\.\.\. (\w+) resumed>", trace))
    assert len(used) > 30
    assert used - unit.allowed_calls == set()
    families = set(re.findall(r"socket(?:pair)?\((AF_\w+)", trace))
    assert families <= {family for value in unit.values("RestrictAddressFamilies") for family in value.split()}
    if unit.values("MemoryDenyWriteExecute") == ["yes"]:
        assert not re.search(r"mmap\([^\n]*PROT_WRITE\|PROT_EXEC|mprotect\([^\n]*PROT_EXEC", trace)


async def test_what_a_proxy_does_is_what_its_units_allow(tmp_path: Path) -> None:
    trace, notified = tmp_path / "trace", tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(notified))
        manager.settimeout(60)
        arguments = ("proxy", "--engine", "http://localhost:9", "--policy", str(POLICY))
        prefix = traced(trace)
        variables = {"NOTIFY_SOCKET": str(notified), "WATCHDOG_USEC": "3600000000"}
        async with program("sottovoce", arguments, tmp_path / "log", prefix=prefix, variables=variables) as running:
            heard = [manager.recv(100), manager.recv(100)]
            _stop(running.process.pid)
            assert await running.process.wait() == 0
            heard.append(manager.recv(100))
    assert heard == [b"WATCHDOG=1", b"READY=1", b"STOPPING=1"]
    for name in ("sottovoce.service", "sottovoce-user.service"):
        fits(Unit(PLACE / name), trace.read_text(errors="replace"))


@pytest.mark.slow
async def test_what_an_engine_does_is_what_its_unit_allows(tmp_path: Path) -> None:
    trace, notified = tmp_path / "trace", tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(notified))
        manager.setblocking(False)
        variables = {"NOTIFY_SOCKET": str(notified)}
        async with engine(tmp_path / "log", prefix=traced(trace), variables=variables, wait=False) as running:
            await until_ready(running, 300)
            assert manager.recv(100) == b"READY=1"
            _stop(running.process.pid)
            assert await running.process.wait() == 0
            assert manager.recv(100) == b"STOPPING=1"
    fits(Unit(PLACE / "sottovoce-engine.service"), trace.read_text(errors="replace"))


def _stop(tracer: int) -> None:
    """Tell the program that a tracer runs to end."""
    (child,) = Path(f"/proc/{tracer}/task/{tracer}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
