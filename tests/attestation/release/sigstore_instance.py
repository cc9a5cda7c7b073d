"""A Sigstore instance in memory: a certificate authority, its transparency log, a signature log and a time stamper.

What Fulcio, its CT log (RFC 6962), Rekor and a time stamp authority (RFC 3161) hand out, made from keys of our own, so
that the library's whole verification runs without a network. Two forms of bundle: as Rekor v1 answers, with a promise
that carries the time, and as Rekor v2 does, with a time stamp instead.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.pki import ISSUES, LISTS, SIGNS, builder

SIGNED_AT = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
IDENTITY = "https://github.com/example/policy/.github/workflows/release.yml@refs/heads/main"
ISSUER = "https://token.actions.githubusercontent.com"
IN_TOTO = "application/vnd.in-toto+json"
SLSA = "https://slsa.dev/provenance/v1"

_SHA256 = hashes.SHA256()
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_YEAR = timedelta(days=365)


def tagged(tag: int, *values: bytes) -> bytes:
    """A DER value (X.690) of a tag below 31."""
    content = b"".join(values)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(digits))) + digits + content


def sequence(*values: bytes) -> bytes:
    return tagged(0x30, *values)


def octets(value: bytes) -> bytes:
    return tagged(0x04, value)


def integer(value: int) -> bytes:
    return tagged(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def context(number: int, *values: bytes) -> bytes:
    return tagged(0xA0 | number, *values)


def oid(dotted: str) -> bytes:
    first, second, *arcs = (int(arc) for arc in dotted.split("."))
    encoded = bytearray((40 * first + second,))
    for arc in arcs:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        encoded.extend(reversed(groups))
    return tagged(0x06, bytes(encoded))


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(_SHA256))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "example"), x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    )


def _authority(key: ec.EllipticCurvePrivateKey, name: str) -> x509.Certificate:
    built = builder(
        _name(name),
        _name(name),
        key.public_key(),
        start=SIGNED_AT - _YEAR,
        end=SIGNED_AT + 10 * _YEAR,
        serial=1,
        ca=True,
        path_length=1,
        uses=(ISSUES, LISTS),
        extensions=[(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)],
    )
    return built.sign(key, _SHA256)


def _by(issuer: ec.EllipticCurvePrivateKey) -> tuple[x509.ExtensionType, bool]:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), False


@dataclass(frozen=True)
class SigstoreInstance:
    """Its keys and certificates; `trusted_root` is what a relying party pins."""

    ca_key: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    ct_key: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    rekor_key: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    tsa_ca_key: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    tsa_key: ec.EllipticCurvePrivateKey = field(default_factory=_key)

    @cached_property  # of one key every certificate has another signature
    def ca(self) -> x509.Certificate:
        return _authority(self.ca_key, "fulcio")

    @cached_property
    def tsa(self) -> tuple[x509.Certificate, x509.Certificate]:
        """The time stamper's certificate, and its root."""
        stamper = builder(
            _name("tsa"),
            _name("tsa root"),
            self.tsa_key.public_key(),
            start=SIGNED_AT - _YEAR,
            end=SIGNED_AT + _YEAR,
            serial=2,
            uses=(SIGNS,),
            extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), True), _by(self.tsa_ca_key)],
        ).sign(self.tsa_ca_key, _SHA256)
        return stamper, _authority(self.tsa_ca_key, "tsa root")

    def trusted_root(self) -> bytes:
        """The content of `trusted_root.json`."""
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [_log(self.rekor_key, "https://rekor.invalid")],
                "certificateAuthorities": [_certificates("https://fulcio.invalid", self.ca)],
                "ctlogs": [_log(self.ct_key, "https://ct.invalid")],
                "timestampAuthorities": [_certificates("https://tsa.invalid", *self.tsa)],
            }
        ).encode()

    def certificate(
        self, key: ec.EllipticCurvePrivateKey, *, identity: str = IDENTITY, issuer: str = ISSUER
    ) -> x509.Certificate:
        """A short-lived certificate, as Fulcio gives it, with the timestamp of the CT log inside."""
        built = builder(
            x509.Name([]),
            _name("fulcio"),
            key.public_key(),
            start=SIGNED_AT - timedelta(minutes=1),
            end=SIGNED_AT + timedelta(minutes=9),
            serial=3,
            uses=(SIGNS,),
            extensions=[
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
                _by(self.ca_key),
                (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), True),
                (x509.UnrecognizedExtension(_ISSUER_V2, tagged(0x0C, issuer.encode())), False),
            ],
        )
        precertificate = built.sign(self.ca_key, _SHA256)
        stamp = self._sct(precertificate.tbs_certificate_bytes)
        return built.add_extension(x509.UnrecognizedExtension(_SCT_LIST, octets(stamp)), critical=False).sign(
            self.ca_key, _SHA256
        )

    def _sct(self, tbs: bytes) -> bytes:
        """A list of one signed certificate timestamp (RFC 6962 section 3.2 and 3.3)."""
        milliseconds = int(SIGNED_AT.timestamp() * 1000)
        entry = hashlib.sha256(_spki(self.ca_key)).digest() + len(tbs).to_bytes(3, "big") + tbs
        signature = _sign(self.ct_key, struct.pack("!BBQH", 0, 0, milliseconds, 1) + entry + bytes(2))
        sct = struct.pack(
            "!B32sQHBBH", 0, hashlib.sha256(_spki(self.ct_key)).digest(), milliseconds, 0, 4, 3, len(signature)
        )
        sct += signature
        return struct.pack("!HH", len(sct) + 2, len(sct)) + sct

    def promised(self, body: bytes, kind: str, integrated_at: datetime = SIGNED_AT) -> dict[str, Any]:
        """An entry of the log as Rekor v1 answers it, with its promise."""
        log_id = hashlib.sha256(_spki(self.rekor_key)).digest()
        members = {
            "body": _b64(body),
            "integratedTime": int(integrated_at.timestamp()),
            "logID": log_id.hex(),
            "logIndex": 7,
        }
        canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
        return {
            **self._included(body, kind, "0.0.1"),
            "integratedTime": str(members["integratedTime"]),
            "inclusionPromise": {"signedEntryTimestamp": _b64(_sign(self.rekor_key, canonical))},
        }

    def _included(self, body: bytes, kind: str, version: str) -> dict[str, Any]:
        """An entry with the proof that it is the second of two in the log (RFC 6962 section 2.1)."""
        log_id = hashlib.sha256(_spki(self.rekor_key)).digest()
        first, leaf = (hashlib.sha256(b"\0" + entry).digest() for entry in (b"the first", body))
        root = hashlib.sha256(b"\1" + first + leaf).digest()
        note = f"rekor.invalid\n2\n{_b64(root)}\n"
        signature = _b64(log_id[:4] + _sign(self.rekor_key, note.encode()))
        return {
            "logIndex": "7",
            "logId": {"keyId": _b64(log_id)},
            "kindVersion": {"kind": kind, "version": version},
            "inclusionProof": {
                "logIndex": "1",
                "rootHash": _b64(root),
                "treeSize": "2",
                "hashes": [_b64(first)],
                "checkpoint": {"envelope": f"{note}\n\N{EM DASH} rekor.invalid {signature}\n"},
            },
            "canonicalizedBody": _b64(body),
        }

    def time_stamp(self, message: bytes) -> bytes:
        """An answer of the time stamp authority (RFC 3161 section 2.4.2) over a signature."""
        certificate, _ = self.tsa
        sha256 = sequence(oid("2.16.840.1.101.3.4.2.1"))
        imprint = sequence(sha256, octets(hashlib.sha256(message).digest()))
        at = tagged(0x18, SIGNED_AT.strftime("%Y%m%d%H%M%SZ").encode())
        info = sequence(integer(1), oid("1.3.6.1.4.1.57264.2"), imprint, integer(4), at)
        attributes = b"".join(
            sorted(
                (
                    sequence(oid("1.2.840.113549.1.9.3"), tagged(0x31, oid("1.2.840.113549.1.9.16.1.4"))),
                    sequence(oid("1.2.840.113549.1.9.4"), tagged(0x31, octets(hashlib.sha256(info).digest()))),
                )
            )
        )
        signer = sequence(
            integer(1),
            sequence(certificate.issuer.public_bytes(), integer(certificate.serial_number)),
            sha256,
            context(0, attributes),
            sequence(oid("1.2.840.10045.4.3.2")),
            octets(_sign(self.tsa_key, tagged(0x31, attributes))),
        )
        signed = sequence(
            integer(3),
            tagged(0x31, sha256),
            sequence(oid("1.2.840.113549.1.9.16.1.4"), context(0, octets(info))),
            context(0, _der(certificate)),
            tagged(0x31, signer),
        )
        return sequence(sequence(integer(0)), sequence(oid("1.2.840.113549.1.7.2"), context(0, signed)))


def _log(key: ec.EllipticCurvePrivateKey, url: str) -> dict[str, Any]:
    return {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": _b64(_spki(key)),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": {"start": "2025-01-01T00:00:00Z"},
        },
        "logId": {"keyId": _b64(hashlib.sha256(_spki(key)).digest())},
    }


def _certificates(url: str, *chain: x509.Certificate) -> dict[str, Any]:
    return {
        "subject": {"organization": "example", "commonName": "example"},
        "uri": url,
        "certChain": {"certificates": [{"rawBytes": _b64(_der(certificate))} for certificate in chain]},
        "validFor": {"start": "2025-01-01T00:00:00Z"},
    }


def statement(artifact: bytes, *, predicate_type: str = SLSA) -> dict[str, Any]:
    """An in-toto statement about a file, with what GitHub says of a build left out."""
    digest = {"sha256": hashlib.sha256(artifact).hexdigest()}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "policy.toml", "digest": digest}],
        "predicateType": predicate_type,
        "predicate": {"buildDefinition": {}},
    }


def attested(
    instance: SigstoreInstance, payload: bytes, *, payload_type: str = IN_TOTO, **certified: str
) -> dict[str, Any]:
    """A bundle around an in-toto statement, with an entry of Rekor v1."""
    key, envelope = _enveloped(payload, payload_type)
    certificate = instance.certificate(key, **certified)
    signature = envelope["signatures"][0]["sig"]
    body = {
        "apiVersion": "0.0.1",
        "kind": "dsse",
        "spec": {
            "envelopeHash": {"algorithm": "sha256", "value": "00" * 32},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": signature, "verifier": _b64(_pem(certificate))}],
        },
    }
    return _bundle(certificate, instance.promised(json.dumps(body).encode(), "dsse"), dsseEnvelope=envelope)


def attested_with_time_stamp(instance: SigstoreInstance, payload: bytes) -> dict[str, Any]:
    """A bundle around an in-toto statement, with an entry of Rekor v2 and a time stamp."""
    key, envelope = _enveloped(payload, IN_TOTO)
    certificate = instance.certificate(key)
    signature = envelope["signatures"][0]["sig"]
    body = {
        "apiVersion": "0.0.2",
        "kind": "hashedrekord",
        "spec": {
            "hashedRekordV002": {
                "data": {"algorithm": "SHA2_256", "digest": _b64(hashlib.sha256(_pae(IN_TOTO, payload)).digest())},
                "signature": {
                    "content": signature,
                    "verifier": {
                        "x509Certificate": {"rawBytes": _b64(_der(certificate))},
                        "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    },
                },
            }
        },
    }
    entry = instance._included(json.dumps(body).encode(), "hashedrekord", "0.0.2")
    stamp = instance.time_stamp(base64.b64decode(signature))
    return _bundle(certificate, entry, time_stamps=(stamp,), dsseEnvelope=envelope)


def signed(instance: SigstoreInstance, artifact: bytes, **certified: str) -> dict[str, Any]:
    """A bundle around a signature over a file, with an entry of Rekor v1."""
    key = _key()
    certificate = instance.certificate(key, **certified)
    signature, digest = _b64(_sign(key, artifact)), hashlib.sha256(artifact)
    body = {
        "apiVersion": "0.0.1",
        "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": digest.hexdigest()}},
            "signature": {"content": signature, "publicKey": {"content": _b64(_pem(certificate))}},
        },
    }
    message = {"messageDigest": {"algorithm": "SHA2_256", "digest": _b64(digest.digest())}, "signature": signature}
    entry = instance.promised(json.dumps(body).encode(), "hashedrekord")
    return _bundle(certificate, entry, messageSignature=message)


def _pae(payload_type: str, payload: bytes) -> bytes:
    return f"DSSEv1 {len(payload_type)} {payload_type} {len(payload)} ".encode() + payload


def _enveloped(payload: bytes, payload_type: str) -> tuple[ec.EllipticCurvePrivateKey, dict[str, Any]]:
    key = _key()
    signature = _sign(key, _pae(payload_type, payload))
    return key, {"payload": _b64(payload), "payloadType": payload_type, "signatures": [{"sig": _b64(signature)}]}


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _bundle(
    certificate: x509.Certificate, entry: dict[str, Any], *, time_stamps: tuple[bytes, ...] = (), **content: Any
) -> dict[str, Any]:
    stamps = [{"signedTimestamp": _b64(stamp)} for stamp in time_stamps]
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "certificate": {"rawBytes": _b64(_der(certificate))},
            "tlogEntries": [entry],
            "timestampVerificationData": {"rfc3161Timestamps": stamps},
        },
        **content,
    }
