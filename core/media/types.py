"""The form that all audio takes here: 16 kHz mono, signed 16-bit little-endian PCM, in windows of 32 ms."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE_RATE_HZ = 16_000
BYTES_PER_SAMPLE = 2
MAX_FILE_BYTES = 26_214_400
"""OpenAI's limit on a file: 25 MiB exactly are accepted, one byte more is not."""

KEPT_CHANNELS = 3
"""How many a decoder gives where channels are to be kept: the mix, the left and the right."""

WINDOW_SAMPLES = 512
"""One voice activity decision covers this many samples: 32 ms, the step of the Silero model."""


@dataclass(frozen=True, slots=True)
class RawSamples:
    """What the bytes of a file without a container are: interleaved signed 16-bit samples."""

    rate_hz: int
    channels: int = 1
    big_endian: bool = False

    @property
    def frame_bytes(self) -> int:
        """One sample of every channel."""
        return BYTES_PER_SAMPLE * self.channels


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """Some consecutive windows of decoded audio and, for each, how likely it holds speech.

    pcm: `len(speech) * WINDOW_SAMPLES` samples; the last block of a file may end in a shorter window.
    speech: one byte a window, 0 (silence) to 255 (certainly speech).
    channels: the left and the right of which `pcm` is the mix, where they are to be kept; of a recording that has one,
        and of one that has more than two, both are the mix.
    """

    pcm: bytes
    speech: bytes
    channels: tuple[AudioBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class Excerpt:
    """What of a recording is heard. channel: 1 or 2 for one of its two; 0 for their mix. end_ms: None for its end."""

    channel: int = 0
    start_ms: int = 0
    end_ms: int | None = None


WHOLE = Excerpt()


@dataclass(frozen=True, slots=True)
class PartPiece:
    """Some bytes of the FLAC file of one part of a recording.

    samples: of the whole part, with the last piece of it; 0 with the others.
    """

    flac: bytes
    samples: int = 0
