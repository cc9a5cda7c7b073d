"""How do samples become a FLAC file, piece by piece? Lossless, so that what is heard does not change.

FFmpeg's encoder, in the process that decoded the samples: the proxy runs no codec. A file is given out as it is made,
so its header does not say how long it is (RFC 9639, section 8.2: 0 is unknown).
"""

from __future__ import annotations

from fractions import Fraction

import av
from av.audio.frame import AudioFrame

from core.media.types import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ


class _Sink:
    """What FFmpeg wrote and nobody has taken yet. It cannot go back, so nothing is written twice."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


class FlacEncoder:
    """Makes one file of 16 kHz mono s16le PCM."""

    def __init__(self) -> None:
        self._sink = _Sink()
        self._container = av.open(self._sink, "w", format="flac")
        self._stream = self._container.add_stream("flac", rate=SAMPLE_RATE_HZ)
        self._stream.layout = "mono"
        self._stream.format = "s16"
        self._stream.codec_context.thread_count = 1
        self.samples = 0

    def push(self, pcm: bytes) -> bytes:
        """What the file goes on with; may be nothing."""
        count = len(pcm) // BYTES_PER_SAMPLE
        if count:
            frame = AudioFrame(format="s16", layout="mono", samples=count)
            frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE_HZ, Fraction(1, SAMPLE_RATE_HZ), self.samples
            memoryview(frame.planes[0])[: len(pcm)] = pcm
            self._container.mux(self._stream.encode(frame))
            self.samples += count
        return self._sink.take()

    def end(self) -> bytes:
        """What the file ends with."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take()
