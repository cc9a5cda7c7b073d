"""Who can read what is kept? Whoever has a key-encryption key, which is kept elsewhere.

Each record has a key of its own, which is kept wrapped::

    wrapped = nonce (12 bytes, random) || AES-256-GCM(key-encryption key, nonce, AAD = "key" || record, record key)

The file of key-encryption keys has one on each line, 64 hexadecimal digits: all unwrap, and that which the database
names wraps, in a new database the first. Another one is put in front, everything is wrapped anew, and the old one is
taken out (`proxy.jobs.rotation`). Processes read the file again when they meet a key that they do not know.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.program.files import Watched, replace
from proxy.jobs.errors import KeysAwayError, VaultError
from proxy.jobs.sealing import KEY_BYTES, RecordKey

_log = structlog.get_logger(__name__)

_NONCE_BYTES: Final = 12
_ID_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A record key as it is kept. kek: which key-encryption key opens it."""

    kek: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Kek:
    """A key-encryption key. id: tells it from others, and nothing of it."""

    secret: bytes = field(repr=False)
    id: str = ""

    @classmethod
    def of(cls, secret: bytes) -> Kek:
        return cls(secret, hashlib.blake2b(secret, digest_size=_ID_BYTES, person=b"sottovoce kek id").hexdigest())

    @classmethod
    def new(cls) -> Kek:
        return cls.of(secrets.token_bytes(KEY_BYTES))


@dataclass(frozen=True, slots=True)
class KeyRing:
    """keys: at least one; the first wraps."""

    keys: tuple[Kek, ...]

    @property
    def current(self) -> Kek:
        return self.keys[0]

    def find(self, kek: str) -> Kek | None:
        return next((key for key in self.keys if key.id == kek), None)

    def encode(self) -> str:
        return "".join(f"{key.secret.hex()}\n" for key in self.keys)

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Raises VaultError, which quotes nothing."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        try:
            secret_of = [bytes.fromhex(line) for line in lines]
        except ValueError:
            secret_of = []
        if not secret_of or any(len(secret) != KEY_BYTES for secret in secret_of):
            raise VaultError("the file of keys must have 64 hexadecimal digits on each line")
        return cls(tuple(map(Kek.of, dict.fromkeys(secret_of))))

    def rotated(self) -> KeyRing:
        """With a new key in front."""
        return KeyRing((Kek.new(), *self.keys))

    def retired(self) -> KeyRing:
        """With the first key alone."""
        return KeyRing(self.keys[:1])


class KeySource(Protocol):
    """Where key-encryption keys are kept."""

    @property
    def watchable(self) -> bool:
        """Whether to look now and then costs nobody anything."""

    def read(self) -> KeyRing:
        """Raises VaultError."""

    def write(self, ring: KeyRing) -> None:
        """Raises VaultError."""

    def changed(self) -> KeyRing | None:
        """The keys, if others were put there since they were read or asked for."""


class KeyFile:
    """Keys in a file: of a data directory, or a mounted Kubernetes Secret. Raises VaultError."""

    watchable: Final = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._watched = Watched((path,), lambda _: self._load(), faults=(VaultError,), tell=_not_reloaded)

    @classmethod
    def make(cls, path: Path) -> KeyFile:
        """A file with one new key. Raises VaultError."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace(path, KeyRing((Kek.new(),)).encode().encode())
        except OSError as exc:
            raise VaultError(f"{path}: {exc.strerror}") from exc
        return cls(path)

    def _load(self) -> KeyRing:
        try:
            return KeyRing.parse(self._path.read_text("ascii"))
        except (OSError, UnicodeDecodeError) as exc:
            raise VaultError(f"{self._path}: cannot be read") from exc

    def read(self) -> KeyRing:
        return self._watched.value

    def write(self, ring: KeyRing) -> None:
        try:
            replace(self._path, ring.encode().encode())
        except OSError as exc:
            raise VaultError(f"{self._path}: {exc.strerror}") from exc
        self._watched.changed()

    def changed(self) -> KeyRing | None:
        return self._watched.changed()


def _not_reloaded(exc: Exception) -> None:
    _log.warning("job_keys_not_reloaded", error=type(exc).__name__)


class Vault:
    """Makes record keys, and wraps and unwraps them."""

    def __init__(self, source: KeySource) -> None:
        self._source = source
        self._ring = source.read()

    @property
    def ring(self) -> KeyRing:
        return self._ring

    @property
    def watchable(self) -> bool:
        return self._source.watchable

    def changed(self) -> KeyRing | None:
        """Look whether there are other keys; for `core.program.files.watch`."""
        if (ring := self._source.changed()) is not None:
            self._ring = ring
        return ring

    def put(self, ring: KeyRing) -> None:
        """Keep other keys. Raises VaultError."""
        self._source.write(ring)
        self._ring = ring

    def wrap(self, record: str, key: RecordKey, kek_id: str | None = None) -> Wrapped:
        """kek_id: which key-encryption key; the first by default. Raises VaultError for one that is not at hand."""
        kek, nonce = self._found(kek_id or self._ring.current.id), secrets.token_bytes(_NONCE_BYTES)
        return Wrapped(kek.id, nonce + AESGCM(kek.secret).encrypt(nonce, key.secret, _place(record)))

    def unwrap(self, record: str, wrapped: Wrapped) -> RecordKey:
        """Raises VaultError."""
        kek = self._found(wrapped.kek)
        nonce, sealed = wrapped.data[:_NONCE_BYTES], wrapped.data[_NONCE_BYTES:]
        try:
            return RecordKey(AESGCM(kek.secret).decrypt(nonce, sealed, _place(record)))
        except (InvalidTag, ValueError) as exc:
            raise VaultError("a record's key was altered, or is another record's") from exc

    def _found(self, kek_id: str) -> Kek:
        """Raises VaultError."""
        kek = self._ring.find(kek_id)
        if kek is None and self.changed() is not None:
            kek = self._ring.find(kek_id)
        if kek is None:
            raise KeysAwayError("the key-encryption key that a record needs is not among those at hand")
        return kek


def _place(record: str) -> bytes:
    return b"key" + record.encode()


class Pepper:
    """A secret that hashes what must be found again and not read: API keys, idempotency keys, cursors' seals.

    It is itself a record key, so that it outlives the rotation of what wraps it.
    """

    def __init__(self, key: RecordKey) -> None:
        self._key = key

    def digest(self, purpose: str, *parts: bytes) -> bytes:
        """32 bytes (HMAC-SHA256). purpose: no two uses have the same."""
        framed = b"".join(len(part).to_bytes(8, "big") + part for part in (purpose.encode(), *parts))
        return hmac.digest(self._key.secret, framed, "sha256")
