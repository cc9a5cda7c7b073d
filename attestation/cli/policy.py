"""The commands of those who write and sign policies, and of those who read them: `sottovoce-attest policy`.

Exit codes: 0 the policy may be used, 10 it is refused, 2 a file that is missing or cannot be written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from attestation.errors import PolicyError
from attestation.evidence import KINDS
from attestation.policy import Policy, parse_policy, read_policy_file
from attestation.release.load import check_policy, refuse_unreleasable
from attestation.release.signature import SEED_BYTES, PolicyKey, parse_policy_key, signature_path
from attestation.release.trust import TrustOptions
from core.program import files as state
from core.program.commands import settings_command
from core.program.run import ExitCode

app = typer.Typer(help="Sign policies, and read what they ask for.", no_args_is_help=True)

ALARM = "bold red"

PolicyFile = Annotated[Path, typer.Argument(metavar="POLICY", exists=True, dir_okay=False, help="A TOML file.")]


@app.command()
def keygen(file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the secret key goes.")]) -> None:
    """Make a key to sign policies with, and print its public half, which --policy-signer takes."""
    key = PolicyKey(os.urandom(SEED_BYTES))
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w") as opened:
            opened.write(key.encode())
    except OSError as exc:
        raise typer.BadParameter(f"{file}: {exc.strerror}", param_hint="FILE") from None
    typer.echo(key.signer)


@app.command()
def sign(
    policy: PolicyFile,
    *,
    key: Annotated[Path, typer.Option(metavar="FILE", help="The secret key, as `policy keygen` made it.")],
) -> None:
    """Sign a policy: writes POLICY.sig, which belongs beside it."""
    signing_key = _read_key(key)
    with _refusals_told():
        data = read_policy_file(policy)
        refuse_unreleasable(parse_policy(data), now=datetime.now(UTC))
    try:
        state.replace(signature_path(policy), signing_key.sign(data), mode=0o644)
    except OSError as exc:
        raise typer.BadParameter(f"{signature_path(policy)}: {exc.strerror}", param_hint="POLICY") from None
    typer.echo(f"signed by {signing_key.signer}")


@app.command()
@settings_command(TrustOptions, argument="policy")
def check(settings: TrustOptions) -> None:
    """Say what a policy asks for, and whether it would be used. Nothing is remembered of it."""
    if not settings.policy.is_file():
        raise typer.BadParameter(f"{settings.policy}: there is no such file", param_hint="POLICY")
    trust = settings.policy_trust
    with _refusals_told():
        checked = check_policy(settings.policy, trust, now=datetime.now(UTC))
    console = Console(highlight=False, soft_wrap=True)
    for line in _lines(checked, pins_signer=trust.pins_signer):
        console.print(line)


def _read_key(path: Path) -> PolicyKey:
    try:
        return parse_policy_key(path.read_text("ascii"))
    except OSError as exc:
        raise typer.BadParameter(f"{path}: {exc.strerror}", param_hint="--key") from None
    except ValueError:
        raise typer.BadParameter(f"{path}: not a key that signs policies", param_hint="--key") from None


@contextmanager
def _refusals_told() -> Iterator[None]:
    try:
        yield
    except PolicyError as exc:
        Console(stderr=True, highlight=False, soft_wrap=True).print(Text(f"REFUSED: {exc}", ALARM))
        raise typer.Exit(ExitCode.REFUSED) from None


def _lines(policy: Policy, *, pins_signer: bool) -> Iterator[Text]:
    if policy.is_insecure:
        yield Text("INSECURE policy: it accepts evidence that anyone can make.", ALARM)
    for kind, fingerprints in policy.insecure_roots.named.items() if policy.insecure_roots else ():
        yield Text(f"INSECURE ROOTS for {kind}, in place of the vendor's: {', '.join(sorted(fingerprints))}", ALARM)
    yield Text(f"{'sha256':<40} {policy.digest}")
    yield Text(f"{'signer':<40} {'as pinned' if pins_signer else 'none is asked for'}")
    if policy.release is not None:
        yield Text(f"{'version':<40} {policy.release.version}")
        yield Text(f"{'expires':<40} {policy.release.expires:%Y-%m-%dT%H:%M:%SZ}")
    tables: dict[str, object] = {kind: policy.machine.get(kind) for kind in KINDS}
    tables |= {"gpu": policy.gpu, "statement": policy.statement, "models": policy.models}
    for table, rules in tables.items():
        for name, value in _asked(table, rules):
            yield Text(f"{name:<40} {value}")


def _asked(name: str, rule: object) -> Iterator[tuple[str, str]]:
    """Every rule below a table, with its key in the file; what the file leaves out is there with its default."""
    if is_dataclass(rule):
        for field in fields(rule):
            yield from _asked(f"{name}.{field.name}", getattr(rule, field.name))
    elif isinstance(rule, tuple) and rule and is_dataclass(rule[0]):
        for number, item in enumerate(rule):
            yield from _asked(f"{name}.{number}", item)
    else:
        yield name, _told(rule)


def _told(rule: object) -> str:
    if rule is None:
        return "not asked"
    if isinstance(rule, bool):
        return "yes" if rule else "no"
    return ", ".join(map(str, rule)) or "none" if isinstance(rule, tuple) else str(rule)
