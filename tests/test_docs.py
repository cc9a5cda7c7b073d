"""What the documents say of the programs is what the programs say of themselves."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.core import TyperGroup

from attestation.cli.main import app as attest
from core.program.run import ExitCode
from docs.generate import DOCS, documents, metrics
from engine.commands import app as engine
from proxy.cli import app as sottovoce
from tests.places import ROOT

TEXTS = {
    path: path.read_text("utf-8") for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md")))
}
PROGRAMS: dict[str, Any] = {
    "sottovoce": typer.main.get_command(sottovoce),
    "sottovoce-attest": typer.main.get_command(attest),
    "sottovoce-engine": typer.main.get_command(engine),
}
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "helm" / "files" / "alerts.yaml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]


@pytest.mark.parametrize("name", ["configuration.md", "errors.md", "metrics.md"])
def test_what_the_programs_write_of_a_document_is_as_they_write_it(name: str) -> None:
    assert documents()[DOCS / name] == (DOCS / name).read_text("utf-8"), "`make docs` writes it"


def test_every_metric_is_named_once() -> None:
    names = [metric.name for metric, _ in metrics()]
    assert len(names) == len(set(names)) > 50


def test_every_label_of_a_metric_is_told() -> None:
    told = (DOCS / "metrics.md").read_text("utf-8").partition("## Labels")[2].partition("\n#")[0]
    labels = {label for metric, _ in metrics() for label in metric.labels} - {"status", "version"}
    assert labels == set(re.findall(r"^\| `(\w+)` \|", told, re.MULTILINE))


def test_every_exit_code_is_in_the_readme() -> None:
    table = (ROOT / "README.md").read_text().partition("| exit code | meaning |")[2]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == {int(code) for code in ExitCode}


def test_no_document_installs_by_name_what_no_index_has() -> None:
    """Whoever registered the name would be installed by those who came to check."""
    asked = re.compile(r"(pip3? install|pipx install|uv tool install|uvx)[^`\n]*\bsottovoce\b")
    assert [path.name for path, text in TEXTS.items() if asked.search(text)] == []
    assert asked.search("pip install 'sottovoce[reference]'")


def test_every_relative_link_of_the_documents_leads_somewhere() -> None:
    broken = [
        f"{document.name}: {target}"
        for document, text in TEXTS.items()
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_every_document_is_found_from_another() -> None:
    linked = {
        (document.parent / target).resolve()
        for document, text in TEXTS.items()
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    }
    assert [path.name for path in TEXTS if path not in linked and path.parent not in linked] == []


def test_every_link_to_a_heading_leads_to_one() -> None:
    broken = [
        f"{document.name}: {file}#{heading}"
        for document, text in TEXTS.items()
        for file, heading in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text)
        if heading not in _headings(((document.parent / file).resolve() if file else document).read_text())
    ]
    assert broken == []


def _headings(text: str) -> set[str]:
    """As GitHub spells them in a link."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(text: str) -> Iterator[list[str]]:
    """What a document tells to type into a shell, but for what stands before a program's name."""
    for block in re.findall(r"^```sh\b[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;()<>")
            words: list[str] = []
            lexer.whitespace_split = True
            for word in [*lexer, ";"]:
                if set(word) <= set("|&;()"):
                    yield words
                    words = []
                elif words or not re.match(r"\w+=", word):
                    words.append(word)


def faults(words: list[str]) -> Iterator[str]:
    """What of a command of ours cannot be typed."""
    command, options = PROGRAMS[Path(words[0]).name], {"--help"}
    for word in words[1:]:
        if isinstance(command, TyperGroup) and not word.startswith("-"):
            if word not in command.commands:
                yield f"{command.name} has no command {word}"
                return
            command = command.commands[word]
        options |= {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in options:
            yield f"{command.name} has no option {word}"


OURS = [words for text in TEXTS.values() for words in commands(text) if words and Path(words[0]).name in PROGRAMS]


def test_every_command_of_the_documents_can_be_typed() -> None:
    assert len(OURS) > 60
    assert [fault for words in OURS for fault in faults(words)] == []


@pytest.mark.parametrize(
    ("typed", "fault"),
    [
        ("sottovoce prxy", "no command prxy"),
        ("$ .venv/bin/sottovoce proxy --polcy x", "no option --polcy"),
        ("X=1 sottovoce-engine keys add --api-key=y | cat", "no option --api-key"),
        ("true && sottovoce-attest policy sign \\\n  p --kee k", "no option --kee"),
    ],
)
def test_a_command_that_cannot_be_typed_is_seen(typed: str, fault: str) -> None:
    ours = [words for words in commands(f"```sh\n{typed}\n```\n") if words and Path(words[0]).name in PROGRAMS]
    assert [fault in found for words in ours for found in faults(words)] == [True]


def test_every_alert_has_its_section_of_the_run_book() -> None:
    sections = re.findall(r"^## (\w+)$", TEXTS[DOCS / "operate" / "alerts.md"], re.MULTILINE)
    assert sections == [rule["alert"] for rule in RULES]


def test_metrics_that_a_document_names_are_there() -> None:
    known = {metric.name for metric, _ in metrics()}
    named = {
        (document.name, name)
        for document, text in TEXTS.items()
        for name in re.findall(r"\bsottovoce_(?:proxy|engine)_\w+[a-z]\b(?!\.)", text)
    }
    assert {name for _, name in named if re.sub(r"_(bucket|sum|count)$", "", name) not in known} == set()
