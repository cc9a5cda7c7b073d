"""What do the model servers say of themselves, for metrics?

Asked once a window, after the window has ended. A server that does not answer in time is left out, and so is a backend
that counts nothing: an old figure would pass for a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from core.errors import BackendError
from engine.speech.observer import Sample
from engine.speech.transcriber import Transcriber

READ_S = 5.0


async def read_metrics(
    transcriber: Transcriber, models: Iterable[str], *, timeout_s: float = READ_S
) -> dict[str, tuple[Sample, ...]]:
    """The metrics of each model's server that has answered."""
    async with asyncio.TaskGroup() as group:
        readings = {model: group.create_task(_read(transcriber, model, timeout_s)) for model in models}
    return {model: reading.result() for model, reading in readings.items() if reading.result()}


async def _read(backend: Transcriber, model: str, timeout_s: float) -> tuple[Sample, ...]:
    try:
        async with asyncio.timeout(timeout_s):
            return await backend.metrics(model)
    except (BackendError, TimeoutError, ValueError):  # a server that was attached to may say anything
        return ()
