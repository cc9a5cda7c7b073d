"""The vectors can be used without our code: another HPKE and the README are enough to open them, or to refuse them."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import pyhpke
import pytest

from tests.conformance.files import read

FIGURES = read("requests")
PRIVATE, CONFIG = (bytes.fromhex(FIGURES["key"][name]) for name in ("private", "config"))
GROUPS = ("served", "key", "cut", "length", "chunk")
VECTORS = [
    vector
    for vector in FIGURES["vectors"]
    if "wire" in vector and vector["profile"] == "ohttp" and vector["id"].split("/")[1] in GROUPS
]


class KeyMismatchError(Exception):
    """Another key, or a first chunk that does not open."""


class MalformedError(Exception):
    """Anything else."""


def number(data: bytes, at: int) -> tuple[int, int]:
    """The integer of RFC 9000 section 16 at a place, and the place behind it."""
    if at >= len(data) or at + (size := 1 << (data[at] >> 6)) > len(data):
        raise MalformedError
    return int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1), at + size


def opened(wire: bytes) -> bytes:
    """The message inside of a request (draft-ietf-ohai-chunked-ohttp-08 section 6)."""
    names, enc, at = wire[:7], wire[7:39], 39
    suites = [CONFIG[place : place + 4] for place in range(37, len(CONFIG), 4)]
    if len(names) == 7 and not (names[:3] == CONFIG[:3] and names[3:] in suites):
        raise KeyMismatchError
    if len(wire) < at:
        raise MalformedError
    aead = pyhpke.AEADId(int.from_bytes(names[5:], "big"))
    suite = pyhpke.CipherSuite.new(pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256, pyhpke.KDFId.HKDF_SHA256, aead)
    info = b"message/bhttp chunked request\0" + names
    try:
        context = suite.create_recipient_context(enc, suite.kem.deserialize_private_key(PRIVATE), info=info)
    except (pyhpke.exceptions.PyHPKEError, ValueError) as exc:
        raise KeyMismatchError from exc
    message, first = b"", True
    while True:
        length, at = number(wire, at)
        end = at + length if length else len(wire)
        if end > len(wire) or end - at < 16 or (length and length < 17):
            raise MalformedError
        try:
            message += context.open(wire[at:end], b"" if length else b"final")
        except pyhpke.exceptions.PyHPKEError as exc:
            raise (KeyMismatchError if first else MalformedError) from exc
        if not length:
            return message
        at, first = end, False


def test_there_are_vectors_of_every_group() -> None:
    assert {vector["id"].split("/")[1] for vector in VECTORS} == set(GROUPS)
    assert len(VECTORS) > 70


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["id"]))
def test_another_implementation_comes_to_the_same_verdict(vector: dict[str, Any]) -> None:
    wire, expect = b64decode(vector["wire"]), vector["expect"]
    if expect["verdict"] == "accepted":
        assert opened(wire)[0] == 2
        return
    with pytest.raises({"key_mismatch": KeyMismatchError, "malformed": MalformedError}[expect["code"]]):
        opened(wire)
