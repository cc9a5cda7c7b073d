"""Published figures, read from tests/vectors; every file names its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_VECTORS = Path(__file__).parents[2] / "vectors"


def load(name: str) -> dict[str, Any]:
    """Read tests/vectors/`name`.json."""
    figures: dict[str, Any] = json.loads((_VECTORS / f"{name}.json").read_text())
    return figures


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut `data` into pieces of these sizes in turn, over and over."""
    cut, offset, turn = [], 0, 0
    while offset < len(data):
        size = sizes[turn % len(sizes)]
        cut.append(data[offset : offset + size])
        offset += size
        turn += 1
    return cut
