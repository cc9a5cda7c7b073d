"""Where are a file's bytes, when they may be more than memory holds? They are asked for by their place.

A file of a request is in memory. One of hours stays where it is kept, and comes in blocks of `READ_BYTES`, of which the
last few are held.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, Protocol

READ_BYTES: Final = 1 << 18
"""Large enough that a recording is read in few steps, small enough that a jump in a film costs little."""

HELD_BLOCKS: Final = 16
"""4 MiB: several tracks of a file are read side by side, each at its place."""

SCAN_BYTES: Final = 1 << 20


class Content(Protocol):
    @property
    def size(self) -> int: ...

    def read(self, start: int, end: int) -> bytes:
        """What lies from `start` to before `end`; less at the end of the file."""


class InMemory:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, start: int, end: int) -> bytes:
        return self._data[start:end]


class InBlocks:
    """Content that is elsewhere.

    fetch: gives the block of that number, `READ_BYTES` of them or what is left of the file.
    """

    def __init__(self, size: int, fetch: Callable[[int], bytes]) -> None:
        self.size = size
        self._fetch = fetch
        self._held: OrderedDict[int, bytes] = OrderedDict()

    def read(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        if start >= end:
            return b""
        first, last = start // READ_BYTES, (end - 1) // READ_BYTES
        if first == last:
            return self._block(first)[start - first * READ_BYTES : end - first * READ_BYTES]
        pieces = b"".join(self._block(number) for number in range(first, last + 1))
        return pieces[start - first * READ_BYTES : end - first * READ_BYTES]

    def _block(self, number: int) -> bytes:
        if number in self._held:
            self._held.move_to_end(number)
        else:
            self._held[number] = self._fetch(number)
            if len(self._held) > HELD_BLOCKS:
                self._held.popitem(last=False)
        return self._held[number]


def block_bytes(size: int, number: int) -> int:
    """How long the block of that number is, in a file of `size` bytes. Raises ValueError where there is none."""
    if not 0 <= number < -(-size // READ_BYTES):
        raise ValueError("a file has no such block")
    return min(READ_BYTES, size - number * READ_BYTES)


def starts_with(content: Content, prefix: bytes, at: int) -> bool:
    return content.read(at, at + len(prefix)) == prefix


def places_of(content: Content, pattern: re.Pattern[bytes], start: int, end: int, *, longest: int) -> Iterator[int]:
    """Where the pattern is found between two places, one behind the other.

    longest: at least what it can match, in bytes, what it looks ahead included.
    """
    at = start
    while at < end:
        piece = content.read(at, min(at + SCAN_BYTES + longest, end))
        if not piece:
            return
        next_at = at + SCAN_BYTES
        for found in pattern.finditer(piece):
            if found.start() >= SCAN_BYTES:
                break
            yield at + found.start()
            next_at = max(next_at, at + found.end())
        at = next_at
