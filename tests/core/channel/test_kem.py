# ruff: noqa: N806 -- skR and pkR are the names RFC 9180 gives them
"""X-Wing against the vectors of HPKE-PQ, and both ways against the one-shot HPKE of `cryptography`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke as pyca
from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from core.channel.hpke import Aead, Suite, setup_recipient, setup_sender
from core.channel.kdf import Kdf
from core.channel.kem import Kem, PrivateKey, available_kems, encapsulate
from core.errors import ChannelError

XWING = Kem.MLKEM768_X25519
SUITES = {aead: Suite(XWING, Kdf.HKDF_SHA256, aead) for aead in Aead}
CIPHERS = {
    Aead.AES_128_GCM: pyca.AEAD.AES_128_GCM,
    Aead.AES_256_GCM: pyca.AEAD.AES_256_GCM,
    Aead.CHACHA20_POLY1305: pyca.AEAD.CHACHA20_POLY1305,
}
aeads = pytest.mark.parametrize("aead", list(Aead), ids=lambda aead: str(aead.name))


def read_vectors() -> list[dict[str, Any]]:
    """The base-mode vectors of X-Wing, with any KDF."""
    path = Path(cryptography_vectors.__file__).parent / "HPKE" / "hpke-pq-test-vectors.json"
    return [vector for vector in json.loads(path.read_text()) if (vector["mode"], vector["kem_id"]) == (0, XWING)]


VECTORS = read_vectors()
vectors = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"kdf {vector['kdf_id']:#x}")
(OURS,) = [vector for vector in VECTORS if vector["kdf_id"] == Kdf.HKDF_SHA256]


def unhex(vector: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(vector[name]) for name in names]


def test_there_are_the_vectors_that_there_were() -> None:
    assert [(vector["kdf_id"], len(vector["encryptions"])) for vector in VECTORS] == [(1, 10), (0x11, 10)]


@vectors
def test_a_published_seed_gives_the_published_key_and_opens_the_published_secret(vector: dict[str, Any]) -> None:
    skR, pkR, enc, shared_secret = unhex(vector, "skRm", "pkRm", "enc", "shared_secret")
    key = PrivateKey.from_bytes(skR, XWING)
    assert key.public_key == pkR
    assert (len(pkR), len(enc)) == (XWING.npk, XWING.nenc) == (1_216, 1_120)
    assert key.decapsulate(enc) == shared_secret


def test_the_recipient_reproduces_the_vectors_of_hpke_pq() -> None:
    skR, info, enc = unhex(OURS, "skRm", "info", "enc")
    recipient = setup_recipient(SUITES[Aead(OURS["aead_id"])], PrivateKey.from_bytes(skR, XWING), enc, info)
    for message in OURS["encryptions"]:
        aad, plaintext, ciphertext = unhex(message, "aad", "pt", "ct")
        assert recipient.open(ciphertext, aad) == plaintext
    for export in OURS["exports"]:
        context, value = unhex(export, "exporter_context", "exported_value")
        assert recipient.export(context, export["L"]) == value


def both_halves() -> tuple[PrivateKey, pyca.MLKEM768X25519PrivateKey]:
    """A key of ours, and the same as the library has it."""
    key = PrivateKey.generate(XWING)
    halves: Any = key._secret
    return key, pyca.MLKEM768X25519PrivateKey(halves.mlkem, halves.x25519)


@aeads
def test_we_open_what_pyca_seals(aead: Aead) -> None:
    skR = PrivateKey.generate(XWING)
    mlkem_public = mlkem.MLKEM768PublicKey.from_public_bytes(skR.public_key[:1_184])
    x25519_public = X25519PublicKey.from_public_bytes(skR.public_key[1_184:])
    other = pyca.Suite(pyca.KEM.MLKEM768_X25519, pyca.KDF.HKDF_SHA256, CIPHERS[aead])
    sealed = other.encrypt(b"plaintext", pyca.MLKEM768X25519PublicKey(mlkem_public, x25519_public), info=b"info")
    enc, ciphertext = sealed[: XWING.nenc], sealed[XWING.nenc :]
    assert setup_recipient(SUITES[aead], skR, enc, b"info").open(ciphertext) == b"plaintext"


@aeads
def test_pyca_opens_what_we_seal(aead: Aead) -> None:
    key, the_same = both_halves()
    enc, sender = setup_sender(SUITES[aead], key.public_key, b"info")
    other = pyca.Suite(pyca.KEM.MLKEM768_X25519, pyca.KDF.HKDF_SHA256, CIPHERS[aead])
    sealed = enc + sender.seal(b"plaintext")
    assert other.decrypt(sealed, the_same, info=b"info") == b"plaintext"


@pytest.mark.parametrize("at", [0, 500, 1_087, 1_088, 1_119])
def test_a_changed_encapsulated_key_gives_another_secret(at: int) -> None:
    key = PrivateKey.generate(XWING)
    secret, enc = encapsulate(XWING, key.public_key)
    assert key.decapsulate(enc) == secret
    assert key.decapsulate(enc[:at] + bytes([enc[at] ^ 1]) + enc[at + 1 :]) != secret


def test_two_secrets_for_one_key_differ() -> None:
    key = PrivateKey.generate(XWING)
    assert len({pair for _ in range(3) for pair in encapsulate(XWING, key.public_key)}) == 6


@pytest.mark.parametrize("size", [0, 32, 1_088, 1_119, 1_121])
def test_an_encapsulated_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ChannelError, match="low order"):
        PrivateKey.generate(XWING).decapsulate(b"\x09" * size)


@pytest.mark.parametrize("kem", Kem)
def test_a_public_key_of_the_other_kem_is_refused(kem: Kem) -> None:
    (other,) = set(Kem) - {kem}
    with pytest.raises(ChannelError, match="no key"):
        encapsulate(kem, PrivateKey.generate(other).public_key)


def test_a_low_order_point_in_either_message_is_refused() -> None:
    key = PrivateKey.generate(XWING)
    _, enc = encapsulate(XWING, key.public_key)
    with pytest.raises(ChannelError, match="low order"):
        key.decapsulate(enc[:1_088] + bytes(32))
    with pytest.raises(ChannelError, match="low order"):
        encapsulate(XWING, key.public_key[:1_184] + bytes(32))


def test_an_ml_kem_key_with_coefficients_out_of_range_is_refused() -> None:
    public_key = PrivateKey.generate(XWING).public_key
    with pytest.raises(ChannelError, match="no key"):
        encapsulate(XWING, b"\xff" * 1_152 + public_key[1_152:])


@pytest.mark.parametrize("size", [0, 31, 33, 96])
def test_a_seed_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32"):
        PrivateKey.from_bytes(bytes(size), XWING)


def test_the_installed_library_has_both_kems_the_post_quantum_one_first() -> None:
    assert available_kems() == (Kem.MLKEM768_X25519, Kem.X25519_HKDF_SHA256)


def test_a_library_without_ml_kem_leaves_x25519_alone() -> None:
    def generate(kem: Kem) -> PrivateKey:
        if kem is XWING:
            raise UnsupportedAlgorithm("ML-KEM-768 is not supported by this version of OpenSSL")
        return PrivateKey.generate(kem)

    assert available_kems(generate) == (Kem.X25519_HKDF_SHA256,)
