"""Which key is sealed to, and with which algorithms? Key configurations (RFC 9458 section 3).

One configuration (section 3.1)::

    key_id (1)  kem_id (2)  public_key (Npk)  length (2)  [ kdf_id (2)  aead_id (2) ] ...

A list of them, media type application/ohttp-keys (section 3.2)::

    [ length (2)  configuration (length) ] ...

What is refused, and why:

1. A list with one bad entry is discarded whole. Section 3.2: how a list is repaired could tell clients apart.
2. An entry without suites, or with bytes after them, is bad.
3. An entry of a KEM that we do not know is kept, since whoever published it may serve others too. Where its
   public key ends cannot be known, so it is kept undivided, without suites, and never chosen.

The key id is one byte and collides; it is a hint. The identity of a key is the SHA-256 of its configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from core.channel.hpke import Aead, Suite, find_suite
from core.channel.kdf import Kdf
from core.channel.kem import Kem, PrivateKey
from core.errors import ChannelError, KeyMismatchError

KEYS_MEDIA_TYPE: Final = "application/ohttp-keys"
NAMES_BYTES: Final = 7
"""Of key_id (1), kem_id (2), kdf_id (2) and aead_id (2), which begin what is sealed to a key."""
_OUR_SUITES: Final = tuple(
    (int(Kdf.HKDF_SHA256), int(aead)) for aead in (Aead.AES_256_GCM, Aead.CHACHA20_POLY1305, Aead.AES_128_GCM)
)
_NPK: Final = {int(kem): kem.npk for kem in Kem}


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """A public key with its name and the (kdf, aead) pairs its owner accepts, preferred first."""

    key_id: int
    kem: int
    public_key: bytes
    suites: tuple[tuple[int, int], ...]

    @classmethod
    def for_key(cls, private_key: PrivateKey) -> KeyConfig:
        """Describe our own key; its id is the first byte of SHA-256(kem_id || public key)."""
        kem_id = private_key.kem.to_bytes(2, "big")
        key_id = sha256(kem_id + private_key.public_key).digest()[0]
        return cls(key_id, int(private_key.kem), private_key.public_key, _OUR_SUITES)

    def encode(self) -> bytes:
        """Write the configuration (RFC 9458 section 3.1)."""
        head = self.key_id.to_bytes(1, "big") + self.kem.to_bytes(2, "big") + self.public_key
        if not self.suites:  # an undivided entry: its suites are still in public_key
            return head
        suites = b"".join(kdf.to_bytes(2, "big") + aead.to_bytes(2, "big") for kdf, aead in self.suites)
        return head + len(suites).to_bytes(2, "big") + suites

    @property
    def digest(self) -> bytes:
        """SHA-256 of the encoding: the identity of the key."""
        return sha256(self.encode()).digest()

    @property
    def path_digest(self) -> str:
        """The first 16 bytes of `digest` in lowercase hex, as they stand in the gateway's path."""
        return self.digest[:16].hex()

    @property
    def is_post_quantum(self) -> bool:
        """Whether a quantum computer opens nothing that was sealed to it."""
        return self.kem == Kem.MLKEM768_X25519

    def preferred_suite(self) -> Suite:
        """The first suite that we know; ChannelError when there is none."""
        for kdf, aead in self.suites:
            if suite := find_suite(self.kem, kdf, aead):
                return suite
        raise ChannelError(f"key config {self.key_id} offers no suite that we support")


@dataclass(frozen=True, slots=True)
class GatewayKey:
    """A key config and the secret behind it."""

    config: KeyConfig
    private_key: PrivateKey

    @classmethod
    def generate(cls, taken_ids: Collection[int], kem: Kem = Kem.X25519_HKDF_SHA256) -> GatewayKey:
        """Draw a key whose id differs from every one in `taken_ids`; ValueError when all 256 are taken."""
        if len(set(taken_ids)) >= 256:
            raise ValueError("every key id is taken")
        while True:
            private_key = PrivateKey.generate(kem)
            config = KeyConfig.for_key(private_key)
            if config.key_id not in taken_ids:
                return cls(config, private_key)


def find_key(keys: Iterable[GatewayKey], names: bytes) -> tuple[GatewayKey, Suite]:
    """Of `keys` the one that a message is sealed to, and the suite; each has an id of its own.

    names: as they stand in the message's header. Raises KeyMismatchError: no such key, not of this KEM, or the suite is
    not one that it offers.
    """
    key_id = names[0]
    kem, kdf, aead = (int.from_bytes(names[at : at + 2], "big") for at in (1, 3, 5))
    key = next((key for key in keys if key.config.key_id == key_id), None)
    if key is None:
        raise KeyMismatchError(f"no key has the id {key_id}")
    if key.config.kem != kem:
        raise KeyMismatchError(f"key {key_id} is not of KEM {kem:#06x}")
    suite = find_suite(kem, kdf, aead)
    if suite is None or (kdf, aead) not in key.config.suites:
        raise KeyMismatchError(f"key {key_id} does not offer KDF {kdf:#06x} with AEAD {aead:#06x}")
    return key, suite


def decode_key_config(data: bytes) -> KeyConfig:
    """Read exactly one configuration; ChannelError for anything else."""
    if len(data) < 3:
        raise ChannelError("a key config is cut before its public key")
    key_id, kem = data[0], int.from_bytes(data[1:3], "big")
    if (npk := _NPK.get(kem)) is None:
        return KeyConfig(key_id, kem, bytes(data[3:]), ())
    suites_at = 3 + npk
    if len(data) < suites_at + 2:
        raise ChannelError("a key config is cut before its suites")
    public_key = bytes(data[3:suites_at])
    suites_bytes = int.from_bytes(data[suites_at : suites_at + 2], "big")
    return KeyConfig(key_id, kem, public_key, _decode_suites(data[suites_at + 2 :], suites_bytes))


def _decode_suites(data: bytes, expected_bytes: int) -> tuple[tuple[int, int], ...]:
    if len(data) < expected_bytes:
        raise ChannelError("a key config is cut inside its suites")
    if len(data) > expected_bytes:
        raise ChannelError("a key config has bytes after its suites")
    if not data or len(data) % 4:
        raise ChannelError("the suites of a key config are not one or more pairs")
    numbers = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def encode_key_configs(configs: Iterable[KeyConfig]) -> bytes:
    """Write a list (RFC 9458 section 3.2)."""
    encoded = [config.encode() for config in configs]
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in encoded)


def decode_key_configs(data: bytes) -> tuple[KeyConfig, ...]:
    """Read a list of one or more configurations; one bad entry discards them all with ChannelError."""
    configs = tuple(decode_key_config(entry) for entry in _entries(data))
    if not configs:
        raise ChannelError("the list of key configs is empty")
    return configs


def _entries(data: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(data):
        start = offset + 2
        offset = start + int.from_bytes(data[offset:start], "big")
        if offset > len(data):
            raise ChannelError("the list of key configs ends inside an entry")
        yield data[start:offset]
