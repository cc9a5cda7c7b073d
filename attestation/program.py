"""How does a program of this project start? Settings from flags, variables and a file; logs; signals; exit codes.

A setting has one name in three spellings: the flag `--key-lifetime-s`, the variable `SOTTOVOCE_KEY_LIFETIME_S` and the
TOML key `key_lifetime_s`; a flag wins over a variable, a variable over the file, the file over the default. A secret is
always a file: `--api-key @FILE`, or `SOTTOVOCE_API_KEY_FILE=FILE`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import structlog
import typer
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

ENV_PREFIX = "SOTTOVOCE_"


class ExitCode(IntEnum):
    """Documented in the README; scripts rely on them."""

    ACCEPTED = 0
    INTERNAL = 1
    USAGE = 2
    REFUSED = 10


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


class ProgramSettings(BaseSettings):
    """What every program can be told; each adds its own."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    config: Path | None = Field(None, description="TOML file of settings; keys are the flags' names.")
    log_format: LogFormat = Field(LogFormat.AUTO, description="auto: text on a terminal, json elsewhere.")
    log_level: LogLevel = Field(LogLevel.INFO, description="Lowest level that is logged.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a stray .env file must not configure us
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - secrets name their files one by one
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        flags = init_settings()
        file = flags.get("config") or os.environ.get(ENV_PREFIX + "CONFIG")
        secrets = InitSettingsSource(settings_cls, _secret_file_variables(settings_cls))
        toml = (TomlConfigSettingsSource(settings_cls, Path(file)),) if file else ()
        return (init_settings, secrets, env_settings, *toml)


def _secret_file_variables(settings_cls: type[BaseSettings]) -> dict[str, Any]:
    names = {name: f"{ENV_PREFIX}{name}_FILE".upper() for name in settings_cls.model_fields}
    return {name: "@" + os.environ[variable] for name, variable in names.items() if os.environ.get(variable)}


S = TypeVar("S", bound=ProgramSettings)


def load_settings(settings_cls: type[S], flags: dict[str, Any]) -> S:
    """Settings from every source. Ends the program with one message that names every fault, without its value."""
    given = {name: value for name, value in flags.items() if value not in (None, [])}
    config = given.get("config") or os.environ.get(ENV_PREFIX + "CONFIG")
    if config and not Path(config).is_file():
        raise typer.BadParameter("there is no such file", param_hint="--config")
    try:
        return settings_cls(**given)
    except ValidationError as exc:
        faults = [f"{_flag(error['loc'])}: {error['msg']}" for error in exc.errors(include_input=False)]
        raise typer.BadParameter("\n".join(faults), param_hint="settings") from None


def _flag(location: tuple[int | str, ...]) -> str:
    return "--" + str(location[0]).replace("_", "-") if location else "settings"


def settings_command(settings_cls: type[S]) -> Callable[[Callable[[S], None]], Callable[..., None]]:
    """Turn a function of settings into a typer command with one option per setting."""

    def decorate(run: Callable[[S], None]) -> Callable[..., None]:
        def command(**flags: Any) -> None:
            run(load_settings(settings_cls, flags))

        command.__doc__ = run.__doc__
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [_option(name, field) for name, field in settings_cls.model_fields.items()]
        )
        return command

    return decorate


def _option(name: str, field: Any) -> inspect.Parameter:
    annotation: Any = field.annotation
    if SecretStr in getattr(annotation, "__args__", (annotation,)):
        annotation = str
    if getattr(annotation, "__origin__", None) is tuple:
        annotation = list[annotation.__args__[0]]  # type: ignore[name-defined]
    option = typer.Option(
        None,
        _flag((name,)),
        help=field.description,
        show_default=_shown(field.default),
        envvar=None,
    )
    optional = annotation if "None" in str(annotation) else annotation | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=optional)


def _shown(default: Any) -> str | bool:
    if default is None or default == () or repr(default) == "PydanticUndefined":
        return False
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


class _NamesOnly(logging.Handler):
    """What libraries log through the standard module: who and how bad, never their words, which may quote a request."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        structlog.get_logger("library").log(record.levelno, "library_message", logger=record.name, error=error)


def configure_logging(log_format: LogFormat, log_level: LogLevel) -> None:
    """Structured lines on standard error; never called at import."""
    as_json = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not sys.stderr.isatty())
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[log_level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_NamesOnly()], level=logging.WARNING, force=True)


async def until_stopped() -> None:
    """Return when the program is asked to end (SIGTERM or SIGINT)."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


def run(main: Coroutine[Any, Any, ExitCode]) -> None:
    """Run a program's coroutine and leave with its exit code."""
    raise typer.Exit(asyncio.run(main))
