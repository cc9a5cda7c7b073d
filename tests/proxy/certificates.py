"""Certificates for a listener on loopback."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.pki import issue


def write_certificate(cert: Path, key: Path, name: str) -> None:
    """A self-signed certificate for `name`, 127.0.0.1 and localhost, and its key, as PEM files."""
    local = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    names = x509.SubjectAlternativeName([x509.DNSName(name), *local])
    now, hour = datetime.now(UTC), timedelta(hours=1)
    party = issue(name, uses=None, start=now - hour, end=now + hour, extensions=[(names, False)])
    cert.write_bytes(party.certificate.public_bytes(Encoding.PEM))
    key.write_bytes(party.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
