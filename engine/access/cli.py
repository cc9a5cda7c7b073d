"""The commands that edit the file of API keys: `sottovoce-engine keys`.

A key is shown once, when it is made, alone on standard output; what is kept of it is its digest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Column, Table

from core.program.settings import ENV_PREFIX
from engine.access.api_keys import SECRET_BYTES, ApiKey, digest, key_name, parse_expiry, secret_of
from engine.access.key_file import edit_keys, read_keys
from engine.errors import KeyFileError

app = typer.Typer(help="Make, show and revoke the API keys of an engine.", no_args_is_help=True)

T = TypeVar("T")


def _parser(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A parser for typer, which would repeat what was typed: that may be a key in the wrong place."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from None

    return parsed


File = Annotated[
    Path, typer.Option("--api-keys", envvar=f"{ENV_PREFIX}API_KEYS", metavar="FILE", help="The file of API keys.")
]
Name = Annotated[str, typer.Argument(parser=_parser(key_name), metavar="NAME", help="What the key is called.")]
Count = Annotated[int | None, typer.Option(min=1, max=1_000_000_000, help="No limit unless given.")]
Places = Annotated[
    int | None, typer.Option(min=1, max=1_000_000_000, help="By default the engine's --max-requests-per-key.")
]
LivePlaces = Annotated[
    int | None, typer.Option(min=1, max=1_000_000_000, help="By default the engine's --max-live-sessions-per-key.")
]
Expiry = Annotated[
    datetime | None,
    typer.Option(
        parser=_parser(parse_expiry),
        metavar="WHEN",
        help="When it ends: a day (its start in UTC), or a time with its offset. Never unless given.",
    ),
]


@contextmanager
def _faults_told(hint: str) -> Iterator[None]:
    try:
        yield
    except KeyFileError as exc:
        raise typer.BadParameter(str(exc), param_hint=hint) from None


@app.command()
def add(
    name: Name,
    *,
    api_keys: File,
    requests_per_minute: Count = None,
    concurrent_requests: Places = None,
    audio_seconds_per_day: Count = None,
    live_sessions: LivePlaces = None,
    expires: Expiry = None,
) -> None:
    """Make a key and print it; it cannot be shown again."""
    secret = secret_of(os.urandom(SECRET_BYTES))
    key = ApiKey(
        name,
        digest(secret.get_secret_value()),
        requests_per_minute=requests_per_minute,
        concurrent_requests=concurrent_requests,
        audio_seconds_per_day=audio_seconds_per_day,
        live_sessions=live_sessions,
        expires=expires,
    )
    if key.is_expired(time.time()):
        raise typer.BadParameter("this is past", param_hint="--expires")
    with _faults_told("keys"):
        edit_keys(api_keys, lambda keys: keys.adding(key), create=True)
    typer.echo("This is the only time that the key is shown:", err=True)
    typer.echo(secret.get_secret_value())


@app.command("list")
def show(api_keys: File) -> None:
    """Show the names, limits and ends of all keys."""
    with _faults_told("--api-keys"):
        keys = read_keys(api_keys)
    titles = ("name", "requests a minute", "at a time", "audio seconds a day", "live sessions", "expires")
    table = Table(*(Column(title, overflow="fold") for title in titles))  # cut short, a name could not be revoked
    for key in keys.keys:
        limits = key.limits
        counts = (
            *(limits.requests_per_minute, limits.concurrent_requests, limits.audio_seconds_per_day),
            limits.live_sessions,
        )
        table.add_row(key.name, *(str(count or "-") for count in counts), _end(key, time.time()))
    Console().print(table)


def _end(key: ApiKey, now: float) -> str:
    if key.expires is None:
        return "-"
    return f"{key.expires:%Y-%m-%dT%H:%M:%SZ}" + (" (expired)" if key.is_expired(now) else "")


@app.command()
def revoke(name: Name, api_keys: File) -> None:
    """Take a key away; an engine that runs refuses it within seconds."""
    with _faults_told("keys"):
        edit_keys(api_keys, lambda keys: keys.without(name))
