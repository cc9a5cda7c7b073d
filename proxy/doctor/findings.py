"""What can an examination find? One line for each thing that was looked at, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from core.program.run import ExitCode


class Level(StrEnum):
    """How a thing is. What was not looked at is never shown as if it were in order."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. cure: what to do, unless all is well. code: what the program ends with, if this failed."""

    subject: str
    level: Level
    detail: str
    cure: str = ""
    code: ExitCode = ExitCode.INTERNAL

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "code"}


def ok(subject: str, detail: str) -> Finding:
    return Finding(subject, Level.OK, detail)


def warn(subject: str, detail: str, cure: str) -> Finding:
    return Finding(subject, Level.WARN, detail, cure)


def fail(subject: str, detail: str, cure: str, code: ExitCode = ExitCode.INTERNAL) -> Finding:
    return Finding(subject, Level.FAIL, detail, cure, code)


def skip(subject: str, detail: str, cure: str = "") -> Finding:
    return Finding(subject, Level.SKIP, detail, cure)


def exit_code(findings: Iterable[Finding]) -> ExitCode:
    """Of the first thing that failed: what stands behind it may only have followed from it."""
    return next((finding.code for finding in findings if finding.level is Level.FAIL), ExitCode.ACCEPTED)
