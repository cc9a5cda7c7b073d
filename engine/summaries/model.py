"""What must a model be able to do that writes summaries? It runs in a process of its own, as all models do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from engine.speech.transcriber import Component


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is given: our instruction as the system's message, and data as the user's."""

    instruction: str
    data: str


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote: JSON of the schema that it was held to, whole."""

    text: str
    input_tokens: int
    output_tokens: int


class InstructModel(Protocol):
    """A model that writes what it is told to. Cancelling a call stops the work behind it."""

    @property
    def name(self) -> str:
        """As the operator calls it."""

    @property
    def context(self) -> int:
        """How many tokens it reads and writes at a time."""

    @property
    def component(self) -> Component:
        """The process that it runs in."""

    @property
    def ready(self) -> bool:
        """Whether it takes calls now."""

    async def start(self) -> None:
        """Start its process and return once it serves. Raises BackendError."""

    async def close(self) -> None:
        """Stop its process; safe to call twice."""

    async def count(self, prompt: Prompt) -> int:
        """How many tokens it would read. Raises BackendError."""

    async def write(self, prompt: Prompt, schema: Mapping[str, Any], *, max_tokens: int) -> Written:
        """Have it write JSON of a schema (JSON Schema, 2020-12).

        Raises BackendError, also where it wrote `max_tokens` and was not at its end.
        """
