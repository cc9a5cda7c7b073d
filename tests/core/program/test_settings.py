"""Settings come from flags, variables and a file, in this order, and their faults are told together and unquoted."""

from __future__ import annotations

import asyncio
import json
import logging  # noqa: TID251 - what libraries log is looked at
import os
import signal
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from pydantic import Field, ValidationError, model_validator
from typer.testing import CliRunner, Result

from core.program.commands import settings_command
from core.program.logs import LogFormat, LogLevel, configure_logging, log_through_the_application
from core.program.run import ExitCode, run, until_stopped
from core.program.settings import ProgramSettings, SecretFile, load_settings
from tests.waiting import GIVE_UP_S

SECRET = "canary-4711"


class _Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class _Settings(ProgramSettings):
    number: int = Field(1, ge=1, description="A number.")
    share: float = Field(0.5, description="A share.")
    colour: _Colour = Field(_Colour.RED, description="A colour.")
    names: tuple[str, ...] = Field((), description="Names.")
    sure: bool = Field(False, description="A flag.")
    place: Path | None = Field(None, description="A place.")
    api_key: SecretFile | None = Field(None, description="A secret.")


Start = Callable[..., Result]


@pytest.fixture
def started() -> list[_Settings]:
    """The settings with which the program ran, once for each time it ran."""
    return []


@pytest.fixture
def start(started: list[_Settings], no_variables: None) -> Start:
    """Run the program with arguments, variables and nothing of this process's environment."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(settings_command(_Settings)(started.append))

    def invoke(*arguments: str, **variables: str) -> Result:
        # Wide and plain, so that no message is wrapped.
        return CliRunner().invoke(app, arguments, env={**variables, "COLUMNS": "300", "TERM": "dumb"})

    return invoke


def _file(tmp_path: Path, text: str, name: str = "settings.toml") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_without_anything_there_are_the_defaults(start: Start, started: list[_Settings]) -> None:
    assert start().exit_code == 0
    assert started == [load_settings(_Settings, {})]
    assert started[0].number == 1


_SOURCES = ["flag", "variable", "file", "default"]
_VALUES = {
    "number": ("2", 2, "3", 3, "4", 4, 1),
    "share": ("0.2", 0.2, "0.3", 0.3, "0.4", 0.4, 0.5),
    "colour": ("blue", "blue", "red", "red", '"blue"', "blue", "red"),
    "names": ("a", ("a",), "b, c", ("b", "c"), '["d"]', ("d",), ()),
    "place": ("/a", Path("/a"), "/b", Path("/b"), '"/c"', Path("/c"), None),
    "log_level": ("error", "error", "warning", "warning", '"debug"', "debug", "info"),
}


@pytest.mark.parametrize("first", _SOURCES)
@pytest.mark.parametrize("name", _VALUES)
def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(
    name: str, first: str, start: Start, started: list[_Settings], tmp_path: Path
) -> None:
    flag, of_flag, variable, of_variable, line, of_file, default = _VALUES[name]
    given = _SOURCES[_SOURCES.index(first) :]
    arguments = ["--" + name.replace("_", "-"), str(flag)] if "flag" in given else []
    if "file" in given:
        arguments += ["--config", _file(tmp_path, f"{name} = {line}")]
    variables = {f"SOTTOVOCE_{name.upper()}": str(variable)} if "variable" in given else {}
    result = start(*arguments, **variables)
    assert result.exit_code == 0, result.output
    assert (
        getattr(started[0], name) == dict(zip(_SOURCES, (of_flag, of_variable, of_file, default), strict=True))[first]
    )


def test_a_flag_can_say_no_to_the_file(start: Start, started: list[_Settings], tmp_path: Path) -> None:
    config = _file(tmp_path, "sure = true")
    for arguments, sure in (((), True), (("--no-sure",), False), (("--sure",), True)):
        start("--config", config, *arguments)
        assert started[-1].sure is sure


def test_a_flag_of_several_values_is_repeated(start: Start, started: list[_Settings]) -> None:
    start("--names", "a", "--names", "b,c")
    assert started[0].names == ("a", "b,c")


def test_the_file_may_be_named_by_a_variable(start: Start, started: list[_Settings], tmp_path: Path) -> None:
    start(SOTTOVOCE_CONFIG=_file(tmp_path, "number = 7"))
    assert started[0].number == 7


def test_a_stray_dotenv_file_is_not_read(
    start: Start, started: list[_Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _file(tmp_path, "SOTTOVOCE_NUMBER=7\n", ".env")
    monkeypatch.chdir(tmp_path)
    start()
    assert started[0].number == 1


# Secrets.


@pytest.mark.parametrize("way", ["flag", "variable", "file variable", "file"])
def test_a_secret_is_read_from_its_file(way: str, start: Start, started: list[_Settings], tmp_path: Path) -> None:
    secret = _file(tmp_path, SECRET + "\n", "secret")
    config = _file(tmp_path, f'api_key = "@{secret}"')
    result = {
        "flag": lambda: start("--api-key", "@" + secret),
        "variable": lambda: start(SOTTOVOCE_API_KEY="@" + secret),
        "file variable": lambda: start(SOTTOVOCE_API_KEY_FILE=secret),
        "file": lambda: start("--config", config),
    }[way]()
    assert result.exit_code == 0, result.output
    assert started[0].api_key is not None
    assert started[0].api_key.get_secret_value() == SECRET
    assert SECRET not in repr(started[0])


@pytest.mark.parametrize("way", ["flag", "variable", "file"])
def test_a_secret_in_place_is_refused_and_not_quoted(
    way: str, start: Start, started: list[_Settings], tmp_path: Path
) -> None:
    config = _file(tmp_path, f'api_key = "{SECRET}"')
    result = {
        "flag": lambda: start("--api-key", SECRET),
        "variable": lambda: start(SOTTOVOCE_API_KEY=SECRET),
        "file": lambda: start("--config", config),
    }[way]()
    assert result.exit_code == ExitCode.USAGE
    assert "--api-key: a secret is given as @FILE" in result.output
    assert SECRET not in result.output
    assert started == []


@pytest.mark.parametrize(
    "content", ["", "\n", f"{SECRET} {SECRET}", f"{SECRET}\n{SECRET}", f"{SECRET}ä", f"{SECRET}\0"]
)
def test_a_file_that_holds_no_one_word_is_no_secret(content: str, start: Start, tmp_path: Path) -> None:
    result = start("--api-key", "@" + _file(tmp_path, content, "secret"))
    assert result.exit_code == ExitCode.USAGE
    assert "one printable ASCII word" in result.output
    assert SECRET not in result.output


@pytest.mark.parametrize("path", ["@", "@/nowhere/at/all", "@/"])
def test_a_secret_whose_file_cannot_be_read_is_told(path: str, start: Start) -> None:
    result = start("--api-key", path)
    assert result.exit_code == ExitCode.USAGE
    assert "--api-key: its file cannot be read" in result.output


def test_only_a_secret_is_read_from_a_file_that_a_variable_names(
    start: Start, started: list[_Settings], tmp_path: Path
) -> None:
    start(SOTTOVOCE_NUMBER_FILE=_file(tmp_path, "7", "number"))
    assert started[0].number == 1


# Faults.


def test_all_faults_are_told_in_one_message_without_their_values(
    start: Start, started: list[_Settings], tmp_path: Path
) -> None:
    config = _file(tmp_path, f'share = "{SECRET}"\nsurplus = "{SECRET}"\n')
    result = start(
        "--config", config, "--number", "-47110815", "--colour", SECRET, "--api-key", SECRET, SOTTOVOCE_LOG_LEVEL=SECRET
    )
    assert result.exit_code == ExitCode.USAGE
    for flag in ("--number", "--share", "--colour", "--api-key", "--log-level", "--surplus"):
        assert f"{flag}: " in result.output
    assert SECRET not in result.output
    assert "47110815" not in result.output
    assert started == []


def test_an_unknown_key_of_the_file_is_refused(start: Start, tmp_path: Path) -> None:
    result = start("--config", _file(tmp_path, "surplus = 1"))
    assert result.exit_code == ExitCode.USAGE
    assert "--surplus: is no setting of this program" in result.output


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"number = {SECRET}", "not TOML at line 1, column"),
        ("number = [", "not TOML at end of document"),
        ("number = 1\nnumber = 2", "not TOML at end of document"),
        ("number = " + "[" * 100_000, "not TOML"),
    ],
)
def test_a_file_that_is_no_toml_is_told_by_its_place(text: str, fault: str, start: Start, tmp_path: Path) -> None:
    result = start("--config", _file(tmp_path, text))
    assert result.exit_code == ExitCode.USAGE
    assert "--config" in result.output
    assert fault in result.output
    assert SECRET not in result.output


def test_a_file_that_is_not_utf_8_is_told(start: Start, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_bytes(b"\xff")
    assert "not TOML in UTF-8" in start("--config", str(tmp_path / "settings.toml")).output


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_a_file_that_is_missing_is_told(way: str, start: Start) -> None:
    result = start("--config", "/no/file") if way == "flag" else start(SOTTOVOCE_CONFIG="/no/file")
    assert result.exit_code == ExitCode.USAGE
    assert "No such file" in result.output


def test_a_fault_of_no_single_setting_is_told_as_it_is() -> None:
    class Torn(ProgramSettings):
        @model_validator(mode="after")
        def _whole(self) -> Torn:
            raise ValueError("this and that do not go together")

    with pytest.raises(typer.BadParameter) as caught:
        load_settings(Torn, {})
    assert caught.value.message == "this and that do not go together"


def test_settings_that_are_built_in_code_do_not_show_their_values_either() -> None:
    values: dict[str, Any] = {"number": SECRET}
    with pytest.raises(ValidationError) as refusal:
        _Settings(**values)
    assert SECRET not in str(refusal.value)


def test_every_setting_has_its_help_on_the_screen(start: Start) -> None:
    output = start("--help").output
    for name, field in _Settings.model_fields.items():
        assert field.description
        assert "--" + name.replace("_", "-") in output
        assert field.description.split(".")[0] in output
    for shown in ("@FILE", "red|blue", "INTEGER", "NUMBER", "PATH", "--no-sure"):
        assert shown in output


def test_a_command_keeps_its_name_and_its_words() -> None:
    def serve(_: _Settings) -> None:
        """Serve until told to stop."""

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(settings_command(_Settings)(serve))
    app.callback()(lambda: None)
    result = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    assert "Serve until told to stop." in result.output


# Logs, signals and exit codes.


def _fail() -> None:
    raise RuntimeError(SECRET)


@pytest.mark.usefixtures("logging_as_it_was")
@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.TEXT, LogFormat.AUTO])
def test_neither_an_exception_nor_a_library_puts_its_words_into_the_log(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(log_format, LogLevel.INFO)
    log = structlog.get_logger()
    try:
        _fail()
    except RuntimeError as exc:
        log.exception("failed")
        log.warning("failed", exc_info=exc)
        logging.getLogger("library").exception("said %s", SECRET)
    logging.getLogger("library").log(35, SECRET)
    captured = capsys.readouterr()
    assert SECRET not in captured.err
    assert captured.err.count("RuntimeError") == 3
    assert captured.err.count("library_message") == 2
    assert captured.out == ""


@pytest.mark.usefixtures("logging_as_it_was")
def test_an_application_has_our_events_in_its_own_log_and_no_words_of_exceptions(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    structlog.reset_defaults()
    log_through_the_application()
    log = structlog.get_logger("proxy.engines.trust")
    log.warning("attestation_failed", reason="scheduled")
    try:
        _fail()
    except RuntimeError as exc:
        log.warning("internal_error", exc_info=exc)
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("proxy.engines.trust", "WARNING"),
        ("proxy.engines.trust", "WARNING"),
    ]
    assert caplog.records[0].getMessage() == "event='attestation_failed' reason='scheduled'"
    assert "RuntimeError" in caplog.records[1].getMessage()
    assert SECRET not in caplog.text
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("logging_as_it_was")
def test_an_application_that_configured_structlog_keeps_its_own() -> None:
    structlog.reset_defaults()
    structlog.configure(processors=[structlog.processors.JSONRenderer()])
    before = structlog.get_config()
    log_through_the_application()
    assert structlog.get_config() == before


@pytest.mark.usefixtures("logging_as_it_was")
def test_json_lines_have_level_time_and_event(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogFormat.AUTO, LogLevel.WARNING)  # standard error is no terminal here
    structlog.get_logger().info("hidden")
    structlog.get_logger().warning("shown", number=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert {**json.loads(line), "timestamp": ""} == {"event": "shown", "level": "warning", "number": 1, "timestamp": ""}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_program_and_a_second_one_is_not_held_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as group:
        stopped = group.create_task(until_stopped())
        await asyncio.sleep(0)
        os.kill(os.getpid(), number)
        await stopped
    assert signal.getsignal(number) == (signal.default_int_handler if number == signal.SIGINT else before)


def test_a_program_leaves_with_the_code_of_its_coroutine() -> None:
    async def main() -> ExitCode:
        return ExitCode.REFUSED

    with pytest.raises(typer.Exit) as left:
        run(main())
    assert left.value.exit_code == 10


def test_the_exit_codes_are_what_scripts_rely_on() -> None:
    assert {code.name: int(code) for code in ExitCode} == {"ACCEPTED": 0, "INTERNAL": 1, "USAGE": 2, "REFUSED": 10}
