"""Audio files made on the spot, in any container and codec PyAV can write."""

from __future__ import annotations

import io
import math
import struct
from array import array
from fractions import Fraction
from functools import cache

import av
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer

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
    for _ in range(round(25 * duration_s)):
        output.mux(screen.encode(av.VideoFrame(64, 64, "yuv420p")))
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


def loudest_hz(pcm: bytes) -> float:
    """The frequency with the most energy."""
    samples = np.array(array("h", pcm), np.float64)
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * 16_000 / len(samples))
