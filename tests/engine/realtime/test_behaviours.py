"""Every promise of live sessions has a test that shows it."""

from __future__ import annotations

import re

import pytest

from tests.engine.realtime.behaviours import BEHAVIOURS, shown
from tests.places import ROOT


def test_every_behaviour_has_a_test() -> None:
    marked = {number for path in (ROOT / "tests").rglob("test_*.py") for number in shown(path.read_text())}
    assert {number: BEHAVIOURS.get(number) for number in marked ^ BEHAVIOURS.keys()} == {}
    assert list(BEHAVIOURS) == list(range(1, 53))


def test_a_mark_counts_on_a_test_alone() -> None:
    marked = "@pytest.mark.slow\n@pytest.mark.behaviour(1, 2)\nasync def test_a() -> None: ...\n"
    assert list(shown(marked)) == [1, 2]
    assert list(shown(marked.replace("test_a", "helper"))) == []
    assert list(shown("def test_a() -> None:\n    '''pytest.mark.behaviour(1)'''\n")) == []


@pytest.mark.behaviour(52)
def test_how_soon_a_text_is_final_is_published() -> None:
    figures = (ROOT / "benchmarks" / "README.md").read_text()
    (table,) = re.findall(r"^[^\n]*, whisper-base, faster-whisper\n(.*?)```", figures, re.MULTILINE | re.DOTALL)
    assert "a file of the sentence" in table
    assert re.findall(r"^end of speech to text, +(\d+)(?: +\d+){4} ", table, re.MULTILINE) == ["1", "4", "8"]
