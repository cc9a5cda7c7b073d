"""What does a stranger's file sound like? Any container and codec we serve, to 16 kHz mono PCM.

The only module that touches FFmpeg (through PyAV), and the one an attacker's bytes reach first: it runs in the process
of one file, inside the sandbox.

FFmpeg follows what files say. Unless told otherwise it reads playlists (HLS, DASH, `ffconcat`) and opens the local
files and URLs they name. Three lists stop that before the sandbox would: containers that refer to nothing outside
themselves, no protocols, and audio codecs alone, so that no video decoder sees a byte. See `format_whitelist`,
`protocol_whitelist` and `codec_whitelist` in ffmpeg-formats(1), ffmpeg-protocols(1) and ffmpeg-codecs(1).
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import cast

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.packet import Packet

from engine.types import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ, RawSamples

CONTAINERS = (
    *("wav", "w64", "aiff", "au", "caf"),  # plain samples and their like
    *("mp3", "aac", "ac3", "eac3", "flac", "amr"),  # a bare stream of one codec
    *("mov", "matroska", "webm", "ogg", "asf", "avi", "flv", "mpeg", "mpegts"),
)
"""FFmpeg's demuxer names; `mov` is also mp4, m4a and 3gp, `mpeg` is MPEG-PS, `asf` is wma and wmv."""

CODECS = (
    *("aac", "aac_latm", "ac3", "alac", "dca", "eac3", "flac", "opus"),
    *("mp1", "mp2", "mp3", "mp1float", "mp2float", "mp3float"),
    *("truehd", "vorbis", "speex", "wmav1", "wmav2", "wmapro", "wmalossless", "wmavoice"),
    *("amrnb", "amrwb", "g722", "g726", "gsm", "gsm_ms", "nellymoser", "libopus"),
    *("adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "adpcm_swf", "adpcm_yamaha"),
    *("pcm_alaw", "pcm_mulaw", "pcm_bluray", "pcm_dvd", "pcm_s8", "pcm_u8"),
    *(f"pcm_{kind}{order}" for kind in ("s16", "s24", "s32", "f32", "f64") for order in ("le", "be")),
)
"""FFmpeg's decoder names: what speech is recorded, sold and archived in."""

OPTIONS = {
    "format_whitelist": ",".join(CONTAINERS),
    "protocol_whitelist": "none",
    "codec_whitelist": ",".join(CODECS),
}

RAW_FRAME_SAMPLES = 4_096
"""How many raw samples of each channel are resampled in one step."""

MIN_RATE_HZ = 1_000
"""Slower than any recording; a packet `at 1 Hz` would become sixteen thousand times as large."""


class UnreadableMediaError(Exception):
    """The bytes are no audio of a kind we decode."""


def pcm_of(file: BytesIO) -> Iterator[bytes]:
    """Decode the best audio track of a file to 16 kHz mono s16le PCM, in pieces of any length.

    A damaged packet is skipped, and a file that breaks off ends there: what was heard is worth more than a refusal.
    file: must have no `name`, from which FFmpeg would guess the format.
    Raises UnreadableMediaError if there is no audio track, or if nothing but damage was found in it.
    """
    try:
        # The tags of a file are a stranger's text in any encoding, and not needed.
        with av.open(file, mode="r", options=OPTIONS, metadata_errors="ignore") as container:
            yield from _resampled(_frames(container, _audio_stream(container)))
    except FFmpegError as exc:
        raise UnreadableMediaError("FFmpeg cannot read the file") from exc


def pcm_of_samples(file: BytesIO, raw: RawSamples) -> Iterator[bytes]:
    """Resample a file that is nothing but samples, likewise. FFmpeg is asked for nothing but the resampling."""
    return _resampled(_raw_frames(file, raw))


def _raw_frames(file: BytesIO, raw: RawSamples) -> Iterator[AudioFrame]:
    while count := len(piece := file.read(RAW_FRAME_SAMPLES * raw.frame_bytes)) // raw.frame_bytes:
        samples = piece[: count * raw.frame_bytes]
        frame = AudioFrame(format="s16", layout="mono" if raw.channels == 1 else "stereo", samples=count)
        frame.sample_rate = raw.rate_hz
        memoryview(frame.planes[0])[: len(samples)] = _swapped(samples) if raw.big_endian else samples
        yield frame


def _swapped(samples: bytes) -> bytearray:
    """Samples of the other byte order."""
    swapped = bytearray(len(samples))
    swapped[0::2], swapped[1::2] = samples[1::2], samples[0::2]
    return swapped


def _audio_stream(container: InputContainer) -> AudioStream:
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream) or stream.codec_context is None:
        raise UnreadableMediaError("there is no audio track, or no decoder for it")
    # `codec_whitelist` binds FFmpeg's own probing; the context PyAV opens is held to the same list here.
    if stream.codec_context.codec.name not in CODECS:
        raise UnreadableMediaError("the audio codec is not served")
    stream.codec_context.thread_count = 1
    return stream


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    decoded = damaged = 0
    for packet in _packets(container, stream):
        try:
            frames = stream.codec_context.decode(packet)
        except FFmpegError as exc:
            if isinstance(exc, MemoryError):
                raise
            damaged += 1
            continue
        for frame in frames:
            decoded += frame.samples
            yield frame
    if damaged and not decoded:
        raise UnreadableMediaError("every packet is damaged")


def _packets(container: InputContainer, stream: AudioStream) -> Iterator[Packet[AudioStream] | None]:
    """The packets of a stream, then None, which has the decoder give back what it still holds."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except FFmpegError as exc:
            if isinstance(exc, MemoryError):
                raise
            break  # the file breaks off
        except IndexError:
            break  # PyAV 18.1, at the end of a file in which more streams turned up than its start announced
        if packet.size:
            yield packet
    yield None


def _resampled(frames: Iterator[AudioFrame]) -> Iterator[bytes]:
    """Resample frames, starting over where a stream changes its form (chained Ogg, broadcast AAC)."""
    graph: Graph | None = None
    form: tuple[str, str, int] | None = None
    for frame in frames:
        if (seen := _form_of(frame)) != form:
            yield from _pushed(graph, None)
            graph, form = _resampler(*seen), seen
        # Timestamps are a stranger's numbers and decide nothing: samples follow one another.
        frame.pts = None
        yield from _pushed(graph, frame)
    yield from _pushed(graph, None)


def _form_of(frame: AudioFrame) -> tuple[str, str, int]:
    if frame.sample_rate < MIN_RATE_HZ:
        raise UnreadableMediaError("no recording has so low a sample rate")
    return frame.format.name, frame.layout.name, frame.sample_rate


def _resampler(sample_format: str, layout: str, rate_hz: int) -> Graph:
    """FFmpeg's `aresample`, put in by itself before `aformat`; not PyAV's AudioResampler, which starts threads."""
    graph = Graph()
    graph.threads = 1
    source = graph.add(
        "abuffer", sample_rate=str(rate_hz), sample_fmt=sample_format, channel_layout=layout, time_base=f"1/{rate_hz}"
    )
    wanted = graph.add("aformat", sample_rates=str(SAMPLE_RATE_HZ), sample_fmts="s16", channel_layouts="mono")
    sink = graph.add("abuffersink")
    source.link_to(wanted)
    wanted.link_to(sink)
    graph.configure()
    return graph


def _pushed(graph: Graph | None, frame: AudioFrame | None) -> Iterator[bytes]:
    """Push a frame, or None for the end, and take what comes out."""
    if graph is None:
        return
    graph.push(frame)
    while True:
        try:
            ready = cast("AudioFrame", graph.pull())
        except (BlockingIOError, EOFError):
            return
        # A plane is padded for SIMD: only so many of its bytes are samples.
        yield bytes(memoryview(ready.planes[0])[: ready.samples * BYTES_PER_SAMPLE])
