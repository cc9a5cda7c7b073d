"""What the documents say of the programs is what the programs say of themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attestation.program import ExitCode, ProgramSettings
from engine.settings import EngineSettings
from proxy.settings import ProxySettings

ROOT = Path(__file__).parent.parent
SECTIONS = {
    "Every program": ProgramSettings,
    "`sottovoce proxy`": ProxySettings,
    "`sottovoce-engine serve`": EngineSettings,
}


@pytest.mark.parametrize("title", SECTIONS)
def test_every_setting_has_its_line_in_the_docs_and_no_other_has(title: str) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text().partition(f"## {title}")[2].partition("\n## ")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| .*? \| (.*) \|$", text, re.MULTILINE))
    shared = set() if title == "Every program" else set(ProgramSettings.model_fields)
    fields = {name: field for name, field in SECTIONS[title].model_fields.items() if name not in shared}
    assert documented == {name: field.description for name, field in fields.items()}


def test_every_exit_code_is_in_the_readme() -> None:
    table = (ROOT / "README.md").read_text().partition("| exit code | meaning |")[2]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == {int(code) for code in ExitCode}


def test_every_relative_link_of_the_documents_leads_somewhere() -> None:
    documents = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{document.name}: {target}"
        for document in documents
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert broken == []
