"""How are samples heard that come while somebody speaks? As a file's are, but at once.

The part of a live session that touches its sound; it runs in a process of the session's own, inside the sandbox. The
filter that resamples keeps its state from one piece to the next, as the voice detector does, so that it makes no
difference how the samples were cut: not even in the middle of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.codec import CodecContext
from av.packet import Packet

from core.media.frames import BLOCK_BYTES, FRAME, MAX_SOUND_BYTES, SOUND, WINDOW_BYTES, Kind, Sound
from core.media.sound import Resampler
from core.media.types import BYTES_PER_SAMPLE, AudioBlock
from core.media.vad import VoiceActivityDetector

_G711 = {Sound.PCMU: "pcm_mulaw", Sound.PCMA: "pcm_alaw"}
"""FFmpeg's names for the decoders."""


class SampleStream:
    """Samples of one form on their way to 16 kHz, cut anywhere."""

    def __init__(self, form: Sound, rate_hz: int) -> None:
        self.form = form, rate_hz
        self._rate_hz = rate_hz
        self._codec = _g711(form, rate_hz) if form in _G711 else None
        self._rest = b""
        self._resampler: Resampler | None = None

    def push(self, data: bytes) -> bytes:
        """What `data` adds, 16 kHz mono s16le: nearly all of it, but for what the filter still needs."""
        return b"".join(self._resampled(frame) for frame in self._frames(data))

    def end(self) -> bytes:
        """What the filter still held; half a sample is dropped."""
        self._rest = b""
        return b"".join(self._resampler.end()) if self._resampler is not None else b""

    def _resampled(self, frame: AudioFrame) -> bytes:
        if self._resampler is None:
            self._resampler = Resampler(frame, at_once=True)
        return b"".join(self._resampler.push(frame))

    def _frames(self, data: bytes) -> Iterator[AudioFrame]:
        if self._codec is not None:
            yield from self._codec.decode(Packet(data)) if data else ()
            return
        samples = self._rest + data
        whole = len(samples) - len(samples) % BYTES_PER_SAMPLE
        self._rest = samples[whole:]
        if whole:
            frame = AudioFrame(format="s16", layout="mono", samples=whole // BYTES_PER_SAMPLE)
            frame.sample_rate = self._rate_hz
            memoryview(frame.planes[0])[:whole] = samples[:whole]
            yield frame


def _g711(form: Sound, rate_hz: int) -> AudioCodecContext:
    codec = cast("AudioCodecContext", CodecContext.create(_G711[form], "r"))
    codec.sample_rate = rate_hz
    codec.layout = "mono"
    return codec


class Ear:
    """Hears one session: the stream of samples that is open, the windows that are not full, the voice detector."""

    def __init__(self, model: Any) -> None:
        self._detector = VoiceActivityDetector(model)
        self._stream: SampleStream | None = None
        self._pending = b""

    def hear(self, sound: Sound, rate_hz: int, data: bytes) -> Iterator[AudioBlock]:
        """Whole windows, as many as there are now; at the end of a stream the last one, filled up with silence."""
        if sound is Sound.END:
            pcm = self._end()
            pcm += bytes(-len(pcm) % WINDOW_BYTES)
        else:
            pcm = self._pending + self._open(sound, rate_hz).push(data)
        whole = len(pcm) - len(pcm) % WINDOW_BYTES
        self._pending = pcm[whole:]
        for start in range(0, whole, BLOCK_BYTES):
            block = pcm[start : min(start + BLOCK_BYTES, whole)]
            yield AudioBlock(block, self._detector.probabilities(block))

    def _end(self) -> bytes:
        pcm = self._pending + (self._stream.end() if self._stream is not None else b"")
        self._stream, self._pending = None, b""
        return pcm

    def _open(self, sound: Sound, rate_hz: int) -> SampleStream:
        if self._stream is None or self._stream.form != (sound, rate_hz):
            self._pending = self._end()
            self._stream = SampleStream(sound, rate_hz)
        return self._stream


def listen(
    model: Any, receive: Callable[[int], bytes], send: Callable[[bytes], None], heard: Callable[[], None]
) -> None:
    """Hear what comes until nothing more does. heard: called after each piece.

    receive: exactly so many bytes, or fewer once the engine has hung up.
    """
    ear = Ear(model)
    while len(header := receive(SOUND.size)) == SOUND.size:
        kind, rate_hz, size = SOUND.unpack(header)
        if size > MAX_SOUND_BYTES or len(data := receive(size)) < size:
            return
        for block in ear.hear(Sound(kind), rate_hz, data):
            send(FRAME.pack(Kind.AUDIO, len(block.pcm), len(block.speech)) + block.pcm + block.speech)
        send(FRAME.pack(Kind.DONE, 0, 0))
        heard()
