"""What a user's installer makes of this: the programs, their completion, and nothing of an engine's weight."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import pytest

from core.program.run import ExitCode, project_version
from tests.e2e.processes import CHECKPOINT, POLICY
from tests.places import ROOT
from tests.requirements import need

pytestmark = pytest.mark.slow

PROGRAMS = ("sottovoce", "sottovoce-attest", "sottovoce-engine")
HEAVY = {"av", "ctranslate2", "faster-whisper", "numpy", "onnxruntime", "opentelemetry-proto", "protobuf", "torch"}


@dataclass(frozen=True, slots=True)
class Installed:
    """Where an installer put the programs, and the environment that it made for them."""

    programs: Path
    packages: set[str]

    def run(self, name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SOTTOVOCE_")}
        command = [str(self.programs / name), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=kept | variables, cwd="/")


def _pipx(directory: Path) -> tuple[list[str], dict[str, str]]:
    places = {"PIPX_HOME": directory / "home", "PIPX_BIN_DIR": directory / "bin", "PIPX_MAN_DIR": directory / "man"}
    command = ["pipx", "install", "--python", sys.executable, str(ROOT)]
    return command, {name: str(place) for name, place in places.items()}


def _uv(directory: Path) -> tuple[list[str], dict[str, str]]:
    places = {"UV_TOOL_DIR": directory / "home", "UV_TOOL_BIN_DIR": directory / "bin"}
    command = ["uv", "tool", "install", "--python", sys.executable, str(ROOT)]
    return command, {name: str(place) for name, place in places.items()}


INSTALLERS = {"pipx": _pipx, "uv": _uv}


@pytest.fixture(scope="module", params=INSTALLERS)
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    directory = tmp_path_factory.mktemp("tool")
    (installer, *arguments), variables = INSTALLERS[request.param](directory)
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    found = shutil.which(installer, path=beside)
    need(found is not None, f"{installer}: apt-get install pipx, pip install uv")
    told = subprocess.run(
        [str(found), *arguments], capture_output=True, text=True, check=False, env=os.environ | variables
    )
    assert told.returncode == 0, told.stdout + told.stderr
    (site,) = (directory / "home").rglob("sottovoce/lib/python*/site-packages")
    names = {distribution.metadata["Name"].lower() for distribution in distributions(path=[str(site)])}
    return Installed(directory / "bin", names)


def test_all_programs_are_there(installed: Installed) -> None:
    assert {path.name for path in installed.programs.iterdir()} == set(PROGRAMS)
    told = installed.run("sottovoce", "--version")
    assert (told.returncode, told.stdout.strip()) == (0, project_version())


@pytest.mark.parametrize(
    ("name", "typed", "offered"),
    [
        ("sottovoce", "sottovoce do", "doctor"),
        ("sottovoce", "sottovoce proxy --pol", "--policy"),
        ("sottovoce-attest", "sottovoce-attest self", "selftest"),
        ("sottovoce-engine", "sottovoce-engine serve --evid", "--evidence-from"),
    ],
)
def test_a_shell_completes_what_is_typed(name: str, typed: str, offered: str) -> None:
    asked = {
        f"_{name.replace('-', '_').upper()}_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    told = Installed(Path(sys.executable).parent, set()).run(name, **asked)
    assert offered in told.stdout.split()


def test_the_proxy_needs_nothing_of_an_engines_weight(installed: Installed) -> None:
    assert {"sottovoce", "aiohttp"} <= installed.packages
    assert installed.packages & HEAVY == set()
    told = installed.run("sottovoce", "config", "check", "--engine", "http://127.0.0.1:9", "--policy", str(POLICY))
    assert told.returncode == 0, told.stdout + told.stderr


def test_what_lacks_an_extra_names_it(installed: Installed) -> None:
    engine = installed.run("sottovoce-engine", "serve", "--insecure-evidence", "--model", f"nano={CHECKPOINT}")
    assert (engine.returncode, "sottovoce[engine]" in engine.stderr) == (ExitCode.USAGE, True)
    settings = ("--engine", "http://127.0.0.1:9", "--policy", str(POLICY))
    proxy = installed.run("sottovoce", "config", "check", *settings, "--otlp-endpoint", "http://127.0.0.1:4318")
    assert (proxy.returncode, "sottovoce[otel]" in proxy.stdout + proxy.stderr) == (ExitCode.USAGE, True)
