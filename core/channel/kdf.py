"""How does one secret become several? HKDF with SHA-256 (RFC 5869), and the labels that HPKE puts on it.

A label binds what is derived to what it is for, and to the algorithms in use (RFC 9180 section 4): `suite_id` is "KEM"
and the KEM's code point inside a KEM, and "HPKE" with those of all three algorithms in the key schedule.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

NH: Final = 32
"""Length of what HKDF-SHA256 extracts in bytes."""


class Kdf(IntEnum):
    """Key derivation functions (RFC 9180 section 7.2)."""

    HKDF_SHA256 = 0x0001


def extract(salt: bytes, ikm: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869 section 2.2): 32 bytes."""
    return HKDF.extract(hashes.SHA256(), salt, ikm)


def expand(prk: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869 section 2.3): `length` bytes, at most 255 * 32."""
    return HKDFExpand(hashes.SHA256(), length, info).derive(prk)


def labeled_extract(suite_id: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    """LabeledExtract (RFC 9180 section 4)."""
    return extract(salt, b"HPKE-v1" + suite_id + label + ikm)


def labeled_expand(suite_id: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """LabeledExpand (RFC 9180 section 4)."""
    return expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite_id + label + info, length)
