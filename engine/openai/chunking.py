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

from core.transcript.faults import Fault, FaultKind, option
from engine.openai.values import BOOLEAN, FormValues, One, integer, number
from engine.types import MAX_PREFIX_PADDING_MS, MAX_SILENCE_DURATION_MS, VoiceActivity

NAME: Final = "chunking_strategy"
SUBJECT: Final = option(NAME)
VAD_FILTER: Final = One("vad_filter", BOOLEAN, also=("vad",))

_MAX_JSON_CHARS: Final = 1024
"""Four short members; the bound also keeps nesting within the JSON reader's depth."""

_THRESHOLD: Final = number(0.0, 1.0)
_SILENCE_DURATION_MS: Final = integer(0, MAX_SILENCE_DURATION_MS)
_PREFIX_PADDING_MS: Final = integer(0, MAX_PREFIX_PADDING_MS)
RULE: Final = (
    f"`auto`, or an object of type `server_vad` whose `threshold` is {_THRESHOLD.rule}, `silence_duration_ms` "
    f"{_SILENCE_DURATION_MS.rule} and `prefix_padding_ms` {_PREFIX_PADDING_MS.rule}"
)
"""What a strategy must be."""
MEMBERS: Final = frozenset({"type", "threshold", "silence_duration_ms", "prefix_padding_ms"})


def voice_activity(values: FormValues) -> VoiceActivity | None:
    """How to find pauses; None if the caller switched voice activity detection off.

    `chunking_strategy` rules where both fields were sent. Raises Fault: INVALID, or REPEATED for two strategies.
    """
    plain = values.lists.get(NAME, ())
    members = {key: texts for (parent, key), texts in values.members.items() if parent == NAME}
    if len(plain) + bool(members) > 1 or any(len(texts) > 1 for texts in members.values()):
        raise Fault(FaultKind.REPEATED, SUBJECT)  # two strategies, or one member twice
    if members:
        return _server_vad({key: texts[0] for key, texts in members.items()})
    if plain and plain[0] != "null":
        return VoiceActivity() if plain[0] == "auto" else _server_vad(_json_members(plain[0]))
    return None if VAD_FILTER.of(values) is False else VoiceActivity()


def _server_vad(members: Mapping[str, str]) -> VoiceActivity:
    if members.get("type") != "server_vad":
        raise Fault(FaultKind.INVALID, SUBJECT)
    usual = VoiceActivity()
    threshold = _THRESHOLD.read(members.get("threshold", str(usual.threshold)))
    silence = _SILENCE_DURATION_MS.read(members.get("silence_duration_ms", str(usual.silence_duration_ms)))
    padding = _PREFIX_PADDING_MS.read(members.get("prefix_padding_ms", str(usual.prefix_padding_ms)))
    if threshold is None or silence is None or padding is None:
        raise Fault(FaultKind.INVALID, SUBJECT)
    return VoiceActivity(threshold, silence, padding)


def _json_members(text: str) -> dict[str, str]:
    """The members of a JSON object, numbers as the text they were written in."""
    parsed = _parse(text) if len(text) <= _MAX_JSON_CHARS else None
    if not isinstance(parsed, dict):
        raise Fault(FaultKind.INVALID, SUBJECT)
    # null stands for "not set"; `true` and nested values are no strings, and refused.
    members = {key: value for key, value in parsed.items() if key in MEMBERS and value is not None}
    if not all(isinstance(value, str) for value in members.values()):
        raise Fault(FaultKind.INVALID, SUBJECT)
    return members


def _parse(text: str) -> object:
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None
