"""Which models are served, under which names, and what each can do.

`GET /v1/models` and `GET /v1/models/{id}` in OpenAI's JSON (objects `list` and `model`); `root` (the id behind an
alias, as vLLM prints it) and `tasks` are extensions that OpenAI's SDK keeps as extra members.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from engine.errors import ErrorCode, RequestError
from engine.openai.languages import LANGUAGES
from engine.types import Task


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of the backend.

    created: when it was made, in Unix seconds; `created` of OpenAI's object.
    tasks: a distilled or English-only model may not translate.
    languages: Whisper codes.
    word_timestamps, logprobs: whether the backend tells the times of words, the log probability of each token.
    sampling: names of vLLM's sampling parameters that callers may set; empty unless the operator lets them.
    """

    id: str
    created: int
    aliases: tuple[str, ...] = ()
    owned_by: str = "sottovoce"
    tasks: frozenset[Task] = frozenset(Task)
    languages: frozenset[str] = frozenset(LANGUAGES)
    word_timestamps: bool = True
    logprobs: bool = False
    sampling: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """The id, then the aliases."""
        return (self.id, *self.aliases)


@dataclass(frozen=True, slots=True)
class ModelCatalogue:
    """All that is served. Cannot be built empty, nor with one name for two models."""

    models: tuple[ServedModel, ...]

    def __post_init__(self) -> None:
        names = [name for model in self.models for name in model.names]
        if not names or len(set(names)) != len(names):
            raise ValueError("a catalogue needs at least one model, and every name once")

    def find(self, name: str | None) -> ServedModel:
        """The model called `name`; a single model is meant when none is named.

        Raises RequestError: MODEL_NOT_FOUND, or MISSING_REQUIRED_PARAMETER when a name is needed.
        """
        if name is None:
            if len(self.models) > 1:
                raise RequestError(ErrorCode.MISSING_REQUIRED_PARAMETER, "model")
            return self.models[0]
        for model in self.models:
            if name in model.names:
                return model
        raise RequestError(ErrorCode.MODEL_NOT_FOUND, "model")

    def resolve(self, name: str | None) -> str:
        """The id of the model called `name`; raises as `find` does."""
        return self.find(name).id

    def list_body(self) -> bytes:
        """The JSON of `GET /v1/models`: every id and every alias."""
        return _json({"object": "list", "data": list(self._objects())})

    def retrieve_body(self, name: str) -> bytes:
        """The JSON of `GET /v1/models/{name}`; an id holds `/`, so the route takes the rest of the path.

        Raises RequestError(MODEL_NOT_FOUND).
        """
        return _json(_object(name, self.find(name)))

    def _objects(self) -> Iterator[dict[str, object]]:
        return (_object(name, model) for model in self.models for name in model.names)


def _object(name: str, model: ServedModel) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "root": model.id,
        "tasks": sorted(model.tasks),
    }


def _json(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
