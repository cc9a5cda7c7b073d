"""The command with which anyone sees the verifier refuse: `sottovoce-attest selftest`.

Exit codes: 0 every good sample is accepted and every tampered one refused by the checks that should, 1 otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from attestation.cli.verdict import STYLES, visible
from attestation.errors import EvidenceError, PolicyError
from attestation.selftest import Outcome, run, shipped_suite
from attestation.types import CheckStatus
from core.program.run import ExitCode

BAD = STYLES[CheckStatus.FAIL]
GOOD = STYLES[CheckStatus.PASS]

_NAME_COLUMNS = 56


def selftest_command(
    *, json_output: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON object.")] = False
) -> None:
    """Show that good evidence is accepted, and which check refuses what was tampered with. Needs no network.

    The evidence is made for this, under roots that are believed for this only. What judges it is the code that judges
    engines.
    """
    try:
        outcomes = tuple(run(shipped_suite()))
    except (EvidenceError, PolicyError) as exc:
        Console(stderr=True, highlight=False).print(Text(visible(str(exc)), BAD))
        raise typer.Exit(ExitCode.INTERNAL) from None
    if json_output:
        typer.echo(json.dumps(as_json(outcomes)))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for line in (*_lines(outcomes), _conclusion(outcomes)):
            console.print(line)
    raise typer.Exit(ExitCode.ACCEPTED if _passed(outcomes) else ExitCode.INTERNAL)


def as_json(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """The machine form; every member is always there. `expected` names nothing for what must be accepted."""
    return {
        "version": 1,
        "passed": _passed(outcomes),
        "outcomes": [
            {
                "sample": outcome.sample,
                "name": outcome.name,
                "verdict": _verdict(outcome),
                "as_expected": outcome.as_expected,
                "expected": list(outcome.expected),
                "refused_by": [{"name": check.name, "detail": check.detail} for check in outcome.refusals],
            }
            for outcome in outcomes
        ],
    }


def _passed(outcomes: Sequence[Outcome]) -> bool:
    return all(outcome.as_expected for outcome in outcomes)


def _verdict(outcome: Outcome) -> str:
    return "refused" if outcome.refusals else "accepted"


def _lines(outcomes: Sequence[Outcome]) -> Iterator[Text]:
    for outcome in outcomes:
        name = f"  {outcome.name}" if outcome.expected else outcome.name
        line = f"{_verdict(outcome):<8}  {name:<{_NAME_COLUMNS}}  {visible(_told(outcome))}"
        if not outcome.as_expected:
            should = f"refused by {', '.join(outcome.expected)}" if outcome.expected else "accepted"
            yield Text(f"WRONG: {line}; it should be {should}", BAD)
        else:
            yield Text(line, "" if outcome.expected else GOOD)


def _told(outcome: Outcome) -> str:
    if outcome.refusals:
        return "; ".join(f"{check.name}: {check.detail}" for check in outcome.refusals)
    made = sum(check.status is CheckStatus.PASS for check in outcome.checks)
    return f"{made} checks passed, {len(outcome.checks) - made} that the policy does not ask for were skipped"


def _conclusion(outcomes: Sequence[Outcome]) -> Text:
    cases = sum(bool(outcome.expected) for outcome in outcomes)
    total = f"{len(outcomes) - cases} good machines, {cases} tampered ones"
    if wrong := sum(not outcome.as_expected for outcome in outcomes):
        return Text(f"FAILED: of {total}, {wrong} were not judged as they should be", BAD)
    return Text(f"PASSED: {total}, each judged as it should be", GOOD)
