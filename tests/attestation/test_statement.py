"""The statement is read strictly, and report_data binds every byte of it."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.statement import (
    MAX_STATEMENT_BYTES,
    combine_nonces,
    encode_statement,
    gpu_nonce,
    live_keys_extension,
    parse_statement,
    report_data,
)
from attestation.types import DeviceEvidence, Nonce, StatementBytes
from core.channel.kem import Kem
from core.channel.keyconfig import GatewayKey
from tests.attestation.samples import KEY, NONCE, OTHER_NONCE, STATEMENT, statement_with

GOOD: dict[str, Any] = json.loads(encode_statement(STATEMENT))


def _parse(value: object) -> object:
    return parse_statement(StatementBytes(json.dumps(value).encode()))


def _changed(path: str, value: object) -> dict[str, Any]:
    changed = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place: Any = changed
    for step in parents:
        place = place[int(step) if step.isdecimal() else step]
    place[last] = value
    return changed


def test_a_statement_is_read_back() -> None:
    assert parse_statement(encode_statement(STATEMENT)) == STATEMENT


def test_a_statement_without_options_is_read_back() -> None:
    bare = statement_with(receipt_key=None, tls_spki_sha256=None, extensions={}, models=())
    assert parse_statement(encode_statement(bare)) == bare


def test_the_keys_of_live_sessions_are_read_back() -> None:
    live = [GatewayKey.generate(()).config, GatewayKey.generate(()).config]
    statement = statement_with(extensions=live_keys_extension(live))
    assert parse_statement(encode_statement(statement)).live_keys == tuple(live)
    assert (STATEMENT.live_keys, live_keys_extension([])) == ((), {})


@pytest.mark.parametrize(
    "keys",
    [None, 7, "", "AAAA", [GOOD["ohttp_keys"]], GOOD["ohttp_keys"] + "AAAA"],
    ids=["null", "number", "empty", "no key", "list", "cut"],
)
def test_keys_of_live_sessions_that_are_none_are_refused(keys: object) -> None:
    with pytest.raises(EvidenceError, match="extensions"):
        _parse(_changed("extensions", {"live_keys": keys}))


def test_a_live_key_given_twice_is_refused() -> None:
    with pytest.raises(EvidenceError, match="twice"):
        encode_statement(statement_with(extensions=live_keys_extension([KEY.config, KEY.config])))


def _objects(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The place of every object outside `extensions`."""
    if isinstance(value, dict):
        yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        if name != "extensions":
            yield from _objects(member, (*path, str(name)))


@pytest.mark.parametrize("place", [".".join(path) for path in _objects(GOOD)])
def test_an_unknown_member_is_refused_in_every_object(place: str) -> None:
    with pytest.raises(EvidenceError, match="unknown member"):
        _parse(_changed(f"{place}.surplus".lstrip("."), 1))


def test_an_unknown_member_is_ignored_in_extensions() -> None:
    assert _parse(_changed("extensions.surplus", {"any": ["thing"]}))


def _required() -> Iterator[tuple[str, str]]:
    for path in _objects(GOOD):
        place: Any = GOOD
        for step in path:
            place = place[int(step) if step.isdecimal() else step]
        yield from ((".".join(path), name) for name in place if name != "extensions")


@pytest.mark.parametrize(("place", "name"), list(_required()))
def test_no_member_but_extensions_may_be_missing(place: str, name: str) -> None:
    changed = copy.deepcopy(GOOD)
    at: Any = changed
    for step in filter(None, place.split(".")):
        at = at[int(step) if step.isdecimal() else step]
    del at[name]
    with pytest.raises(EvidenceError, match=f"{name}: Field required"):
        _parse(changed)


def test_a_member_named_twice_is_refused() -> None:
    data = encode_statement(STATEMENT).replace(b'"version":1', b'"version":1,"version":1')
    with pytest.raises(EvidenceError, match="twice"):
        parse_statement(StatementBytes(data))


_LONE_KEM = b"\x00\x07" + b"\x01\x77\x77abcd"

_FAULTS: dict[str, tuple[str, object]] = {
    "another version": ("version", 2),
    "a version that is no integer": ("version", 1.0),
    "an instance of two lines": ("instance", "a\nb"),
    "keys that are no base64": ("ohttp_keys", "?"),
    "no keys": ("ohttp_keys", ""),
    "cut keys": ("ohttp_keys", base64.b64encode(base64.b64decode(GOOD["ohttp_keys"])[:-1]).decode()),
    "a time before 1970": ("not_after", -1),
    "a time that no calendar holds": ("not_after", 253_402_300_800),
    "a time that no clock holds": ("not_after", 10**300),
    "a time in text": ("not_after", "1800000000"),
    "chunks too small": ("max_chunk_bytes", 1023),
    "chunks too large": ("max_chunk_bytes", 262_145),
    "requests of nothing": ("max_request_bytes", 0),
    "models that are no array": ("models", {}),
    "a weights digest in capitals": ("models.0.weights_sha256", "AB" * 32),
    "a model without a name": ("models.0.id", ""),
    "an alias that a terminal obeys": ("models.0.aliases", ["\x1b[2J"]),
    "an attachment neither true nor false": ("config.components.0.attached", 0),
    "a component without a name": ("config.components.0.name", ""),
    "a component's model without weights": ("config.components.0.models.0.weights_sha256", ""),
    "a component twice": ("config.components", 2 * GOOD["config"]["components"]),
    "a plugin twice": ("config.components.0.plugins", ["a", "b", "a"]),
    "a loaded model twice": ("config.components.0.models", 2 * GOOD["config"]["components"][0]["models"]),
    "an option twice": ("config.insecure_options", ["allow_a", "allow_a"]),
    "a key twice": ("ohttp_keys", base64.b64encode(2 * base64.b64decode(GOOD["ohttp_keys"])).decode()),
    "a model twice": ("models", 2 * GOOD["models"]),
    "an alias twice": ("models", [{**GOOD["models"][0], "aliases": ["a", "a"]}]),
    "an alias that is its model's name": ("models", [{**GOOD["models"][0], "aliases": [GOOD["models"][0]["id"]]}]),
    "an alias that is another model's name": (
        "models",
        [GOOD["models"][0], {**GOOD["models"][0], "id": "another", "aliases": [GOOD["models"][0]["id"]]}],
    ),
    "a TLS key digest too short": ("tls_spki_sha256", "ab"),
    "a receipt key too short": ("receipt_key", "aGk="),
    "a receipt key too long": ("receipt_key", base64.b64encode(bytes(33)).decode()),
    "extensions that are no object": ("extensions", []),
}


@pytest.mark.parametrize(("path", "value"), _FAULTS.values(), ids=_FAULTS.keys())
def test_a_faulty_member_is_refused_by_name(path: str, value: object) -> None:
    with pytest.raises(EvidenceError, match=rf"^statement: ({path}|an integer is beyond)"):
        _parse(_changed(path, value))


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(EvidenceError, match=r"instance: .*not_after: .*config\.log_level: "):
        _parse(_changed("config.log_level", 7) | {"instance": "", "not_after": -1})


def test_a_key_of_an_unknown_kem_is_kept_beside_ours() -> None:
    keys = base64.b64decode(GOOD["ohttp_keys"]) + _LONE_KEM
    parsed = parse_statement(
        StatementBytes(json.dumps(_changed("ohttp_keys", base64.b64encode(keys).decode())).encode())
    )
    assert [key.kem for key in parsed.ohttp_keys] == [*Kem, 0x7777]


def test_a_statement_that_is_too_long_is_refused() -> None:
    with pytest.raises(EvidenceError, match=f"longer than {MAX_STATEMENT_BYTES} bytes"):
        parse_statement(StatementBytes(b" " * (MAX_STATEMENT_BYTES + 1)))


def test_a_statement_that_nobody_could_read_is_not_encoded() -> None:
    with pytest.raises(EvidenceError, match="instance"):
        encode_statement(statement_with(instance=""))


# The binding, computed once more by hand from the formulas (not from the code).

_STATEMENT_BYTES = StatementBytes(b'{"a":"statement"}')
_DEVICES = DeviceEvidence(b"device evidence")
_NONCES = (NONCE, OTHER_NONCE)


def test_the_nonces_are_combined_in_order() -> None:
    assert combine_nonces(_NONCES) == hashlib.sha256(NONCE + OTHER_NONCE).digest()
    assert combine_nonces(_NONCES) != combine_nonces(_NONCES[::-1])
    assert combine_nonces([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_report_data_is_what_the_formula_says() -> None:
    n = hashlib.sha256(NONCE + OTHER_NONCE).digest()
    s = hashlib.sha256(_STATEMENT_BYTES).digest()
    d = hashlib.sha256(_DEVICES).digest()
    expected = hashlib.sha512(struct.pack("19sx32s32s32s", b"sottovoce report v1", n, s, d)).digest()
    assert report_data(_NONCES, _STATEMENT_BYTES, _DEVICES) == expected
    assert len(expected) == 64


def test_the_gpu_nonce_is_what_the_formula_says() -> None:
    n = hashlib.sha256(NONCE + OTHER_NONCE).digest()
    s = hashlib.sha256(_STATEMENT_BYTES).digest()
    expected = hashlib.sha256(struct.pack("16sx32s32s", b"sottovoce gpu v1", n, s)).digest()
    assert gpu_nonce(_NONCES, _STATEMENT_BYTES) == expected


def test_the_binding_has_these_values() -> None:
    """Computed with `sha256sum` and `sha512sum`."""
    nonces = (Nonce(b"\x01" * 32), Nonce(b"\x02" * 32))
    statement = StatementBytes(b"statement")
    assert gpu_nonce(nonces, statement).hex() == "9012c9056030b5d66b88f29ed72ce1672a690cf29b081ca52833a7c8d46ff5de"
    assert report_data(nonces, statement, DeviceEvidence(b"")).hex() == (
        "1022bee6e0b14f79bca3779884b0fc5f4b574dc99965af1e0c1abd27df212b29"
        "ac8bd0b136865f5fe131e8dae949b565962e07bc4bbb77f5dbf537e1e6a1ae99"
    )


@pytest.mark.parametrize("path", sorted(GOOD))
def test_every_member_is_bound(path: str) -> None:
    changed = json.dumps({**GOOD, path: "another"}).encode()
    good = json.dumps(GOOD).encode()
    assert _bound(changed) != _bound(good)


def _bound(statement: bytes, nonces: tuple[Nonce, ...] = (NONCE,), devices: bytes = b"") -> bytes:
    return report_data(nonces, StatementBytes(statement), DeviceEvidence(devices))


@given(st.integers(0, 8 * len(_STATEMENT_BYTES) - 1))
def test_every_bit_of_the_statement_is_bound(bit: int) -> None:
    flipped = bytearray(_STATEMENT_BYTES)
    flipped[bit // 8] ^= 1 << bit % 8
    assert _bound(bytes(flipped)) != _bound(_STATEMENT_BYTES)


def test_nonces_and_devices_are_bound() -> None:
    values = [
        _bound(b"s"),
        _bound(b"s", (OTHER_NONCE,)),
        _bound(b"s", (NONCE, OTHER_NONCE)),
        _bound(b"s", devices=b"d"),
        _bound(b"sd"),
    ]
    assert len(set(values)) == len(values)
