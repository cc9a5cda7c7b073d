"""What can be read as an engine's statement, and what not? `statements.json`."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Final

from core.channel.keyconfig import encode_key_configs
from tests.conformance.authors.common import CONFIG, LIVE_CONFIG, OTHER_CONFIG, accepted, refused

ABOUT: Final = "Statements, as exact bytes. See README.md."
WRONG: Final = refused("malformed")
OK: Final = accepted()
KEYS: Final = b64encode(encode_key_configs([CONFIG])).decode()
WEIGHTS: Final = "ab" * 32

STATEMENT: Final[dict[str, Any]] = {
    "version": 1,
    "instance": "3f2a",
    "ohttp_keys": KEYS,
    "not_after": 1_780_318_800,
    "max_chunk_bytes": 65_536,
    "max_request_bytes": 27_262_976,
    "models": [{"id": "openai/whisper-large-v3", "aliases": ["whisper-1"], "weights_sha256": WEIGHTS}],
    "config": {
        "components": [
            {
                "name": "faster-whisper",
                "arguments": ["device=cpu"],
                "attached": False,
                "plugins": [],
                "models": [{"id": "openai/whisper-large-v3", "weights_sha256": WEIGHTS}],
            }
        ],
        "log_level": "info",
        "api_keys_required": True,
        "request_log": False,
        "insecure_options": [],
        "evidence_from": "configfs",
    },
    "tls_spki_sha256": None,
    "receipt_key": None,
    "extensions": {},
}


def changed(path: str, value: Any) -> str:
    """The good statement with one member changed, or taken away (`...`)."""
    statement = deepcopy(STATEMENT)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = statement
    for step in parents:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(statement, separators=(",", ":"))


def _accepted() -> Iterator[tuple[str, str]]:
    yield "a whole statement", json.dumps(STATEMENT, separators=(",", ":"))
    yield "with space between its members", json.dumps(STATEMENT, indent=2)
    yield "with extensions that nobody knows", changed("extensions", {"note": [1, {"deep": None}]})
    live = b64encode(encode_key_configs([LIVE_CONFIG])).decode()
    yield "with keys for live sessions", changed("extensions", {"live_keys": live})
    yield "with two keys", changed("ohttp_keys", b64encode(encode_key_configs([CONFIG, OTHER_CONFIG])).decode())
    yield "with the digest of a TLS key", changed("tls_spki_sha256", "cd" * 32)
    yield "with a key for receipts", changed("receipt_key", b64encode(bytes(range(32))).decode())
    yield "without models", changed("models", [])
    yield "with chunks of 1,024 bytes", changed("max_chunk_bytes", 1024)
    yield "with chunks of 262,144 bytes", changed("max_chunk_bytes", 262_144)


_MEMBERS: Final = tuple(name for name in STATEMENT if name != "extensions")

_CHANGES: Final[tuple[tuple[str, str, Any], ...]] = (
    ("another version", "version", 2),
    ("a version that is a fraction", "version", 1.0),
    ("a version that is text", "version", "1"),
    ("a version that is a truth value", "version", True),
    ("a member that nobody knows", "more", 1),
    ("a member of its configuration that nobody knows", "config.more", 1),
    ("a member of a component that nobody knows", "config.components.0.more", 1),
    ("an instance that is empty", "instance", ""),
    ("an instance with a line break", "instance", "a\nb"),
    ("keys that are no base64", "ohttp_keys", "!!"),
    ("keys whose base64 is not canonical", "ohttp_keys", KEYS[:-2] + "B="),
    ("no key", "ohttp_keys", ""),
    ("a list of keys that is cut", "ohttp_keys", b64encode(encode_key_configs([CONFIG])[:-1]).decode()),
    ("a key given twice", "ohttp_keys", b64encode(encode_key_configs([CONFIG, CONFIG])).decode()),
    ("an end that is negative", "not_after", -1),
    ("an end that is a fraction", "not_after", 1_780_318_800.5),
    ("an end beyond the year 9999", "not_after", 253_402_300_800),
    ("chunks of 1,023 bytes", "max_chunk_bytes", 1023),
    ("chunks of 262,145 bytes", "max_chunk_bytes", 262_145),
    ("requests of no bytes", "max_request_bytes", 0),
    ("a digest of weights in capitals", "models.0.weights_sha256", "AB" * 32),
    ("a digest of weights that is too short", "models.0.weights_sha256", "ab" * 31),
    ("an alias that is the name of its model", "models.0.aliases", ["openai/whisper-large-v3"]),
    ("an alias given twice", "models.0.aliases", ["a", "a"]),
    ("a component named twice", "config.components", STATEMENT["config"]["components"] * 2),
    ("a plugin named twice", "config.components.0.plugins", ["a", "a"]),
    ("a component without arguments", "config.components.0.arguments", ...),
    ("arguments that are no list", "config.components.0.arguments", "device=cpu"),
    ("attached that is a number", "config.components.0.attached", 0),
    ("an option named twice", "config.insecure_options", ["allow_a", "allow_a"]),
    ("no word of who handed out the evidence", "config.evidence_from", ...),
    ("a digest of a TLS key that is none", "tls_spki_sha256", "cd"),
    ("a key for receipts that is too short", "receipt_key", b64encode(bytes(31)).decode()),
    ("extensions that are a list", "extensions", []),
    ("keys for live sessions that are none", "extensions", {"live_keys": "AAA="}),
    (
        "a key for live sessions given twice",
        "extensions",
        {"live_keys": b64encode(encode_key_configs([LIVE_CONFIG, LIVE_CONFIG])).decode()},
    ),
    ("an integer beyond 2^53", "extensions", {"large": 2**53}),
    ("half of a surrogate pair", "extensions", {"half": "\ud800"}),
)


def _refused() -> Iterator[tuple[str, str]]:
    good = json.dumps(STATEMENT, separators=(",", ":"))
    yield "nothing", ""
    yield "a list", "[]"
    yield "text behind it", good + "{}"
    yield "cut", good[:-1]
    yield "a member given twice", '{"version":1,' + good[1:]
    yield (
        "a member given twice, deep inside",
        good.replace('"log_level":"info"', '"log_level":"info","log_level":"info"'),
    )
    yield "NaN", good.replace('"not_after":1780318800', '"not_after":NaN')
    yield "a number that is too large", good.replace('"extensions":{}', '"extensions":{"large":1e999}')
    yield "a comma at the end", good[:-1] + ",}"
    yield "longer than 65,536 bytes", good + " " * 65_536
    yield "nested too deeply", good.replace('"extensions":{}', '"extensions":{"deep":' + "[" * 40 + "]" * 40 + "}")
    for name in _MEMBERS:
        yield f"without {name}", changed(name, ...)
    for says, path, value in _CHANGES:
        yield says, changed(path, value)


def figures() -> dict[str, Any]:
    """What stands in the file."""
    cases = [*((*each, OK) for each in _accepted()), *((*each, WRONG) for each in _refused())]
    vectors = [
        {"id": f"statement/{number:02}", "says": says, **_text(data), "expect": expect}
        for number, (says, data, expect) in enumerate(cases, 1)
    ]
    not_utf8 = json.dumps(STATEMENT).encode().replace(b"3f2a", b"3f\xff2")
    vectors.append(
        {
            "id": "statement/bytes",
            "says": "bytes that are no UTF-8",
            "base64": b64encode(not_utf8).decode(),
            "expect": WRONG,
        }
    )
    return {"format": 1, "about": ABOUT, "vectors": vectors}


def _text(data: str) -> dict[str, Any]:
    """The text; with how many spaces behind it, where these are many."""
    bare = data.rstrip(" ")
    spaces = len(data) - len(bare)
    return {"text": bare} | ({"spaces": spaces} if spaces else {})
