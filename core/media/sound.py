"""How do frames of any form become 16 kHz samples, each at its time: one channel, or the mix of two beside both?

Resampled by FFmpeg, to one channel or two; put on the timeline; and of two channels, mixed. A mix is silent where one
channel is the other upside down (a microphone wired the wrong way, an effect of stereo "width"). So for every
`MIX_SAMPLES` the mix is compared with its channels, and where it is much quieter the louder channel is heard alone.
For every so many and not for the whole file: it is heard as it is decoded, and may be wrong in a part only.

Who wants the channels apart gets three, interleaved: the mix, the left and the right (`KEPT_CHANNELS`). Of a recording
with one channel, and of one with more than two, which are mixed by FFmpeg, all three are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.filter import Graph

from core.media.timeline import Timeline
from core.media.types import BYTES_PER_SAMPLE, KEPT_CHANNELS, SAMPLE_RATE_HZ

MIN_RATE_HZ = 1_000
"""Slower than any recording; a packet `at 1 Hz` would become sixteen thousand times as large."""

PULL_S = 0.25
"""How much goes into the resampler before anything is taken out: a look for every frame of 20 ms costs more than it."""

OUT_SAMPLES = SAMPLE_RATE_HZ
"""How much the resampler gives at a time, of each channel."""

MIX_SAMPLES = SAMPLE_RATE_HZ // 10
"""Shorter than a word, and long enough to measure a voice."""

CANCELLED = 0.1
"""Of the power of the louder channel, 10 dB. Two microphones a room apart lose 3 dB, a voice in one channel alone 6."""

LOUDER = 2.0
"""The second channel is taken only where it has so much more power: each change between copies would be a click."""

SILENCE_SAMPLES = 1 << 15


class UnreadableMediaError(Exception):
    """The bytes are no audio of a kind we decode."""


def pcm_of_frames(frames: Iterator[AudioFrame], timeline: Timeline, *, keep_channels: bool = False) -> Iterator[bytes]:
    """16 kHz s16le PCM, in pieces of any length: mono, or with `KEPT_CHANNELS`. Raises UnreadableMediaError."""
    samples = 0
    sample_bytes = BYTES_PER_SAMPLE * (KEPT_CHANNELS if keep_channels else 1)
    for piece in _pieces(frames, timeline, keep_channels=keep_channels):
        if isinstance(piece, bytes):
            samples += len(piece) // sample_bytes
            yield piece
        else:  # counted from the samples that there are, so that no rounding adds up
            missing = round(piece * SAMPLE_RATE_HZ) - samples
            for silent in _silence(missing):
                samples += silent
                yield bytes(silent * sample_bytes)


class Samples(NamedTuple):
    """Which are heard: from `first` to before `end`, 0 for the last; of the mix, or of a channel of `KEPT_CHANNELS`."""

    channel: int = 0
    first: int = 0
    end: int = 0


ALL = Samples()


def excerpt_of(pcm: Iterator[bytes], wanted: Samples, *, skipped: Callable[[], None]) -> Iterator[bytes]:
    """Those samples of a track, which comes with its channels where one is wanted.

    skipped: called as often as a piece before the first is left out, which a long way into a recording takes a while.
    """
    channel, first, end = wanted
    at = 0
    for samples in _one_channel(pcm, channel) if channel else pcm:
        begins, at = at, at + len(samples) // BYTES_PER_SAMPLE
        if at <= first:
            skipped()
            continue
        stop = min(at, end or at)
        yield samples[max(first - begins, 0) * BYTES_PER_SAMPLE : (stop - begins) * BYTES_PER_SAMPLE]
        if end and at >= end:
            return


def _one_channel(pcm: Iterator[bytes], channel: int) -> Iterator[bytes]:
    rest = b""
    for piece in pcm:
        pending = rest + piece
        whole = len(pending) - len(pending) % (KEPT_CHANNELS * BYTES_PER_SAMPLE)
        rest = pending[whole:]
        yield np.frombuffer(pending[:whole], "<i2")[channel::KEPT_CHANNELS].tobytes()


def is_silence(pcm: bytes) -> bool:
    """Whether every sample is 0."""
    return pcm.count(0) == len(pcm)


def _silence(samples: int) -> Iterator[int]:
    while samples > 0:
        yield min(samples, SILENCE_SAMPLES)
        samples -= SILENCE_SAMPLES


def _pieces(frames: Iterator[AudioFrame], timeline: Timeline, *, keep_channels: bool) -> Iterator[bytes | float]:
    """Pieces of sound, and between them times up to which there is silence.

    The resampler starts over behind a gap, and where a stream changes its form (broadcast AAC, concatenated files).
    """
    resampler: Resampler | None = None
    for frame in frames:
        gap_s = 0.0 if frame.pts is None else timeline.gap_before(frame.pts)
        if resampler is None or gap_s or _form_of(frame) != resampler.form:
            if resampler is not None:
                yield from resampler.end()
            if gap_s:
                timeline.position_s += gap_s
                yield timeline.position_s
            resampler = Resampler(frame, keep_channels=keep_channels)
        timeline.position_s += frame.samples / frame.sample_rate
        yield from resampler.push(frame)
    if resampler is not None:
        yield from resampler.end()


def _form_of(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


class Resampler:
    """FFmpeg's `aresample`, put in by itself before `aformat`; not PyAV's AudioResampler, which starts threads.

    More than two channels become two, by the weights that would make them one; or one, where channels are kept.
    """

    def __init__(self, frame: AudioFrame, *, keep_channels: bool = False, at_once: bool = False) -> None:
        """frame: one of the form that comes. at_once: take out what has gone in without waiting for more.

        Raises UnreadableMediaError.
        """
        self.form = sample_format, layout, rate_hz = _form_of(frame)
        if rate_hz < MIN_RATE_HZ:
            raise UnreadableMediaError("no recording has so low a sample rate")
        self._channels = 1 if frame.layout.nb_channels == 1 or (keep_channels and frame.layout.nb_channels > 2) else 2
        self._keep_channels = keep_channels
        self._mixer = _Mixer(keep_channels=keep_channels)
        self._enough = 0 if at_once else round(PULL_S * rate_hz)
        self._pushed = 0
        self._graph = Graph()
        self._graph.threads = 1
        source = self._graph.add(
            "abuffer",
            sample_rate=str(rate_hz),
            sample_fmt=sample_format,
            channel_layout=layout,
            time_base=f"1/{rate_hz}",
        )
        wanted = self._graph.add(
            "aformat",
            sample_rates=str(SAMPLE_RATE_HZ),
            sample_fmts="s16",
            channel_layouts="mono" if self._channels == 1 else "stereo",
        )
        whole = () if at_once else (self._graph.add("asetnsamples", n=str(OUT_SAMPLES), p="0"),)
        sink = self._graph.add("abuffersink")
        self._graph.link_nodes(source, wanted, *whole, sink).configure()

    def push(self, frame: AudioFrame) -> Iterator[bytes]:
        frame.pts = None  # a stranger's number, which the filters must not follow
        self._graph.push(frame)
        self._pushed += frame.samples
        if self._pushed >= self._enough:
            self._pushed = 0
            yield from self._pull()

    def end(self) -> Iterator[bytes]:
        self._graph.push(None)
        yield from self._pull()
        yield self._mixer.end()

    def _pull(self) -> Iterator[bytes]:
        while True:
            try:
                ready = cast("AudioFrame", self._graph.pull())
            except (BlockingIOError, EOFError):
                return
            # A plane is padded for SIMD: only so many of its bytes are samples.
            samples = memoryview(ready.planes[0])[: ready.samples * self._channels * BYTES_PER_SAMPLE]
            if self._channels == 2:
                yield self._mixer.push(samples)
            else:
                yield _thrice(samples) if self._keep_channels else bytes(samples)


def _thrice(mono: memoryview) -> bytes:
    return np.repeat(np.frombuffer(mono, "<i2"), KEPT_CHANNELS).tobytes()


class _Mixer:
    """Two interleaved channels to one, `MIX_SAMPLES` at a time. keep_channels: or to their mix beside them."""

    def __init__(self, *, keep_channels: bool) -> None:
        self._mix = _mixed_beside if keep_channels else _mixed
        self._rest = b""

    def push(self, stereo: memoryview) -> bytes:
        pending = self._rest + stereo
        whole = len(pending) - len(pending) % (MIX_SAMPLES * 2 * BYTES_PER_SAMPLE)
        self._rest = pending[whole:]
        return self._mix(_stereo(pending[:whole]).reshape(-1, MIX_SAMPLES, 2)).tobytes()

    def end(self) -> bytes:
        rest, self._rest = _stereo(self._rest), b""
        return self._mix(rest.reshape(1, -1, 2)).tobytes() if len(rest) else b""


def _stereo(pcm: bytes) -> npt.NDArray[np.float32]:
    return np.frombuffer(pcm, "<i2").astype(np.float32).reshape(-1, 2)


def _mixed_beside(windows: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """windows x samples x `KEPT_CHANNELS`."""
    return np.concatenate([_mixed(windows)[..., None], windows.astype("<i2")], axis=-1)


def _mixed(windows: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """The mix of every window (windows x samples x 2), or the louder channel where the mix is much quieter."""
    products = np.matmul(windows.transpose(0, 2, 1), windows)
    left, right = products[:, 0, 0], products[:, 1, 1]
    mixed = windows @ np.array([0.5, 0.5], np.float32)
    cancelled = products.sum(axis=(1, 2)) / 4 < CANCELLED * np.maximum(left, right)
    if cancelled.any():
        mixed[cancelled] = np.where((right > LOUDER * left)[:, None], windows[..., 1], windows[..., 0])[cancelled]
    return mixed.astype("<i2")
