# ruff: noqa: N806 -- skR and pkR are the names RFC 9180 gives them
"""HPKE against the vectors of RFC 9180 and against two other implementations."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import cryptography_vectors
import pyhpke
import pytest
from cryptography.hazmat.primitives import hpke as pyca
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from core.channel.hpke import (
    Aead,
    RecipientContext,
    SenderContext,
    Suite,
    find_suite,
    setup_recipient,
    setup_sender,
)
from core.channel.kdf import Kdf
from core.channel.kem import Kem, PrivateKey
from core.errors import ChannelError

SUITES = {aead: Suite(Kem.X25519_HKDF_SHA256, Kdf.HKDF_SHA256, aead) for aead in Aead}
SUITE = SUITES[Aead.AES_256_GCM]
aeads = pytest.mark.parametrize("aead", list(Aead), ids=lambda aead: str(aead.name))


def read_vectors() -> list[dict[str, Any]]:
    """The base-mode vectors of our KEM and KDF with an AEAD."""
    path = Path(cryptography_vectors.__file__).parent / "HPKE" / "test-vectors.json"
    return [
        vector
        for vector in json.loads(path.read_text())
        if vector["mode"] == 0 and find_suite(vector["kem_id"], vector["kdf_id"], vector["aead_id"])
    ]


VECTORS = read_vectors()
vectors = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: Aead(vector["aead_id"]).name)


def unhex(vector: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(vector[name]) for name in names]


def contexts(aead: Aead = Aead.AES_256_GCM, info: bytes = b"info") -> tuple[SenderContext, RecipientContext]:
    skR = PrivateKey.generate()
    enc, sender = setup_sender(SUITES[aead], skR.public_key, info)
    return sender, setup_recipient(SUITES[aead], skR, enc, info)


def test_every_aead_has_its_vector() -> None:
    assert sorted(vector["aead_id"] for vector in VECTORS) == sorted(Aead)
    assert [len(vector["encryptions"]) for vector in VECTORS] == [257] * len(Aead)


@vectors
def test_the_sender_reproduces_rfc_9180(vector: dict[str, Any]) -> None:
    pkR, info, skE, enc = unhex(vector, "pkRm", "info", "skEm", "enc")
    suite = SUITES[Aead(vector["aead_id"])]
    sent, sender = setup_sender(suite, pkR, info, ephemeral=skE)
    assert sent == enc
    for message in vector["encryptions"]:
        aad, plaintext, ciphertext = unhex(message, "aad", "pt", "ct")
        assert sender.seal(plaintext, aad) == ciphertext


@vectors
def test_the_recipient_reproduces_rfc_9180(vector: dict[str, Any]) -> None:
    skR, info, enc, pkR = unhex(vector, "skRm", "info", "enc", "pkRm")
    key = PrivateKey.from_bytes(skR)
    assert key.public_key == pkR
    recipient = setup_recipient(SUITES[Aead(vector["aead_id"])], key, enc, info)
    for message in vector["encryptions"]:
        aad, plaintext, ciphertext = unhex(message, "aad", "pt", "ct")
        assert recipient.open(ciphertext, aad) == plaintext


@vectors
def test_both_ends_export_what_rfc_9180_exports(vector: dict[str, Any]) -> None:
    skR, pkR, info, skE, enc = unhex(vector, "skRm", "pkRm", "info", "skEm", "enc")
    suite = SUITES[Aead(vector["aead_id"])]
    _, sender = setup_sender(suite, pkR, info, ephemeral=skE)
    recipient = setup_recipient(suite, PrivateKey.from_bytes(skR), enc, info)
    assert vector["exports"]
    for export in vector["exports"]:
        context, value = unhex(export, "exporter_context", "exported_value")
        assert sender.export(context, export["L"]) == recipient.export(context, export["L"]) == value


def pyhpke_suite(aead: Aead) -> Any:
    ids = (pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256, pyhpke.KDFId.HKDF_SHA256, pyhpke.AEADId(int(aead)))
    return pyhpke.CipherSuite.new(*ids)


@aeads
def test_pyhpke_opens_what_we_seal(aead: Aead) -> None:
    raw = X25519PrivateKey.generate().private_bytes_raw()
    enc, sender = setup_sender(SUITES[aead], PrivateKey.from_bytes(raw).public_key, b"info")
    suite = pyhpke_suite(aead)
    other = suite.create_recipient_context(enc, suite.kem.deserialize_private_key(raw), info=b"info")
    for number in range(5):
        plaintext, aad = bytes([number]) * number, b"aad %d" % number
        assert other.open(sender.seal(plaintext, aad), aad) == plaintext
    assert other.export(b"context", 48) == sender.export(b"context", 48)


@aeads
def test_we_open_what_pyhpke_seals(aead: Aead) -> None:
    skR = PrivateKey.generate()
    suite = pyhpke_suite(aead)
    enc, other = suite.create_sender_context(suite.kem.deserialize_public_key(skR.public_key), info=b"info")
    recipient = setup_recipient(SUITES[aead], skR, enc, b"info")
    for number in range(5):
        plaintext, aad = bytes([number]) * number, b"aad %d" % number
        assert recipient.open(other.seal(plaintext, aad), aad) == plaintext
    assert other.export(b"context", 48) == recipient.export(b"context", 48)


def pyca_suite(aead: Aead) -> pyca.Suite:
    ciphers = {
        Aead.AES_128_GCM: pyca.AEAD.AES_128_GCM,
        Aead.AES_256_GCM: pyca.AEAD.AES_256_GCM,
        Aead.CHACHA20_POLY1305: pyca.AEAD.CHACHA20_POLY1305,
    }
    return pyca.Suite(pyca.KEM.X25519, pyca.KDF.HKDF_SHA256, ciphers[aead])


@aeads
def test_the_one_shot_of_cryptography_opens_what_we_seal(aead: Aead) -> None:
    secret = X25519PrivateKey.generate()
    pkR = secret.public_key().public_bytes_raw()
    enc, sender = setup_sender(SUITES[aead], pkR, b"info")
    assert pyca_suite(aead).decrypt(enc + sender.seal(b"plaintext"), secret, b"info") == b"plaintext"


@aeads
def test_we_open_what_the_one_shot_of_cryptography_seals(aead: Aead) -> None:
    skR = PrivateKey.generate()
    public_key = X25519PublicKey.from_public_bytes(skR.public_key)
    message = pyca_suite(aead).encrypt(b"plaintext", public_key, b"info")
    enc, ciphertext = message[: Kem.X25519_HKDF_SHA256.nenc], message[Kem.X25519_HKDF_SHA256.nenc :]
    assert setup_recipient(SUITES[aead], skR, enc, b"info").open(ciphertext) == b"plaintext"


@given(st.sampled_from(Aead), st.binary(), st.lists(st.tuples(st.binary(), st.binary()), max_size=8))
def test_messages_open_in_the_order_they_were_sealed(
    aead: Aead, info: bytes, messages: list[tuple[bytes, bytes]]
) -> None:
    sender, recipient = contexts(aead, info)
    sealed = [sender.seal(plaintext, aad) for plaintext, aad in messages]
    opened = [recipient.open(ciphertext, aad) for ciphertext, (_, aad) in zip(sealed, messages, strict=True)]
    assert opened == [plaintext for plaintext, _ in messages]


def test_two_encapsulations_share_nothing() -> None:
    skR = PrivateKey.generate()
    (enc_a, a), (enc_b, b) = (setup_sender(SUITE, skR.public_key, b"") for _ in range(2))
    assert enc_a != enc_b
    assert a.export(b"", 32) != b.export(b"", 32)


@aeads
def test_every_bit_flip_and_truncation_of_a_message_is_refused(aead: Aead) -> None:
    skR = PrivateKey.generate()
    enc, sender = setup_sender(SUITES[aead], skR.public_key, b"")
    sealed = sender.seal(b"short")
    flipped = [
        bytes(byte ^ (bit == 8 * at + low) << low for at, byte in enumerate(sealed) for low in [bit % 8])
        for bit in range(8 * len(sealed))
    ]
    for altered in [*flipped, *(sealed[:size] for size in range(len(sealed))), sealed + b"\0"]:
        with pytest.raises(ChannelError, match="does not authenticate"):
            setup_recipient(SUITES[aead], skR, enc, b"").open(altered)


@pytest.mark.parametrize(
    ("info", "aad", "first"),
    [(b"other", b"aad", 0), (b"info", b"other", 0), (b"info", b"", 0), (b"info", b"aad", 1)],
    ids=["other info", "other aad", "no aad", "second message first"],
)
def test_a_message_opens_only_in_its_place(info: bytes, aad: bytes, first: int) -> None:
    skR = PrivateKey.generate()
    enc, sender = setup_sender(SUITE, skR.public_key, b"info")
    sealed = [sender.seal(b"0", b"aad"), sender.seal(b"1", b"aad")]
    with pytest.raises(ChannelError, match="does not authenticate"):
        setup_recipient(SUITE, skR, enc, info).open(sealed[first], aad)


def test_another_key_does_not_open() -> None:
    enc, sender = setup_sender(SUITE, PrivateKey.generate().public_key, b"")
    with pytest.raises(ChannelError, match="does not authenticate"):
        setup_recipient(SUITE, PrivateKey.generate(), enc, b"").open(sender.seal(b"plaintext"))


def test_a_failed_opener_stays_failed() -> None:
    sender, recipient = contexts()
    sealed = sender.seal(b"plaintext")
    with pytest.raises(ChannelError, match="does not authenticate"):
        recipient.open(sealed, b"wrong")
    with pytest.raises(ChannelError, match="earlier message"):
        recipient.open(sealed)


def test_the_sequence_never_wraps() -> None:
    sender, recipient = contexts()
    sender._sealer._seq = recipient._opener._seq = (1 << 96) - 2
    assert recipient.open(sender.seal(b"the last")) == b"the last"
    with pytest.raises(ChannelError, match="as many messages"):
        sender.seal(b"one more")
    with pytest.raises(ChannelError, match="as many messages"):
        recipient.open(bytes(16))


# The points of order 1, 2, 4 and 8 on Curve25519 and its twist, as encoded (RFC 7748 section 6.1).
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    ((1 << 255) - 20).to_bytes(32, "little"),
    ((1 << 255) - 19).to_bytes(32, "little"),
    ((1 << 255) - 18).to_bytes(32, "little"),
]


@pytest.mark.parametrize("point", [*LOW_ORDER, b"", bytes(31), bytes(33)], ids=lambda point: point.hex()[:12])
def test_a_point_that_gives_no_secret_is_refused_at_both_ends(point: bytes) -> None:
    with pytest.raises(ChannelError, match="of low order"):
        setup_sender(SUITE, point, b"")
    with pytest.raises(ChannelError, match="of low order"):
        setup_recipient(SUITE, PrivateKey.generate(), point, b"")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_private_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32"):
        PrivateKey.from_bytes(bytes(size))


@pytest.mark.parametrize("ids", [(0x0010, 1, 1), (0x0020, 2, 1), (0x0020, 1, 0xFFFF)])
def test_code_points_that_are_not_ours_make_no_suite(ids: tuple[int, int, int]) -> None:
    assert find_suite(*ids) is None


def test_a_private_key_shows_only_its_public_half() -> None:
    raw = bytes(range(32))
    key = PrivateKey.from_bytes(raw)
    shown = repr(key) + str(key) + f"{key}"
    assert "secret=***" in shown
    assert raw.hex()[:8] not in shown
    assert key.public_key.hex()[:8] in shown


@pytest.mark.parametrize("leave", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_private_key_does_not_leave_its_process(leave: Any) -> None:
    with pytest.raises(TypeError, match="does not leave"):
        leave(PrivateKey.generate())


def test_a_context_shows_no_secret() -> None:
    for context in contexts():
        assert context._exporter_secret.hex()[:8] not in repr(context)
        assert repr(context._exporter_secret) not in repr(context)
