"""What can be typed? The commands of `sottovoce-engine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core.program.commands import VersionOption, settings_command
from core.program.configuration import config_commands, warn_of_unknown_variables
from core.program.logs import configure_logging
from core.program.run import ExitCode, run
from engine.access import cli as keys_cli
from engine.backends.digest import weights_digest
from engine.settings import EngineSettings

app = typer.Typer(
    name="sottovoce-engine",
    help="Serve speech-to-text from inside a confidential VM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(keys_cli.app, name="keys")
app.add_typer(config_commands(EngineSettings, "sottovoce-engine serve"), name="config")


@app.callback()
def root(_version: VersionOption = False) -> None:
    """Serve speech-to-text from inside a confidential VM."""


@app.command("serve")
@settings_command(EngineSettings)
def serve(settings: EngineSettings) -> None:
    """Serve sealed requests until told to stop."""
    try:
        from engine.app import serve as serve_engine  # the server's libraries are loaded only to serve  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        typer.echo(
            f"{exc.name} is missing: the engine needs the extra `engine`: pip install 'sottovoce[engine]'", err=True
        )
        raise typer.Exit(ExitCode.USAGE) from None

    configure_logging(settings.log_format, settings.log_level)
    warn_of_unknown_variables(EngineSettings)
    run(serve_engine(settings))


@app.command()
def digest(path: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A model directory.")]) -> None:
    """Print the digest of a model's files, for a policy's `weights_sha256`."""
    try:
        typer.echo(weights_digest(path))
    except OSError as exc:
        raise typer.BadParameter(str(exc), param_hint="PATH") from exc
