"""Which certificates does a host hand to its guest? The table of them, read and written.

AMD GHCB specification, SNP Extended Guest Request; of any length::

    [ guid (16, little endian)  offset (4)  length (4) ] ...  24 bytes of zero  certificates
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from attestation.errors import EvidenceError
from attestation.snp.certificate import MAX_CERTIFICATE_BYTES, from_pem

MAX_TABLE_BYTES: Final = 65_536
MAX_TABLE_ENTRIES: Final = 32


@dataclass(frozen=True, slots=True)
class CertificateTable:
    """The certificates that a host handed out, DER. It may hand out anything: they vouch for themselves or not at all.

    ask: ASK or ASVK, whichever signed the other.
    """

    vcek: bytes | None = None
    vlek: bytes | None = None
    ask: bytes | None = None
    ark: bytes | None = None


_ROLES: Final = {
    uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes_le: "vcek",
    uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1").bytes_le: "vlek",
    uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782").bytes_le: "ask",
    uuid.UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae").bytes_le: "ark",
}
_ENTRY: Final = struct.Struct("<16sII")


def parse_certificate_table(data: bytes) -> CertificateTable:
    """Read the table of certificates; no bytes at all are an empty one. Raises EvidenceError.

    Certificates stand there as DER or, on some hosts, as PEM. Entries of other roles are passed over.
    """
    if len(data) > MAX_TABLE_BYTES:
        raise EvidenceError(f"the certificate table is longer than {MAX_TABLE_BYTES} bytes")
    entries = tuple(_entries(data)) if data else ()
    _refuse_overlaps(entries, len(data))
    known = [(_ROLES[guid], data[start:end]) for guid, start, end in entries if guid in _ROLES]
    roles = {role: _der(certificate) for role, certificate in known}
    if len(roles) != len(known):
        raise EvidenceError("the certificate table names a role twice")
    return CertificateTable(**roles)


def certificate_table(certificates: Iterable[tuple[str, bytes]]) -> bytes:
    """The table that holds certificates, each with its role; one of no role that the table has is left out."""
    guids = {role: guid for guid, role in _ROLES.items()}
    known = [(guids[role], certificate) for role, certificate in certificates if role in guids]
    start = (len(known) + 1) * _ENTRY.size
    head, body = b"", b""
    for guid, certificate in known:
        head += _ENTRY.pack(guid, start + len(body), len(certificate))
        body += certificate
    return head + bytes(_ENTRY.size) + body if known else b""


def _entries(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    for start in range(0, MAX_TABLE_ENTRIES * _ENTRY.size, _ENTRY.size):
        entry = data[start : start + _ENTRY.size]
        if len(entry) < _ENTRY.size:
            break
        guid, offset, length = _ENTRY.unpack(entry)
        if not any(guid):
            return
        yield guid, offset, offset + length
    raise EvidenceError(f"the certificate table does not end, or has more than {MAX_TABLE_ENTRIES} entries")


def _refuse_overlaps(entries: Sequence[tuple[bytes, int, int]], size: int) -> None:
    end_of_head = (len(entries) + 1) * _ENTRY.size
    spans = sorted((start, end) for _, start, end in entries)
    outside = any(start < end_of_head or end > size for start, end in spans)
    if outside or any(end > following for (_, end), (following, _) in pairwise(spans)):
        raise EvidenceError("entries of the certificate table overlap or lie outside of it")


def _der(certificate: bytes) -> bytes:
    if certificate.startswith(b"-----BEGIN"):
        blocks = from_pem(certificate, limit=2 * MAX_CERTIFICATE_BYTES)
        if len(blocks) != 1:
            raise EvidenceError("an entry of the certificate table holds more than one certificate")
        certificate = blocks[0]
    if not 0 < len(certificate) <= MAX_CERTIFICATE_BYTES:
        raise EvidenceError(f"a certificate in the table has {len(certificate)} bytes")
    return certificate
