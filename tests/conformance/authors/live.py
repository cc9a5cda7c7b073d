"""Which live sessions does a gateway serve, and which not? `live.json`."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final

from tests.conformance.authors.common import (
    LIVE_CONFIG,
    LIVE_KEY_NAME,
    PQ,
    PQ_LIVE_CONFIG,
    PQ_LIVE_KEY_NAME,
    accepted,
    key_figures,
    private,
    refused,
)
from tests.conformance.recipes import plain, seal_live

ABOUT: Final = "Live sessions, as they arrive at a gateway: messages of a WebSocket. See README.md."
OPEN: Final = accepted(close=1000)
KEY_MISMATCH: Final = refused("key_mismatch", close=4422)
MALFORMED: Final = refused("malformed", close=4400)
GATEWAY: Final = {"layer": "gateway"}
"""What the frames themselves do not show: only a gateway refuses it."""


def record(kind: int, body: str = "") -> str:
    return f"{kind:02x}{len(body) // 2:06x}{body}"


def text(words: str) -> str:
    return words.encode().hex()


def head(*, method: str = "GET", scheme: str = "https", authority: str = "sottovoce.invalid") -> str:
    strings = [method, scheme, authority, "/v1/realtime?intent=transcription"]
    return record(1, plain(["02", *({"string": each} for each in strings), "00"]).hex())


def end(code: int = 1000, reason: str = "") -> str:
    return record(5, f"{code:04x}{text(reason)}")


HEAD: Final = head()
EVENT: Final = record(2, text("{}"))
AUDIO: Final = record(4, "00" * 480)
RECEIPT: Final = record(6, text("a.b"))
SPOKEN: Final = {"frames": [[HEAD], [AUDIO, EVENT], [], [end()]]}


def _of(says: str, expect: dict[str, Any], *frames: list[Any], **more: Any) -> dict[str, Any]:
    return {"says": says, "frames": list(frames), **more, "expect": expect}


def _sent(says: str, expect: dict[str, Any], *send: Any, **more: Any) -> dict[str, Any]:
    return {"says": says, **SPOKEN, "send": list(send), **more, "expect": expect}


def _part(number: int, **change: Any) -> dict[str, Any]:
    return {"part": number, **change}


def _served() -> Iterator[dict[str, Any]]:
    yield _of("a head, audio and an event, padding, an end", OPEN, *SPOKEN["frames"])
    yield _of("AES-128-GCM", OPEN, *SPOKEN["frames"], aead=1)
    yield _of("ChaCha20-Poly1305", OPEN, *SPOKEN["frames"], aead=3)
    yield _of("an end with a reason", OPEN, [HEAD], [end(3000, "enough said")])
    yield _of(
        "an event in three parts",
        OPEN,
        [HEAD],
        [record(3, text('{"a"'))],
        [
            record(3, text(":")),
            record(2, text("1}")),
        ],
        [end()],
    )
    yield _of("an event that fills its frame", OPEN, [HEAD], [record(2, "20" * 5116)], [end()])
    yield _of("audio that fills its frame", OPEN, [HEAD], [record(4, "00" * 5116)], [end()])
    yield _of("many records in one frame", OPEN, [HEAD], [EVENT * 20, AUDIO, end()])
    yield _of("an event that is empty", OPEN, [HEAD], [record(2)], [end()])
    yield _of("frames of nothing but padding", OPEN, [HEAD], [], [], [], [end()])


def _key_mismatches() -> Iterator[dict[str, Any]]:
    for says, change in (
        ("a key id that nobody has", {"flip": [1, 255]}),
        ("a KEM that is unknown", {"put": [2, "ffff"]}),
        ("a KDF that is unknown", {"put": [4, "ffff"]}),
        ("an AEAD that is unknown", {"put": [6, "7777"]}),
        ("another AEAD of the key", {"put": [6, "0003"]}),
        ("an encapsulated key with a bit flipped", {"flip": [20, 1]}),
        ("an encapsulated key of zeros", {"put": [8, "00" * 32]}),
        ("the first frame has a bit flipped", {"flip": [60, 1]}),
        ("the tag of the first frame has a bit flipped", {"flip": [-1, 1]}),
    ):
        yield _sent(says, KEY_MISMATCH, _part(0, **change))
    yield _sent("sealed under another label", KEY_MISMATCH, 0, label="message/bhttp chunked request")


def _wrong_messages() -> Iterator[dict[str, Any]]:
    yield _sent("another version", MALFORMED, _part(0, flip=[0, 3]))
    yield _sent("a first message that is empty", MALFORMED, _part(0, cut=0))
    yield _sent("a first message that lacks a byte", MALFORMED, _part(0, cut=-1))
    yield _sent("a first message with a byte behind it", MALFORMED, _part(0, append="00"))
    yield _sent("a first message without its header", MALFORMED, _part(1, put=[0, "00"]))
    yield _sent("a later frame has a bit flipped", MALFORMED, 0, _part(1, flip=[9, 1]))
    yield _sent("a later frame lacks a byte", MALFORMED, 0, _part(1, cut=-1))
    yield _sent("a later frame has a byte behind it", MALFORMED, 0, _part(1, append="00"))
    yield _sent("a later frame that is empty", MALFORMED, 0, _part(1, cut=0))
    yield _sent("a frame is missing", MALFORMED, 0, 2)
    yield _sent("a frame is sent twice", MALFORMED, 0, 1, 1)
    yield _sent("frames are swapped", MALFORMED, 0, 2, 1)
    yield _sent("the first message is sent twice", MALFORMED, 0, 0)
    again = [{"expect": refused("replay", close=4400)}]
    yield _of("sent twice", OPEN, [HEAD], [end()], again=again, **GATEWAY)


def _wrong_records() -> Iterator[dict[str, Any]]:
    for says, frame in (
        ("padding that is not zero", "0001"),
        ("a record longer than its frame", record(2, "20" * 5117)[: 2 * 5120]),
        ("a record whose header does not fit", record(4, "00" * 5113) + "020000"),
        ("a type that is unknown", record(7, "00")),
        ("a type of 255", record(255, "00")),
        ("a second head", HEAD),
        ("audio that is empty", record(4)),
        ("a part of an event that is empty", record(3)),
        ("audio between the parts of an event", record(3, "7b") + record(4, "00")),
        ("an end between the parts of an event", record(3, "7b") + end()),
        ("a record behind the end", end() + EVENT),
        ("an end without a code", record(5)),
        ("an end with half a code", record(5, "03")),
        ("an end with a code that is never sent (1005)", end(1005)),
        ("an end with a code that is never sent (1006)", end(1006)),
        ("an end with a code that is too small", end(999)),
        ("an end with a code that is too large", end(5000)),
        ("an end whose reason is no UTF-8", record(5, "03e8ff")),
        ("an end whose reason is too long", end(1000, "x" * 124)),
    ):
        yield _of(says, MALFORMED, [HEAD], [frame])
    yield _of("no head", MALFORMED, [EVENT])
    yield _of("a first frame of padding", MALFORMED, [])
    yield _of("an event in front of the head", MALFORMED, [EVENT + HEAD])
    yield _of("more than a head in the first frame", MALFORMED, [HEAD + EVENT], **GATEWAY)
    yield _of("a head that is cut", MALFORMED, [record(1, HEAD[8:-2])], **GATEWAY)
    yield _of("a head with bytes behind it", MALFORMED, [record(1, HEAD[8:] + "00")], **GATEWAY)
    yield _of("a head for somebody else", MALFORMED, [head(authority="example.org")], **GATEWAY)
    yield _of("a head for another scheme", MALFORMED, [head(scheme="http")], **GATEWAY)


def _receipts() -> Iterator[dict[str, Any]]:
    for says, frame in (
        ("a receipt that is empty", record(6)),
        ("a receipt that is no ASCII", record(6, "ff")),
        ("a receipt between the parts of an event", record(3, "7b") + RECEIPT),
        ("an event behind a receipt", RECEIPT + EVENT),
        ("a second receipt", RECEIPT + RECEIPT + end()),
    ):
        yield _of(says, MALFORMED, [HEAD], [frame])
    yield _of("a receipt, which the caller has none to give", MALFORMED, [HEAD], [RECEIPT], **GATEWAY)


def _post_quantum() -> Iterator[dict[str, Any]]:
    yield _of("a head, audio and an event, padding, an end", OPEN, *SPOKEN["frames"])
    for says, change in (
        ("the KEM of the other key", {"put": [2, "0020"]}),
        ("ML-KEM's part has a bit flipped", {"flip": [100, 1]}),
        ("X25519's part has a bit flipped", {"flip": [1100, 1]}),
        ("the first frame has a bit flipped", {"flip": [1200, 1]}),
    ):
        yield _sent(says, KEY_MISMATCH, _part(0, **change))
    yield _sent("a first message that lacks a byte", MALFORMED, _part(0, cut=-1))
    yield _sent("a later frame has a bit flipped", MALFORMED, 0, _part(1, flip=[9, 1]))


def figures() -> dict[str, Any]:
    """What stands in the file."""
    groups = {
        "served": _served(),
        "key": _key_mismatches(),
        "message": _wrong_messages(),
        "record": _wrong_records(),
        "receipt": _receipts(),
        "post-quantum": ({**each, "kem": PQ, "says": f"{each['says']}, post-quantum"} for each in _post_quantum()),
    }
    return {
        "format": 1,
        "about": ABOUT,
        "key": key_figures(LIVE_KEY_NAME, LIVE_CONFIG),
        "post_quantum_key": key_figures(PQ_LIVE_KEY_NAME, PQ_LIVE_CONFIG),
        "vectors": [
            _finished(f"live/{group}/{number:02}", each)
            for group, vectors in groups.items()
            for number, each in enumerate(vectors, 1)
        ],
    }


def _finished(id_: str, recipe: dict[str, Any]) -> dict[str, Any]:
    named = {"id": id_, "says": recipe.pop("says"), "profile": "sottovoce", **recipe}
    if "kem" in named:
        return named
    ephemeral = private(id_)
    call = seal_live(named, LIVE_CONFIG, ephemeral=ephemeral)
    digests = [sha256(message).hexdigest() for message in call.messages]
    return {**named, "ephemeral": ephemeral.hex(), "messages_sha256": digests}
