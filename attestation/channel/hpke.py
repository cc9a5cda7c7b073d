# ruff: noqa: N803 -- pkR, skR, skE, pkE are the names RFC 9180 gives them
"""How do two parties share keys when only one of them has a key pair? HPKE, base mode (RFC 9180).

The sender makes an ephemeral key pair, agrees on a secret with the recipient's public key and sends the
ephemeral public key along as `enc`. Both sides then walk the same ladder::

    enc, pkR  --DHKEM (4.1)-->  shared_secret  --KeySchedule (5.1)-->  key, base_nonce, exporter_secret
                                                        ^
                                                       info

    ciphertext i = AEAD(key, base_nonce XOR i, aad, plaintext i)                                    (5.2)
    exported     = LabeledExpand(exporter_secret, "sec", exporter_context, length)                  (5.3)

Of the suites we know DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and three AEADs (section 7). Another KEM is a
member of `Kem`, its lengths, and its row in `_ENCAP` and `_DECAP`: the key schedule does not change.

Only the recipient is authenticated. Anybody who knows pkR can send, and a recorded `enc` can be sent again:
refusing the second one is the gateway's duty. Python cannot wipe memory; a key ends when its object does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from attestation.errors import ChannelError

NN: Final = 12  # every AEAD of RFC 9180 section 7.3 has a nonce of 12 bytes
NT: Final = 16  # and a tag of 16
NH: Final = 32  # HKDF-SHA256
_MODE_BASE: Final = b"\x00"
_MAX_SEQ: Final = (1 << 8 * NN) - 1


class Kem(IntEnum):
    """Key encapsulation mechanisms (RFC 9180 section 7.1)."""

    X25519_HKDF_SHA256 = 0x0020

    @property
    def npk(self) -> int:
        """Length of an encoded public key in bytes."""
        return 32

    @property
    def nenc(self) -> int:
        """Length of an encapsulated key in bytes."""
        return 32


class Kdf(IntEnum):
    """Key derivation functions (RFC 9180 section 7.2)."""

    HKDF_SHA256 = 0x0001


class Aead(IntEnum):
    """Ciphers (RFC 9180 section 7.3)."""

    AES_128_GCM = 0x0001
    AES_256_GCM = 0x0002
    CHACHA20_POLY1305 = 0x0003

    @property
    def nk(self) -> int:
        """Length of a key in bytes."""
        return 16 if self is Aead.AES_128_GCM else 32


@dataclass(frozen=True, slots=True)
class Suite:
    """The three algorithms of one context."""

    kem: Kem
    kdf: Kdf
    aead: Aead

    @property
    def code_points(self) -> bytes:
        """kem_id (2), kdf_id (2), aead_id (2)."""
        return b"".join(part.to_bytes(2, "big") for part in (self.kem, self.kdf, self.aead))

    @property
    def suite_id(self) -> bytes:
        """What binds every derived value to this suite (RFC 9180 section 5.1)."""
        return b"HPKE" + self.code_points


def find_suite(kem_id: int, kdf_id: int, aead_id: int) -> Suite | None:
    """The suite of three code points, or None when one of them is not ours."""
    try:
        return Suite(Kem(kem_id), Kdf(kdf_id), Aead(aead_id))
    except ValueError:
        return None


class PrivateKey:
    """A secret key that shows only its public half and does not let itself be pickled or copied."""

    __slots__ = ("_secret", "kem", "public_key")

    def __init__(self, secret: X25519PrivateKey) -> None:
        self._secret = secret
        self.kem = Kem.X25519_HKDF_SHA256
        self.public_key: bytes = secret.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> PrivateKey:
        """Draw a new key from the system's generator."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, raw: bytes) -> PrivateKey:
        """Take a key from its 32 bytes (vectors need this); ValueError for any other length."""
        return cls(X25519PrivateKey.from_private_bytes(raw))

    def exchange(self, public_key: bytes) -> bytes:
        """Agree on a secret with `public_key` (RFC 7748); ChannelError for one that cannot give a secret.

        The length is checked here, the all-zero result that RFC 9180 section 7.1.4 forbids in the library.
        """
        try:
            return self._secret.exchange(X25519PublicKey.from_public_bytes(public_key))
        except ValueError as exc:
            raise ChannelError("the public key is of the wrong length or of low order") from exc

    def __repr__(self) -> str:
        return f"PrivateKey({self.kem.name}, public_key={self.public_key.hex()[:8]}..., secret=***)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a private key does not leave its process")


def extract(salt: bytes, ikm: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869 section 2.2): 32 bytes."""
    return HKDF.extract(hashes.SHA256(), salt, ikm)


def expand(prk: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869 section 2.3): `length` bytes, at most 255 * 32."""
    return HKDFExpand(hashes.SHA256(), length, info).derive(prk)


def _labeled_extract(suite_id: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return extract(salt, b"HPKE-v1" + suite_id + label + ikm)


def _labeled_expand(suite_id: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite_id + label + info, length)


def _x25519_secret(dh: bytes, enc: bytes, pkR: bytes) -> bytes:
    """ExtractAndExpand of DHKEM(X25519, HKDF-SHA256) (RFC 9180 section 4.1)."""
    suite_id = b"KEM" + Kem.X25519_HKDF_SHA256.to_bytes(2, "big")
    eae_prk = _labeled_extract(suite_id, b"", b"eae_prk", dh)
    return _labeled_expand(suite_id, eae_prk, b"shared_secret", enc + pkR, NH)


def _x25519_encap(pkR: bytes, skE: PrivateKey) -> tuple[bytes, bytes]:
    enc = skE.public_key
    return _x25519_secret(skE.exchange(pkR), enc, pkR), enc


def _x25519_decap(enc: bytes, skR: PrivateKey) -> bytes:
    return _x25519_secret(skR.exchange(enc), enc, skR.public_key)


_ENCAP: Final[dict[Kem, Callable[[bytes, PrivateKey], tuple[bytes, bytes]]]] = {
    Kem.X25519_HKDF_SHA256: _x25519_encap,
}
_DECAP: Final[dict[Kem, Callable[[bytes, PrivateKey], bytes]]] = {
    Kem.X25519_HKDF_SHA256: _x25519_decap,
}
_CIPHERS: Final[dict[Aead, type[AESGCM | ChaCha20Poly1305]]] = {
    Aead.AES_128_GCM: AESGCM,
    Aead.AES_256_GCM: AESGCM,
    Aead.CHACHA20_POLY1305: ChaCha20Poly1305,
}


class _Counter:
    """One AEAD key and the nonce that counts with its messages (RFC 9180 section 5.2)."""

    __slots__ = ("_base_nonce", "_cipher", "_seq")

    def __init__(self, aead: Aead, key: bytes, base_nonce: bytes) -> None:
        self._cipher = _CIPHERS[aead](key)
        self._base_nonce = int.from_bytes(base_nonce, "big")
        self._seq = 0

    def _nonce(self) -> bytes:
        if self._seq >= _MAX_SEQ:
            raise ChannelError("the key has sealed as many messages as its nonce can count")
        return (self._base_nonce ^ self._seq).to_bytes(NN, "big")


class Sealer(_Counter):
    """Seals messages in order; no nonce is used twice."""

    __slots__ = ()

    def seal(self, plaintext: bytes, aad: bytes = b"") -> bytes:
        """Encrypt the next message: `plaintext` and a tag of 16 bytes."""
        ciphertext = self._cipher.encrypt(self._nonce(), plaintext, aad)
        self._seq += 1
        return ciphertext


class Opener(_Counter):
    """Opens messages in the order they were sealed; one that does not open is the last."""

    __slots__ = ("_failed",)

    def __init__(self, aead: Aead, key: bytes, base_nonce: bytes) -> None:
        super().__init__(aead, key, base_nonce)
        self._failed = False

    def open(self, ciphertext: bytes, aad: bytes = b"") -> bytes:
        """Decrypt the next message; ChannelError, now and ever after, if it is not authentic."""
        if self._failed:
            raise ChannelError("an earlier message did not authenticate")
        try:
            plaintext = self._cipher.decrypt(self._nonce(), ciphertext, aad)
        except InvalidTag as exc:
            self._failed = True
            raise ChannelError("the message does not authenticate") from exc
        self._seq += 1
        return plaintext


@dataclass(frozen=True, slots=True, repr=False)
class _Schedule:
    """What KeySchedule derives (RFC 9180 section 5.1)."""

    key: bytes
    base_nonce: bytes
    exporter_secret: bytes


def _key_schedule(suite: Suite, shared_secret: bytes, info: bytes) -> _Schedule:
    """KeySchedule in base mode: psk and psk_id are empty."""
    suite_id = suite.suite_id
    psk_id_hash = _labeled_extract(suite_id, b"", b"psk_id_hash", b"")
    info_hash = _labeled_extract(suite_id, b"", b"info_hash", info)
    context = _MODE_BASE + psk_id_hash + info_hash
    secret = _labeled_extract(suite_id, shared_secret, b"secret", b"")
    return _Schedule(
        key=_labeled_expand(suite_id, secret, b"key", context, suite.aead.nk),
        base_nonce=_labeled_expand(suite_id, secret, b"base_nonce", context, NN),
        exporter_secret=_labeled_expand(suite_id, secret, b"exp", context, NH),
    )


class _Context:
    """What both ends of an encapsulation can do: export."""

    def __init__(self, suite: Suite, schedule: _Schedule) -> None:
        self._suite_id = suite.suite_id
        self._exporter_secret = schedule.exporter_secret

    def export(self, exporter_context: bytes, length: int) -> bytes:
        """Derive `length` bytes (at most 255 * 32) that only the two ends know (RFC 9180 section 5.3)."""
        return _labeled_expand(self._suite_id, self._exporter_secret, b"sec", exporter_context, length)


class SenderContext(_Context):
    """The end that encapsulated: it seals any number of messages, in order."""

    def __init__(self, suite: Suite, schedule: _Schedule) -> None:
        super().__init__(suite, schedule)
        self._sealer = Sealer(suite.aead, schedule.key, schedule.base_nonce)

    def seal(self, plaintext: bytes, aad: bytes = b"") -> bytes:
        """Encrypt the next message: `plaintext` and a tag of 16 bytes."""
        return self._sealer.seal(plaintext, aad)


class RecipientContext(_Context):
    """The end that holds skR: it opens the messages in the order they were sealed."""

    def __init__(self, suite: Suite, schedule: _Schedule) -> None:
        super().__init__(suite, schedule)
        self._opener = Opener(suite.aead, schedule.key, schedule.base_nonce)

    def open(self, ciphertext: bytes, aad: bytes = b"") -> bytes:
        """Decrypt the next message; ChannelError, now and ever after, if it is not authentic."""
        return self._opener.open(ciphertext, aad)


def setup_sender(
    suite: Suite, pkR: bytes, info: bytes, *, ephemeral: PrivateKey | None = None
) -> tuple[bytes, SenderContext]:
    """SetupBaseS: the encapsulated key to send, and the context to seal with.

    ephemeral: for published vectors only; a key used twice gives two messages the same key and nonce.
    Raises ChannelError when pkR is not a usable public key of the suite's KEM.
    """
    shared_secret, enc = _ENCAP[suite.kem](pkR, ephemeral or PrivateKey.generate())
    return enc, SenderContext(suite, _key_schedule(suite, shared_secret, info))


def setup_recipient(suite: Suite, skR: PrivateKey, enc: bytes, info: bytes) -> RecipientContext:
    """SetupBaseR: the context that opens what was sealed under `enc` and `info`.

    Raises ChannelError when enc is not a usable encapsulated key. A wrong key or info shows only when the
    first message does not open.
    """
    shared_secret = _DECAP[suite.kem](enc, skR)
    return RecipientContext(suite, _key_schedule(suite, shared_secret, info))
