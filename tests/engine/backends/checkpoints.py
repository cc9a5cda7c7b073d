"""What backends are tested with: the project's own small checkpoint, and one that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.backends.weights import DirectoryWeights


class Checkpoint:
    """A model for the stand-in of vLLM, and a directory that tells it what to do and hears what it saw."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.model = directory / "model"
        self.model.mkdir(parents=True)
        (self.model / "place").write_text(str(directory))
        self.weights = DirectoryWeights(self.model)
        self.behave()

    def behave(self, **behaviour: Any) -> None:
        (self.directory / "behaviour.json").write_text(json.dumps(behaviour))

    @property
    def seen(self) -> dict[str, Any]:
        seen: dict[str, Any] = json.loads((self.directory / "seen.json").read_text())
        return seen
