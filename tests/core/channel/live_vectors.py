"""Writes tests/vectors/live_v1.json: `python -m tests.core.channel.live_vectors`. Keys are fixed; nothing is drawn.

What a reader of the file needs to know stands in its `about`.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from core.channel.bhttp import RequestHead, ResponseHead
from core.channel.hpke import Aead, Suite
from core.channel.kdf import Kdf
from core.channel.kem import Kem, PrivateKey
from core.channel.keyconfig import GatewayKey, KeyConfig
from core.channel.live import DOWN_BYTES, UP_BYTES, UpOpener, UpSealer, encode_request_head, encode_response_head

PATH: Final = Path(__file__).parents[2] / "vectors" / "live_v1.json"
SOURCE: Final = "Ours: written by tests/core/channel/live_vectors.py with core/channel/live.py, which draws the format."
ABOUT: Final = (
    "key: an X25519 private key and its key configuration (RFC 9458 section 3.1), in hexadecimal. sessions: each with "
    "its AEAD (HPKE code point), the caller's ephemeral private key and the answerer's nonce; every message of either "
    "direction, in base64; and the plaintext of each frame, in hexadecimal, without the zeros at its end. A receiver "
    "opens each message to that plaintext, and a sender with the same ephemeral key seals it to that message. refused: "
    "sequences of messages to one end of a session. All but the last open; the last is refused, and so is everything "
    "after it. A message is either given (base64), or taken from a session: `session`, `direction`, `index`, and then "
    "changed: `flip` [byte, mask], `cut` to so many bytes, `append` (hexadecimal). `mismatch` says whether the refusal "
    "is one of the key, for which a new key may be asked (close code 4422), and not another one (4400)."
)
KEY: Final = PrivateKey.from_bytes(sha256(b"live gateway key").digest())
GATEWAY: Final = GatewayKey(KeyConfig.for_key(KEY), KEY)
AUDIO: Final = bytes(range(256)) * 20
HEAD: Final = RequestHead(
    "GET",
    "https",
    "sottovoce.invalid",
    "/v1/realtime?intent=transcription",
    (("authorization", "Bearer sk-example"), ("x-request-id", "req_0")),
)


def record(kind: int, body: bytes = b"") -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def end(code: int, reason: str = "") -> bytes:
    return record(5, code.to_bytes(2, "big") + reason.encode())


REQUEST_HEAD: Final = record(1, encode_request_head(HEAD))
OPEN: Final = record(1, encode_response_head(ResponseHead(101)))
REFUSED_HEAD: Final = record(1, encode_response_head(ResponseHead(401)))


@dataclass(frozen=True, slots=True)
class Session:
    """A session with fixed keys: what each frame of either direction says, without the zeros at its end."""

    name: str
    aead: Aead
    up: list[bytes]
    down: list[bytes]
    up_messages: list[bytes] = field(default_factory=list)
    down_messages: list[bytes] = field(default_factory=list)

    @property
    def ephemeral(self) -> bytes:
        return sha256(b"ephemeral " + self.name.encode()).digest()

    @property
    def server_nonce(self) -> bytes:
        return sha256(b"server nonce " + self.name.encode()).digest()

    def sealer(self) -> UpSealer:
        suite = Suite(Kem.X25519_HKDF_SHA256, Kdf.HKDF_SHA256, self.aead)
        return UpSealer(GATEWAY.config, suite, ephemeral=self.ephemeral)

    def sealed(self) -> Session:
        sealer, opener = self.sealer(), UpOpener([GATEWAY])
        self.up_messages.extend(sealer.seal(plain.ljust(UP_BYTES, b"\0")) for plain in self.up)
        opener.open(self.up_messages[0])
        answer = opener.down_sealer(self.server_nonce)
        self.down_messages.extend(answer.seal(plain.ljust(DOWN_BYTES, b"\0")) for plain in self.down)
        return self

    def figures(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "aead": int(self.aead),
            "ephemeral": self.ephemeral.hex(),
            "server_nonce": self.server_nonce.hex(),
            "up": [b64encode(message).decode() for message in self.up_messages],
            "down": [b64encode(message).decode() for message in self.down_messages],
            "up_plain": [plain.hex() for plain in self.up],
            "down_plain": [plain.hex() for plain in self.down],
        }


def sessions() -> list[Session]:
    spoken = Session(
        "spoken",
        Aead.AES_256_GCM,
        [REQUEST_HEAD, record(4, AUDIO[:4800]) + record(2, b'{"type":"input_audio_buffer.commit"}'), b"", end(1000)],
        [OPEN, record(3, b'{"type":"sess'), record(2, b'ion.created"}') + record(2, b"{}"), b"", end(1000, "done")],
    )
    refused = Session(
        "refused", Aead.CHACHA20_POLY1305, [REQUEST_HEAD], [REFUSED_HEAD + record(2, b'{"type":"error"}') + end(3000)]
    )
    full = Session("full", Aead.AES_128_GCM, [REQUEST_HEAD, record(4, AUDIO[:5116])], [OPEN, record(2, b"x" * 1020)])
    return [session.sealed() for session in (spoken, refused, full)]


def _of(session: str, direction: str, index: int, **change: Any) -> dict[str, Any]:
    return {"session": session, "direction": direction, "index": index, **change}


HELLO: Final = 5_176
ANSWER: Final = 1_072


def _tampered() -> list[dict[str, Any]]:
    """Messages of the sessions above, changed or out of place."""

    def case(name: str, direction: str, *messages: dict[str, Any], mismatch: bool = False) -> dict[str, Any]:
        return {"name": name, "direction": direction, "messages": list(messages), "mismatch": mismatch}

    up = [_of("spoken", "up", index) for index in range(4)]
    down = [_of("spoken", "down", index) for index in range(5)]

    def flipped(direction: str, index: int, byte: int) -> dict[str, Any]:
        return _of("spoken", direction, index, flip=[byte, 1])

    return [
        case("another version", "up", flipped("up", 0, 0)),
        case("another key", "up", flipped("up", 0, 1), mismatch=True),
        case("another KEM", "up", flipped("up", 0, 3), mismatch=True),
        case("another KDF", "up", flipped("up", 0, 5), mismatch=True),
        case("another AEAD of the key", "up", _of("spoken", "up", 0, flip=[7, 3]), mismatch=True),
        case("another encapsulated key", "up", flipped("up", 0, 8), mismatch=True),
        case("a changed first frame up", "up", flipped("up", 0, 40), mismatch=True),
        case("a changed tag of the first frame up", "up", flipped("up", 0, HELLO - 1), mismatch=True),
        case("a first message up that is cut", "up", _of("spoken", "up", 0, cut=HELLO - 1)),
        case("a first message up that is longer", "up", _of("spoken", "up", 0, append="00")),
        case("a first message up without its header", "up", up[1]),
        case("a changed frame up", "up", up[0], flipped("up", 1, 100)),
        case("a frame up that is cut", "up", up[0], _of("spoken", "up", 1, cut=5_135)),
        case("a frame up that is longer", "up", up[0], _of("spoken", "up", 1, append="00")),
        case("a dropped frame up", "up", up[0], up[2]),
        case("a repeated frame up", "up", up[0], up[1], up[1]),
        case("a repeated first message up", "up", up[0], up[0]),
        case("a frame up of another session", "up", up[0], _of("full", "up", 1)),
        case("another answerer's nonce", "down", flipped("down", 0, 0)),
        case("a changed first frame down", "down", flipped("down", 0, ANSWER - 1)),
        case("a first message down that is cut", "down", _of("spoken", "down", 0, cut=ANSWER - 1)),
        case("a first message down without its nonce", "down", down[1]),
        case("a changed frame down", "down", down[0], flipped("down", 1, 0)),
        case("swapped frames down", "down", down[0], down[2]),
        case("a repeated frame down", "down", down[0], down[1], down[1]),
        case("an answer of another session", "down", _of("full", "down", 0)),
        case("a frame down that is empty", "down", down[0], _of("spoken", "down", 1, cut=0)),
    ]


SAYS_WRONGLY: Final = {
    "padding that is not zero": b"\x00\x01",
    "a record longer than its frame": bytes([2]) + (1021).to_bytes(3, "big"),
    "a type that is not known": record(7, b"x"),
    "a second head": OPEN,
    "empty audio": record(4),
    "an empty part of an event": record(3),
    "an end inside an event": record(3, b"{") + end(1000),
    "audio inside an event": record(3, b"{") + record(4, b"x"),
    "a record behind the end": end(1000) + record(2, b"{}"),
    "an end without a code": record(5),
    "an end with a code that is never sent": end(1005),
    "an end with a code that is none": end(999),
    "an end whose reason is no text": record(5, b"\x03\xe8\xff"),
}


def _wrongly_said() -> list[dict[str, Any]]:
    """Frames that are sealed as they should be and say what they must not, as second messages down."""
    cases = []
    for name, plain in SAYS_WRONGLY.items():
        second = Session("spoken", Aead.AES_256_GCM, [REQUEST_HEAD], [OPEN, plain]).sealed().down_messages[1]
        messages = [_of("spoken", "down", 0), b64encode(second).decode()]
        cases.append({"name": name, "direction": "down", "messages": messages, "mismatch": False})
    headless = Session("spoken", Aead.AES_256_GCM, [REQUEST_HEAD], [record(2, b"{}")]).sealed().down_messages[0]
    cases.append(
        {
            "name": "an answer without a head",
            "direction": "down",
            "messages": [b64encode(headless).decode()],
            "mismatch": False,
        }
    )
    ended = Session("spoken", Aead.AES_256_GCM, [REQUEST_HEAD], [OPEN, end(1000), b""]).sealed().down_messages
    cases.append(
        {
            "name": "a frame after the end",
            "direction": "down",
            "messages": [b64encode(message).decode() for message in ended],
            "mismatch": False,
        }
    )
    return cases


def figures() -> dict[str, Any]:
    """What stands in the file. The refusals of either end are of the session `spoken`."""
    return {
        "source": SOURCE,
        "about": ABOUT,
        "key": {
            "private": sha256(b"live gateway key").hexdigest(),
            "config": GATEWAY.config.encode().hex(),
        },
        "sessions": [session.figures() for session in sessions()],
        "refused": [*_tampered(), *_wrongly_said()],
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(figures(), indent=1) + "\n")
