"""Which models are served, under which names, and what each can do.

`GET /v1/models` and `GET /v1/models/{id}` in OpenAI's JSON (objects `list` and `model`); `root` (the id behind an
alias, as vLLM prints it), `tasks`, `languages` (Whisper's codes), `details` (what is told beside the text),
`speakers` (by what they are told apart, or null) and `summaries` (the model that writes them here, or null) are
extensions that OpenAI's SDK keeps as extra members.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from core.transcript.faults import MODEL, Fault, FaultKind
from core.transcript.languages import LANGUAGES
from core.transcript.types import Task
from engine.openai.names import MANNERS, OURS, Manner
from engine.speech.speakers import ToldBy
from engine.types import Detail, OpenAIName


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of the backend.

    created: when it was made, in Unix seconds; `created` of OpenAI's object.
    tasks: a distilled or English-only model may not translate.
    languages: Whisper codes. detects: whether it tells which of them is spoken.
    details: what can be told beside the text. speakers: by what they are told apart; None where they are not.
    openai_names: those of the aliases by which it answers as OpenAI's model of that name did.
    sampling: names of vLLM's sampling parameters that callers may set; empty unless the operator lets them.
    """

    id: str
    created: int
    aliases: tuple[str, ...] = ()
    owned_by: str = "sottovoce"
    tasks: frozenset[Task] = frozenset(Task)
    languages: frozenset[str] = frozenset(LANGUAGES)
    details: frozenset[Detail] = frozenset({Detail.WORDS})
    sampling: frozenset[str] = frozenset()
    speakers: ToldBy | None = None
    detects: bool = True
    openai_names: frozenset[OpenAIName] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """The id, then the aliases."""
        return (self.id, *self.aliases)

    def manner(self, name: str | None) -> Manner:
        """How it answers when asked by that name."""
        return MANNERS[OpenAIName(name)] if name in self.openai_names else OURS


@dataclass(frozen=True, slots=True)
class ModelCatalogue:
    """All that hears. Cannot be built empty, nor with one name for two models.

    summaries: the model by which summaries of transcripts are written; None where none are.
    """

    models: tuple[ServedModel, ...]
    summaries: str | None = None

    def __post_init__(self) -> None:
        names = [name for model in self.models for name in model.names]
        if not names or len(set(names)) != len(names):
            raise ValueError("a catalogue needs at least one model, and every name once")

    def find(self, name: str | None) -> ServedModel:
        """The model called `name`; a single model is meant when none is named.

        Raises Fault: UNKNOWN, or MISSING when a name is needed.
        """
        if name is None:
            if len(self.models) > 1:
                raise Fault(FaultKind.MISSING, MODEL)
            return self.models[0]
        for model in self.models:
            if name in model.names:
                return model
        raise Fault(FaultKind.UNKNOWN, MODEL)

    def list_body(self) -> bytes:
        """The JSON of `GET /v1/models`: every id and every alias."""
        objects = [self._object(name, model) for model in self.models for name in model.names]
        return _json({"object": "list", "data": objects})

    def retrieve_body(self, name: str) -> bytes:
        """The JSON of `GET /v1/models/{name}`; an id holds `/`, so the route takes the rest of the path.

        Raises Fault(UNKNOWN).
        """
        return _json(self._object(name, self.find(name)))

    def _object(self, name: str, model: ServedModel) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": model.created,
            "owned_by": model.owned_by,
            "root": model.id,
            "tasks": sorted(model.tasks),
            "languages": sorted(model.languages),
            "details": sorted(model.details),
            "speakers": model.speakers,
            "summaries": self.summaries,
        }


def _json(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
