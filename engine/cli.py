"""The command line of the engine: `sottovoce-engine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attestation.program import VersionOption, configure_logging, run, settings_command
from engine import keys_cli
from engine.settings import EngineSettings
from engine.weights import weights_digest

app = typer.Typer(
    name="sottovoce-engine",
    help="Serve speech-to-text from inside a confidential VM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(keys_cli.app, name="keys")


@app.callback()
def root(_version: VersionOption = False) -> None:
    """Serve speech-to-text from inside a confidential VM."""


@app.command("serve")
@settings_command(EngineSettings)
def serve(settings: EngineSettings) -> None:
    """Serve sealed requests until told to stop."""
    from engine.app import serve as serve_engine  # the server's libraries are loaded only to serve  # noqa: PLC0415

    configure_logging(settings.log_format, settings.log_level)
    run(serve_engine(settings))


@app.command()
def digest(path: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A model directory.")]) -> None:
    """Print the digest of a model's files, for a policy's `weights_sha256`."""
    try:
        typer.echo(weights_digest(path))
    except OSError as exc:
        raise typer.BadParameter(str(exc), param_hint="PATH") from exc


def main() -> None:
    """Entry point of the console script."""
    app()
