"""What else is installed beside vLLM decides whether it starts: distributions made up for the purpose."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from engine.backends.vllm.inside.entry_points import BY_NAME, OURS, PLUGIN, REFUSAL, refuse_foreign_plugins
from tests.places import ROOT

OUR_DISTRIBUTION = "sottovoce"

Point = tuple[str, str, str]


def install(site: Path, distribution: str, *points: Point) -> None:
    """Put a distribution that consists of its metadata into a directory."""
    metadata = site / f"{distribution}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("".join(f"[{group}]\n{name} = {to}\n" for group, name, to in points))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All there is to import from; vLLM and we are installed in it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    install(tmp_path, "vllm", ("vllm.general_plugins", "lora_filesystem_resolver", "vllm.plugins:register"))
    install(tmp_path, OUR_DISTRIBUTION, *OURS, ("console_scripts", "sottovoce", "proxy.cli:main"))
    return tmp_path


def test_our_entry_points_are_those_of_our_distribution() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert {(group, name, to) for group, points in declared.items() for name, to in points.items()} == set(OURS)


@pytest.mark.usefixtures("site")
def test_beside_vllm_and_us_nothing_is_refused() -> None:
    refuse_foreign_plugins()


FOREIGN: dict[str, Point] = {
    "a logits processor": ("vllm.logits_processors", "other", "other:Logits"),
    "a logits processor by our name": ("vllm.logits_processors", PLUGIN, "other:Logits"),
    "a group we do not know": ("vllm.plugins_to_come", "other", "other:run"),
    **{f"our name in {group}": (group, PLUGIN, "other:run") for group in sorted(BY_NAME)},
}


@pytest.mark.parametrize("point", FOREIGN.values(), ids=FOREIGN)
def test_what_vllm_would_load_of_another_distribution_is_refused(site: Path, point: Point) -> None:
    install(site, "other", point)
    with pytest.raises(RuntimeError, match=REFUSAL):
        refuse_foreign_plugins()


@pytest.mark.parametrize("group", [*sorted(BY_NAME), "other.plugins"])
def test_what_vllm_does_not_load_may_be_installed(site: Path, group: str) -> None:
    install(site, "other", (group, "other", "other:run"))
    refuse_foreign_plugins()


@pytest.mark.parametrize("missing", OURS, ids=[group for group, _, _ in OURS])
def test_an_installation_without_one_of_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: Point
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    install(tmp_path, OUR_DISTRIBUTION, *(point for point in OURS if point != missing))
    with pytest.raises(RuntimeError, match=REFUSAL):
        refuse_foreign_plugins()
