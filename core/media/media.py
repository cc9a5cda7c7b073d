"""What does a stranger's file sound like? Any container and codec we serve, to 16 kHz mono PCM.

The module that has FFmpeg (through PyAV) read an attacker's bytes: it runs in the process of one file, inside the
sandbox.

FFmpeg follows what files say. Unless told otherwise it reads playlists (HLS, DASH, `ffconcat`) and opens the local
files and URLs they name. Three lists stop that before the sandbox would: containers that refer to nothing outside
themselves, no protocols, and audio codecs alone, so that no video decoder sees a byte. See `format_whitelist`,
`protocol_whitelist` and `codec_whitelist` in ffmpeg-formats(1), ffmpeg-protocols(1) and ffmpeg-codecs(1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import NoReturn, cast

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard

from core.media.content import Content, places_of
from core.media.parts import Part, Window, parts_of
from core.media.sound import UnreadableMediaError, pcm_of_frames
from core.media.timeline import Timeline
from core.media.types import RawSamples

CONTAINERS = (
    *("wav", "w64", "aiff", "au", "caf"),  # plain samples and their like
    *("mp3", "aac", "loas", "ac3", "eac3", "flac", "amr", "gsm"),  # a bare stream of one codec
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

MAX_TRACKS = 8
"""So many audio tracks are looked into, as many as cameras record; films have more, and speak in the first."""

MANY_TRACKS = 32
"""With more than these the likeliest is heard alone: every track that is looked into opens the file once more."""

MAX_STUMBLES = 8
"""So often the demuxer is asked to go on behind bytes that it cannot read before they count as unreadable."""

FEW_PACKETS = 8
"""So much damage is in any file that breaks off, however short it is."""

LOST_S = 2.0
"""Damage that goes on for so long, to the end, is no end: something was said there."""

FRAGMENT = rb"tfhd.{4}%s.{0,80}?trun.{4}(?!\0\0\0\0)"
"""Where a fragment of an MP4 file has samples of a track (ISO/IEC 14496-12, 8.8.7 and 8.8.8): of which, and some."""

FRAGMENT_BYTES = 104
"""The longest that `FRAGMENT` matches."""


def pcm_of(content: Content, *, keep_channels: bool = False) -> list[Iterator[bytes]]:
    """Decode the audio tracks of a file, the likeliest first, each to 16 kHz mono s16le PCM in pieces of any length.

    Nearly every file has one. Tracks are decoded as far as they are asked for, independently of one another. A damaged
    packet is skipped, and a file that breaks off ends there: what was heard is worth more than a refusal.
    keep_channels: as of `pcm_of_frames`.
    Raises UnreadableMediaError, here and from the tracks: no audio, no codec for it, more damage than sound, or bytes
    in the middle that the demuxer cannot get over.
    """
    parts = parts_of(content)
    if len(parts) > 1:  # one after the other: what the tracks of one are to those of the next, nobody says
        return [_chained(content, parts, keep_channels=keep_channels)]
    first = _Recording(content, parts[0])
    best, *others = first.tracks() or _refused()
    later = (_later(content, parts[0], track, keep_channels=keep_channels) for track in others)
    return [first.pcm(best, keep_channels=keep_channels), *later]


def pcm_of_samples(file: BytesIO, raw: RawSamples, *, keep_channels: bool = False) -> Iterator[bytes]:
    """Resample a file that is nothing but samples, likewise. FFmpeg is asked for nothing but the resampling."""
    return pcm_of_frames(_raw_frames(file, raw), Timeline(tick_s=0.0, zero_s=0.0), keep_channels=keep_channels)


def _chained(content: Content, parts: list[Part], *, keep_channels: bool) -> Iterator[bytes]:
    """One recording behind the other; in some there may be pictures only."""
    follows = False
    for part in parts:
        link = _Recording(content, part)
        if tracks := link.tracks():
            yield from link.pcm(tracks[0], follows=follows, keep_channels=keep_channels)
            follows = True
        elif not link.is_silent_film:
            _refused()
    if not follows:
        _refused()


def _later(content: Content, part: Part, track: int, *, keep_channels: bool) -> Iterator[bytes]:
    """A track through a demuxer of its own: with one for all, what one is ahead of the others would have to be kept."""
    yield from _Recording(content, part).pcm(track, keep_channels=keep_channels)


class _Recording:
    """A part of a file, opened by FFmpeg. Raises UnreadableMediaError."""

    def __init__(self, content: Content, part: Part) -> None:
        self._content = content
        self._part = part
        self._window = Window(content, part)
        try:
            # The tags of a file are a stranger's text in any encoding, and not needed.
            self._container = av.open(
                self._window, mode="r", format=part.container, options=OPTIONS, metadata_errors="ignore"
            )
        except FFmpegError as exc:
            raise UnreadableMediaError("FFmpeg cannot read the file") from exc

    def tracks(self) -> list[int]:
        """The audio tracks that can be decoded, by their index: the one that FFmpeg would take, then as they come."""
        audio = [stream for stream in self._container.streams.audio if _is_served(stream)]
        favourite = self._container.streams.best("audio")
        ranked = [stream.index for stream in sorted(audio, key=lambda stream: stream is not favourite)]
        return ranked[: MAX_TRACKS if len(ranked) <= MANY_TRACKS else 1]

    @property
    def is_silent_film(self) -> bool:
        streams = self._container.streams
        return bool(streams.video) and not streams.audio

    def pcm(self, track: int, *, follows: bool = False, keep_channels: bool = False) -> Iterator[bytes]:
        with self._container as container:
            stream = container.streams[track]
            if not isinstance(stream, AudioStream):  # a demuxer that does not give the same bytes the same streams
                raise UnreadableMediaError("the audio track is gone")
            stream.codec_context.thread_count = 1
            for other in container.streams:
                if other is not stream:
                    other.discard = Discard.all  # a film that breaks off would end with its picture
            timeline = Timeline.of(
                container.format.name.partition(",")[0],
                tick_s=float(stream.time_base or 0),
                start_s=_start_s(container, stream),
                follows=follows,
            )
            try:
                yield from pcm_of_frames(self._frames(container, stream), timeline, keep_channels=keep_channels)
            except FFmpegError as exc:
                raise UnreadableMediaError("FFmpeg cannot read the file") from exc

    def _frames(self, container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
        sound = damage = lost = 0
        for packet in self._packets(container, stream):
            try:
                frames = stream.codec_context.decode(packet)
            except FFmpegError as exc:
                if isinstance(exc, MemoryError):
                    raise
                damage += 1
                lost += packet.duration or 0 if packet else 0
                continue
            if frames:
                sound += 1
                lost = 0
            yield from frames
        ruined = damage * 2 > sound and (damage > FEW_PACKETS or not sound)
        if ruined or lost * (stream.time_base or 0) > LOST_S:
            raise UnreadableMediaError("a third of the file, or its whole end, is damage")

    def _packets(self, container: InputContainer, stream: AudioStream) -> Iterator[Packet[AudioStream] | None]:
        """The packets of a stream, then None, which has the decoder give back what it still holds."""
        stumbles = at = 0
        while stumbles < MAX_STUMBLES:
            try:
                for packet in container.demux(stream):
                    if packet.size:
                        stumbles, at = 0, packet.pos or at
                        yield packet
                break
            except FFmpegError as exc:
                if isinstance(exc, MemoryError):
                    raise
                stumbles += 1  # asked again, a demuxer looks for what it knows behind the place
            except IndexError:
                break  # PyAV 18.1, at the end of a file in which more streams turned up than its start announced
        if (stumbles and self._window.unread_bytes) or self._skipped_fragments(container, stream, at):
            raise UnreadableMediaError("the demuxer cannot get over bytes in the middle")
        yield None

    def _skipped_fragments(self, container: InputContainer, stream: AudioStream, at: int) -> bool:
        """Whether FFmpeg, which takes a damaged fragment for the end, has left out others behind the packet at `at`.

        The last one of a file does not count: it may have broken off before the sound in it.
        """
        if not container.format.name.startswith("mov"):
            return False
        behind = self._part.start + at
        track = re.escape(stream.id.to_bytes(4, "big", signed=True))
        pattern = re.compile(FRAGMENT % track, re.DOTALL)
        fragments = places_of(self._content, pattern, behind, self._part.end, longest=FRAGMENT_BYTES)
        return len(list(islice(fragments, 2))) == 2


def _refused() -> NoReturn:
    raise UnreadableMediaError("there is no audio track, or no decoder for it")


def _is_served(stream: AudioStream) -> bool:
    # `codec_whitelist` binds FFmpeg's own probing; the context PyAV opens is held to the same list here.
    context = cast("AudioCodecContext | None", stream.codec_context)  # there is none where FFmpeg has no decoder
    return context is not None and context.codec.name in CODECS


def _start_s(container: InputContainer, stream: AudioStream) -> float:
    """When the first track begins, in seconds; FFmpeg does not say it of what it has not seen begin."""
    start = cast("int | None", container.start_time)
    if start is not None:
        return start / av.time_base
    return float((stream.start_time or 0) * (stream.time_base or 0))


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
