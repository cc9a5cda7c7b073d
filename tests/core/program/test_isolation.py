from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from core.program.isolation import FIXED, passed_on
from tests import foreign
from tests.places import ROOT

PROGRAM = "tests.core.program.isolated_program"

Way = Callable[[Path], dict[str, str]]

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="read from Linux's /proc")


def seen(*arguments: str, variables: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Any:
    """What the program sees that is started with these variables, beside those of the tests that are not settings."""
    command = [sys.executable, "-m", PROGRAM, *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SOTTOVOCE_")}
    environment |= variables or {}
    return json.loads(subprocess.run(command, check=True, capture_output=True, cwd=cwd, env=environment).stdout)


@pytest.mark.parametrize("way", foreign.WAYS)
def test_a_stranger_gets_into_a_program_that_takes_its_surroundings_as_they_are(way: Way, tmp_path: Path) -> None:
    """Or else the next test would prove nothing."""
    assert seen("--as-it-is", variables=way(tmp_path))["library"]


@pytest.mark.parametrize("way", foreign.WAYS)
def test_no_variable_brings_a_stranger_into_an_isolated_program(way: Way, tmp_path: Path) -> None:
    program = seen(variables=way(tmp_path))
    assert not program["library"]
    assert str(tmp_path) not in json.dumps(program)
    assert program["isolated"]


def test_a_program_sees_the_variables_that_are_named_and_no_other() -> None:
    kept = {"KEPT": "a", "SOTTOVOCE_SETTING": "b"}
    program = seen(variables=kept | {"PATH": f"/canary:{os.environ['PATH']}", "CANARY": "c", "KEPT_TOO": "d"})
    assert program["variables"] == {**kept, **FIXED}


def test_a_program_keeps_its_arguments_and_its_name() -> None:
    given = ["-c", "a b", "", "--path=x", "-I"]
    assert seen(*given)["arguments"] == ["program", *given]


def test_a_program_that_is_not_installed_finds_itself_and_no_other_version(tmp_path: Path) -> None:
    for package in ("core/program/isolation.py", "tests/core/program/isolated_program.py"):
        place = tmp_path / package
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / package, place)
        for parent in place.relative_to(tmp_path).parents[:-1]:
            (tmp_path / parent / "__init__.py").touch()
    assert seen(cwd=tmp_path)["file"] == str(tmp_path / "tests/core/program/isolated_program.py")


def test_the_directory_in_which_a_program_is_started_holds_none_of_its_code(tmp_path: Path) -> None:
    (tmp_path / "ssl.py").write_text("raise SystemExit('canary')")
    assert str(tmp_path) not in seen(variables={"PYTHONPATH": str(ROOT)}, cwd=tmp_path)["path"]


def test_who_is_isolated_from_the_start_is_not_started_again() -> None:
    program = f"""
import os, sys
sys.path.append({str(ROOT)!r})
os.execve = None
from {PROGRAM} import main
main()
"""
    command = [sys.executable, "-I", "-c", program]
    output = subprocess.run(command, check=True, capture_output=True, env=FIXED).stdout
    assert json.loads(output)["isolated"]


def test_who_cannot_be_isolated_does_not_start() -> None:
    program = f"""
import os, sys
sys.path.append({str(ROOT)!r})
os.environ["CANARY"] = "x"
started_again = True
from {PROGRAM} import main
main()
"""
    ended = subprocess.run([sys.executable, "-I", "-c", program], check=False, capture_output=True, env=FIXED)
    assert ended.returncode == 1
    assert ended.stderr == b"program: started in isolation, and yet sees CANARY\n"


@pytest.mark.parametrize(
    ("environ", "kept"),
    [
        ({"A": "1", "B": "2"}, {"A": "1"}),
        ({"PRE_X": "1", "XPRE_": "2"}, {"PRE_X": "1"}),
        ({"a": "1", "LC_ALL": "de_DE", "PATH": "/canary"}, {}),
    ],
)
def test_names_are_compared_to_the_letter(environ: Mapping[str, str], kept: Mapping[str, str]) -> None:
    assert passed_on(environ, ("A",), ("PRE_",)) == {**kept, **FIXED}
