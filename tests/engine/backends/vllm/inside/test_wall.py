"""What runs inside vLLM sees clips beside foreign code: of ours it brings few modules, and no library vLLM has not."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import ROOT

INSIDE = "engine.backends.vllm.inside"
OTHERS_OF_OURS = {"core.media.sandbox", "core.program.memory", "engine.speech.language", "engine.speech.whisper"}
VLLMS = {"torch", "transformers", "vllm"}

OURS = {"attestation", "core", "engine", "proxy"}
MODULES = sorted(f"{INSIDE}.{path.stem}" for path in (ROOT / INSIDE.replace(".", "/")).glob("[!_]*.py"))


def source_of(module: str) -> Path | None:
    """Where a module of ours is; None of what is none, as a name that is imported from one."""
    path = ROOT / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imported(module: str) -> Iterator[str]:
    """The modules that a module of ours names, wherever in it."""
    source = source_of(module)
    assert source is not None
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            assert not node.level
            within = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from {name if is_ours(name) and source_of(name) else node.module for name in within}


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS


def reached(module: str) -> set[str]:
    """All modules of ours that come with one, itself among them."""
    found = [module]
    for one in found:
        found += [name for name in imported(one) if is_ours(name) and name not in found]
    return set(found)


def test_there_is_something_inside() -> None:
    assert f"{INSIDE}.plugin" in MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_inside_vllm_imports_its_neighbours_and_little_else(module: str) -> None:
    ours = {name for name in imported(module) if is_ours(name)}
    assert ours - set(MODULES) <= OTHERS_OF_OURS


@pytest.mark.parametrize("module", MODULES)
def test_whatever_comes_with_it_needs_nothing_but_vllms_libraries(module: str) -> None:
    roots = {name.partition(".")[0] for one in reached(module) for name in imported(one) if not is_ours(name)}
    assert roots <= VLLMS | sys.stdlib_module_names


@pytest.mark.parametrize("module", MODULES)
def test_whatever_comes_with_it_holds_no_key_and_speaks_to_nobody(module: str) -> None:
    rooms = {".".join(one.split(".")[:2]) for one in reached(module)}
    assert rooms <= {"core.errors", "core.media", "core.program", "core.transcript", "engine.backends", "engine.speech"}
    assert {one for one in reached(module) if one.startswith("engine.backends.")} <= set(MODULES)
