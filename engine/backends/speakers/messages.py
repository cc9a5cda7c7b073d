"""What do the engine and the process that tells speakers apart say to each other?

One stream socket, and the two take turns for each file: every message of the engine has one answer, but for `forget`::

    engine:  {"kind": "load", "path": ..., ...}                                once, first
             {"kind": "open", "id": n, "least": ..., "most": ...}              a file begins
             {"kind": "block", "id": n} + PCM                                  any number
             {"kind": "conclude", "id": n}                                     it has ended
             {"kind": "forget", "id": n}                                       no answer is wanted any more
    process: {"kind": "ready"}                                                 once, when the models are loaded
             {"kind": "taken", "id": n}                                        answers "open" and "block"
             {"kind": "heard", "id": n, "turns": [[start_s, end_s, speaker], ...], "voices": [[...], ...]}
             {"kind": "failed", "id": n, "error": ...}                        in place of any answer; the file is gone
             {"kind": "busy"}                                                  it computes, and is alive

The end of the stream is the end of the peer. No module of weight is imported here: it is read by other Pythons too.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from engine.backends.framing import Framing

MAX_JSON_BYTES = 4 << 20
"""Hours of turns."""

WINDOW_BYTES = 1024
MAX_PCM_BYTES = 1 << 20


class Kind(StrEnum):
    """The kinds of messages."""

    LOAD = "load"
    READY = "ready"
    OPEN = "open"
    BLOCK = "block"
    CONCLUDE = "conclude"
    FORGET = "forget"
    TAKEN = "taken"
    HEARD = "heard"
    FAILED = "failed"
    BUSY = "busy"


FRAMING = Framing(Kind, max_json_bytes=MAX_JSON_BYTES, max_pcm_bytes=MAX_PCM_BYTES)
decode_prefix, decode_fields = FRAMING.decode_prefix, FRAMING.decode_fields


def encode(kind: Kind, fields: Mapping[str, object], pcm: bytes = b"", speech: bytes = b"") -> bytes:
    """Write one message. Raises ValueError as `Framing.encode`, and for PCM without one likelihood a window."""
    if speech_bytes(len(pcm)) != len(speech):
        raise ValueError("a message must have one likelihood a window")
    return FRAMING.encode(kind, fields, pcm, speech)


def speech_bytes(pcm_bytes: int) -> int:
    """How many likelihoods come with so much PCM."""
    return -(-pcm_bytes // WINDOW_BYTES)
