"""How the audio is cut: OpenAI's `chunking_strategy` in its three spellings, and the older `vad_filter`.

::

    chunking_strategy=auto
    chunking_strategy={"type":"server_vad","threshold":0.4}
    chunking_strategy[type]=server_vad & chunking_strategy[threshold]=0.4          (as OpenAI's SDK sends it)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from engine.errors import ErrorCode, RequestError
from engine.openai.values import FormValues, One, boolean, integer, number
from engine.types import MAX_PREFIX_PADDING_MS, MAX_SILENCE_DURATION_MS, VoiceActivity

NAME: Final = "chunking_strategy"
VAD_FILTER: Final = One("vad_filter", boolean)

_MAX_JSON_CHARS: Final = 1024
"""Four short members; the bound also keeps nesting within the JSON reader's depth."""

_threshold = number(0.0, 1.0)
_silence_duration_ms = integer(0, MAX_SILENCE_DURATION_MS)
_prefix_padding_ms = integer(0, MAX_PREFIX_PADDING_MS)
MEMBERS: Final = frozenset({"type", "threshold", "silence_duration_ms", "prefix_padding_ms"})


def voice_activity(values: FormValues) -> VoiceActivity | None:
    """How to find pauses; None if the caller switched voice activity detection off.

    `chunking_strategy` rules where both fields were sent. Raises RequestError(INVALID_VALUE).
    """
    plain = values.lists.get(NAME, ())
    members = {key: texts for (parent, key), texts in values.members.items() if parent == NAME}
    if len(plain) + bool(members) > 1 or any(len(texts) > 1 for texts in members.values()):
        raise _invalid()  # two strategies, or one member twice
    if members:
        return _server_vad({key: texts[0] for key, texts in members.items()})
    if plain and plain[0] != "null":
        return VoiceActivity() if plain[0] == "auto" else _server_vad(_json_members(plain[0]))
    return None if VAD_FILTER.of(values) is False else VoiceActivity()


def _server_vad(members: Mapping[str, str]) -> VoiceActivity:
    if members.get("type") != "server_vad":
        raise _invalid()
    usual = VoiceActivity()
    threshold = _threshold(members.get("threshold", str(usual.threshold)))
    silence = _silence_duration_ms(members.get("silence_duration_ms", str(usual.silence_duration_ms)))
    padding = _prefix_padding_ms(members.get("prefix_padding_ms", str(usual.prefix_padding_ms)))
    if threshold is None or silence is None or padding is None:
        raise _invalid()
    return VoiceActivity(threshold, silence, padding)


def _json_members(text: str) -> dict[str, str]:
    """The members of a JSON object, numbers as the text they were written in."""
    parsed = _parse(text) if len(text) <= _MAX_JSON_CHARS else None
    if not isinstance(parsed, dict):
        raise _invalid()
    # null stands for "not set"; `true` and nested values are no strings, and refused.
    members = {key: value for key, value in parsed.items() if key in MEMBERS and value is not None}
    if not all(isinstance(value, str) for value in members.values()):
        raise _invalid()
    return members


def _parse(text: str) -> object:
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None


def _invalid() -> RequestError:
    return RequestError(ErrorCode.INVALID_VALUE, NAME)
