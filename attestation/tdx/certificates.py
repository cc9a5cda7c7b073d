"""Which certificates does Intel's PEM text hold, and is each the one that belongs there? (RFC 7468, RFC 5280.)

Signatures and revocation are for the library behind `attestation.tdx.chain`. It believes whatever chains to the root,
whoever it was issued to, so the names are checked here: a platform's certificate must not sign TCB info.
"""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestation.errors import EvidenceError

ROOT_CA: Final = "Intel SGX Root CA"
PCK: Final = "Intel SGX PCK Certificate"
PLATFORM_CA: Final = "Intel SGX PCK Platform CA"
PROCESSOR_CA: Final = "Intel SGX PCK Processor CA"
TCB_SIGNING: Final = "Intel SGX TCB Signing"

MAX_CHAIN_BYTES: Final = 32_768

_UNREADABLE: Final = (ValueError, x509.InvalidVersion, UnsupportedAlgorithm)
"""What `cryptography` raises for bad DER, a version that X.509 does not have, and a curve that it does not."""

Chain = tuple[x509.Certificate, ...]
"""Certificates, each issued by the next; the root last."""


class Window(NamedTuple):
    """When all of some certificates are valid; never, if it ends before it begins."""

    not_before: datetime
    not_after: datetime


def read_chain(pem: bytes, *, length: int) -> Chain:
    """`length` certificates, each naming the next as its issuer, and nothing beside them. Raises EvidenceError."""
    if len(pem) > MAX_CHAIN_BYTES:
        raise EvidenceError(f"a certificate chain is longer than {MAX_CHAIN_BYTES} bytes")
    try:
        chain = tuple(x509.load_pem_x509_certificates(pem))
        written = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
        pairs = zip(chain, (*chain[1:], *chain[-1:]), strict=True)
        linked = all(below.issuer == above.subject for below, above in pairs)
        for certificate in chain:
            certificate.public_key()
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc  # read late, and a year 0 is none
    except _UNREADABLE:
        raise EvidenceError("a certificate chain is not certificates in PEM") from None
    if pem.replace(b"\r\n", b"\n").strip(b"\n") != written.strip(b"\n"):
        # Another reader of this text might take what is beside them for a certificate.
        raise EvidenceError("a certificate chain has text beside its certificates, or is wrapped in another way")
    if len(chain) != length or not linked:
        raise EvidenceError(f"a certificate chain is not {length} certificates, from leaf to root")
    return chain


def to_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def common_name(certificate: x509.Certificate) -> str:
    """The subject's one common name. Raises EvidenceError."""
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        names = []
    if len(names) != 1 or not isinstance(name := names[0].value, str):
        raise EvidenceError("a certificate has no common name, or several")
    return name


def expect_names(chain: Chain, *names: str) -> None:
    """Raises EvidenceError unless the chain was issued to exactly these."""
    found = tuple(common_name(certificate) for certificate in chain)
    if found != names:
        raise EvidenceError(f"a certificate chain is not one of {', then '.join(names)}")


def expect_issued(chain: Chain) -> None:
    """Raises EvidenceError unless each certificate is signed by the next."""
    try:
        for below, above in pairwise(chain):
            below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise EvidenceError("a certificate chain has a signature that does not verify") from None


def window(*chains: Chain) -> Window:
    """When every certificate of these chains is valid."""
    certificates = [certificate for chain in chains for certificate in chain]
    return Window(
        max(certificate.not_valid_before_utc for certificate in certificates),
        min(certificate.not_valid_after_utc for certificate in certificates),
    )


def crl_window(der: bytes) -> tuple[datetime, datetime]:
    """When a revocation list was issued, and when the next one is due. Raises EvidenceError."""
    try:
        crl = x509.load_der_x509_crl(der)
        issued, next_update = crl.last_update_utc, crl.next_update_utc
    except _UNREADABLE:
        raise EvidenceError("a revocation list cannot be read") from None
    if next_update is None:
        raise EvidenceError("a revocation list does not say when the next one is due")
    return issued, next_update
