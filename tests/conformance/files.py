"""Where are the vectors?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

DIRECTORY: Final = Path(__file__).parent / "v1"


def read(name: str) -> dict[str, Any]:
    """A file of vectors."""
    figures: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text())
    return figures
