"""What the tests of programs stand on: none of the variables with which they are run themselves."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting comes from the environment of this process."""
    for name in tuple(os.environ):
        if name.startswith("SOTTOVOCE_"):
            monkeypatch.delenv(name)
