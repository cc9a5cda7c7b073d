"""Who signed this policy? A detached Ed25519 signature (RFC 8032) over the exact bytes of its file.

Beside `POLICY` lies `POLICY.sig`::

    {"version": 1,
     "key_id": "<64 hex>",        SHA-256 of the public key: says which pinned key to try, and is not believed
     "signature": "<base64>"}     64 bytes, over "sottovoce policy v1" || 00 || the file

A public key is spelled `ed25519:<64 hex>`. A secret key is spelled `ed25519-secret:<64 hex>`, alone in a file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from pydantic import Field, TypeAdapter

from attestation.errors import PolicyError
from core.program import strictjson
from core.program.validation import STRICT, Base64, Sha256Hex, VersionOne, validate

SEED_BYTES = 32
MAX_SIGNATURE_FILE_BYTES = 4096

_DOMAIN = b"sottovoce policy v1\x00"
_PUBLIC = re.compile(r"ed25519:([0-9a-f]{64})")
_SECRET = re.compile(r"ed25519-secret:([0-9a-f]{64})")


def signature_path(policy: Path) -> Path:
    """Where the signature of a policy lies."""
    return policy.with_name(policy.name + ".sig")


@dataclass(frozen=True, slots=True)
class Signer:
    """A public key that policies are believed from, 32 bytes."""

    public_key: bytes

    @property
    def key_id(self) -> str:
        """SHA-256 of the public key, hexadecimal."""
        return hashlib.sha256(self.public_key).hexdigest()

    def __str__(self) -> str:
        return f"ed25519:{self.public_key.hex()}"


def parse_signer(text: str) -> Signer:
    """A public key from its spelling. Raises ValueError."""
    if not (match := _PUBLIC.fullmatch(text)):
        raise ValueError("a policy signer is ed25519: and 64 lower-case hexadecimal digits")
    return Signer(bytes.fromhex(match[1]))


@dataclass(frozen=True, slots=True)
class PolicyKey:
    """A secret key that signs policies, from a seed of 32 random bytes."""

    seed: bytes = field(repr=False)

    @property
    def signer(self) -> Signer:
        return Signer(bytes(SigningKey(self.seed).verify_key))

    def encode(self) -> str:
        """The key as its file holds it."""
        return f"ed25519-secret:{self.seed.hex()}\n"

    def sign(self, policy: bytes) -> bytes:
        """The content of the signature's file."""
        signature = SigningKey(self.seed).sign(_DOMAIN + policy).signature
        return _SIGNATURE_FILE.dump_json(_SignatureFile(1, self.signer.key_id, signature)) + b"\n"


def parse_policy_key(text: str) -> PolicyKey:
    """A secret key from the content of its file. Raises ValueError, which does not repeat it."""
    if not (match := _SECRET.fullmatch(text.strip())):
        raise ValueError("a policy key is ed25519-secret: and 64 lower-case hexadecimal digits")
    return PolicyKey(bytes.fromhex(match[1]))


@dataclass(frozen=True, slots=True)
class _SignatureFile:
    __pydantic_config__ = STRICT

    version: VersionOne
    key_id: Sha256Hex
    signature: Annotated[Base64, Field(min_length=64, max_length=64)]


_SIGNATURE_FILE = TypeAdapter(_SignatureFile)


def verify_signature(policy: bytes, signature_file: bytes, signers: Collection[Signer]) -> Signer:
    """The one of `signers` who signed `policy`. Raises PolicyError."""
    try:
        members = validate(_SIGNATURE_FILE, strictjson.loads(signature_file, max_bytes=MAX_SIGNATURE_FILE_BYTES))
    except ValueError as exc:
        raise PolicyError(f"policy signature: {exc}") from exc
    signer = next((signer for signer in signers if signer.key_id == members.key_id), None)
    if signer is None:
        raise PolicyError(f"policy signature: by key {members.key_id}, which is not pinned")
    try:
        VerifyKey(signer.public_key).verify(_DOMAIN + policy, members.signature)
    except BadSignatureError as exc:
        raise PolicyError(f"policy signature: not of this file, or not by {signer}") from exc
    return signer
