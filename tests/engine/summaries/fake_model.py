"""An instruct model by script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.speech.transcriber import Component
from engine.summaries.model import Prompt, Written

ANSWER = {"summary": "They greet.", "topics": ["greetings"]}


@dataclass
class FakeInstruct:
    """Implements `engine.summaries.model.InstructModel`: a token is a word.

    answer: what it writes to a prompt, JSON or raised. gate: awaited by every call. asked: all prompts that were
    written to, with their schemas; given: how many tokens each was given. most_live: calls at a time.
    """

    answer: Callable[[Prompt], Any] = lambda _: ANSWER
    context: int = 16_384
    name: str = "instruct"
    component: Component = field(default_factory=lambda: Component("vllm-instruct", ("--flag",)))
    ready: bool = False
    gate: asyncio.Event | None = None
    asked: list[Prompt] = field(default_factory=list)
    schemas: list[Mapping[str, Any]] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    live: int = 0
    most_live: int = 0
    cancelled: int = 0

    async def start(self) -> None:
        self.ready = True

    async def close(self) -> None:
        self.ready = False

    async def count(self, prompt: Prompt) -> int:
        return len(f"{prompt.instruction} {prompt.data}".split())

    async def write(self, prompt: Prompt, schema: Mapping[str, Any], *, max_tokens: int) -> Written:
        self.asked.append(prompt)
        self.schemas.append(schema)
        self.given.append(max_tokens)
        self.live += 1
        self.most_live = max(self.most_live, self.live)
        try:
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
            answer = self.answer(prompt)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.live -= 1
        if isinstance(answer, Exception):
            raise answer
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return Written(text, await self.count(prompt), 7)
