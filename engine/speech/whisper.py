"""What is true of every Whisper, and what can a checkpoint be asked? The languages and tasks that it has tokens for.

To Whisper a language and a task are tokens, and a request for one that the checkpoint lacks could only fail late. The
first of these files that tells is believed; where none does, the checkpoint is taken to know all that Whisper knows::

    config.json              {"architectures": ["GraniteSpeechForConditionalGeneration"], ...}
    generation_config.json   {"is_multilingual": true, "lang_to_id": {"<|en|>": 50259, ...},
                              "task_to_id": {"transcribe": 50360, ...}, ...}
    vocabulary.json          ["!", ..., "", ..., "<|en|>", ...]
    tokenizer.json           {"added_tokens": [{"content": "<|en|>", ...}, ...], "model": {"vocab": {"": 50256, ...}}}

The first tells of another family, of which only the languages matter. The next is found in checkpoints as Hugging Face
has them, the others in those converted for CTranslate2. A checkpoint for English has the tokens of all languages, and
of both tasks, as well; it lacks the empty one, by which CTranslate2 knows it too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from core.transcript.languages import LANGUAGES
from core.transcript.types import Task
from engine.speech.language import OLDER_LANGUAGE

DECODER_TOKENS: Final = 448
"""The length of the decoder, prompt included."""

PROMPT_TOKENS: Final = 223
"""How much of a prompt is read: its end, with `<|startofprev|>` half of the decoder's length."""

ENCODER_TOKENS: Final = 1500
"""What the encoder makes of a clip of 30 s, however much of it is sound."""

AUDIO_TOKENS_PER_S: Final = 50

MAX_FILE_BYTES: Final = 16 * 2**20
"""Several times the tokenizer of large-v3; a longer file is not read."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a checkpoint can be asked. languages: Whisper codes."""

    languages: frozenset[str] = frozenset(LANGUAGES)
    tasks: frozenset[Task] = frozenset(Task)


ENGLISH_ONLY: Final = Abilities(frozenset({"en"}), frozenset({Task.TRANSCRIBE}))

_MULTILINGUAL: Final = ""
"""The token by which CTranslate2 tells a vocabulary of many languages."""


def read_abilities(directory: Path) -> Abilities:
    """The abilities of the checkpoint in `directory`. Raises OSError."""
    for name, told_by in _FILES.items():
        if (abilities := told_by(_read(directory / name))) is not None:
            return abilities
    return Abilities()


def _read(path: Path) -> Any:
    """The JSON in a file; None where there is no such file, or no JSON in it."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    try:
        # Not `strictjson`, to which a vocabulary is too large: nothing hangs on it but which refusal is heard.
        return json.loads(data) if len(data) <= MAX_FILE_BYTES else None
    except (ValueError, RecursionError):
        return None


def _generation_config(content: Any) -> Abilities | None:
    match content:
        case {"is_multilingual": False}:
            return ENGLISH_ONLY
        case {"lang_to_id": dict(languages), "task_to_id": dict(tasks)}:
            return _known(languages.keys() | {_token(task) for task in tasks})
        case _:
            return None


def _tokenizer(content: Any) -> Abilities | None:
    match content:
        case {"added_tokens": list(added), "model": {"vocab": dict(vocabulary)}}:
            return _vocabulary([*vocabulary, *(token.get("content") for token in added if isinstance(token, dict))])
        case _:
            return None


def _vocabulary(content: Any) -> Abilities | None:
    if not isinstance(content, list):
        return None
    tokens = {token for token in content if isinstance(token, str)}
    known = _known(tokens)
    return ENGLISH_ONLY if known is not None and _MULTILINGUAL not in tokens else known


_OF_OTHER_FAMILIES: Final[Mapping[str, frozenset[str]]] = {
    "GraniteSpeechForConditionalGeneration": frozenset({"en", "fr", "de", "ja", "pt", "es"}),
    "MoonshotKimiaForCausalLM": frozenset({"zh", "en", "ja", "ko", "de", "fr", "es", "it", "pt", "ru", "ar"}),
}
"""The languages of models that vLLM (0.32) lets fewer through to than to others."""


def _config(content: Any) -> Abilities | None:
    match content:
        case {"architectures": [str(architecture)]} if architecture in _OF_OTHER_FAMILIES:
            return Abilities(_OF_OTHER_FAMILIES[architecture], frozenset({Task.TRANSCRIBE}))
        case _:
            return None


_FILES: Final[Mapping[str, Callable[[Any], Abilities | None]]] = {
    "config.json": _config,
    "generation_config.json": _generation_config,
    "vocabulary.json": _vocabulary,
    "tokenizer.json": _tokenizer,
}


def _known(tokens: set[str]) -> Abilities | None:
    """What these tokens stand for; None if they are not those of a Whisper, which transcribes something."""
    # Backends ask for an older language where the checkpoint knows no newer one.
    languages = {code for code in LANGUAGES if {_token(code), _token(OLDER_LANGUAGE.get(code, code))} & tokens}
    tasks = {task for task in Task if _token(task) in tokens}
    return Abilities(frozenset(languages), frozenset(tasks)) if languages and Task.TRANSCRIBE in tasks else None


def _token(name: str) -> str:
    return f"<|{name}|>"
