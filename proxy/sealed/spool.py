"""What if a request has to be sealed again? Its body is kept until the engine has taken the first one.

An engine that changed its key says so with a 422, at any time before it answers, and then the same body is sealed to
the new key: what was received is replayed, and what still arrives follows. So pieces are kept as they came, in memory
as far as one request and all requests together may have it. The bounds hold any request of a usual engine (25 MiB and
a little). The rest goes to an anonymous file, each piece sealed under a key that exists in memory alone and under its
own number as the nonce, so that no piece can stand in for another. Nothing readable ever reaches a disk.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from typing import Final, Self

import structlog
from nacl.secret import Aead
from nacl.utils import random

_log = structlog.get_logger(__name__)

MAX_MEMORY_BYTES: Final = 32 * 1024 * 1024
"""Of one request: more than the 26,214,400 bytes of a file and the mebibyte of form around it."""

MAX_TOTAL_MEMORY_BYTES: Final = 8 * MAX_MEMORY_BYTES
"""Of all requests together."""

Source = Callable[[], Awaitable[bytes]]
"""Gives the next piece of a body, and no bytes at its end."""


class Allowance:
    """Memory that all kept bodies share."""

    def __init__(self, limit_bytes: int = MAX_TOTAL_MEMORY_BYTES) -> None:
        self._left_bytes = limit_bytes

    @property
    def left_bytes(self) -> int:
        return self._left_bytes

    def take(self, size_bytes: int) -> bool:
        """Whether so much was left; then it is the caller's."""
        if size_bytes > self._left_bytes:
            return False
        self._left_bytes -= size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        self._left_bytes += size_bytes


class _SealedFile:
    """Pieces on disk that only this object can read (XChaCha20-Poly1305). The file has no name.

    A piece is at most 256 KiB and goes to the page cache, so it is written where it stands, without a thread.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `close`
        self._box = Aead(random(Aead.KEY_SIZE))
        self._ends = [0]

    def append(self, piece: bytes) -> None:
        """Keep a piece. Raises OSError."""
        sealed = self._box.encrypt(piece, nonce=self._nonce(len(self._ends) - 1)).ciphertext
        self._file.seek(self._ends[-1])
        if self._file.write(sealed) != len(sealed):
            raise OSError("the disk is full")
        self._ends.append(self._ends[-1] + len(sealed))

    def read(self, index: int) -> bytes:
        """The piece with this number. Raises OSError, and nacl's CryptoError when the file was tampered with."""
        self._file.seek(self._ends[index])
        sealed = self._file.read(self._ends[index + 1] - self._ends[index])
        return self._box.decrypt(sealed, nonce=self._nonce(index))

    @staticmethod
    def _nonce(index: int) -> bytes:
        return index.to_bytes(Aead.NONCE_SIZE, "big")

    def close(self) -> None:
        self._file.close()


class RetainedBody:
    """A request body that can be read again from its beginning while it is still arriving; used with `with`."""

    def __init__(self, source: Source, allowance: Allowance, *, memory_bytes: int = MAX_MEMORY_BYTES) -> None:
        self._source = source
        self._allowance = allowance
        self._memory_left_bytes = memory_bytes
        self._taken_bytes = 0
        self._kept: list[bytes] = []
        self._file: _SealedFile | None = None
        self._arrived = 0  # pieces
        self._keeping = True
        self._reading = asyncio.Lock()  # a reader that is being cancelled may still be waiting for the source
        self.received_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()

    @property
    def can_replay(self) -> bool:
        """Whether a reader can still begin at the beginning."""
        return self._keeping

    def forget(self) -> None:
        """Keep nothing any more; the reader that is at the end can go on."""
        self._keeping = False
        self._kept.clear()
        self._allowance.give_back(self._taken_bytes)
        self._taken_bytes = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    async def piece(self, index: int) -> bytes:
        """The piece with this number, counted from 0; no bytes at the end."""
        async with self._reading:
            if index == self._arrived:
                return self._take(await self._source())
            if index < len(self._kept):
                return self._kept[index]
            if self._file is None:
                raise RuntimeError("this piece was not kept")
            return self._file.read(index - len(self._kept))

    def _take(self, piece: bytes) -> bytes:
        self._arrived += 1 if piece else 0
        self.received_bytes += len(piece)
        if piece and self._keeping:
            self._keep(piece)
        return piece

    def _keep(self, piece: bytes) -> None:
        # Once a piece went to the file all later ones do, so that the two stay in order.
        if self._file is None and self._fits_memory(len(piece)):
            self._kept.append(piece)
            return
        try:
            self._file = self._file or _SealedFile()
            self._file.append(piece)
        except OSError as exc:
            _log.warning("body_not_kept", error=type(exc).__name__)
            self.forget()

    def _fits_memory(self, size_bytes: int) -> bool:
        if size_bytes > self._memory_left_bytes or not self._allowance.take(size_bytes):
            return False
        self._memory_left_bytes -= size_bytes
        self._taken_bytes += size_bytes
        return True


class BodyReader:
    """Reads a body from its beginning."""

    def __init__(self, body: RetainedBody) -> None:
        self._body = body
        self._index = 0

    async def read(self) -> bytes:
        """The next piece; no bytes at the end."""
        piece = await self._body.piece(self._index)
        self._index += 1 if piece else 0
        return piece
