"""How does a program of this project start? Settings from flags, variables and a file; logs; signals; exit codes.

A setting has one name in three spellings: the flag `--key-lifetime-s`, the variable `SOTTOVOCE_KEY_LIFETIME_S` and the
TOML key `key_lifetime_s`; a flag wins over a variable, a variable over the file, the file over the default. A setting
that takes several values repeats its flag, separates them by commas in the variable, and is an array in the file. A
secret is always a file: `--api-key @FILE`, `SOTTOVOCE_API_KEY=@FILE` or `SOTTOVOCE_API_KEY_FILE=FILE`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
import signal
import sys
import tomllib
import traceback
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from enum import IntEnum, StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import structlog
import typer
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

ENV_PREFIX = "SOTTOVOCE_"


def project_version() -> str:
    """The version that is installed; of a source tree that is not, only that."""
    try:
        return version("sottovoce")
    except PackageNotFoundError:
        return "0+source"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(project_version())
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
]
"""The `--version` of every program, for its root command."""


class ExitCode(IntEnum):
    """Documented in the README; scripts rely on them."""

    ACCEPTED = 0
    INTERNAL = 1
    USAGE = 2
    REFUSED = 10


class ConfigFileError(Exception):
    """The file of settings cannot be used."""


class LogFormat(StrEnum):
    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _read_secret(value: object) -> object:
    if not isinstance(value, str) or not value.startswith("@"):
        raise ValueError("a secret is given as @FILE, never in place")
    try:
        secret = Path(value[1:]).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ValueError(f"its file cannot be read: {type(exc).__name__}") from exc
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise ValueError("its file must hold one printable ASCII word")
    return SecretStr(secret)


SecretFile = Annotated[SecretStr, BeforeValidator(_read_secret)]


class _Variables(EnvSettingsSource):
    """Variables, in which several values are separated by commas; pydantic would want JSON."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ARG002
        return [part.strip() for part in value.split(",") if part.strip()]


class ProgramSettings(BaseSettings):
    """What every program can be told; each adds its own."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    config: Path | None = Field(None, description="TOML file of settings; keys are the flags' names.")
    log_format: LogFormat = Field(LogFormat.AUTO, description="auto: text on a terminal, json elsewhere.")
    log_level: LogLevel = Field(LogLevel.INFO, description="Lowest level that is logged.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - see _Variables
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a stray .env file must not configure us
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - secrets name their files one by one
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        secrets = InitSettingsSource(settings_cls, _secret_file_variables(settings_cls))
        file = init_settings().get("config") or os.environ.get(ENV_PREFIX + "CONFIG")
        toml = InitSettingsSource(settings_cls, read_toml(Path(file)) if file else {})
        return (init_settings, secrets, _Variables(settings_cls), toml)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file. Raises ConfigFileError as `parse_toml` does."""
    try:
        return parse_toml(path.read_bytes())
    except OSError as exc:
        raise ConfigFileError(exc.strerror or "cannot be read") from exc


def parse_toml(data: bytes) -> dict[str, Any]:
    """The bytes of a TOML file. Raises ConfigFileError, which tells the place of a mistake and not the text there."""
    try:
        return tomllib.loads(data.decode("utf-8"))
    except tomllib.TOMLDecodeError as exc:
        place = re.search(r"at (?:line \d+, column \d+|end of document)", str(exc))
        raise ConfigFileError(f"not TOML {place[0] if place else ''}".strip()) from None
    except (ValueError, RecursionError):
        raise ConfigFileError("not TOML in UTF-8") from None


def _secret_file_variables(settings_cls: type[BaseSettings]) -> dict[str, Any]:
    secrets = [name for name, field in settings_cls.model_fields.items() if _is_secret(field)]
    names = {name: f"{ENV_PREFIX}{name}_FILE".upper() for name in secrets}
    return {name: "@" + os.environ[variable] for name, variable in names.items() if os.environ.get(variable)}


def _types(annotation: Any) -> Iterator[Any]:
    """The types an annotation is made of, without `Annotated` and `None`: those of `X | None`, `Annotated[X, ...]`."""
    if get_origin(annotation) is Annotated:
        yield from _types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _types(part)
    elif annotation is not NoneType:
        yield annotation


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in _types(field.annotation)


S = TypeVar("S", bound=ProgramSettings)


def load_settings(settings_cls: type[S], flags: dict[str, Any]) -> S:
    """Settings from every source. Ends the program with one message that names every fault, without its value."""
    try:
        return settings_cls(**{name: value for name, value in flags.items() if value not in (None, [])})
    except ConfigFileError as exc:
        raise typer.BadParameter(str(exc), param_hint="--config") from None
    except ValidationError as exc:
        faults = [
            f"{_flag(error['loc'])}: {error['msg'].removeprefix('Value error, ')}"
            for error in exc.errors(include_input=False, include_url=False)
        ]
        raise typer.BadParameter("\n".join(faults), param_hint="settings") from None


def _flag(location: tuple[int | str, ...]) -> str:
    return "--" + str(location[0]).replace("_", "-") if location else "settings"


def settings_command(settings_cls: type[S]) -> Callable[[Callable[[S], None]], Callable[..., None]]:
    """Turn a function of settings into a typer command with one option per setting."""

    def decorate(run: Callable[[S], None]) -> Callable[..., None]:
        def command(**flags: Any) -> None:
            run(load_settings(settings_cls, flags))

        command.__name__, command.__doc__ = run.__name__, run.__doc__
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [_option(name, field) for name, field in settings_cls.model_fields.items()]
        )
        return command

    return decorate


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """The flag of a setting. It hands on what was typed: pydantic reads it, so that all faults come in one message."""
    (kind, *_) = _types(field.annotation)
    flag = _flag((name,))
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
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation | None)


def _metavar(kind: Any) -> str:
    if kind is SecretStr:
        return "@FILE"
    if get_origin(kind) is tuple:
        (kind, *_) = _types(get_args(kind)[0])
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "|".join(kind)
    return {int: "INTEGER", float: "NUMBER", Path: "PATH"}.get(kind, "TEXT")


def _shown(default: Any) -> str | bool:
    if default is None or default == () or repr(default) == "PydanticUndefined":
        return False
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


class _NamesOnly(logging.Handler):
    """What libraries log through the standard module: who and how bad, never their words, which may quote a request."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        level = logging.ERROR if record.levelno >= logging.ERROR else logging.WARNING
        structlog.get_logger("library").log(level, "library_message", logger=record.name, error=error)


def _name_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception is logged as its kind and place: its message, and the variables around it, may quote a request."""
    given = event.pop("exc_info", None)
    exc = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if exc is not None:
        frames = traceback.extract_tb(exc.__traceback__)
        event.update(error=type(exc).__name__, at=f"{frames[-1].name}:{frames[-1].lineno}" if frames else None)
    return event


def configure_logging(log_format: LogFormat, log_level: LogLevel) -> None:
    """Structured lines on standard error; never called at import."""
    as_json = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not sys.stderr.isatty())
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_exception,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[log_level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_NamesOnly()], level=logging.WARNING, force=True)


async def until_stopped() -> None:
    """Return when the program is asked to end (SIGTERM or SIGINT); asked a second time, it ends at once."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stopped.set)
    try:
        await stopped.wait()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def run(main: Coroutine[Any, Any, ExitCode]) -> None:
    """Run a program's coroutine and leave with its exit code."""
    raise typer.Exit(asyncio.run(main))
