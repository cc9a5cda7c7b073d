"""The channel neither reads nor writes, and does not look at the clock."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import core.channel

MODULES = sorted(Path(core.channel.__file__).parent.glob("*.py"))
ALLOWED = {
    "__future__",
    "abc",
    "base64",
    "binascii",
    "core.channel",
    "core.channel.bhttp",
    "core.channel.hpke",
    "core.channel.kdf",
    "core.channel.kem",
    "core.channel.keyconfig",
    "core.channel.ohttp",
    "core.channel.records",
    "core.errors",
    "collections",
    "collections.abc",
    "dataclasses",
    "enum",
    "hashlib",
    "re",
    "typing",
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_nothing_that_reads_or_writes(path: Path) -> None:
    outside = {name for name in imported(path) if not name.startswith("cryptography.")} - ALLOWED
    assert outside == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_only_the_modules_of_hpke_touch_the_cryptography_library(path: Path) -> None:
    uses = any(name.startswith("cryptography") for name in imported(path))
    assert uses is (path.stem in ("hpke", "kdf", "kem"))
