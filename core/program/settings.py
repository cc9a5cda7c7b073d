"""What has a program been told? Settings from flags, variables and a file, all their faults in one message.

A setting has one name in three spellings: the flag `--key-lifetime-s`, the variable `SOTTOVOCE_KEY_LIFETIME_S` and the
TOML key `key_lifetime_s`; a flag wins over a variable, a variable over the file, the file over the default. A setting
that takes several values repeats its flag, separates them by commas in the variable, and is an array in the file. A
secret is always a file: `--api-key @FILE`, `SOTTOVOCE_API_KEY=@FILE` or `SOTTOVOCE_API_KEY_FILE=FILE`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

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

from core.program.logs import LogFormat, LogLevel

ENV_PREFIX = "SOTTOVOCE_"

_OF_A_SERVICE: Final = re.compile(r"(\w+?)_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
"""What Kubernetes puts into every pod of a namespace with a Service called `sottovoce` or `sottovoce-...`."""


class ConfigFileError(Exception):
    """The file of settings cannot be used."""


class SettingsError(Exception):
    """Settings cannot be used. faults: which setting, empty where it is none, and what is wrong with it."""

    def __init__(self, faults: Sequence[tuple[str, str]]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(": ".join(filter(None, (name and flag_of(name), fault))) for name, fault in faults))


Values = Mapping[str, Any]
Origin = Callable[[str], str]
"""Where a setting of this name came from."""


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
        return tuple(
            InitSettingsSource(settings_cls, dict(values)) for _, values in sources(settings_cls, init_settings())
        )


def sources(settings_cls: type[BaseSettings], flags: Values) -> Iterator[tuple[Origin, Values]]:
    """What was told in each way; the first that has a setting wins. Raises ConfigFileError."""
    yield (lambda name: f"flag {flag_of(name)}"), flags
    yield (lambda name: f"variable {variable_of(name)}_FILE"), _secret_file_variables(settings_cls)
    yield (lambda name: f"variable {variable_of(name)}"), _Variables(settings_cls)()
    if file := flags.get("config") or os.environ.get(variable_of("config")):
        yield (lambda _: f"file {file}"), read_toml(Path(file))


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
    except RecursionError:
        raise ConfigFileError("not TOML: nested too deeply") from None
    except ValueError:  # also of a number with more digits than Python reads
        raise ConfigFileError("not TOML in UTF-8") from None


def unknown_variables(settings_cls: type[ProgramSettings]) -> list[str]:
    """Variables that are spelled as settings and are none of this program's: mistyped, or for another program."""
    settings = {variable_of(name) for name in settings_cls.model_fields}
    files = set(_file_variables(settings_cls).values())

    def is_known(name: str) -> bool:
        return name.upper() in settings or name in files or _is_of_a_service(name)

    return sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX) and not is_known(name))


def _is_of_a_service(name: str) -> bool:
    told = _OF_A_SERVICE.fullmatch(name)
    return told is not None and f"{told[1]}_SERVICE_HOST" in os.environ


def _secret_file_variables(settings_cls: type[BaseSettings]) -> dict[str, Any]:
    files = {name: os.environ.get(variable) for name, variable in _file_variables(settings_cls).items()}
    return {name: f"@{file}" for name, file in files.items() if file}


def _file_variables(settings_cls: type[BaseSettings]) -> dict[str, str]:
    """The variable that names the file of each secret."""
    return {name: f"{variable_of(name)}_FILE" for name, field in settings_cls.model_fields.items() if _is_secret(field)}


def types_of(annotation: Any) -> Iterator[Any]:
    """The types an annotation is made of, without `Annotated` and `None`: those of `X | None`, `Annotated[X, ...]`."""
    if get_origin(annotation) is Annotated:
        yield from types_of(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from types_of(part)
    elif annotation is not NoneType:
        yield annotation


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in types_of(field.annotation)


S = TypeVar("S", bound=ProgramSettings)


_IN_WORDS: Final = {
    "missing": "is needed",
    "extra_forbidden": "is no setting of this program; docs/configuration.md has them all",
    "path_type": "is no path",
}
"""What pydantic says to whoever wrote a model, as it is told to whoever set a value."""


def read_settings(settings_cls: type[S], flags: Values) -> S:
    """Settings from every source. Raises SettingsError, which names every fault without the value."""
    try:
        return settings_cls(**given(flags))
    except ConfigFileError as exc:
        raise SettingsError([("config", str(exc))]) from None
    except ValidationError as exc:
        raise SettingsError(
            [
                (
                    str(error["loc"][0]) if error["loc"] else "",
                    _IN_WORDS.get(error["type"]) or error["msg"].removeprefix("Value error, "),
                )
                for error in exc.errors(include_input=False, include_url=False)
            ]
        ) from None


def given(flags: Values) -> dict[str, Any]:
    """The flags that were given."""
    return {name: value for name, value in flags.items() if value not in (None, [])}


def load_settings(settings_cls: type[S], flags: Values) -> S:
    """As `read_settings`; ends the program with one message."""
    try:
        return read_settings(settings_cls, flags)
    except SettingsError as exc:
        raise typer.BadParameter(str(exc), param_hint="settings") from None


def variable_of(name: str) -> str:
    return f"{ENV_PREFIX}{name}".upper()


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")
