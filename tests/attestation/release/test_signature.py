"""A signature is of one key over one file's exact bytes, and is read strictly."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import VerifyKey

from attestation.errors import PolicyError
from attestation.release.signature import (
    MAX_SIGNATURE_FILE_BYTES,
    PolicyKey,
    Signer,
    parse_policy_key,
    parse_signer,
    signature_path,
    verify_signature,
)
from tests.attestation.policies import KEY, OTHER_KEY

POLICY = b"version = 1\n"
SIGNED = KEY.sign(POLICY)


def _changed(**changes: Any) -> bytes:
    return json.dumps({**json.loads(SIGNED), **changes}).encode()


def test_the_key_of_rfc_8032_has_the_public_half_that_it_gives() -> None:
    """Section 7.1, test 1."""
    key = PolicyKey(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert str(key.signer) == "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def test_a_signature_is_over_the_domain_and_the_file() -> None:
    members = json.loads(SIGNED)
    message = b"sottovoce policy v1\x00" + POLICY
    assert VerifyKey(KEY.signer.public_key).verify(message, base64.b64decode(members["signature"])) == message
    assert members["key_id"] == hashlib.sha256(KEY.signer.public_key).hexdigest()
    assert sorted(members) == ["key_id", "signature", "version"]


def test_the_signer_is_found_among_those_who_are_pinned() -> None:
    assert verify_signature(POLICY, SIGNED, (OTHER_KEY.signer, KEY.signer)) == KEY.signer


def test_a_key_that_is_not_pinned_is_refused() -> None:
    with pytest.raises(PolicyError, match="not pinned"):
        verify_signature(POLICY, SIGNED, (OTHER_KEY.signer,))


def test_a_key_id_alone_convinces_nobody() -> None:
    forged = json.loads(OTHER_KEY.sign(POLICY)) | {"key_id": KEY.signer.key_id}
    with pytest.raises(PolicyError, match="not of this file, or not by ed25519:"):
        verify_signature(POLICY, json.dumps(forged).encode(), (KEY.signer,))


@pytest.mark.parametrize("other", [POLICY + b" ", POLICY[:-1], b"", b"Version = 1\n"])
def test_another_file_is_refused(other: bytes) -> None:
    with pytest.raises(PolicyError, match="not of this file"):
        verify_signature(other, SIGNED, (KEY.signer,))


def test_a_signature_without_the_domain_is_refused() -> None:
    with pytest.raises(PolicyError, match="not of this file"):
        verify_signature(b"sottovoce policy v1\x00" + POLICY, SIGNED, (KEY.signer,))


def test_every_flipped_bit_of_a_signature_is_refused() -> None:
    signature = base64.b64decode(json.loads(SIGNED)["signature"])
    for bit in range(len(signature) * 8):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PolicyError):
            verify_signature(POLICY, _changed(signature=base64.b64encode(flipped).decode()), (KEY.signer,))


def test_keys_of_small_order_verify_nothing() -> None:
    """With them one signature fits every message; libsodium refuses them."""
    for point in (bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"):
        signer = Signer(point)
        forged = _changed(key_id=signer.key_id, signature=base64.b64encode(b"\x01" + bytes(63)).decode())
        with pytest.raises(PolicyError, match="not of this file"):
            verify_signature(POLICY, forged, (signer,))


_FAULTY = {
    "nothing": b"",
    "no JSON": b"ed25519",
    "a list": b"[]",
    "an unknown member": _changed(comment="x"),
    "another version": _changed(version=2),
    "a short signature": _changed(signature=base64.b64encode(bytes(63)).decode()),
    "a long signature": _changed(signature=base64.b64encode(bytes(65)).decode()),
    "a key id in capitals": _changed(key_id=KEY.signer.key_id.upper()),
    "a member twice": SIGNED.replace(b'{"version":1', b'{"version":1,"version":1'),
    "too long": SIGNED + b" " * MAX_SIGNATURE_FILE_BYTES,
}


@pytest.mark.parametrize("data", _FAULTY.values(), ids=_FAULTY.keys())
def test_a_faulty_file_is_refused(data: bytes) -> None:
    with pytest.raises(PolicyError, match=r"^policy signature: "):
        verify_signature(POLICY, data, (KEY.signer,))


@given(
    st.binary(max_size=200)
    | st.builds(lambda at, to: SIGNED[:at] + to, st.integers(0, len(SIGNED)), st.binary(max_size=9))
)
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    if data.rstrip() != SIGNED.rstrip():
        with pytest.raises(PolicyError):
            verify_signature(POLICY, data, (KEY.signer,))


def test_keys_are_read_back_from_their_spelling() -> None:
    assert parse_signer(str(KEY.signer)) == KEY.signer
    assert parse_policy_key(KEY.encode()) == KEY


@pytest.mark.parametrize(
    "text", ["", "ab" * 32, "ed25519:" + "AB" * 32, "ed25519:" + "ab" * 31, KEY.encode(), f"{KEY.signer}\n"]
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="64 lower-case hexadecimal digits"):
        parse_signer(text)


def test_what_is_no_secret_key_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="a policy key is") as refusal:
        parse_policy_key("ed25519-secret:canary")
    assert "canary" not in str(refusal.value)


def test_a_secret_key_does_not_show_itself() -> None:
    assert KEY.seed.hex() not in repr(KEY) + str(KEY)
    assert repr(KEY.seed) not in repr(KEY)


def test_a_signature_lies_beside_its_policy() -> None:
    assert signature_path(Path("a/policy.toml")) == Path("a/policy.toml.sig")
