"""Recordings and blobs in memory, as `proxy.jobs.ports` has them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from proxy.jobs.errors import FailedError, MissingError
from proxy.jobs.model import BlobId, Failure, FailureKind


class MemoryRecording:
    def __init__(self, data: bytes, name: str | None = None) -> None:
        self._data = data
        self.size_bytes = len(data)
        self.name = name
        self.reads: list[int] = []

    async def read(self, start: int, length: int) -> bytes:
        self.reads.append(length)
        return self._data[start : start + length]

    async def stream(self) -> AsyncIterator[bytes]:
        yield self._data


class MemoryBlobs:
    """largest_piece: what was put at a time."""

    def __init__(self) -> None:
        self.kept: dict[BlobId, bytes] = {}
        self.forgotten: list[BlobId] = []
        self.largest_piece = 0

    async def put(self, content: AsyncIterator[bytes], *, max_bytes: int | None = None) -> tuple[BlobId, int]:
        data = b""
        async for piece in content:
            self.largest_piece = max(self.largest_piece, len(piece))
            data += piece
            if max_bytes is not None and len(data) > max_bytes:
                raise FailedError(Failure(FailureKind.MEDIA_TOO_LARGE))
        blob = BlobId(f"blob-{len(self.kept)}")
        self.kept[blob] = data
        return blob, len(data)

    async def open(self, blob_id: BlobId, *, name: str | None = None) -> MemoryRecording:
        if blob_id not in self.kept:
            raise MissingError
        return MemoryRecording(self.kept[blob_id], name)

    async def forget(self, blob_id: BlobId) -> None:
        self.kept.pop(blob_id, None)
        self.forgotten.append(blob_id)
