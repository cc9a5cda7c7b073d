"""Which sealed answers does a client take, and which not? `answers.json`."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final

from tests.conformance.authors.common import (
    CONFIG,
    KEY_NAME,
    MAX_WIRE_BYTES,
    MESSAGE,
    accepted,
    key_figures,
    private,
    refused,
)
from tests.conformance.recipes import Sealed, seal_answer, seal_request

ABOUT: Final = "Answers, as they arrive at the client that sent `request`. See README.md."
REQUEST_EPHEMERAL: Final = private("the request of the answers")
HELLO: Final = ["03", "40c8", "00", "05", {"text": "hello"}, "00", "00"]
WRONG: Final = refused("malformed")
LAST: Final[list[Any]] = [None, "final"]
THREE: Final[dict[str, Any]] = {"message": [*HELLO, {"zeros": 90}], "chunks": [[3, ""], [40, ""], LAST]}


def _opened(status: int = 200, content: str = "68656c6c6f", informational: tuple[int, ...] = ()) -> dict[str, Any]:
    head = {"status": status, "headers": []}
    return accepted(opened={"head": head, "content": content, "trailers": [], "informational": list(informational)})


def _of(says: str, expect: dict[str, Any], *send: Any, **recipe: Any) -> dict[str, Any]:
    sent = {"send": ["header", *send]} if send else {}
    return {"says": says, **({"message": HELLO} | recipe | sent), "expect": expect}


def _three(says: str, expect: dict[str, Any], *send: Any) -> dict[str, Any]:
    return _of(says, expect, *send, **THREE)


def _part(name: Any, **change: Any) -> dict[str, Any]:
    return {"part": name, **change}


def _taken() -> Iterator[dict[str, Any]]:
    yield _of("one final chunk", _opened())
    yield _of("one final chunk, AES-128-GCM", _opened(), aead=1)
    yield _of("one final chunk, ChaCha20-Poly1305", _opened(), aead=3)
    yield _three("three chunks, of any size", _opened())
    yield _of("chunks of one byte", _opened(), chunks=[*[[1, ""] for _ in range(9)], LAST])
    yield _of("a final chunk that is empty", _opened(), chunks=[[11, ""], LAST])
    yield _three(
        "lengths that take more bytes than they need",
        _opened(),
        _part(0, length="80000013"),
        1,
        _part(2, length="4000"),
    )
    heartbeat = ["03", "4066", "00"]
    yield _of(
        "heartbeats in chunks of their own",
        _opened(informational=(102, 102)),
        message=[*heartbeat, *heartbeat[1:], *HELLO[1:]],
        chunks=[[4, ""], [3, ""], LAST],
    )
    yield _of("a refusal", _opened(status=401, content=""), message=["03", "4191", "00", "00", "00"])
    yield _of("a chunk of 65,536 bytes", _opened(), message=[*HELLO, {"zeros": 70_000}], chunks=[[65_536, ""], LAST])


def _refused() -> Iterator[dict[str, Any]]:
    yield {"says": "nothing", "message": HELLO, "send": [], "expect": WRONG}
    yield {"says": "cut inside its nonce", "message": HELLO, "send": [_part("header", cut=31)], "expect": WRONG}
    yield {"says": "its nonce and nothing else", "message": HELLO, "send": ["header"], "expect": WRONG}
    yield {"says": "another nonce", "message": HELLO, "send": [_part("header", flip=[0, 1]), 0], "expect": WRONG}
    yield _of("a bit of the one chunk is flipped", WRONG, _part(0, flip=[2, 1]))
    yield _of("a bit of its tag is flipped", WRONG, _part(0, flip=[-1, 1]))
    yield _of("sealed as the answer to another request", WRONG, to="another request")
    yield _of("the one chunk was not sealed as the final one", WRONG, _part(0, length="00"), chunks=[[None, ""]])
    yield _three("without its final chunk", WRONG, 0, 1)
    yield _three("cut inside a chunk", WRONG, 0, _part(1, cut=20))
    yield _three("cut inside the final chunk", WRONG, 0, 1, _part(2, cut=-1))
    yield _three("cut behind the zero of the final chunk", WRONG, 0, 1, _part(2, cut=0))
    yield _three("a chunk is missing", WRONG, 0, 2)
    yield _three("a chunk is there twice", WRONG, 0, 1, 1, 2)
    yield _three("the first chunk is there twice", WRONG, 0, 0, 1, 2)
    yield _three("chunks are swapped", WRONG, 1, 0, 2)
    yield _three("a byte behind the final chunk", WRONG, 0, 1, 2, {"bytes": ["00"]})
    yield _three("a chunk behind the final one", WRONG, 0, 1, 2, 0)
    yield _three("a chunk that is empty", WRONG, 0, {"bytes": ["10", {"zeros": 16}]}, 1, 2)
    yield _three("a chunk that is shorter than a tag", WRONG, 0, {"bytes": ["0f", {"zeros": 15}]}, 1, 2)
    yield _three("a chunk of a gibibyte", WRONG, 0, {"bytes": ["c000000040000000", {"zeros": 40}]})
    yield _three("a chunk is sent as the final one", WRONG, 0, _part(1, length="00"))
    yield _of("an empty chunk that would open", WRONG, chunks=[[11, ""], [0, ""], LAST])
    yield _of(
        "a chunk in the middle was sealed as the final one",
        WRONG,
        _part(0, length="13"),
        1,
        chunks=[[3, "final"], LAST],
    )
    yield _of("in the clear", WRONG, {"bytes": ["03", "40c8", "00", "00", "00"]})
    yield _of("whole, but the message in it is cut", WRONG, message=HELLO[:3])
    yield _of("whole, but the padding is not zero", WRONG, message=[*HELLO, "01"])
    yield _of("whole, but it is a request", WRONG, message=MESSAGE)


def figures() -> dict[str, Any]:
    """What stands in the file."""
    vectors = [
        *(_finished(f"answer/taken/{number:02}", each) for number, each in enumerate(_taken(), 1)),
        *(_finished(f"answer/refused/{number:02}", each) for number, each in enumerate(_refused(), 1)),
    ]
    return {
        "format": 1,
        "about": ABOUT,
        "key": key_figures(KEY_NAME, CONFIG),
        "request": {"message": MESSAGE, "ephemeral": REQUEST_EPHEMERAL.hex()},
        "vectors": vectors,
    }


def request_of(aead: int, ephemeral: bytes = REQUEST_EPHEMERAL) -> Sealed:
    """The request of the file, under an AEAD."""
    return seal_request({"message": MESSAGE, "aead": aead}, CONFIG, ephemeral=ephemeral)


def _finished(id_: str, recipe: dict[str, Any]) -> dict[str, Any]:
    aead = recipe.pop("aead", 2)
    elsewhere = recipe.pop("to", None)
    nonce_bytes = 16 if aead == 1 else 32
    nonce = private(f"nonce of {id_}")[:nonce_bytes].hex()
    named = {"id": id_, "says": recipe.pop("says"), "profile": "ohttp", "aead": aead, "response_nonce": nonce, **recipe}
    if elsewhere:
        named["request_ephemeral"] = private(elsewhere).hex()
    request = request_of(aead, private(elsewhere) if elsewhere else REQUEST_EPHEMERAL)
    wire = seal_answer(named, request)
    shown = {"wire": b64encode(wire).decode()} if len(wire) <= MAX_WIRE_BYTES else {}
    return {**named, **shown, "wire_sha256": sha256(wire).hexdigest()}
