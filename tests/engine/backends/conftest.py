"""Models for backends, held as the engine holds them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.backends.weights import FileWeights, held
from tests.engine.backends.checkpoints import Checkpoint
from tests.engine.speech.utterances import NANO


@pytest.fixture
async def nano() -> AsyncIterator[dict[str, FileWeights]]:
    weights = FileWeights(NANO)
    async with held([weights]):
        yield {"nano": weights}


@pytest.fixture
async def checkpoint(tmp_path: Path) -> AsyncIterator[Checkpoint]:
    made = Checkpoint(tmp_path / "checkpoint")
    async with held([made.weights]):
        yield made
