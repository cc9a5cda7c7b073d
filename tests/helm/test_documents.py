"""Do the documents say what the chart says?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helm.chart import CHART, PRESETS, VALUES, rendered
from tests.helm.generated import FILES, GUIDE, described_values
from tests.helm.sidecar import EXAMPLE
from tests.places import ROOT


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_follows_from_something_else_was_written_again(path: Path) -> None:
    """`python -m tests.helm.generated` writes it."""
    assert path.read_text() == FILES[path]()


def test_the_guide_shows_what_is_rendered() -> None:
    shown = re.findall(r"<!-- rendered: ([\w-]+)", GUIDE.read_text())
    assert shown == ["sidecar", "defaults", "coco-snp-gpu", "coco-tdx-gpu"]


def test_every_value_says_what_it_is_for() -> None:
    described = {name for name, _, _ in described_values()}
    lines = (CHART / "values.yaml").read_text().splitlines()
    path: list[tuple[int, str]] = []
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if found := re.match(r"( *)([A-Za-z_]+):", line):
            indent = len(found[1])
            path = [step for step in path if step[0] < indent] + [(indent, found[2])]
            name = ".".join(step for _, step in path)
            is_parent = len(below) - len(below.lstrip()) > indent
            inside_described = any(name.startswith(f"{each}.") for each in described)
            assert name in described or is_parent or inside_described, name


@pytest.mark.parametrize("path", sorted(PRESETS.iterdir()), ids=lambda path: path.stem)
def test_every_preset_is_in_the_guide_and_among_the_values_that_are_tried(path: Path) -> None:
    assert f"`{path.stem}`" in GUIDE.read_text()
    assert any(path.stem in name for name in VALUES)


def test_values_that_the_guide_names_are_there() -> None:
    described = {name: default for name, _, default in described_values()}
    inside = {f"{name}.{key}" for name, value in described.items() if isinstance(value, dict) for key in value}
    known = set(described) | inside
    parents = {name.rpartition(".")[0] for name in known}
    named = set(re.findall(r"`((?:proxy|sidecar|engine|monitoring)\.[A-Za-z.]+)[:`]", GUIDE.read_text()))
    assert len(named) > 15
    assert {name for name in named if name not in known | parents} == set()


def test_the_example_is_the_one_of_the_guide() -> None:
    template = (EXAMPLE / "templates" / "deployment.yaml").read_text()
    for line in re.findall(r"\{\{- include [^}]*\}\}", GUIDE.read_text()):
        assert line in template


def test_the_examples_ask_for_the_chart_that_is_there() -> None:
    version = re.search(r"^version: (.*)$", (CHART / "Chart.yaml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"version: {version[1]}\n    repository: file://../../../helm" in (EXAMPLE / "Chart.yaml").read_text()
    assert f"version: {version[1]}, repository" in GUIDE.read_text()


def test_the_chart_runs_the_version_of_the_project() -> None:
    project = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert f"appVersion: {project[1]}\n" in (CHART / "Chart.yaml").read_text()


@pytest.mark.parametrize("name", VALUES)
def test_the_notes_say_how_to_verify_the_install(name: str) -> None:
    notes = rendered(VALUES[name])["NOTES.txt"]
    assert "Verify the install:" in notes
    assert "helm test sottovoce -n speech" in notes
    assert "<no value>" not in notes


def test_the_notes_never_name_one_address_before_several_engines() -> None:
    notes = rendered(VALUES["several engines"])["NOTES.txt"]
    assert "sottovoce-engine.speech" not in notes
    assert "http://sottovoce-engine-0.speech:8800 to sottovoce-engine-2" in notes
