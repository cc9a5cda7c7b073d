from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from core.program.run import ExitCode, project_version
from engine.backends.digest import weights_digest
from engine.commands import app
from engine.settings import EngineSettings


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def test_digest_prints_what_a_policy_must_name(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    result = invoke("digest", str(tmp_path))
    assert result.exit_code == ExitCode.ACCEPTED
    assert result.stdout == f"{weights_digest(tmp_path)}\n"


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_digest_of_no_model_is_a_usage_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    assert invoke("digest", str(tmp_path / name)).exit_code == ExitCode.USAGE


def test_serve_without_settings_is_a_usage_error_that_names_all_faults() -> None:
    result = invoke("serve", "--listen", "nowhere")
    assert result.exit_code == ExitCode.USAGE
    for flag in ("--listen", "--model", "--insecure-evidence"):
        assert flag in result.stderr


@pytest.mark.parametrize("name", EngineSettings.model_fields)
def test_serve_has_a_flag_for_every_setting(name: str) -> None:
    assert f"--{name.replace('_', '-')}" in invoke("serve", "--help").stdout


def test_version_is_that_of_the_distribution() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (ExitCode.ACCEPTED, f"{project_version()}\n")
