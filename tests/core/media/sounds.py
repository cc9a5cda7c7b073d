"""Audio files made on the spot, in any container and codec PyAV can write, and what may be wrong with them."""

from __future__ import annotations

import io
import math
import struct
from array import array
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache

import av
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer

from tests.places import ROOT

TONE_HZ = 440.0
STEP_S = 10


def tone(duration_s: float, rate_hz: int = 16_000, channels: int = 1) -> npt.NDArray[np.int16]:
    """A sine of `TONE_HZ`, the same in every channel, interleaved."""
    mono = 12_000 * np.sin(np.arange(round(duration_s * rate_hz)) * (2 * math.pi * TONE_HZ / rate_hz))
    return np.repeat(mono.astype(np.int16), channels)


@cache
def encoded(
    container: str,
    codec: str,
    rate_hz: int = 48_000,
    layout: str = "stereo",
    duration_s: float = 2.0,
    *,
    silent: bool = False,
    video: str | None = None,
    form: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """A file with a tone, or silence, in it.

    video: the codec of a black picture beside it. form: options of the container.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=container, container_options=dict(form)) as output:
        screen = _screen(output, video) if video else None
        stream = output.add_stream(codec, rate=rate_hz, options={"strict": "experimental"})
        assert isinstance(stream, av.AudioStream)
        stream.layout = layout
        if codec not in ("flac", "alac") and not codec.startswith("pcm"):
            stream.bit_rate = 12_200 if "amr" in codec else 96_000
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, layout, rate_hz, frame_size=context.frame_size or 1024)
        channels = len(context.layout.channels)
        for start in range(0, round(duration_s * rate_hz), STEP_S * rate_hz):
            length_s = min(STEP_S, duration_s - start / rate_hz)
            samples = tone(length_s, rate_hz, channels) * (not silent)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
            for piece in resampler.resample(frame):
                output.mux(stream.encode(piece))
        for piece in resampler.resample(None):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
        if screen is not None:
            _show(output, screen, duration_s)
    return file.getvalue()


@cache
def video_without_audio() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        _show(output, _screen(output, "mpeg4"), 0.4)
    return file.getvalue()


def _screen(output: OutputContainer, codec: str) -> av.VideoStream:
    stream = output.add_stream(codec, rate=25)
    assert isinstance(stream, av.VideoStream)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    return stream


def _show(output: OutputContainer, screen: av.VideoStream, duration_s: float) -> None:
    picture = av.VideoFrame(64, 64, "yuv420p")
    for plane in picture.planes:
        plane.update(bytes(plane.buffer_size))  # what its memory held before may be more than a container takes
    for number in range(round(25 * duration_s)):
        picture.pts = number
        output.mux(screen.encode(picture))
    output.mux(screen.encode(None))


def wav(pcm: bytes, *, rate_hz: int = 16_000, channels: int = 1, claimed_bytes: int | None = None) -> bytes:
    """A WAV file of 16-bit samples whose header may claim any length."""
    size = len(pcm) if claimed_bytes is None else claimed_bytes
    form = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * channels * 2, channels * 2, 16)
    riff = min(36 + size, 0xFFFF_FFFF)
    return b"".join(
        [
            b"RIFF",
            struct.pack("<I", riff),
            b"WAVEfmt ",
            struct.pack("<I", 16),
            form,
            b"data",
            struct.pack("<I", size),
            pcm,
        ]
    )


def flac(pcm: bytes) -> bytes:
    """A FLAC file of 16 kHz mono samples: hours of silence in little room."""
    return _written(pcm, "flac", "flac", {})


def opus(pcm: bytes) -> bytes:
    """An Ogg file of 16 kHz mono samples as Opus, lossy, encoded as fast as can be."""
    return _written(pcm, "ogg", "libopus", {"application": "voip", "compression_level": "0", "frame_duration": "60"})


def opus_of(stereo: npt.NDArray[np.int16]) -> bytes:
    """An Ogg file of 16 kHz stereo samples (time x 2) as Opus."""
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as output:
        stream = output.add_stream("libopus", rate=16_000)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "stereo"
        frame = av.AudioFrame.from_ndarray(stereo.reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def _written(pcm: bytes, container: str, codec: str, options: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=16_000, options=options)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        samples = np.frombuffer(pcm, "<i2")
        for start in range(0, len(samples), STEP_S * 16_000):
            piece = samples[start : start + STEP_S * 16_000]
            frame = av.AudioFrame.from_ndarray(piece[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, start, Fraction(1, 16_000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


@cache
def kennedy(rate_hz: int = 16_000) -> npt.NDArray[np.int16]:
    """11 s of speech, mono: John F. Kennedy, 1961 (`examples/README.md`)."""
    resampler = av.AudioResampler("s16", "mono", rate_hz)
    with av.open(str(ROOT / "examples" / "kennedy.flac")) as container:
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    pieces = [*frames, *resampler.resample(None)]
    return np.concatenate([np.frombuffer(bytes(piece.planes[0])[: 2 * piece.samples], "<i2") for piece in pieces])


def tracks(container: str, *sounds: tuple[str, npt.NDArray[np.int16]], rate_hz: int = 16_000) -> bytes:
    """A file with a mono track for each codec and its samples, half a second of each in turn."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        pens = [_Pen(output, codec, rate_hz) for codec, _ in sounds]
        for start in range(0, max(len(samples) for _, samples in sounds), rate_hz // 2):
            for pen, (_, samples) in zip(pens, sounds, strict=True):
                pen.write(samples[start : start + rate_hz // 2])
        for pen in pens:
            pen.end()
    return file.getvalue()


class _Pen:
    """Writes one mono track of several."""

    def __init__(self, output: OutputContainer, codec: str, rate_hz: int) -> None:
        stream = output.add_stream(codec, rate=rate_hz, options={"strict": "experimental"})
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        if codec.startswith("wma"):
            stream.bit_rate = 64_000
        context = stream.codec_context
        self._output, self._stream, self._rate_hz, self._written = output, stream, rate_hz, 0
        self._resampler = av.AudioResampler(context.format, "mono", rate_hz, frame_size=context.frame_size or 1024)

    def write(self, samples: npt.NDArray[np.int16]) -> None:
        if not len(samples):
            return
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = self._rate_hz, self._written, Fraction(1, self._rate_hz)
        self._written += len(samples)
        for ready in self._resampler.resample(frame):
            self._output.mux(self._stream.encode(ready))

    def end(self) -> None:
        for ready in self._resampler.resample(None):
            self._output.mux(self._stream.encode(ready))
        self._output.mux(self._stream.encode(None))


def retimed(file: bytes, container: str, moved_s: Callable[[float], float]) -> bytes:
    """The same packets, those of the audio `moved_s(time)` seconds later than their time was."""
    written = io.BytesIO()
    with av.open(io.BytesIO(file), "r") as source, av.open(written, "w", format=container) as output:
        streams = {stream.index: output.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None or packet.pts is None:
                continue
            if packet.stream.type == "audio":
                later = round(moved_s(float(packet.pts * packet.time_base)) / packet.time_base)
                packet.pts, packet.dts = packet.pts + later, packet.dts + later
            packet.stream = streams[packet.stream_index]
            output.mux(packet)
    return written.getvalue()


def edited(mp4: bytes, *edits: tuple[int, int]) -> bytes:
    """An MP4 file with another edit list: pairs of a duration and where in the media it begins, or -1."""
    table = b"".join(struct.pack(">QqHH", duration, begin, 1, 0) for duration, begin in edits)
    elst = _box(b"elst", struct.pack(">II", 1 << 24, len(edits)) + table)
    return b"".join(_edited(name, body, _box(b"edts", elst)) for name, body in boxes(mp4))


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of an MP4 file or of a box, one behind the other: name and content."""
    at = 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        yield name, data[at + 8 : at + size]
        at += size


def _edited(name: bytes, body: bytes, edts: bytes) -> bytes:
    if name in (b"moov", b"trak"):
        inner = b"".join(_edited(child, content, edts) for child, content in boxes(body) if child != b"edts")
        return _box(name, inner + edts if name == b"trak" else inner)
    return _box(name, body)


def _box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), name) + body


def id3(size: int) -> bytes:
    """An ID3v2.4 tag of padding; size: what follows its header."""
    return b"ID3\x04\x00\x00" + bytes(size >> 7 * place & 0x7F for place in (3, 2, 1, 0)) + bytes(size)


def loudest_hz(pcm: bytes) -> float:
    """The frequency with the most energy."""
    samples = np.array(array("h", pcm), np.float64)
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * 16_000 / len(samples))
