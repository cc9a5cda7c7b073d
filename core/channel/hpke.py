# ruff: noqa: N803 -- pkR and skR are the names RFC 9180 gives them
"""How do two parties share keys when only one of them has a key pair? HPKE, base mode (RFC 9180).

The sender encapsulates a secret to the recipient's public key (`kem`) and sends `enc`, out of which only the
recipient has it too. Both sides then walk the same ladder::

    enc, pkR  ----- KEM ----->  shared_secret  --KeySchedule (5.1)-->  key, base_nonce, exporter_secret
                                                        ^
                                                       info

    ciphertext i = AEAD(key, base_nonce XOR i, aad, plaintext i)                                    (5.2)
    exported     = LabeledExpand(exporter_secret, "sec", exporter_context, length)                  (5.3)

Of the suites we know two KEMs, HKDF-SHA256 and three AEADs (section 7). The key schedule is the same for either KEM.

Only the recipient is authenticated. Anybody who knows pkR can send, and a recorded `enc` can be sent again:
refusing the second one is the gateway's duty. Python cannot wipe memory; a key ends when its object does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from core.channel.kdf import NH, Kdf, labeled_expand, labeled_extract
from core.channel.kem import Kem, PrivateKey, encapsulate
from core.errors import ChannelError

NN: Final = 12  # every AEAD of RFC 9180 section 7.3 has a nonce of 12 bytes
NT: Final = 16  # and a tag of 16
_MODE_BASE: Final = b"\x00"
_MAX_SEQ: Final = (1 << 8 * NN) - 1


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

    def seal(self, plaintext: bytes | memoryview, aad: bytes = b"") -> bytes:
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

    def open(self, ciphertext: bytes | memoryview, aad: bytes = b"") -> bytes:
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
    psk_id_hash = labeled_extract(suite_id, b"", b"psk_id_hash", b"")
    info_hash = labeled_extract(suite_id, b"", b"info_hash", info)
    context = _MODE_BASE + psk_id_hash + info_hash
    secret = labeled_extract(suite_id, shared_secret, b"secret", b"")
    return _Schedule(
        key=labeled_expand(suite_id, secret, b"key", context, suite.aead.nk),
        base_nonce=labeled_expand(suite_id, secret, b"base_nonce", context, NN),
        exporter_secret=labeled_expand(suite_id, secret, b"exp", context, NH),
    )


class _Context:
    """What both ends of an encapsulation can do: export."""

    def __init__(self, suite: Suite, schedule: _Schedule) -> None:
        self._suite_id = suite.suite_id
        self._exporter_secret = schedule.exporter_secret

    def export(self, exporter_context: bytes, length: int) -> bytes:
        """Derive `length` bytes (at most 255 * 32) that only the two ends know (RFC 9180 section 5.3)."""
        return labeled_expand(self._suite_id, self._exporter_secret, b"sec", exporter_context, length)


class SenderContext(_Context):
    """The end that encapsulated: it seals any number of messages, in order."""

    def __init__(self, suite: Suite, schedule: _Schedule) -> None:
        super().__init__(suite, schedule)
        self._sealer = Sealer(suite.aead, schedule.key, schedule.base_nonce)

    def seal(self, plaintext: bytes | memoryview, aad: bytes = b"") -> bytes:
        """Encrypt the next message: `plaintext` and a tag of 16 bytes."""
        return self._sealer.seal(plaintext, aad)


class RecipientContext(_Context):
    """The end that holds skR: it opens the messages in the order they were sealed."""

    def __init__(self, suite: Suite, schedule: _Schedule) -> None:
        super().__init__(suite, schedule)
        self._opener = Opener(suite.aead, schedule.key, schedule.base_nonce)

    def open(self, ciphertext: bytes | memoryview, aad: bytes = b"") -> bytes:
        """Decrypt the next message; ChannelError, now and ever after, if it is not authentic."""
        return self._opener.open(ciphertext, aad)


def setup_sender(
    suite: Suite, pkR: bytes, info: bytes, *, ephemeral: bytes | None = None
) -> tuple[bytes, SenderContext]:
    """SetupBaseS: the encapsulated key to send, and the context to seal with.

    ephemeral: the X25519 key of 32 bytes, for published vectors of DHKEM only; one that is used twice gives
        two messages the same key and nonce.
    Raises ChannelError when pkR is not a usable public key of the suite's KEM.
    """
    shared_secret, enc = encapsulate(suite.kem, pkR, ephemeral=ephemeral)
    return enc, SenderContext(suite, _key_schedule(suite, shared_secret, info))


def setup_recipient(suite: Suite, skR: PrivateKey, enc: bytes, info: bytes) -> RecipientContext:
    """SetupBaseR: the context that opens what was sealed under `enc` and `info`.

    Raises ChannelError when enc is not a usable encapsulated key. A wrong key or info shows only when the
    first message does not open.
    """
    shared_secret = skR.decapsulate(enc)
    return RecipientContext(suite, _key_schedule(suite, shared_secret, info))
