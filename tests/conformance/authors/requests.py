"""Which sealed requests does a gateway serve, and which not? `requests.json`."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, Final

from core.channel.kem import PrivateKey
from tests.conformance.authors.common import (
    CONFIG,
    HEAD,
    KEY_MISMATCH,
    KEY_NAME,
    MALFORMED,
    MAX_CHUNK_BYTES,
    MAX_REQUEST_BYTES,
    MAX_WIRE_BYTES,
    MESSAGE,
    NOT_HERE,
    OTHER_CONFIG,
    OVERSIZE,
    PQ,
    PQ_CONFIG,
    PQ_KEY_NAME,
    REPLAY,
    accepted,
    key_figures,
    private,
)
from tests.conformance.recipes import seal_request

ABOUT: Final = "Requests, as they arrive at a gateway. See README.md."
OK: Final = accepted(status=200)
OURS: Final = "sottovoce"
LAST: Final[list[Any]] = [None, "final"]
FULL: Final[list[Any]] = [1024, ""]


def padded(bytes_: int) -> list[Any]:
    """The plain message, with zeros up to so many bytes."""
    return [*MESSAGE, {"zeros_up_to": bytes_}]


THREE: Final[dict[str, Any]] = {"message": padded(2500), "chunks": [FULL, FULL, LAST]}
"""Two chunks and a final one."""


def vector(says: str, expect: dict[str, Any], **recipe: Any) -> dict[str, Any]:
    return {"says": says, **({"message": MESSAGE} | recipe), "expect": expect}


def three(says: str, expect: dict[str, Any], *send: Any, **more: Any) -> dict[str, Any]:
    """Of two chunks and a final one, sent like that."""
    return vector(says, expect, **(THREE | ({"send": ["header", *send]} if send else {}) | more))


def header(**change: Any) -> dict[str, Any]:
    return {"part": "header", **change}


def part(name: Any, **change: Any) -> dict[str, Any]:
    return {"part": name, **change}


def _served() -> Iterator[dict[str, Any]]:
    yield vector("one final chunk", OK)
    yield vector("one final chunk, AES-128-GCM", OK, aead=1)
    yield vector("one final chunk, ChaCha20-Poly1305", OK, aead=3)
    yield three("two chunks and a final one", OK)
    yield three("two chunks and a final one, ChaCha20-Poly1305", OK, aead=3)
    yield vector("a final chunk that is empty", OK, message=padded(2048), chunks=[FULL, FULL, LAST])
    yield vector("a final chunk of one byte", OK, message=padded(2049), chunks=[FULL, FULL, LAST])
    yield vector(
        "five chunks of different sizes",
        OK,
        message=padded(9000),
        chunks=[
            [1024, ""],
            [2048, ""],
            [1025, ""],
            [1500, ""],
            LAST,
        ],
    )
    yield vector("padded to 16 KiB", OK, message=padded(16_384))
    yield vector(
        "a chunk of 16,384 bytes, which every receiver takes",
        OK,
        message=padded(20_000),
        chunks=[
            [16_384, ""],
            LAST,
        ],
    )
    yield vector(
        "a chunk as long as the statement allows",
        OK,
        profile=OURS,
        message=padded(70_000),
        chunks=[
            [MAX_CHUNK_BYTES, ""],
            LAST,
        ],
    )
    yield vector("a final chunk as long as the statement allows", OK, profile=OURS, message=padded(MAX_CHUNK_BYTES))
    yield three("a length in four bytes that fits into two", OK, part(0, length="80000410"), 1, 2)
    yield three("a length in eight bytes that fits into two", OK, part(0, length="c000000000000410"), 1, 2)
    for text, length in (("two", "4000"), ("four", "80000000"), ("eight", "c000000000000000")):
        yield three(f"the zero before the final chunk in {text} bytes", OK, 0, 1, part(2, length=length))
    long_field = ["02", "{method}", "{scheme}", "{authority}", "{path}", {"string": "x-long"}]
    long_field += [{"string": "v" * 1500}, "00", "00", "00"]
    yield vector("a head that is cut by a chunk", OK, message=long_field, chunks=[FULL, LAST])
    yield vector("sent to the gateway's well-known path", OK, profile=OURS, http={"path": "/.well-known/ohttp-gateway"})
    yield vector("sent to the path of its key", OK, profile=OURS, http={"path": "/ohttp/{digest}"})
    yield vector("with a Content-Length and not in HTTP chunks", OK, http={"framing": "length"})
    yield vector("in HTTP chunks", OK, http={"framing": "chunked"})
    yield three("in HTTP chunks of one byte", OK, http={"framing": "bytes"})


def _key_mismatches() -> Iterator[dict[str, Any]]:
    """What a new key would mend, so that the client may verify again (RFC 9458 section 5.3)."""
    for says, change in (
        ("a key id that nobody has", {"flip": [0, 0xFF]}),
        ("a KEM that is unknown", {"put": [1, "ffff"]}),
        ("the KEM DHKEM(P-256), which the key is not of", {"put": [1, "0010"]}),
        ("a KDF that is unknown", {"put": [3, "ffff"]}),
        ("a KDF that the key does not offer", {"put": [3, "0003"]}),
        ("an AEAD that is unknown", {"put": [5, "7777"]}),
        ("the AEAD that only exports (0xffff)", {"put": [5, "ffff"]}),
        ("another AEAD of the key than it was sealed with", {"put": [5, "0003"]}),
        ("an encapsulated key with a bit flipped", {"flip": [20, 1]}),
        ("an encapsulated key of zeros", {"put": [7, "00" * 32]}),
        ("an encapsulated key of low order", {"put": [7, "01" + "00" * 31]}),
        ("the encapsulated key of another request", {"put": [7, _enc("another request").hex()]}),
    ):
        yield vector(says, KEY_MISMATCH, **THREE, send=[header(**change), 0, 1, 2])
    yield vector("the one chunk there is has a bit flipped", KEY_MISMATCH, send=["header", part(0, flip=[3, 1])])
    yield vector("the tag of the one chunk has a bit flipped", KEY_MISMATCH, send=["header", part(0, flip=[-1, 128])])
    yield three("the first chunk has a bit flipped", KEY_MISMATCH, part(0, flip=[100, 4]), 1, 2)
    yield three("the tag of the first chunk has a bit flipped", KEY_MISMATCH, part(0, flip=[-16, 1]), 1, 2)
    yield three("the first chunk is missing", KEY_MISMATCH, 1, 2)
    yield three("the first two chunks are swapped", KEY_MISMATCH, 1, 0, 2)
    yield three("only the final chunk is sent", KEY_MISMATCH, 2)
    yield three("the first chunk is sent as the final one", KEY_MISMATCH, part(0, length="00"))
    yield vector(
        "the one chunk was not sealed as the final one",
        KEY_MISMATCH,
        chunks=[[None, ""]],
        send=[
            "header",
            part(0, length="00"),
        ],
    )
    yield vector(
        "the first chunk was sealed as the final one",
        KEY_MISMATCH,
        message=padded(2500),
        chunks=[
            [1024, "final"],
            LAST,
        ],
        send=["header", part(0, length="4410"), 1],
    )
    yield vector("sealed under the label of requests in one piece", KEY_MISMATCH, label="message/bhttp request")
    yield vector("sealed under the label of answers", KEY_MISMATCH, label="message/bhttp chunked response")
    yield vector("sealed under the label of live sessions", KEY_MISMATCH, label="sottovoce live v1")
    yield vector("sealed to a key that nobody has", KEY_MISMATCH, sealed_to=OTHER_CONFIG.encode().hex())
    yield vector(
        "the path names a key that nobody has",
        KEY_MISMATCH,
        profile=OURS,
        http={
            "path": f"/ohttp/{OTHER_CONFIG.path_digest}",
        },
    )
    wrong_kem = {"send": [header(put=[1, "647a"]), 0, 1, 2]}
    yield vector("the KEM of ML-KEM with X25519, which the key is not of", KEY_MISMATCH, **THREE, **wrong_kem)


def _cut() -> Iterator[dict[str, Any]]:
    for says, cut in (("inside the names", 3), ("behind the names", 7), ("inside the encapsulated key", 38)):
        yield vector(f"cut {says}", MALFORMED, send=[header(cut=cut)])
    yield vector("no body at all", MALFORMED, send=[])
    yield vector("a header and nothing else", MALFORMED, send=["header"])
    yield vector("cut behind the zero of the final chunk", MALFORMED, send=["header", part(0, cut=0)])
    yield vector("cut inside the tag of the final chunk", MALFORMED, send=["header", part(0, cut=15)])
    yield three("cut inside the first length", MALFORMED, {"bytes": ["44"]})
    yield three("cut behind the first length", MALFORMED, part(0, cut=0))
    yield three("cut inside the first chunk", MALFORMED, part(0, cut=1039))
    yield three("cut between two chunks", MALFORMED, 0)
    yield three("cut inside the second chunk", MALFORMED, 0, part(1, cut=17))
    yield three("cut before the final chunk", MALFORMED, 0, 1)
    yield three("cut behind the zero of the final chunk, after others", MALFORMED, 0, 1, part(2, cut=0))
    yield three("the final chunk lacks its last byte", MALFORMED, 0, 1, part(2, cut=-1))
    yield three("the final chunk is its tag", MALFORMED, 0, 1, part(2, cut=16))


def _lengths() -> Iterator[dict[str, Any]]:
    """A length is refused by its value: the bytes that it speaks of are not awaited."""
    for says, length, profile in (
        ("a chunk shorter than a tag", "0f", None),
        ("a chunk that is a tag, so that its plaintext is empty", "10", None),
        ("a chunk of one byte, which is not the final one", "11", OURS),
        ("a chunk of 1,023 bytes, which is not the final one", "440f", OURS),
        ("a chunk of one byte more than the statement allows", "80010011", OURS),
        ("a chunk of a gibibyte", "c000000040000000", None),
        ("a chunk of 2^62 - 1 bytes", "ffffffffffffffff", None),
    ):
        more = {"profile": profile} if profile else {}
        yield three(says, MALFORMED, {"bytes": [length, {"zeros": 40}]}, **more)
    yield vector(
        "a chunk of 1,023 bytes that would open",
        MALFORMED,
        profile=OURS,
        message=padded(2500),
        chunks=[
            [1023, ""],
            LAST,
        ],
    )
    yield vector(
        "a later chunk of 1,023 bytes that would open",
        MALFORMED,
        profile=OURS,
        message=padded(2500),
        chunks=[
            FULL,
            [1023, ""],
            LAST,
        ],
    )
    yield vector("an empty chunk between two others", MALFORMED, message=padded(2500), chunks=[FULL, [0, ""], LAST])
    yield vector(
        "a chunk that is too long and would open",
        MALFORMED,
        profile=OURS,
        message=padded(70_000),
        chunks=[
            [MAX_CHUNK_BYTES + 1, ""],
            LAST,
        ],
    )
    yield vector("a final chunk that is too long and would open", MALFORMED, profile=OURS, message=padded(70_000))


def _later_chunks() -> Iterator[dict[str, Any]]:
    yield three("the second chunk has a bit flipped", MALFORMED, 0, part(1, flip=[0, 1]), 2)
    yield three("the tag of the second chunk has a bit flipped", MALFORMED, 0, part(1, flip=[-1, 1]), 2)
    yield three("the final chunk has a bit flipped", MALFORMED, 0, 1, part(2, flip=[5, 64]))
    yield three("the tag of the final chunk has a bit flipped", MALFORMED, 0, 1, part(2, flip=[-16, 2]))
    yield three("the second chunk is missing", MALFORMED, 0, 2)
    yield three("the first chunk is sent twice", MALFORMED, 0, 0, 1, 2)
    yield three("the second chunk is sent twice", MALFORMED, 0, 1, 1, 2)
    yield three("the final chunk is sent twice", MALFORMED, 0, 1, 2, 2)
    yield three("a chunk behind the final one", MALFORMED, 0, 1, 2, 1)
    yield three("a byte behind the final chunk", MALFORMED, 0, 1, 2, {"bytes": ["00"]})
    yield three("a second request behind the first", MALFORMED, 0, 1, 2, "header", 0, 1, 2)
    yield three("the second chunk is shorter, and says so", MALFORMED, 0, part(1, cut=1039, length="440f"), 2)
    yield three("the second chunk is longer, and says so", MALFORMED, 0, part(1, append="00", length="4411"), 2)
    yield three("the length of the second chunk is one too small", MALFORMED, 0, part(1, length="440f"), 2)
    yield three("the length of the second chunk is one too large", MALFORMED, 0, part(1, length="4411"), 2)
    yield three("the second chunk is sent as the final one", MALFORMED, 0, part(1, length="00"))
    yield three("the final chunk is sent as any other", MALFORMED, 0, 1, part(2, length="41d4"))
    four = {"message": padded(3500), "chunks": [FULL, FULL, FULL, LAST]}
    yield vector("the second and the third chunk are swapped", MALFORMED, **four, send=["header", 0, 2, 1, 3])
    yield vector("the third chunk is missing", MALFORMED, **four, send=["header", 0, 1, 3])
    yield vector(
        "the last chunk was not sealed as the final one",
        MALFORMED,
        message=padded(1500),
        chunks=[
            FULL,
            [None, ""],
        ],
        send=["header", 0, part(1, length="00")],
    )
    yield vector(
        "a chunk in the middle was sealed as the final one",
        MALFORMED,
        message=padded(3000),
        chunks=[
            FULL,
            [1024, "final"],
            LAST,
        ],
        send=["header", 0, part(1, length="4410"), 2],
    )


def _replays() -> Iterator[dict[str, Any]]:
    yield vector("sent twice", OK, profile=OURS, again=[{"expect": REPLAY}])
    yield three("sent twice, of several chunks", OK, profile=OURS, again=[{"expect": REPLAY}])
    yield vector(
        "sent again to the well-known path",
        OK,
        profile=OURS,
        http={"path": "/ohttp/{digest}"},
        again=[
            {"http": {"path": "/.well-known/ohttp-gateway"}, "expect": REPLAY},
        ],
    )
    yield vector(
        "sent again to the path of its key",
        OK,
        profile=OURS,
        http={"path": "/.well-known/ohttp-gateway"},
        again=[{"http": {"path": "/ohttp/{digest}"}, "expect": REPLAY}],
    )
    yield three(
        "sent right after the first chunk was changed: it was not yet seen",
        KEY_MISMATCH,
        part(0, flip=[0, 1]),
        1,
        2,
        profile=OURS,
        again=[{"send": ["header", 0, 1, 2], "expect": OK}],
    )
    yield three(
        "sent right after its header alone: it was not yet seen",
        MALFORMED,
        {"bytes": []},
        profile=OURS,
        again=[{"send": ["header", 0, 1, 2], "expect": OK}],
    )
    yield vector("sent a third time", OK, profile=OURS, again=[{"expect": REPLAY}, {"expect": REPLAY}])


def _post_quantum() -> Iterator[dict[str, Any]]:
    """To a key of KEM 0x647a, whose encapsulated key has 1,088 bytes of ML-KEM and 32 of X25519."""
    yield vector("one final chunk", OK)
    yield vector("one final chunk, AES-128-GCM", OK, aead=1)
    yield three("two chunks and a final one, ChaCha20-Poly1305", OK, aead=3)
    for says, change in (
        ("a key id that nobody has", {"flip": [0, 0xFF]}),
        ("the KEM of the other key", {"put": [1, "0020"]}),
        ("the first byte of ML-KEM's part has a bit flipped", {"flip": [7, 1]}),
        ("the last byte of ML-KEM's part has a bit flipped", {"flip": [1094, 128]}),
        ("X25519's part has a bit flipped", {"flip": [1095, 1]}),
        ("X25519's part is of low order", {"put": [1095, "00" * 32]}),
        ("ML-KEM's part is zeros", {"put": [7, "00" * 1088]}),
    ):
        yield vector(says, KEY_MISMATCH, **THREE, send=[header(**change), 0, 1, 2])
    yield three("the first chunk has a bit flipped", KEY_MISMATCH, part(0, flip=[100, 4]), 1, 2)
    yield vector("cut inside ML-KEM's part", MALFORMED, send=[header(cut=600)])
    yield vector("cut before the last byte of its header", MALFORMED, send=[header(cut=1126)])
    yield three("the second chunk has a bit flipped", MALFORMED, 0, part(1, flip=[0, 1]), 2)
    yield vector("sent twice", OK, profile=OURS, again=[{"expect": REPLAY}])


def _fields(*fields: tuple[str, str]) -> list[Any]:
    return [{"string": text} for field in fields for text in field]


def with_fields(*fields: tuple[str, str], content: Sequence[Any] = ()) -> list[Any]:
    """A message with these headers; content: its pieces, with their lengths."""
    return [*HEAD[:-1], *_fields(*fields), "00", *content, "00", "00"]


def _inner() -> Iterator[dict[str, Any]]:
    """What is asked of the message inside, beside its form (`binary_http.json`)."""
    five = ["05", {"text": "hello"}]
    yield vector("content of the length it says", OK, message=with_fields(("content-length", "5"), content=five))
    yield vector("content without a length", OK, message=with_fields(content=five))
    for says, length in (
        ("more content than it says", "4"),
        ("less content than it says", "6"),
        ("content where it says none", "0"),
        ("a length that is negative", "-5"),
        ("a length with a sign", "+5"),
        ("a length in words", "five"),
        ("two lengths in one", "5, 5"),
        ("a length of 400 digits", "5" * 400),
        ("a length that is empty", ""),
    ):
        message = with_fields(("content-length", length), content=five)
        yield vector(says, MALFORMED, profile=OURS, message=message)
    for name in ("content-length", "content-type", "authorization", "idempotency-key", "x-request-id"):
        value = "5" if name == "content-length" else "text/plain"
        message = with_fields((name, value), (name, value), content=five)
        yield vector(f"{name} twice", MALFORMED, profile=OURS, message=message)
    yield vector("accept twice, which is a list", OK, message=with_fields(("accept", "a/b"), ("accept", "*/*")))
    yield vector("a header that nobody knows", OK, message=with_fields(("x-unheard-of", "of")))
    for says, at, other in (
        ("the scheme http", 2, "http"),
        ("another authority", 3, "example.org"),
        ("our authority with a port", 3, "sottovoce.invalid:443"),
        ("no authority", 3, ""),
    ):
        message = [*MESSAGE[:at], {"string": other}, *MESSAGE[at + 1 :]]
        yield vector(says, NOT_HERE, profile=OURS, message=message)
    elsewhere = [*MESSAGE[:4], {"string": "/v1/nothing/here"}, *MESSAGE[5:]]
    yield vector("a path that nothing is at", accepted(status=404), profile=OURS, message=elsewhere)
    outside = [*MESSAGE[:4], {"string": "/metrics"}, *MESSAGE[5:]]
    yield vector("a path outside of the API", accepted(status=404), profile=OURS, message=outside)
    posted = ["02", {"string": "DELETE"}, *MESSAGE[2:]]
    yield vector("a method that the target does not have", accepted(status=405), profile=OURS, message=posted)


def _outer() -> Iterator[dict[str, Any]]:
    """What is wrong with the HTTP around it."""
    for says, headers in (
        ("another media type", {"Content-Type": "application/octet-stream"}),
        ("the media type of requests in one piece", {"Content-Type": "message/ohttp-req"}),
        ("no media type", {"Content-Type": ""}),
        ("a content coding", {"Content-Encoding": "gzip"}),
    ):
        yield vector(says, MALFORMED, profile=OURS, http={"headers": headers})
    yield vector(
        "a Content-Length beyond all that is admitted",
        OVERSIZE,
        profile=OURS,
        http={
            "framing": "length",
            "declares": 1 << 40,
        },
    )


def _enc(name: str) -> bytes:
    return PrivateKey.from_bytes(private(name)).public_key


def figures() -> dict[str, Any]:
    """What stands in the file."""
    groups = {
        "served": _served(),
        "key": _key_mismatches(),
        "cut": _cut(),
        "length": _lengths(),
        "chunk": _later_chunks(),
        "replay": _replays(),
        "inner": _inner(),
        "http": _outer(),
        "post-quantum": ({**each, "kem": PQ, "says": f"{each['says']}, post-quantum"} for each in _post_quantum()),
    }
    return {
        "format": 1,
        "about": ABOUT,
        "key": key_figures(KEY_NAME, CONFIG),
        "post_quantum_key": key_figures(PQ_KEY_NAME, PQ_CONFIG),
        "limits": {
            "min_chunk_bytes": 1024,
            "max_chunk_bytes": MAX_CHUNK_BYTES,
            "max_request_bytes": MAX_REQUEST_BYTES,
            "max_head_bytes": 65_536,
        },
        "vectors": [
            _finished(f"request/{group}/{number:02}", each)
            for group, vectors in groups.items()
            for number, each in enumerate(vectors, 1)
        ],
    }


def _finished(id_: str, recipe: dict[str, Any]) -> dict[str, Any]:
    named = {"id": id_, "says": recipe.pop("says"), "profile": recipe.pop("profile", "ohttp"), **recipe}
    if "kem" in named:
        return named
    ephemeral = private(id_)
    wire = seal_request(named, CONFIG, ephemeral=ephemeral).wire
    shown = {"wire": b64encode(wire).decode()} if len(wire) <= MAX_WIRE_BYTES else {}
    return {**named, "ephemeral": ephemeral.hex(), **shown, "wire_sha256": sha256(wire).hexdigest()}
