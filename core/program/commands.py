"""How do settings become a command? One option for each setting, and the version for every program."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, get_args, get_origin

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from core.program.run import project_version
from core.program.settings import ProgramSettings, Values, flag_of, load_settings, types_of

S = TypeVar("S", bound=ProgramSettings)
T = TypeVar("T")
P = ParamSpec("P")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(project_version())
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
]
"""The `--version` of every program, for its root command."""


def settings_command(
    settings_cls: type[S], *, argument: str | None = None
) -> Callable[[Callable[Concatenate[S, P], None]], Callable[..., None]]:
    """Turn a function of settings into a typer command with one option per setting. argument: as of `flags_command`."""
    return flags_command(settings_cls, lambda flags: load_settings(settings_cls, flags), argument=argument)


def flags_command(
    settings_cls: type[ProgramSettings], load: Callable[[Values], T], *, argument: str | None = None
) -> Callable[[Callable[Concatenate[T, P], None]], Callable[..., None]]:
    """Turn a function of what `load` makes of the flags into a typer command with one option per setting.

    argument: the setting that is given without its flag. What the function takes beside that are options and
    arguments of one call, which neither a variable nor a file can give.
    """

    def decorate(run: Callable[Concatenate[T, P], None]) -> Callable[..., None]:
        call: Callable[..., None] = run
        _, *own = inspect.signature(run, eval_str=True).parameters.values()

        def command(**given: Any) -> None:
            beside = {parameter.name: given.pop(parameter.name) for parameter in own}
            call(load(given), **beside)

        command.__name__, command.__doc__ = run.__name__, run.__doc__
        options = [
            _option(name, field, is_argument=name == argument) for name, field in settings_cls.model_fields.items()
        ]
        command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        command.settings = settings_cls  # type: ignore[attr-defined]
        return command

    return decorate


def _option(name: str, field: FieldInfo, *, is_argument: bool) -> inspect.Parameter:
    """The flag of a setting. It hands on what was typed: pydantic reads it, so that all faults come in one message."""
    (kind, *_) = types_of(field.annotation)
    flag = flag_of(name)
    annotation: Any = str
    if kind is bool:
        annotation, flag = bool, f"{flag}/--no-{flag.removeprefix('--')}"
    elif get_origin(kind) is tuple:
        annotation = list[str]
    option = typer.Option(
        None,
        flag,
        help=field.description,
        metavar=None if kind is bool else _metavar(kind),
        show_default=_shown(field.default),
    )
    if is_argument:
        option = typer.Argument(None, help=field.description, metavar=name.upper(), show_default=False)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation | None)


def _metavar(kind: Any) -> str:
    if kind is SecretStr:
        return "@FILE"
    if get_origin(kind) is tuple:
        (kind, *_) = types_of(get_args(kind)[0])
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "|".join(kind)
    return {int: "INTEGER", float: "NUMBER", Path: "PATH"}.get(kind, "TEXT")


def _shown(default: Any) -> str | bool:
    if default is None or default == () or repr(default) == "PydanticUndefined":
        return False
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
