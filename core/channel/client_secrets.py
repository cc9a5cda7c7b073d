"""Whose is a client secret? It tells which engine made it, so that a session goes to the only one that can open it.

Of a secret (OpenAI's `ek_`, see `engine.access.client_secrets`) this is what others than its engine read::

    ek_ | base64url( issuer(8) | ... )

The issuer is a digest of the instance that the engine names in its statement: another after each start.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Final

PREFIX: Final = "ek_"
ISSUER_BYTES: Final = 8

_LABEL: Final = b"sottovoce client secret issuer v1\x00"
_BEARER: Final = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +(ek_[A-Za-z0-9_-]{1,8192})")


def issuer_of(instance: str) -> bytes:
    """How an engine is named in its secrets. instance: of its statement."""
    return hashlib.sha256(_LABEL + instance.encode()).digest()[:ISSUER_BYTES]


def shown_secret(authorization: str | None) -> str | None:
    """The client secret in an Authorization header; None where it holds none."""
    shown = _BEARER.fullmatch(authorization or "")
    return shown[1] if shown else None


def issuer_in(secret: str) -> bytes | None:
    """Who a secret says that it is of; None for what is none of ours."""
    try:
        issuer = base64.urlsafe_b64decode(secret.removeprefix(PREFIX)[:12] + "==")[:ISSUER_BYTES]
    except (binascii.Error, ValueError):
        return None
    return issuer if len(issuer) == ISSUER_BYTES else None
