"""How are the bytes of a report taken apart? From the front, and never more than there are."""

from __future__ import annotations

from attestation.errors import EvidenceError


class Reader:
    """Takes bytes off the front; EvidenceError where there are too few."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.offset = 0

    def __bool__(self) -> bool:
        return self.offset < len(self._data)

    def take(self, size: int) -> bytes:
        taken = self._data[self.offset : self.offset + size]
        if len(taken) != size:
            raise EvidenceError(f"{self._what} is cut short")
        self.offset += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def expect(self, value: bytes, what: str) -> None:
        if self.take(len(value)) != value:
            raise EvidenceError(f"{self._what} is not {what}")
