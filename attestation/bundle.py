"""What does a user keep of an attestation, to check it again later? The document, the nonce it answers, and when.

::

    {"version": 1,
     "nonce": "<64 hex>",                      the one that this user sent, among those the document answers
     "fetched_at": 1800000000,                 Unix time in seconds, by this user's clock
     "document": {...}}                        as in `attestation.document`

A bundle is judged as of `fetched_at` and by its own nonce. Both are as trustworthy as the file they stand in: whoever
hands on a bundle chose them, and the keys of NVIDIA's remote verdicts, where it holds some, too. A reader who remembers
the nonce compares.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from attestation.document import MAX_DOCUMENT_BYTES, AttestationDocument, parse_document
from attestation.errors import EvidenceError
from attestation.types import Nonce, NonceHex
from core.program import strictjson
from core.program.validation import STRICT, UnixSeconds, VersionOne, validate

MAX_BUNDLE_BYTES = MAX_DOCUMENT_BYTES + 1024


@dataclass(frozen=True, slots=True)
class _BundleMembers:
    __pydantic_config__ = STRICT
    version: VersionOne
    nonce: NonceHex
    fetched_at: UnixSeconds
    document: dict[str, Any]


_BUNDLE = TypeAdapter(_BundleMembers)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A document with the nonce that we sent; nothing in it is verified yet.

    fetched_at: Unix time in seconds.
    """

    nonce: Nonce
    fetched_at: int
    document: AttestationDocument

    def encode(self) -> bytes:
        """The bundle as it is saved."""
        return _BUNDLE.dump_json(_BundleMembers(1, self.nonce, self.fetched_at, json.loads(self.document.encode())))


def parse_bundle(data: bytes) -> Bundle:
    """Read a bundle. Raises EvidenceError naming every fault."""
    try:
        members = validate(_BUNDLE, strictjson.loads(data, max_bytes=MAX_BUNDLE_BYTES))
    except ValueError as exc:
        raise EvidenceError(f"bundle: {exc}") from exc
    return Bundle(members.nonce, members.fetched_at, parse_document(json.dumps(members.document).encode()))


def parse_saved(data: bytes) -> Bundle | AttestationDocument:
    """Read a file that holds either a bundle or a document as the engine answered it. Raises EvidenceError."""
    try:
        value = strictjson.loads(data, max_bytes=MAX_BUNDLE_BYTES)
    except ValueError as exc:
        raise EvidenceError(f"neither a bundle nor an attestation document: {exc}") from exc
    return parse_bundle(data) if isinstance(value, dict) and "document" in value else parse_document(data)
