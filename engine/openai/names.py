"""How did OpenAI's models answer, whose names clients have hard-coded? One row for each name.

Sources: `CreateTranscriptionRequest` and the answers of OpenAI's API reference, as its Python SDK 3.52 prints them. A
row says what tells one model's answers from another's; what a caller may send besides is not narrowed by a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from core.transcript.types import Task
from engine.openai.rendering import ResponseFormat
from engine.types import Detail, OpenAIName


@dataclass(frozen=True, slots=True)
class Manner:
    """What may be had under a name.

    details: what may be asked for beside the text. streams: a model that did not took no notice of `stream`.
    usage_in_tokens: how an answer that comes at once is counted; a stream counts tokens by every name.
    tells_languages: whether `json` and the end of a stream have `languages`.
    """

    formats: frozenset[ResponseFormat] = frozenset(ResponseFormat)
    tasks: frozenset[Task] = frozenset(Task)
    details: frozenset[Detail] = frozenset(Detail)
    streams: bool = True
    usage_in_tokens: bool = False
    tells_languages: bool = True


OURS: Final = Manner()
"""By a name that is not OpenAI's: everything."""

_TRANSCRIPTS: Final = frozenset({Task.TRANSCRIBE})
_ONLY_JSON: Final = frozenset({ResponseFormat.JSON})
_GPT_4O: Final = Manner(
    _ONLY_JSON, _TRANSCRIPTS, frozenset({Detail.LOGPROBS}), usage_in_tokens=True, tells_languages=False
)

MANNERS: Final[Mapping[OpenAIName, Manner]] = {
    OpenAIName.WHISPER_1: Manner(
        frozenset(ResponseFormat) - {ResponseFormat.DIARIZED_JSON},
        details=frozenset({Detail.WORDS}),
        streams=False,
        tells_languages=False,
    ),
    OpenAIName.GPT_4O: _GPT_4O,
    OpenAIName.GPT_4O_MINI: _GPT_4O,
    OpenAIName.GPT_4O_DIARIZE: Manner(
        frozenset({ResponseFormat.JSON, ResponseFormat.TEXT, ResponseFormat.DIARIZED_JSON}),
        _TRANSCRIPTS,
        frozenset(),
        tells_languages=False,
    ),
    OpenAIName.GPT: Manner(_ONLY_JSON, _TRANSCRIPTS, frozenset(), usage_in_tokens=True),
}
