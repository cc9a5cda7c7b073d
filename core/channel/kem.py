# ruff: noqa: N803 -- pkR is the name RFC 9180 gives it
"""How does a sender share a secret with the holder of a key, by one message? Key encapsulation, of two kinds.

::

    0x0020  DHKEM(X25519, HKDF-SHA256)     Npk 32     Nenc 32      (RFC 9180 section 4.1)
    0x647a  MLKEM768-X25519, X-Wing        Npk 1216   Nenc 1120    (draft-ietf-hpke-pq, draft-connolly-cfrg-xwing-kem)

Whoever records what is sent under the first opens it once somebody builds a quantum computer. The second is two
encapsulations side by side, and stands as long as either of them does::

    public_key    = pk_M (1184)  pk_X (32)             ML-KEM-768 (FIPS 203) and X25519 (RFC 7748)
    enc           = ct_M (1088)  ct_X (32)
    shared_secret = SHA3-256(ss_M || ss_X || ct_X || pk_X || "\\.//^\\")

    private key   = SHAKE-256(seed (32), 96) = the seed of the ML-KEM key (64) || the X25519 key (32)

Every primitive is the library's. One built on a cryptographic library without ML-KEM has the first kind only:
`available_kems` says which there are, and a public key of another kind is not usable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha3_256, shake_256
from typing import Final, NoReturn, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from core.channel.kdf import NH, labeled_expand, labeled_extract
from core.errors import ChannelError

_X25519_BYTES: Final = 32
_MLKEM_PUBLIC_BYTES: Final = 1_184
_MLKEM_ENC_BYTES: Final = 1_088
_MLKEM_SEED_BYTES: Final = 64
_XWING_SEED_BYTES: Final = 32
_XWING_LABEL: Final = rb"\.//^" + b"\\"


class Kem(IntEnum):
    """Key encapsulation mechanisms (RFC 9180 section 7.1), the preferred one first."""

    MLKEM768_X25519 = 0x647A
    X25519_HKDF_SHA256 = 0x0020

    @property
    def npk(self) -> int:
        """Length of an encoded public key in bytes."""
        return _X25519_BYTES + (_MLKEM_PUBLIC_BYTES if self is Kem.MLKEM768_X25519 else 0)

    @property
    def nenc(self) -> int:
        """Length of an encapsulated key in bytes."""
        return _X25519_BYTES + (_MLKEM_ENC_BYTES if self is Kem.MLKEM768_X25519 else 0)


class _Secret(Protocol):
    """The secret half of a key pair of one KEM."""

    @property
    def public_key(self) -> bytes: ...

    def decapsulate(self, enc: bytes) -> bytes:
        """The shared secret. Raises ValueError for what cannot be an encapsulated key."""


@dataclass(frozen=True, slots=True)
class _X25519Secret:
    key: X25519PrivateKey

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def decapsulate(self, enc: bytes) -> bytes:
        return _dhkem(_exchange(self.key, enc), enc, self.public_key)


@dataclass(frozen=True, slots=True)
class _XWingSecret:
    mlkem: MLKEM768PrivateKey
    x25519: X25519PrivateKey

    @property
    def public_key(self) -> bytes:
        return self.mlkem.public_key().public_bytes_raw() + self.x25519.public_key().public_bytes_raw()

    def decapsulate(self, enc: bytes) -> bytes:
        ct_m, ct_x = enc[:_MLKEM_ENC_BYTES], enc[_MLKEM_ENC_BYTES:]
        pk_x = self.x25519.public_key().public_bytes_raw()
        return _xwing(self.mlkem.decapsulate(ct_m), _exchange(self.x25519, ct_x), ct_x, pk_x)


def _exchange(own: X25519PrivateKey, other: bytes) -> bytes:
    """X25519 (RFC 7748). The library refuses an all-zero result, as RFC 9180 section 7.1.4 asks; ValueError."""
    return own.exchange(X25519PublicKey.from_public_bytes(other))


def _dhkem(dh: bytes, enc: bytes, pkR: bytes) -> bytes:
    """ExtractAndExpand of DHKEM(X25519, HKDF-SHA256) (RFC 9180 section 4.1)."""
    suite_id = b"KEM" + Kem.X25519_HKDF_SHA256.to_bytes(2, "big")
    eae_prk = labeled_extract(suite_id, b"", b"eae_prk", dh)
    return labeled_expand(suite_id, eae_prk, b"shared_secret", enc + pkR, NH)


def _xwing(ss_m: bytes, ss_x: bytes, ct_x: bytes, pk_x: bytes) -> bytes:
    """The combiner of X-Wing (draft-connolly-cfrg-xwing-kem section 5.3)."""
    return sha3_256(ss_m + ss_x + ct_x + pk_x + _XWING_LABEL).digest()


def _expanded(seed: bytes) -> _XWingSecret:
    """expandDecapsulationKey of X-Wing (section 5.2)."""
    if len(seed) != _XWING_SEED_BYTES:
        raise ValueError(f"the seed takes {_XWING_SEED_BYTES} bytes")
    raw = shake_256(seed).digest(_MLKEM_SEED_BYTES + _X25519_BYTES)
    return _XWingSecret(
        MLKEM768PrivateKey.from_seed_bytes(raw[:_MLKEM_SEED_BYTES]),
        X25519PrivateKey.from_private_bytes(raw[_MLKEM_SEED_BYTES:]),
    )


_GENERATE: Final[dict[Kem, Callable[[], _Secret]]] = {
    Kem.X25519_HKDF_SHA256: lambda: _X25519Secret(X25519PrivateKey.generate()),
    Kem.MLKEM768_X25519: lambda: _XWingSecret(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()),
}
_FROM_BYTES: Final[dict[Kem, Callable[[bytes], _Secret]]] = {
    Kem.X25519_HKDF_SHA256: lambda raw: _X25519Secret(X25519PrivateKey.from_private_bytes(raw)),
    Kem.MLKEM768_X25519: _expanded,
}


class PrivateKey:
    """A secret key that shows only its public half and does not let itself be pickled or copied."""

    __slots__ = ("__weakref__", "_secret", "kem", "public_key")

    def __init__(self, kem: Kem, secret: _Secret) -> None:
        self._secret = secret
        self.kem = kem
        self.public_key: bytes = secret.public_key

    @classmethod
    def generate(cls, kem: Kem = Kem.X25519_HKDF_SHA256) -> PrivateKey:
        """Draw a new key from the library's generator; UnsupportedAlgorithm where it does not know the KEM."""
        return cls(kem, _GENERATE[kem]())

    @classmethod
    def from_bytes(cls, raw: bytes, kem: Kem = Kem.X25519_HKDF_SHA256) -> PrivateKey:
        """Take a key from its 32 bytes (vectors need this); ValueError for any other length."""
        return cls(kem, _FROM_BYTES[kem](raw))

    def decapsulate(self, enc: bytes) -> bytes:
        """The secret shared with whoever made `enc`, 32 bytes; ChannelError for what cannot give one.

        One that was made for another key gives another secret, which shows when nothing opens under it.
        """
        try:
            return self._secret.decapsulate(enc)
        except ValueError as exc:
            raise ChannelError("the encapsulated key is none, or of low order") from exc

    def __repr__(self) -> str:
        return f"PrivateKey({self.kem.name}, public_key={self.public_key.hex()[:8]}..., secret=***)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a private key does not leave its process")


def encapsulate(kem: Kem, pkR: bytes, *, ephemeral: bytes | None = None) -> tuple[bytes, bytes]:
    """A fresh secret (32 bytes), and the encapsulated key that shares it with the holder of `pkR`.

    ephemeral: the X25519 key of 32 bytes, for published vectors of DHKEM only.
    Raises ChannelError when pkR is not usable: of the wrong length, not a key, or of a KEM that the library lacks.
    """
    own = X25519PrivateKey.from_private_bytes(ephemeral) if ephemeral else X25519PrivateKey.generate()
    enc_x = own.public_key().public_bytes_raw()
    try:
        if kem is Kem.X25519_HKDF_SHA256:
            return _dhkem(_exchange(own, pkR), enc_x, pkR), enc_x
        pk_m, pk_x = pkR[:_MLKEM_PUBLIC_BYTES], pkR[_MLKEM_PUBLIC_BYTES:]
        ss_x = _exchange(own, pk_x)
        ss_m, enc_m = MLKEM768PublicKey.from_public_bytes(pk_m).encapsulate()
        return _xwing(ss_m, ss_x, enc_x, pk_x), enc_m + enc_x
    except ValueError as exc:
        raise ChannelError("the public key is no key, or of low order") from exc
    except UnsupportedAlgorithm as exc:
        raise ChannelError(f"KEM {kem:#06x} is not in the cryptographic library that is installed") from exc


def available_kems(generate: Callable[[Kem], object] = PrivateKey.generate) -> tuple[Kem, ...]:
    """The KEMs that the installed library has, the preferred one first. generate: draws a key, to be thrown away."""
    available = []
    for kem in Kem:
        try:
            generate(kem)
        except UnsupportedAlgorithm:
            continue
        available.append(kem)
    return tuple(available)
