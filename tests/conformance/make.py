"""Writes the files of vectors: `python -m tests.conformance.make`. The same bytes every time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.conformance.authors import (
    answers,
    binary_http,
    documents,
    evidence,
    key_configs,
    live,
    policies,
    requests,
    statements,
)
from tests.conformance.files import DIRECTORY

AUTHORS: Final[Mapping[str, Callable[[], dict[str, Any]]]] = {
    "requests": requests.figures,
    "binary_http": binary_http.figures,
    "answers": answers.figures,
    "key_configs": key_configs.figures,
    "live": live.figures,
    "documents": documents.figures,
    "statements": statements.figures,
    "policies": policies.figures,
    "evidence": evidence.figures,
}
TRANSPORT: Final = ("requests", "binary_http", "answers", "key_configs", "live")


def encoded(name: str) -> str:
    """What stands in a file: a vector a line, so that a change shows as one."""
    figures = AUTHORS[name]()
    vectors = figures.pop("vectors")
    head = json.dumps(figures, indent=1).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(vector)}" for vector in vectors)
    return f'{head},\n "vectors": [\n{lines}\n ]\n}}\n'


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    for name in AUTHORS:
        text = encoded(name)
        (DIRECTORY / f"{name}.json").write_text(text)
        sys.stdout.write(f"{name}: {len(json.loads(text)['vectors'])} vectors, {len(text):,} bytes\n")


if __name__ == "__main__":
    main()
