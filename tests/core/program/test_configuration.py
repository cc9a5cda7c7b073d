"""What is in force is shown with where it comes from, and can be taken for a file of settings."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import structlog
import typer
from pydantic import Field
from typer.testing import CliRunner, Result

from core.program.configuration import config_commands, warn_of_unknown_variables
from core.program.settings import ProgramSettings, SecretFile, read_settings

SECRET = "canary-4711"

pytestmark = pytest.mark.usefixtures("no_variables")


class _Settings(ProgramSettings):
    number: int = Field(1, ge=1, description="A number.")
    share: float = Field(0.5, description="A share.")
    names: tuple[str, ...] = Field((), description="Names.")
    sure: bool = Field(False, description="A flag.")
    place: Path | None = Field(None, description="A place.")
    api_key: SecretFile | None = Field(None, description="A secret.")


def run(*arguments: str, **variables: str) -> Result:
    def faults(settings: _Settings) -> list[str]:
        return ["place: nobody knows it"] if settings.place == Path("nowhere") else []

    app = typer.Typer()
    app.add_typer(config_commands(_Settings, "ours serve", faults), name="config")
    return CliRunner().invoke(app, ["config", *arguments], env={**variables, "COLUMNS": "300", "TERM": "dumb"})


def shown(*arguments: str, **variables: str) -> dict[str, str]:
    """Each line that is shown, by its setting."""
    result = run("show", *arguments, **variables)
    assert result.exit_code == 0, result.output
    return {line.removeprefix("# ").partition(" ")[0]: line for line in result.output.splitlines()}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(SECRET)
    return path


def test_every_setting_is_shown_with_where_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('share = 0.25\nnumber = 3\nnames = ["never"]\n')
    lines = shown("--config", str(file), "--names", "a", "--names", 'b"c', SOTTOVOCE_NUMBER="2", SOTTOVOCE_NAMES="no")
    assert set(lines) == set(_Settings.model_fields) - {"config"}
    assert lines["names"] == 'names = ["a", "b\\"c"]  # flag --names'
    assert lines["number"] == "number = 2  # variable SOTTOVOCE_NUMBER"
    assert lines["share"] == f"share = 0.25  # file {file}"
    assert lines["sure"] == "sure = false  # default"
    assert lines["place"] == "# place is not set"


def test_a_list_without_anything_in_it_is_not_set() -> None:
    """What a program does then stands in the setting's meaning, and an empty list would say something else."""
    assert shown("--number", "1")["names"] == "# names is not set"


@pytest.mark.parametrize("way", ["flag", "variable", "file variable", "file"])
def test_a_secret_is_shown_as_the_file_that_holds_it(way: str, secret: Path, tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(f'api_key = "@{secret}"\n' if way == "file" else "")
    variables = {
        "variable": {"SOTTOVOCE_API_KEY": f"@{secret}"},
        "file variable": {"SOTTOVOCE_API_KEY_FILE": str(secret)},
    }
    flags = ["--api-key", f"@{secret}"] if way == "flag" else ["--config", str(config)] if way == "file" else []
    result = run("show", *flags, **variables.get(way, {}))
    origin = {
        "flag": "flag --api-key",
        "variable": "variable SOTTOVOCE_API_KEY",
        "file variable": "variable SOTTOVOCE_API_KEY_FILE",
        "file": f"file {config}",
    }[way]
    assert f'api_key = "@{secret}"  # {origin}' in result.output.splitlines()
    assert SECRET not in result.output


def test_what_is_shown_is_a_file_that_means_the_same(secret: Path, tmp_path: Path) -> None:
    flags = [
        "--number",
        "7",
        "--share",
        "0.125",
        "--names",
        "a b",
        "--sure",
        "--place",
        "/a",
        "--api-key",
        f"@{secret}",
    ]
    output = run("show", *flags).output
    tomllib.loads(output)
    (tmp_path / "again.toml").write_text(output)
    again = read_settings(_Settings, {"config": tmp_path / "again.toml"})
    assert again.model_dump(exclude={"config"}) == read_settings(
        _Settings,
        {"number": 7, "share": 0.125, "names": ("a b",), "sure": True, "place": "/a", "api_key": f"@{secret}"},
    ).model_dump(exclude={"config"})


@pytest.mark.parametrize("command", ["show", "check"])
def test_all_faults_of_a_configuration_are_told_at_once_and_without_values(command: str) -> None:
    result = run(command, "--number", "0", "--share", "canary", "--api-key", "canary")
    assert result.exit_code == 2
    assert {flag in result.output for flag in ("--number", "--share", "--api-key")} == {True}
    assert "canary" not in result.output


def test_a_sound_configuration_is_said_to_be_one() -> None:
    result = run("check", "--number", "2")
    assert result.exit_code == 0
    assert "ours serve" in result.output


def test_what_else_would_keep_a_program_from_starting_is_told() -> None:
    result = run("check", "--place", "nowhere")
    assert result.exit_code == 2
    assert "nobody knows it" in result.output


def test_a_variable_of_no_setting_is_told_by_its_name() -> None:
    told = run("check", SOTTOVOCE_NUMBR="2", SOTTOVOCE_API_KEY_FIL="/a", sottovoce_sur="1", SOTTOVOCE_NUMBER="2")
    assert told.exit_code == 0
    assert told.stderr.splitlines() == [
        f"{name} is no setting of `ours serve`, which passes it over."
        for name in ("SOTTOVOCE_API_KEY_FIL", "SOTTOVOCE_NUMBR", "sottovoce_sur")
    ]


def test_variables_that_nothing_reads_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with structlog.testing.capture_logs() as quiet:
        warn_of_unknown_variables(_Settings)
    monkeypatch.setenv("SOTTOVOCE_NUMBR", SECRET)
    with structlog.testing.capture_logs() as logged:
        warn_of_unknown_variables(_Settings)
    assert quiet == []
    assert logged == [{"event": "unknown_variables", "log_level": "warning", "names": ["SOTTOVOCE_NUMBR"]}]


def test_what_kubernetes_says_of_a_service_is_no_mistake(secret: Path) -> None:
    of_a_service = {
        f"SOTTOVOCE_PROXY_{name}": "10.96.0.11"
        for name in (
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_HTTP",
            "PORT",
            "PORT_8080_TCP",
            "PORT_8080_TCP_PROTO",
            "PORT_8080_TCP_ADDR",
        )
    }
    told = run("check", **of_a_service, SOTTOVOCE_API_KEY_FILE=str(secret))
    assert (told.exit_code, told.stderr) == (0, "")


@pytest.mark.parametrize("name", ["SOTTOVOCE_LISTEN_PORT", "SOTTOVOCE_SERVICE_PORT", "sottovoce_api_key_file"])
def test_what_only_looks_like_a_service_or_a_file_is_told(name: str) -> None:
    assert run("check", **{name: "8081"}).stderr.startswith(name)
