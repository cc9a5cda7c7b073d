"""What does a TDX quote say? Bytes into fields (Intel, "TDX DCAP Quoting Library API": quote formats 4 and 5).

::

    header (48)   version u16 (4|5)  att_key_type u16 (2: ECDSA P-256)  tee_type u32 (0x81: TDX)  qe_svn u16
                  pce_svn u16  qe_vendor_id (16)  user_data (20)
    version 5:    body_type u16 (2: TD 1.0, 3: TD 1.5)  body_size u32
    body          584 bytes for TD 1.0, 648 for TD 1.5: see `TdReport`, whose fields stand in their order
    length u32    of everything below
    signature (64)  attestation_key (64)                        over header and body, by the quoting enclave's key
    type u16 (6)  size u32
      qe_report (384)  qe_report_signature (64)                 by the platform's PCK
      auth_size u16  auth_data
      type u16 (5)  size u32  PEM chain: PCK, its CA, root      may end in zero bytes

Integers are little-endian. Every length must be used up exactly. What follows the last one is padding: nothing signs
it, so it is cut off and never looked at.

Refused by name: SGX quotes, and body type 4 (TD 1.5ex), whose service TD and device fields nobody here would judge.
Layouts were read in verifiers and checked against real quotes, not in Intel's own documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from attestation.errors import EvidenceError

MAX_QUOTE_BYTES: Final = 65_536
"""A quote takes about 5 kB, with its padding about 8."""

HEADER_BYTES: Final = 48
TD10_BYTES: Final = 584
TD15_BYTES: Final = 648

_SGX: Final = 0x00
_TDX: Final = 0x81
_ECDSA_P256: Final = 2
_INTEL_QE: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_BODY_BYTES: Final = {2: TD10_BYTES, 3: TD15_BYTES}
_BODY_TD15EX: Final = 4
_QE_REPORT_CERTIFICATION: Final = 6
_PCK_CHAIN_PEM: Final = 5


@dataclass(frozen=True, slots=True)
class TdReport:
    """The body: what the TDX module says of the trust domain. The last two fields are only in TD 1.5."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mr_service_td: bytes | None = None


_FIELD_BYTES: Final = (16, 48, 48, 8, 8, 8, 48, 48, 48, 48, 48, 48, 48, 48, 64, 16, 48)
"""Of the fields of `TdReport`, in their order."""


@dataclass(frozen=True, slots=True)
class Quote:
    """A well-formed quote; nothing in it is authenticated yet.

    unpadded: the whole quote without its padding. qe_report_data: 64 bytes by which the quoting enclave names its key.
    pck_chain: PEM, without the zero bytes that may end it.
    """

    version: int
    report: TdReport
    qe_report_data: bytes
    pck_chain: bytes
    unpadded: bytes


class _Reader:
    """Takes bytes off the front. Raises EvidenceError where too few are left."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self._data):
            raise EvidenceError(f"a quote is cut inside {self._what}")
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def end(self) -> None:
        if self.at != len(self._data):
            raise EvidenceError(f"bytes are left over in {self._what}")


def is_quote(data: bytes) -> bool:
    """Whether these are meant to be a quote, of a TDX domain or of an SGX enclave: by whose quoting enclave made it."""
    return data[12:28] == _INTEL_QE


def parse_quote(data: bytes) -> Quote:
    """Read a quote of TEE type TDX. Raises EvidenceError."""
    if len(data) > MAX_QUOTE_BYTES:
        raise EvidenceError(f"a quote is longer than {MAX_QUOTE_BYTES} bytes")
    reader = _Reader(data, "the quote")
    version = _parse_header(reader)
    report = _parse_report(reader.take(_body_size(reader, version)))
    authentication = reader.take(reader.integer(4))
    qe_report_data, pck_chain = _parse_authentication(authentication)
    return Quote(version, report, qe_report_data, pck_chain, bytes(data[: reader.at]))


def _parse_header(reader: _Reader) -> int:
    header = _Reader(reader.take(HEADER_BYTES), "the header")
    version, key_type, tee_type = header.integer(2), header.integer(2), header.integer(4)
    header.take(4)  # versions of the quoting enclaves; what counts of them is in signed parts
    if tee_type == _SGX:
        raise EvidenceError("an SGX quote; only TDX is accepted")
    if tee_type != _TDX:
        raise EvidenceError(f"unknown TEE type {tee_type:#x}")
    if version not in (4, 5):
        raise EvidenceError(f"unknown version {version}")
    if key_type != _ECDSA_P256:
        raise EvidenceError(f"unknown attestation key type {key_type}")
    if header.take(16) != _INTEL_QE:
        raise EvidenceError("not by Intel's quoting enclave")
    return version


def _body_size(reader: _Reader, version: int) -> int:
    if version == 4:
        return TD10_BYTES
    body_type, size = reader.integer(2), reader.integer(4)
    if body_type == _BODY_TD15EX:
        raise EvidenceError("a TD 1.5ex body, which has fields that no rule here judges")
    if (expected := _BODY_BYTES.get(body_type)) is None:
        raise EvidenceError(f"unknown body type {body_type}")
    if size != expected:
        raise EvidenceError(f"a body of type {body_type} has {expected} bytes, not {size}")
    return size


def _parse_report(body: bytes) -> TdReport:
    sizes = _FIELD_BYTES if len(body) == TD15_BYTES else _FIELD_BYTES[:-2]
    starts = (0, *accumulate(sizes))
    return TdReport(*(body[start : start + size] for start, size in zip(starts, sizes, strict=False)))


def _parse_authentication(data: bytes) -> tuple[bytes, bytes]:
    """The quoting enclave's report_data and the PCK chain; signatures are for the chain's verifier to read."""
    reader = _Reader(data, "the signature data")
    reader.take(64 + 64)
    certification = _Reader(_parse_certification(reader, _QE_REPORT_CERTIFICATION), "the certification data")
    qe_report_data = certification.take(384)[320:]
    certification.take(64)
    certification.take(certification.integer(2))
    pck_chain = _parse_certification(certification, _PCK_CHAIN_PEM)
    return qe_report_data, pck_chain.rstrip(b"\x00")


def _parse_certification(reader: _Reader, expected: int) -> bytes:
    """The one certification datum that fills what is left."""
    kind, size = reader.integer(2), reader.integer(4)
    if kind != expected:
        raise EvidenceError(f"certification data of type {kind} where {expected} is expected")
    data = reader.take(size)
    reader.end()
    return data
