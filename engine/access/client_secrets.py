"""What may be given to an app in a browser in place of a key? A secret for some minutes, which names its key.

OpenAI's `ek_`: what it stands for is in it, sealed (AES-256-GCM, NIST SP 800-38D) under a key that the engine drew when
it started, so that nothing is stored and a restart ends all of them::

    ek_ | base64url( issuer(8) | nonce(12) | seal(expires_at(8) | length(1) | holder | session) )

The issuer tells a proxy of several engines which of them can open it (`core.channel.client_secrets`).
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.channel.client_secrets import ISSUER_BYTES, PREFIX, issuer_of

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
MAX_SESSION_BYTES: Final = 3_064
"""More would not fit, with the rest of the head that shows the secret, into the first frame of a live session."""

_HEAD: Final = struct.Struct(">QB")
_AAD: Final = b"sottovoce client secret v1"


@dataclass(frozen=True, slots=True)
class Issued:
    """What a secret stands for. holder: of the key that asked for it. session: the settings asked for with it."""

    holder: str
    session: bytes


class ClientSecrets:
    """Makes secrets and knows them again.

    instance: the engine's, of its statement. clock: Unix seconds. random: so many random bytes.
    """

    def __init__(
        self, key: bytes, instance: str, *, clock: Callable[[], float], random: Callable[[int], bytes]
    ) -> None:
        self._aead = AESGCM(key)
        self._issuer = issuer_of(instance)
        self._clock = clock
        self._random = random

    def issue(self, issued: Issued, *, expires_at: int) -> str:
        """A secret for it. Raises ValueError for a session of more than `MAX_SESSION_BYTES`."""
        if len(issued.session) > MAX_SESSION_BYTES:
            raise ValueError("the settings are too long for a secret")
        holder = issued.holder.encode()
        nonce = self._random(NONCE_BYTES)
        sealed = self._aead.encrypt(nonce, _HEAD.pack(expires_at, len(holder)) + holder + issued.session, _AAD)
        return PREFIX + base64.urlsafe_b64encode(self._issuer + nonce + sealed).rstrip(b"=").decode("ascii")

    def find(self, secret: str) -> Issued | None:
        """What a secret stands for; None for one that has expired, or is not ours."""
        try:
            blob = base64.urlsafe_b64decode(secret.removeprefix(PREFIX) + "==")
            if not blob.startswith(self._issuer):
                return None
            blob = blob[ISSUER_BYTES:]
            plain = self._aead.decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], _AAD)
        except (binascii.Error, InvalidTag, ValueError):
            return None
        expires_at, length = _HEAD.unpack_from(plain)
        rest = plain[_HEAD.size :]
        return None if expires_at <= self._clock() else Issued(rest[:length].decode(), rest[length:])
