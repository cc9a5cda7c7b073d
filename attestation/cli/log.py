"""The commands that read the log of accepted identities: `sottovoce-attest log`.

Exit codes: 0 the chain holds, 10 it is broken, cut, or lacks the hash that was asked for, 2 there is no such file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from attestation.cli.described import describe_component
from attestation.errors import EvidenceError
from attestation.log import LOG_FILE, AcceptedIdentity, LogSummary, read_log
from attestation.release.trust import StateOptions
from attestation.types import EvidenceKind
from core.program.commands import settings_command
from core.program.run import ExitCode

app = typer.Typer(help="Read the log of the machines that were trusted.", no_args_is_help=True)

ALARM = "bold red"
GOOD = "green"

File = Annotated[Path | None, typer.Argument(metavar="FILE", help="The log; this user's own unless given.")]


@app.command()
@settings_command(StateOptions)
def verify(
    settings: StateOptions,
    file: File = None,
    *,
    head: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="A record's `sha256` that was noted earlier; it must still be in the log."),
    ] = None,
) -> None:
    """Check that no record was changed, removed or put in between; print the head, to be noted elsewhere."""
    log = _read(file or settings.state_directory / LOG_FILE)
    if head is not None and head not in log.hashes:
        _fail(f"no record has the hash {head!r}: the log was cut, or written anew")
    if log.torn is not None:
        _fail(f"the last {len(log.torn)} bytes are no record: a crash cut it short, or somebody changed it")
    since = f", {len(log.hashes) - 1 - log.hashes.index(head)} since the one that was noted" if head else ""
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"The chain of {_count(len(log.records))} holds{since}.", GOOD))
    if repaired := sum(record.torn is not None for record in log.records):
        console.print(Text(f"{_count(repaired)} came after a line that a crash had cut short.", "yellow"))
    console.print(f"head {log.head}")


@app.command()
@settings_command(StateOptions)
def show(settings: StateOptions, file: File = None) -> None:
    """Show whom this user trusted: of each record what differs from the same engine's record before."""
    log = _read(file or settings.state_directory / LOG_FILE)
    console = Console(highlight=False, soft_wrap=True)
    for line in _lines(log):
        console.print(line)
    if log.torn is not None:
        _fail(f"the last {len(log.torn)} bytes are no record: a crash cut it short, or somebody changed it")


def _read(path: Path) -> LogSummary:
    try:
        return read_log(path)
    except FileNotFoundError:
        reason = "no engine was accepted here yet, or --state-dir is another; development evidence is not written down"
        raise typer.BadParameter(f"{path} is not there: {reason}", param_hint="FILE") from None
    except OSError as exc:
        raise typer.BadParameter(f"{path}: {exc.strerror}", param_hint="FILE") from None
    except EvidenceError as exc:
        _fail(str(exc))


def _fail(reason: str) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(reason, ALARM))
    raise typer.Exit(ExitCode.REFUSED)


def _count(number: int) -> str:
    return f"{number} record{'' if number == 1 else 's'}"


def _lines(log: LogSummary) -> Iterator[Text]:
    known: dict[str, Mapping[str, str]] = {}
    for record in log.records:
        engine, facts = record.identity.engine, dict(_facts(record.identity))
        before = known.get(engine, {})
        time = datetime.fromtimestamp(record.recorded_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        proven = record.identity.evidence is not EvidenceKind.INSECURE
        yield Text(f"{record.sequence:>4}  {time}  {engine}  {record.identity.evidence}", "bold" if proven else ALARM)
        for name, value in facts.items():
            if before.get(name) != value:
                yield Text(f"      {name:<22} {value}")
        for name in before.keys() - facts.keys():
            yield Text(f"      {name:<22} no longer there", "yellow")
        known[engine] = facts


def _facts(identity: AcceptedIdentity) -> Iterator[tuple[str, str]]:
    """What is recorded of an engine, by name."""
    yield "policy", identity.policy_sha256
    yield from identity.claims.items()
    for model in identity.models:
        yield f"model {model.id}", " ".join((model.weights_sha256, *(f"alias {alias}" for alias in model.aliases)))
    config = identity.config
    for component in config.components:
        yield from describe_component(component).items()
    yield "insecure options", " ".join(config.insecure_options) or "none"
    yield "evidence from", config.evidence_from
    yield "log level", config.log_level
    yield "request log", "yes" if config.request_log else "no"
    yield "API keys required", "yes" if config.api_keys_required else "no"
