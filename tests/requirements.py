"""What some tests need beyond Python packages: skipped without it on a laptop, a failure where everything must run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

WEIGHTS = Path(__file__).parent.parent / ".weights"
REQUIRE_ALL = bool(os.environ.get("SOTTOVOCE_TEST_REQUIRE_ALL"))


def need(present: bool, what: str) -> None:
    """Skip the test when something is missing, or fail it where nothing may be."""
    if present:
        return
    if REQUIRE_ALL:
        pytest.fail(f"{what} is missing, and SOTTOVOCE_TEST_REQUIRE_ALL is set")
    pytest.skip(f"needs {what}")


def need_program(name: str) -> None:
    need(shutil.which(name) is not None or Path("/usr/sbin", name).exists(), name)


def need_weights(name: str) -> Path:
    """The directory of a checkpoint that `make weights` fetches."""
    directory = WEIGHTS / name
    need(directory.exists(), f"{name}, which `make weights` fetches")
    return directory
