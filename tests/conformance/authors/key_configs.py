"""Which lists of key configurations can be used, and which not? `key_configs.json`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tests.conformance.authors.common import CONFIG, OTHER_CONFIG, PQ_CONFIG, accepted, refused

ABOUT: Final = "Lists of key configurations (RFC 9458 section 3.2). See README.md."
ONE: Final = CONFIG.encode().hex()
OTHER: Final = OTHER_CONFIG.encode().hex()
PUBLIC: Final = CONFIG.public_key.hex()
HEAD: Final = "5a0020" + PUBLIC
UNKNOWN: Final = "77ffff" + "aa" * 20
WRONG: Final = refused("malformed")


def entry(data: str) -> str:
    return f"{len(data) // 2:04x}" + data


def _lists() -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield "one", entry(ONE), accepted(ids=[0x5A], usable=[0x5A])
    yield "two", entry(ONE) + entry(OTHER), accepted(ids=[0x5A, 0x5B], usable=[0x5A, 0x5B])
    yield (
        "one of a KEM that is unknown beside ours",
        entry(UNKNOWN) + entry(ONE),
        accepted(ids=[0x77, 0x5A], usable=[0x5A]),
    )
    yield "one of a KEM that is unknown alone", entry(UNKNOWN), accepted(ids=[0x77], usable=[])
    strange = HEAD + "0004" + "00037777"
    yield "suites that are all unknown", entry(strange), accepted(ids=[0x5A], usable=[])
    mixed = HEAD + "0008" + "00037777" + "00010001"
    yield "a suite that is unknown before one of ours", entry(mixed), accepted(ids=[0x5A], usable=[0x5A])
    low = "5a0020" + "00" * 32 + "000400010002"
    yield "a public key of low order", entry(low), accepted(ids=[0x5A], usable=[])
    yield "nothing", "", WRONG
    yield "half a length", "00", WRONG
    yield "an entry that is cut", entry(ONE)[:-2], WRONG
    yield "an entry that is empty", "0000", WRONG
    yield "a second entry that is cut", entry(ONE) + entry(OTHER)[:-8], WRONG
    yield "bytes behind the entries", entry(ONE) + "00", WRONG
    yield "an entry without its length", ONE, WRONG
    yield "no suites", entry(HEAD + "0000"), WRONG
    yield "cut before its suites", entry(HEAD), WRONG
    yield "cut inside its public key", entry(HEAD[:-2]), WRONG
    yield "half a suite", entry(HEAD + "0002" + "0001"), WRONG
    yield "suites shorter than they say", entry(HEAD + "0008" + "00010002"), WRONG
    yield "suites longer than they say", entry(HEAD + "0004" + "0001000200010003"), WRONG
    yield "a good entry beside one without suites", entry(ONE) + entry(HEAD + "0000"), WRONG
    pq = PQ_CONFIG.encode().hex()
    yield "a post-quantum key beside another", entry(pq) + entry(ONE), accepted(ids=[0x7B, 0x5A], usable=[0x7B, 0x5A])
    yield "a post-quantum key that is cut", entry(pq[:-2]) + entry(ONE), WRONG
    no_key = "7b647a" + "ff" * 1216 + "000400010002"
    yield "a post-quantum key that is none", entry(no_key), accepted(ids=[0x7B], usable=[])


def figures() -> dict[str, Any]:
    """What stands in the file."""
    return {
        "format": 1,
        "about": ABOUT,
        "vectors": [
            {"id": f"key-config/{number:02}", "says": says, "profile": "ohttp", "data": data, "expect": expect}
            for number, (says, data, expect) in enumerate(_lists(), 1)
        ],
    }
