from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from core.program.run import project_version
from engine.cli import VARIABLES
from tests.places import ROOT

SCRIPT = str(Path(sys.executable).with_name("sottovoce-engine"))


def test_nothing_of_weight_is_loaded_before_the_engine_is_isolated() -> None:
    program = "import sys; before = set(sys.modules); import engine.cli; print(*sorted(set(sys.modules) - before))"
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT, text=True
    ).stdout
    loaded = set(output.split())
    ours = {"core", "core.program", "core.program.isolation", "engine", "engine.cli"}
    assert {name.partition(".")[0] for name in loaded - ours} <= set(sys.stdlib_module_names)
    assert loaded.isdisjoint({"ssl", "_ssl", "hashlib", "_hashlib", "ctypes"})


@pytest.mark.parametrize("start", [[SCRIPT], [sys.executable, "-m", "engine.cli"], [sys.executable, "-I", SCRIPT]])
def test_however_it_is_started_the_engine_finds_itself(start: list[str], tmp_path: Path) -> None:
    ended = subprocess.run([*start, "--version"], check=True, capture_output=True, cwd=tmp_path, text=True)
    assert (ended.stdout, ended.stderr) == (f"{project_version()}\n", "")


def test_the_engine_is_called_by_its_name_however_it_is_started() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "engine.cli", "serve"], check=False, capture_output=True, cwd=ROOT, text=True
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("Usage: sottovoce-engine serve")


def test_every_variable_that_reaches_the_engine_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text().partition("### What of its environment")[2]
    table = text.partition("\n### ")[0]
    documented = {
        name for line in table.splitlines() if line.startswith("| `") for name in re.findall("`(\\w+)`", line)
    }
    assert documented == {*VARIABLES, "SOTTOVOCE_"}
