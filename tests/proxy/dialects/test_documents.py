"""Every row of every API is in its document, with a test that exists or a reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.places import ROOT

APIS = ("scriptivox", "audiototext", "privocio")
HERE = ("served", "in part", "not built", "not here")

_ROW = re.compile(r"\| ([A-Z]{2}-\S+) \| .+ \| (" + "|".join(HERE) + r") \| (.+) \|")
_TEST = re.compile(r"`(\S+\.py)::(test_\w+)`")


def rows(name: str) -> list[tuple[str, str, str]]:
    """Id, status, and what stands in the last column."""
    text = (ROOT / "docs" / "apis" / f"{name}.md").read_text()
    found = [_ROW.fullmatch(line) for line in text.splitlines() if re.match(r"\| [A-Z]{2}-", line)]
    assert all(found), "a row that is not in the form of the others"
    return [(match[1], match[2], match[3]) for match in found if match]


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("name", APIS)
def test_every_row_stands_once_in_its_document(name: str) -> None:
    expected = (Path(__file__).parent / "rows" / f"{name}.txt").read_text().split()
    assert [row for row, _, _ in rows(name)] == expected


@pytest.mark.parametrize("name", APIS)
def test_what_is_served_names_tests_that_exist(name: str) -> None:
    for row, status, text in rows(name):
        named = _TEST.findall(text)
        missing = [test for file, test in named if test not in names_in(ROOT / "tests" / file)]
        assert not missing, f"{row}: {missing}"
        assert named or status != "served", f"{row} names no test"


@pytest.mark.parametrize("name", APIS)
def test_what_is_not_served_says_why(name: str) -> None:
    for row, status, text in rows(name):
        reason = _TEST.sub("", text).strip(" ;.")
        assert reason or status == "served", f"{row} does not say why"


def test_the_lists_have_as_many_rows_as_the_apis_promise() -> None:
    counts: Mapping[str, int] = {name: len(rows(name)) for name in APIS}
    assert counts == {"scriptivox": 245 + 119, "audiototext": 64, "privocio": 67}
