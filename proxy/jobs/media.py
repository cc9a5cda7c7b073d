"""How does a recording of any length become requests that an engine takes? Decoded once, in the sandbox, on this side.

What is short enough goes to the engine as it came. Anything else, and a stretch or a channel of it, is decoded block by
block, cut in its pauses, and kept anew, so that no stranger's byte is read a second time and a part is a range of
bytes::

    kept = FLAC file of part 0 || FLAC file of part 1 || ... || table
    table = part ... part || number of parts (4 bytes) || "SVPARTS1"
    part = its length in bytes (4 bytes) || its length in samples (4 bytes)          all big-endian

A recording is never in memory whole: a part of it at most, and a block in the sandbox.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Hashable
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import accumulate
from typing import Final, Protocol

from core.errors import BackendError
from core.media.decode import MAX_PART_S
from core.media.types import MAX_FILE_BYTES, SAMPLE_RATE_HZ, WHOLE, Excerpt, PartPiece
from core.transcript.faults import Fault, FaultKind
from proxy.jobs.errors import FailedError, TransientError
from proxy.jobs.limits import check_length
from proxy.jobs.model import Failure, FailureKind, JobOptions, PartPlan, Plan
from proxy.jobs.parts import WholeContent
from proxy.jobs.ports import Blobs, PartContent, Recording

MAX_AUDIO_S: Final = 36_000
PART_S: Final = 600
"""Ten hours are sixty parts, which many engines, or one that batches, hear side by side."""

CHANNELS: Final = (1, 2)

RETRY_S: Final = 30.0

_ROW: Final = struct.Struct(">II")
_END: Final = struct.Struct(">I8s")
_MAGIC: Final = b"SVPARTS1"
_READ_BYTES: Final = 1 << 20

_FAILURES: Final = {
    FaultKind.UNREADABLE: FailureKind.MEDIA_UNREADABLE,
    FaultKind.TOO_LONG: FailureKind.MEDIA_TOO_LONG,
    FaultKind.TOO_SHORT: FailureKind.MEDIA_TOO_SHORT,
}


class Decoder(Protocol):
    """A `core.media.decode.AudioDecoder`."""

    def split(
        self, file: Recording, *, part_s: int, excerpt: Excerpt = WHOLE, caller: Hashable = None
    ) -> AsyncGenerator[PartPiece, None]: ...


@dataclass(frozen=True, slots=True)
class PartOfRecording:
    """Bytes of a recording as they go to an engine, a `proxy.jobs.ports.PartContent`. end: before which they end."""

    recording: Recording
    start: int
    end: int
    filename: str
    content_type: str = "audio/flac"

    async def stream(self) -> AsyncIterator[bytes]:
        for start in range(self.start, self.end, _READ_BYTES):
            yield await self.recording.read(start, min(_READ_BYTES, self.end - start))


@dataclass(slots=True)
class _Table:
    """Raises FailedError once there is more than `max_audio_ms`."""

    max_audio_ms: int | None = None
    rows: list[tuple[int, int]] = field(default_factory=list)
    """Bytes and samples of each part."""
    part_bytes: int = 0

    def note(self, piece: PartPiece) -> None:
        self.part_bytes += len(piece.flac)
        if piece.samples:
            self.rows.append((self.part_bytes, piece.samples))
            self.part_bytes = 0
            check_length(_ms(self.samples), self.max_audio_ms)

    def encoded(self) -> bytes:
        return b"".join(_ROW.pack(*row) for row in self.rows) + _END.pack(len(self.rows), _MAGIC)

    @property
    def samples(self) -> int:
        return sum(samples for _, samples in self.rows)

    def plans(self, start_ms: int, *, first: int = 0) -> tuple[PartPlan, ...]:
        """start_ms: of the first part in its recording. first: its index."""
        ends = [start_ms + _ms(samples) for samples in accumulate(samples for _, samples in self.rows)]
        spans = zip([start_ms, *ends], ends, strict=False)
        return tuple(PartPlan(index, start, end) for index, (start, end) in enumerate(spans, start=first))


class MediaSplitter:
    """A `proxy.jobs.ports.Splitter`.

    decoder: hears up to `MAX_AUDIO_S`; started and closed by its owner. part_s: the longest part, up to `MAX_PART_S`.
    at_once: how many recordings are decoded at a time.
    """

    def __init__(self, decoder: Decoder, blobs: Blobs, *, part_s: int = PART_S, at_once: int = 2) -> None:
        if not 0 < part_s <= MAX_PART_S:
            raise ValueError(f"a part is up to {MAX_PART_S} s long")
        self._decoder = decoder
        self._blobs = blobs
        self._part_s = part_s
        self._room = asyncio.Semaphore(at_once)

    async def plan(self, recording: Recording, options: JobOptions, *, max_audio_ms: int | None = None) -> Plan:
        try:
            async with self._room:
                if options.channels:
                    return await self._plan_channels(recording, options, max_audio_ms)
                async with aclosing(self._split(recording, options)) as pieces:
                    return await self._plan(recording, options, pieces, _Table(max_audio_ms))
        except Fault as exc:
            if exc.kind in _FAILURES:
                raise FailedError(Failure(_FAILURES[exc.kind], exc.numbers)) from exc
            raise TransientError(Failure(FailureKind.INTERNAL), retry_after_s=RETRY_S) from exc
        except BackendError as exc:
            raise TransientError(Failure(FailureKind.INTERNAL), retry_after_s=RETRY_S) from exc

    def _split(self, recording: Recording, options: JobOptions, channel: int = 0) -> AsyncGenerator[PartPiece, None]:
        excerpt = Excerpt(channel, options.start_ms, options.end_ms)
        part_s = min(self._part_s, options.longest_part_s or self._part_s)
        return self._decoder.split(recording, part_s=part_s, excerpt=excerpt)

    async def _plan_channels(self, recording: Recording, options: JobOptions, max_audio_ms: int | None) -> Plan:
        """The parts of one channel after those of the other (`proxy.jobs.channels` reads them so)."""
        tables, digests = [_Table(max_audio_ms) for _ in CHANNELS], [sha256() for _ in CHANNELS]

        async def content() -> AsyncIterator[bytes]:
            for channel, table, digest in zip(CHANNELS, tables, digests, strict=True):
                async with aclosing(self._split(recording, options, channel)) as pieces:
                    async for piece in pieces:
                        table.note(piece)
                        digest.update(piece.flac)
                        yield piece.flac
            if len({digest.digest() for digest in digests}) == 1:
                raise FailedError(Failure(FailureKind.MEDIA_ONE_CHANNEL))
            yield _Table(rows=[row for table in tables for row in table.rows]).encoded()

        blob, _ = await self._blobs.put(content())
        one, two = tables
        parts = one.plans(options.start_ms)
        parts += two.plans(options.start_ms, first=len(parts))
        return Plan(parts, _ms(max(one.samples, two.samples)), blob)

    async def _plan(
        self, recording: Recording, options: JobOptions, pieces: AsyncIterator[PartPiece], table: _Table
    ) -> Plan:
        fits = recording.size_bytes <= MAX_FILE_BYTES and not options.is_excerpt
        first: list[bytes] = []
        async for piece in pieces:
            table.note(piece)
            first.append(piece.flac)
            if piece.samples:
                break
        more = await anext(pieces, None)
        if fits and more is None:
            return Plan((PartPlan(0),), _ms(table.samples))
        blob, _ = await self._blobs.put(_kept(first, more, pieces, table))
        return Plan(table.plans(options.start_ms), _ms(table.samples), blob)

    async def cut(self, recording: Recording, part: PartPlan) -> PartContent:
        if part.end_ms is None:
            return WholeContent(recording)
        sizes = [size for size, _ in await _rows(recording)]
        if part.index >= len(sizes):
            raise FailedError(Failure(FailureKind.SOURCE_LOST))
        start = sum(sizes[: part.index])
        return PartOfRecording(recording, start, start + sizes[part.index], f"part-{part.index}.flac")


async def _kept(
    first: list[bytes], more: PartPiece | None, pieces: AsyncIterator[PartPiece], table: _Table
) -> AsyncIterator[bytes]:
    while first:
        yield first.pop(0)
    if more is not None:
        table.note(more)
        yield more.flac
        async for piece in pieces:
            table.note(piece)
            yield piece.flac
    yield table.encoded()


async def _rows(recording: Recording) -> list[tuple[int, int]]:
    """Raises FailedError where there is no table."""
    end = recording.size_bytes - _END.size
    tail = await recording.read(max(end, 0), _END.size)
    count, magic = _END.unpack(tail) if len(tail) == _END.size else (0, b"")
    if magic != _MAGIC or count * _ROW.size > end:
        raise FailedError(Failure(FailureKind.SOURCE_LOST))
    return list(_ROW.iter_unpack(await recording.read(end - count * _ROW.size, count * _ROW.size)))


def _ms(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE_HZ
