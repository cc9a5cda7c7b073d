"""Who writes summaries? An instruct model on a vLLM server of its own, which answers in JSON of a schema or not at all.

vLLM's chat API (0.32: `vllm/entrypoints/openai/chat_completion`, `vllm/entrypoints/serve/tokenize`) with
`response_format` of type `json_schema`: what is no such JSON cannot be sampled. The server is one of ours like those
that hear (`engine.backends.vllm.server`): what it is given is printed, kept and cached nowhere.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attestation.statement import SUMMARIES
from core.errors import BackendError
from engine.backends.vllm.client import VllmConnection, read
from engine.backends.vllm.kept import KeptServers, Patience
from engine.backends.vllm.server import PLUGINS, Serving, VllmServer
from engine.backends.weights import DirectoryWeights
from engine.speech.transcriber import Component
from engine.summaries.model import Prompt, Written
from engine.summaries.prompts import MARKS, Stage, answer_tokens, prompt, schema
from engine.summaries.types import Turn, Wish

CHAT: Final = "/v1/chat/completions"
COUNT: Final = "/tokenize"

SILENCE_S: Final = 1800.0
"""An answer comes whole, and of a large model on a CPU late."""

MAX_TOKENIZER_BYTES: Final = 256 << 20

GREETING: Final = Wish((Turn("Good morning."),), max_words=1, max_topics=1)


class InstructClient(VllmConnection):
    """Calls one vLLM server that writes."""

    async def count(self, prompt: Prompt) -> int:
        """As `engine.summaries.model.InstructModel` has it."""
        answer = await self.ask(COUNT, json=self._messages(prompt))
        return read(lambda: int(answer["count"]))

    async def write(self, prompt: Prompt, schema: Mapping[str, Any], *, max_tokens: int) -> Written:
        """As `engine.summaries.model.InstructModel` has it."""
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        # At 0 one transcript has one summary.
        body = self._messages(prompt) | {"response_format": form, "max_completion_tokens": max_tokens, "temperature": 0}
        answer = await self.ask(CHAT, json=body)
        finished, written = read(lambda: _written(answer))
        if not finished:
            raise BackendError("the instruct model did not come to an end")
        return written

    async def greet(self) -> None:
        """As of every server. Raises BackendError, also for a model without a template for messages."""
        given = prompt(GREETING.turns, GREETING, Stage.TRANSCRIPT)
        await self.count(given)
        written = await self.write(given, schema(GREETING), max_tokens=2 * answer_tokens(GREETING))
        read(lambda: json.loads(written.text)["topics"])
        self.served = False

    def _messages(self, prompt: Prompt) -> dict[str, Any]:
        messages = [{"role": "system", "content": prompt.instruction}, {"role": "user", "content": prompt.data}]
        # Models that would think first are asked not to: the schema lets them write nothing else than the answer.
        return {"model": self._model, "messages": messages, "chat_template_kwargs": {"enable_thinking": False}}


def _written(answer: Mapping[str, Any]) -> tuple[bool, Written]:
    """Whether it is whole, and what was written. Raises KeyError, IndexError, TypeError or ValueError."""
    (choice,) = answer["choices"]
    usage = answer["usage"]
    content = choice["message"]["content"]
    if not isinstance(content, str):
        raise TypeError("no text")
    written = Written(content, int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
    return choice["finish_reason"] == "stop", written


class VllmInstruct:
    """Implements `engine.summaries.model.InstructModel`.

    name: of the model. weights: a checkpoint as Hugging Face has it, held for as long as the server runs.
    program: as of `engine.backends.vllm.kept.KeptServers`.
    """

    def __init__(
        self,
        name: str,
        weights: DirectoryWeights,
        serving: Serving,
        *,
        program: Path | None = None,
        patience: Patience | None = None,
    ) -> None:
        if serving.max_model_len is None:
            raise ValueError("how long its context is has to be said")
        self._name = name
        self._weights = weights
        self._serving = serving
        self._context = serving.max_model_len
        self._servers = KeptServers[InstructClient](
            {name: weights},
            InstructClient,
            serving,
            program=program,
            patience=patience or Patience(silence_s=SILENCE_S),
        )

    @property
    def name(self) -> str:
        return self._name

    @property
    def context(self) -> int:
        return self._context

    @property
    def component(self) -> Component:
        return Component(SUMMARIES, self._serving.arguments, plugins=PLUGINS)

    @property
    def ready(self) -> bool:
        return self._servers.ready

    @property
    def server(self) -> VllmServer[InstructClient]:
        """Its server. Raises BackendError while there is none."""
        return self._servers.server(self._name)

    async def start(self) -> None:
        """As of every model. Raises BackendError also for one with marks that a transcript may have in it."""
        await asyncio.to_thread(refuse_plain_marks, self._weights.directory)
        await self._servers.start()

    async def close(self) -> None:
        await self._servers.close()

    async def count(self, prompt: Prompt) -> int:
        return await self.server.client.count(prompt)

    async def write(self, prompt: Prompt, schema: Mapping[str, Any], *, max_tokens: int) -> Written:
        return await self.server.client.write(prompt, schema, max_tokens=max_tokens)


def refuse_plain_marks(checkpoint: Path) -> None:
    """Raises BackendError for a model with a special token that a transcript may have in it, or of unknown tokens.

    With such a token whoever is recorded could end our instruction and begin their own, and no model would know better.
    """
    path = checkpoint / "tokenizer.json"
    try:
        with path.open("rb") as file:
            listed = json.loads(file.read(MAX_TOKENIZER_BYTES))["added_tokens"]  # cut off, it is no JSON
        special = [str(token["content"]) for token in listed if token["special"]]
    except (OSError, KeyError, TypeError, ValueError) as exc:
        raise BackendError("the instruct model has no tokenizer.json that tells its special tokens") from exc
    if any(MARKS.isdisjoint(token) for token in special):
        raise BackendError("the instruct model has a special token that a transcript may have in it")
