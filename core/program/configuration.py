"""How is a program configured, and who said so? `config show` and `config check` of every program that serves.

What is shown is a TOML file that `--config` takes: a line for each setting, and behind it where its value comes from. A
secret is shown as the file that holds it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import structlog
import typer
from pydantic import SecretStr

from core.program.commands import flags_command, settings_command
from core.program.run import ExitCode
from core.program.settings import ProgramSettings, Values, given, load_settings, sources, unknown_variables

S = TypeVar("S", bound=ProgramSettings)

_log = structlog.get_logger(__name__)


def config_commands(
    settings_cls: type[S], command: str, faults: Callable[[S], Iterable[str]] = lambda _: ()
) -> typer.Typer:
    """The commands `show` and `check`, with the flags of `command`.

    faults: what else would keep the program from starting, beside settings that cannot be used.
    """
    app = typer.Typer(help=f"Show or check the configuration that `{command}` would have.", no_args_is_help=True)

    @app.command("show")
    @flags_command(settings_cls, lambda flags: list(_lines(settings_cls, given(flags))))
    def show(lines: list[str]) -> None:
        """Print every setting in force and where it comes from, as a file that --config takes."""
        typer.echo("\n".join(lines))

    @app.command("check")
    @settings_command(settings_cls)
    def check(settings: S) -> None:
        """Say everything that is wrong with the configuration; exit code 2 if anything is."""
        if told := list(faults(settings)):
            raise typer.BadParameter("\n".join(told), param_hint="settings")
        for name in unknown_variables(settings_cls):
            typer.echo(f"{name} is no setting of `{command}`, which passes it over.", err=True)
        typer.echo(f"{command} would start with this configuration.")
        raise typer.Exit(ExitCode.ACCEPTED)

    return app


def warn_of_unknown_variables(settings_cls: type[ProgramSettings]) -> None:
    """Log the names of variables that nothing reads, for whoever believes that they are in force."""
    if names := unknown_variables(settings_cls):
        _log.warning("unknown_variables", names=names)


def _lines(settings_cls: type[ProgramSettings], flags: Values) -> Iterator[str]:
    settings = load_settings(settings_cls, flags)
    told = list(sources(settings_cls, flags))
    for name in settings_cls.model_fields:
        if name == "config":
            continue
        origin, said = next(((of(name), values[name]) for of, values in told if name in values), ("default", None))
        value = getattr(settings, name)
        if value is None or value == ():
            yield f"# {name} is not set"
        else:
            yield f"{name} = {_toml(said if isinstance(value, SecretStr) else value)}  # {origin}"


def _toml(value: Any) -> str:
    """A value as TOML spells it, whose basic strings, numbers and truths are JSON's."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value if isinstance(value, bool | int | float) else str(value))
