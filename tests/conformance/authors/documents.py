"""What can be read as an attestation document, and what not? `documents.json`."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Final

from tests.conformance.authors.common import accepted, refused

ABOUT: Final = "Attestation documents, as an engine answers them. See README.md."
NONCE: Final = bytes(range(32)).hex()
PIECE: Final = {"kind": "snp-crl", "name": "Milan", "data": b64encode(b"list").decode()}
DOCUMENT: Final[dict[str, Any]] = {
    "version": 1,
    "nonces": [NONCE],
    "statement": b64encode(b"{}").decode(),
    "evidence": {"kind": "snp", "report": b64encode(bytes(64)).decode()},
    "device_evidence": "",
    "collateral": [PIECE],
}


def _with(**members: Any) -> str:
    return json.dumps(DOCUMENT | members)


def _without(name: str) -> str:
    return json.dumps({member: value for member, value in DOCUMENT.items() if member != name})


def _readable() -> Iterator[tuple[str, str]]:
    yield "a document", _with()
    yield "one that answers 64 nonces", _with(nonces=[f"{number:064x}" for number in range(64)])
    yield "one without collateral", _with(collateral=[])
    yield "one of an Intel machine", _with(evidence={"kind": "tdx", "report": "AAAA"})


def _unreadable() -> Iterator[tuple[str, str]]:
    yield "nothing", ""
    yield "cut", _with()[:-1]
    for name in DOCUMENT:
        yield f"without {name}", _without(name)
    yield "another version", _with(version=2)
    yield "a member that nobody knows", _with(more=1)
    yield "a member given twice", '{"version":1,' + _with()[1:]
    yield "no nonce", _with(nonces=[])
    yield "65 nonces", _with(nonces=[f"{number:064x}" for number in range(65)])
    yield "a nonce in capitals", _with(nonces=[NONCE.upper()])
    yield "a nonce that is too short", _with(nonces=[NONCE[:-2]])
    yield "evidence of an unknown kind", _with(evidence={"kind": "sgx", "report": "AAAA"})
    yield "a report that is no base64", _with(evidence={"kind": "snp", "report": "A"})
    yield "a statement in base64 for URLs", _with(statement="__8=")
    yield "a statement whose base64 is not canonical", _with(statement="AB==")
    yield "collateral of an unknown kind", _with(collateral=[PIECE | {"kind": "gossip"}])
    yield "a piece of collateral given twice", _with(collateral=[PIECE, PIECE])
    yield "257 pieces of collateral", _with(collateral=[PIECE | {"name": str(number)} for number in range(257)])


def figures() -> dict[str, Any]:
    """What stands in the file."""
    cases = [*((*each, accepted()) for each in _readable()), *((*each, refused("malformed")) for each in _unreadable())]
    return {
        "format": 1,
        "about": ABOUT,
        "vectors": [
            {"id": f"document/{number:02}", "says": says, "text": text, "expect": expect}
            for number, (says, text, expect) in enumerate(cases, 1)
        ],
    }
