"""How is what is kept sealed, so that it opens whole, unaltered and in its own place only? AES-256-GCM in chunks.

::

    sealed = version (1 byte: 1) || salt (16 bytes) || chunk ... chunk
    chunk  = AES-256-GCM(key, nonce, AAD = place, 65,536 bytes, or fewer in the last chunk), with its tag of 16 bytes
    key    = HKDF-SHA256(record key, salt, info = "sottovoce jobs 1" || place)
    nonce  = number of the chunk (11 bytes, big-endian) || 1 for the last chunk, otherwise 0
    place  = table, row, column and version, each after its length (2 bytes, big-endian)

Numbered chunks and the flag are those of STREAM (Hoang, Reyhanitabar, Rogaway, Vizár, 2015): chunks that are swapped,
dropped or cut off do not open. Each sealing has a key of its own through its salt, so no nonce is used twice, however
often a value is rewritten. The chunks have the same size, so that one in the middle of a recording can be opened alone.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy.jobs.errors import VaultError

KEY_BYTES: Final = 32
CHUNK_BYTES: Final = 65_536
TAG_BYTES: Final = 16
SEALED_CHUNK_BYTES: Final = CHUNK_BYTES + TAG_BYTES
HEAD_BYTES: Final = 1 + 16

_VERSION: Final = b"\x01"
_INFO: Final = b"sottovoce jobs 1"


@dataclass(frozen=True, slots=True)
class RecordKey:
    """The key under which everything of one record is sealed; whoever forgets it has deleted the record."""

    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> RecordKey:
        return cls(secrets.token_bytes(KEY_BYTES))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sealed value stands: it opens nowhere else. version: of what is in it."""

    table: str
    row: str
    column: str
    version: str = "1"

    def encoded(self) -> bytes:
        parts = [part.encode() for part in (self.table, self.row, self.column, self.version)]
        return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


class Chunks:
    """The cipher of one sealed value, whose head tells its salt."""

    def __init__(self, key: RecordKey, place: Place, head: bytes) -> None:
        if len(head) != HEAD_BYTES or head[:1] != _VERSION:
            raise VaultError("not a sealed value")
        self._place = place.encoded()
        derivation = HKDF(SHA256(), KEY_BYTES, salt=head[1:], info=_INFO + self._place)
        self._cipher = AESGCM(derivation.derive(key.secret))

    def seal(self, index: int, plain: bytes, *, last: bool) -> bytes:
        return self._cipher.encrypt(_nonce(index, last=last), plain, self._place)

    def open(self, index: int, sealed: bytes, *, last: bool) -> bytes:
        """Raises VaultError."""
        try:
            return self._cipher.decrypt(_nonce(index, last=last), sealed, self._place)
        except InvalidTag as exc:
            raise VaultError("a sealed value was altered, moved or cut") from exc


def _nonce(index: int, *, last: bool) -> bytes:
    return index.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def new_head() -> bytes:
    return _VERSION + secrets.token_bytes(HEAD_BYTES - 1)


def seal(key: RecordKey, place: Place, plain: bytes) -> bytes:
    """Seal a value that is in memory."""
    head = new_head()
    chunks = Chunks(key, place, head)
    count = max(1, -(-len(plain) // CHUNK_BYTES))
    pieces = (plain[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES] for index in range(count))
    return head + b"".join(chunks.seal(index, piece, last=index == count - 1) for index, piece in enumerate(pieces))


def unseal(key: RecordKey, place: Place, sealed: bytes) -> bytes:
    """The value. Raises VaultError."""
    chunks = Chunks(key, place, sealed[:HEAD_BYTES])
    count = chunk_count(len(sealed))
    starts = range(HEAD_BYTES, len(sealed), SEALED_CHUNK_BYTES)
    return b"".join(
        chunks.open(index, sealed[start : start + SEALED_CHUNK_BYTES], last=index == count - 1)
        for index, start in enumerate(starts)
    )


def chunk_count(sealed_bytes: int) -> int:
    """How many chunks a sealed value of this size has. Raises VaultError for sizes that none has."""
    count, rest = divmod(sealed_bytes - HEAD_BYTES, SEALED_CHUNK_BYTES)
    if sealed_bytes < HEAD_BYTES + TAG_BYTES or 0 < rest < TAG_BYTES:
        raise VaultError("a sealed value was cut")
    return count + (rest > 0)


def plain_bytes(sealed_bytes: int) -> int:
    """How much is in a sealed value of this size. Raises VaultError."""
    return sealed_bytes - HEAD_BYTES - chunk_count(sealed_bytes) * TAG_BYTES


async def seal_stream(key: RecordKey, place: Place, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Seal what arrives piece by piece; a chunk leaves when the first byte after it has arrived."""
    head = new_head()
    yield head
    chunks, index, waiting = Chunks(key, place, head), 0, bytearray()
    async for piece in content:
        waiting += piece
        while len(waiting) > CHUNK_BYTES:
            yield chunks.seal(index, bytes(memoryview(waiting)[:CHUNK_BYTES]), last=False)
            del waiting[:CHUNK_BYTES]
            index += 1
    yield chunks.seal(index, bytes(waiting), last=True)
