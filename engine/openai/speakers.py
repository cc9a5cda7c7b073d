"""Who is told apart, and whom does the caller know? OpenAI's `known_speaker_*`, and what other servers count with.

::

    known_speaker_names[]=Ada & known_speaker_references[]=data:audio/wav;base64,UklGR...      as many of each

Extensions: more than OpenAI's four; `min_speakers` and `max_speakers` (Lemonfox, AssemblyAI), `num_speakers`
(ElevenLabs) for both; `diarize` with `verbose_json`.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from core.transcript.faults import Fault, FaultKind
from engine.openai.values import BOOLEAN, TEXT, FormValues, Many, One, integer
from engine.types import MAX_SPEAKERS, KnownSpeaker, SpeakerWish

MAX_NAME_CHARS: Final = 128

_COUNT: Final = integer(1, MAX_SPEAKERS)

DIARIZE: Final = One("diarize", BOOLEAN, also=("diarization", "speaker_labels"))
_UNSET: Final = frozenset({"0", "false", "off", "no"})
LEAST: Final = One("min_speakers", _COUNT, unset=_UNSET)
MOST: Final = One("max_speakers", _COUNT, unset=_UNSET)
EXACTLY: Final = One("num_speakers", _COUNT, unset=_UNSET)
NAMES: Final = Many("known_speaker_names", TEXT)
REFERENCES: Final = Many("known_speaker_references", TEXT)

ROWS: Final[tuple[One[object] | Many[object], ...]] = (DIARIZE, LEAST, MOST, EXACTLY, NAMES, REFERENCES)

NAMES_RULE: Final = (
    f"as many as `{REFERENCES.name}[]`, at most {MAX_SPEAKERS}, no two alike, each of at most {MAX_NAME_CHARS} "
    "characters and no control characters; they need `diarized_json` or `diarize`"
)
REFERENCES_RULE: Final = "recordings as data URLs (`data:audio/wav;base64,...`)"

_DATA_URL: Final = re.compile(r"data:[\w.+/-]*(?:;[\w.+=-]+)*;base64,", re.ASCII)  # RFC 2397
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def wish(values: FormValues, *, wanted: bool, voices: bool) -> SpeakerWish | None:
    """What a form asks of its speakers. wanted: whether they are to be told apart. voices: and told with their voices.

    Raises Fault.
    """
    exactly = EXACTLY.of(values)
    least, most = LEAST.of(values) or exactly or 1, MOST.of(values) or exactly or MAX_SPEAKERS
    if least > most:
        raise Fault(FaultKind.INVALID, LEAST.subject)
    known = _known(values)
    if known and not wanted:
        raise Fault(FaultKind.INVALID, NAMES.subject)
    return SpeakerWish(least, most, known, voices) if wanted else None


def _known(values: FormValues) -> tuple[KnownSpeaker, ...]:
    names, references = values.lists.get(NAMES.name, ()), values.lists.get(REFERENCES.name, ())
    odd = any(len(name) > MAX_NAME_CHARS or not name.strip() or _CONTROL.search(name) for name in names)
    if odd or len(names) != len(references) or len(set(names)) < len(names) or len(names) > MAX_SPEAKERS:
        raise Fault(FaultKind.INVALID, NAMES.subject)
    return tuple(KnownSpeaker(name, _recording(url)) for name, url in zip(names, references, strict=True))


def _recording(url: str) -> bytes:
    """The content of a data URL. Raises Fault for anything else."""
    head = _DATA_URL.match(url)
    try:
        recording = base64.b64decode(url[head.end() :], validate=True) if head else b""
    except binascii.Error:
        recording = b""
    if not recording:
        raise Fault(FaultKind.INVALID, REFERENCES.subject)
    return recording
