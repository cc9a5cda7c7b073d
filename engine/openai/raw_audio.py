"""Are the file's bytes samples without a container, and of which form? The Content-Type of its part says so.

::

    audio/pcm; rate=24000; channels=2    little-endian; 16000 and 1 where it does not say. `audio/raw` is the same
    audio/L16; rate=24000; channels=2    big-endian; the rate has to be said (RFC 2586)

Signed 16-bit samples either way. A parameter beyond these two could change what the bytes mean, and is refused. Any
other type is a container's, and a container is known by its bytes, never by what it is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from core.media.types import RawSamples
from core.transcript.faults import AUDIO, Fault, FaultKind
from engine.openai.multipart import Form
from engine.openai.values import integer

USUAL_RATE_HZ: Final = "16000"
_LITTLE_ENDIAN: Final = frozenset({"audio/pcm", "audio/raw"})
_BIG_ENDIAN: Final = frozenset({"audio/l16"})
_PARAMETERS: Final = frozenset({"rate", "channels"})

# From telephones to studios; more than two channels have no order that everybody agrees on.
_RATE: Final = integer(8_000, 192_000)
_CHANNELS: Final = integer(1, 2)
RULE: Final = (
    f"whole frames of signed 16-bit samples, and its content type may tell nothing but a `rate`, {_RATE.rule} (which "
    f"`audio/L16` has to tell), and `channels`, {_CHANNELS.rule}, as in `audio/pcm; rate={USUAL_RATE_HZ}; channels=1`"
)
"""What raw audio must be."""


def raw_samples(form: Form) -> RawSamples | None:
    """What the samples are; None for a file in a container.

    Raises Fault(MALFORMED) for a form that is not served, and for bytes that are no whole samples.
    """
    kind, audio = form.audio_type, form.audio
    if kind is None or audio is None or kind.name not in _LITTLE_ENDIAN | _BIG_ENDIAN or _is_wav(audio):
        return None
    samples = _declared(kind.parameters, big_endian=kind.name in _BIG_ENDIAN)
    if samples is None or len(audio) % samples.frame_bytes:
        raise Fault(FaultKind.MALFORMED, AUDIO)
    return samples


def _declared(parameters: Mapping[str, str] | None, *, big_endian: bool) -> RawSamples | None:
    if parameters is None or not parameters.keys() <= _PARAMETERS:
        return None
    rate_hz = _RATE.read(parameters.get("rate", "" if big_endian else USUAL_RATE_HZ))
    channels = _CHANNELS.read(parameters.get("channels", "1"))
    return None if rate_hz is None or channels is None else RawSamples(rate_hz, channels, big_endian)


def _is_wav(audio: bytearray) -> bool:
    """Some clients call a WAV file `audio/pcm`; its header would be heard as a click."""
    return audio[:4] == b"RIFF" and audio[8:12] == b"WAVE"
