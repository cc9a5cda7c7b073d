"""What does sealing cost beside the cipher? The channel's two ends and raw AES-256-GCM, the same bytes on one core.

The cipher is given the same pieces of 64 KiB, whose results fit a cache as the channel's do, and nothing is done with
them; beside it stands one copy of the bytes, which is the least that framing can cost.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.channel.hpke import Aead, Suite
from core.channel.kdf import Kdf
from core.channel.kem import Kem
from core.channel.keyconfig import GatewayKey
from core.channel.ohttp import RequestOpener, RequestSealer

PIECE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Sealing:
    """Milliseconds of a core, at the median. channel: sealed and opened; cipher: encrypted and decrypted."""

    kem: str
    body_bytes: int
    channel_ms: float
    cipher_ms: float
    copy_ms: float

    @property
    def ratio(self) -> float:
        """The channel's time over that of the cipher and one copy."""
        return self.channel_ms / (self.cipher_ms + self.copy_ms)


def measure(kem: Kem, body_bytes: int, times: int) -> Sealing:
    """All three in turns, `times` times."""
    body = os.urandom(body_bytes)
    key = GatewayKey.generate((), kem)
    cipher = AESGCM(os.urandom(32))
    ways: tuple[Callable[[], None], ...] = (
        lambda: _channel(body, key),
        lambda: _cipher(body, cipher),
        lambda: _copy(body),
    )
    taken = [[_core_ms(way) for way in ways] for _ in range(times)]
    return Sealing(kem.name, body_bytes, *(statistics.median(column) for column in zip(*taken, strict=True)))


def _core_ms(way: Callable[[], None]) -> float:
    begun = time.process_time_ns()
    way()
    return (time.process_time_ns() - begun) / 1e6


def _channel(body: bytes, key: GatewayKey) -> None:
    suite = Suite(key.private_key.kem, Kdf.HKDF_SHA256, Aead.AES_256_GCM)
    sealer, opener = RequestSealer(key.config, suite), RequestOpener([key])
    opener.feed(sealer.header)
    last = max(0, len(body) - 1) // PIECE_BYTES * PIECE_BYTES
    view = memoryview(body)
    for at in range(0, last, PIECE_BYTES):
        opener.feed(sealer.seal(view[at : at + PIECE_BYTES]))
    opener.feed(sealer.seal_final(view[last:]))
    opener.finish()


def _cipher(body: bytes, cipher: AESGCM) -> None:
    view = memoryview(body)
    for number, at in enumerate(range(0, len(body), PIECE_BYTES)):
        nonce = number.to_bytes(12, "big")
        cipher.decrypt(nonce, cipher.encrypt(nonce, view[at : at + PIECE_BYTES], b""), b"")


def _copy(body: bytes) -> None:
    view = memoryview(body)
    for at in range(0, len(body), PIECE_BYTES):
        bytes(view[at : at + PIECE_BYTES])
