"""Files that are kept somewhere else, and may be larger than memory."""

from __future__ import annotations

from collections.abc import Callable


class Kept:
    """A `core.media.decode.KeptFile` in memory. reads: the places that were asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size_bytes = len(data)
        self.reads: list[int] = []

    async def read(self, start: int, length: int) -> bytes:
        self.reads.append(start)
        return self._data[start : start + length]


class Endless:
    """A file of any size: a beginning, then the same bytes over and over, made when they are read."""

    def __init__(self, head: bytes, size_bytes: int, filling: Callable[[int, int], bytes]) -> None:
        self._head = head
        self._filling = filling
        self.size_bytes = size_bytes
        self.read_bytes = 0

    async def read(self, start: int, length: int) -> bytes:
        length = min(length, self.size_bytes - start)
        head = self._head[start : start + length]
        self.read_bytes += length
        return head + self._filling(start + len(head), length - len(head))
