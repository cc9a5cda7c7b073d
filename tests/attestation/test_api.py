"""The library is used as its page says, names nothing that the page does not, and loads nothing before it is asked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import attestation
from attestation.bundle import Bundle
from tests.attestation.samples import NONCE, NOW, attested, statement_with
from tests.places import ROOT

PAGE = ROOT / "docs/python-api.md"
NAMES = [name for name in dir(attestation) if not name.startswith("_") and name not in vars(attestation)]


@pytest.mark.parametrize(
    ("log_level", "said"),
    [
        ("info", r"accepted until 2026-06-01 13:00:00\+00:00 with keys \['[0-9a-f]{64}', '[0-9a-f]{64}'\]"),
        ("debug", "refused:\n  log level: "),
    ],
)
def test_the_example_of_the_page_judges_what_was_saved(tmp_path: Path, log_level: str, said: str) -> None:
    (tmp_path / "policy.toml").write_text("version = 1\n[insecure]\naccept = true\n")
    document = attested(statement_with(log_level=log_level))
    (tmp_path / "engine.json").write_bytes(Bundle(NONCE, int(NOW.timestamp()), document).encode())
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.match(said, done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_on_the_page(name: str) -> None:
    assert getattr(attestation, name).__module__.startswith(("attestation.", "collections", "typing"))
    assert re.search(rf"^\|.*`{name}\b", PAGE.read_text(), re.MULTILINE)


def test_no_name_is_that_of_a_module() -> None:
    modules = {path.stem for path in (ROOT / "attestation").iterdir()}
    assert modules & set(NAMES) == set()


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'verifi'"):
        _ = attestation.verifi  # type: ignore[attr-defined]


def test_importing_it_loads_nothing() -> None:
    program = "import attestation, sys; print(*(set(sys.modules) & {'attestation.types', 'core', 'pydantic'}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
