"""How a reader of untrusted bytes refuses them: in words that can be printed, and with no other exception."""

from __future__ import annotations

from collections.abc import Callable

from attestation.errors import EvidenceError

MAX_REFUSAL_CHARACTERS = 2_000


def refusal_of(read: Callable[[], object]) -> str:
    """Why `read` refuses, or nothing when it does not; whatever else it raises passes through."""
    try:
        read()
    except EvidenceError as exc:
        return str(exc)
    return ""


def is_tellable(refusal: str) -> bool:
    return refusal.isprintable() and len(refusal) <= MAX_REFUSAL_CHARACTERS
