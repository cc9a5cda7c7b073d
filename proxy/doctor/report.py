"""How are findings told? Lines for a person, as they come; or one JSON object for a program."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from rich.console import Console
from rich.text import Text

from core.program.run import ExitCode
from proxy.client.transcribe import printable
from proxy.doctor.findings import Finding, Level, exit_code

_STYLES = {Level.OK: "green", Level.WARN: "bold yellow", Level.FAIL: "bold red", Level.SKIP: "dim yellow"}


async def tell(findings: AsyncIterator[Finding], *, as_json: bool, console: Console | None = None) -> ExitCode:
    """Print the findings on standard output; what the program ends with."""
    console = console or Console(highlight=False, soft_wrap=True)
    told: list[Finding] = []
    async for finding in findings:
        told.append(finding)
        if not as_json:
            for line in _lines(finding):
                console.print(line)
    code = exit_code(told)
    if as_json:
        report = {"version": 1, "exit_code": code, "findings": [finding.as_json() for finding in told]}
        console.print(json.dumps(report), markup=False)
    return code


def _lines(finding: Finding) -> list[Text]:
    style = _STYLES[finding.level]
    told = f"{finding.level:<4}  {finding.subject:<24}  {printable(finding.detail)}"
    return [Text(told, style), *([Text(f"      {'':<24}  -> {finding.cure}")] if finding.cure else [])]
