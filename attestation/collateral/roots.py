"""Which root certificates are believed? The vendors', by SHA-256 of the DER certificate.

None is shipped: evidence carries its whole chain, which must end in a root with one of these fingerprints. Each was
read from two or more independent public copies, not from the vendors' own sites; an operator compares them once with
what AMD (KDS `cert_chain`), Intel (the SGX root CA certificate) and NVIDIA publish.

A policy may name other roots, as `insecure_roots`: for test machines that no vendor vouches for.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256


@dataclass(frozen=True, slots=True)
class Roots:
    """SHA-256 fingerprints of the DER root certificates that are believed, lower-case hexadecimal."""

    snp: frozenset[str]
    tdx: frozenset[str]
    gpu_device: frozenset[str]
    gpu_rim: frozenset[str]


VENDOR_ROOTS = Roots(
    snp=frozenset(
        {
            "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",  # ARK-Milan, until 2045-10-22
            "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",  # ARK-Genoa, until 2047-01-26
            "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",  # ARK-Turin, until 2048-05-15
        }
    ),
    tdx=frozenset({"44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"}),  # Intel SGX Root CA
    gpu_device=frozenset(
        {"102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"}  # NVIDIA Device Identity CA
    ),
    gpu_rim=frozenset(
        {"12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"}  # NVIDIA CoRIM signing Root CA
    ),
)


def fingerprint(certificate: x509.Certificate) -> str:
    """The SHA-256 by which a root is pinned, lower-case hexadecimal."""
    return certificate.fingerprint(SHA256()).hex()
