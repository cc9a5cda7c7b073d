"""What do all of NVIDIA's chains have in common? ECDSA over P-384 with SHA-384 throughout, and few extensions."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID

from attestation.errors import EvidenceError
from attestation.gpu.abi import SIGNATURE_BYTES

UNDERSTOOD_CRITICAL: Final = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})
"""Critical extensions that are checked; any other is refused (RFC 5280 section 4.2)."""

UNUSABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,  # of a serial number that is not positive, where warnings are errors
)
"""Whatever `cryptography` raises at a certificate that is broken; it reads most of one only when asked for it."""


def p384_key(certificate: x509.Certificate, holder: str) -> EllipticCurvePublicKey:
    """The key of a certificate, which the EvidenceError calls `holder` when its key is of another kind."""
    key = certificate.public_key()
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise EvidenceError(f"{holder} has a key that is not of P-384")
    return key


def verify_raw(key: EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
    """Verify r and s, big endian, as SPDM (DSP0274) and XML (RFC 4050) write them. Raises InvalidSignature."""
    half = SIGNATURE_BYTES // 2
    r, s = (int.from_bytes(part) for part in (signature[:half], signature[half:]))
    key.verify(encode_dss_signature(r, s), data, ECDSA(SHA384()))
