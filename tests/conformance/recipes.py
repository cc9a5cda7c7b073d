"""What are the bytes of a vector? Recipes of `tests/conformance/README.md`, sealed with fixed keys or with fresh ones.

Everything is put together from HPKE and varints, and not with the sealers under test, which refuse to write what a
vector wants to be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from core.channel import varint
from core.channel.hpke import (
    NN,
    Aead,
    Opener,
    Sealer,
    SenderContext,
    Suite,
    setup_sender,
)
from core.channel.kdf import Kdf, expand, extract
from core.channel.kem import Kem
from core.channel.keyconfig import KeyConfig, decode_key_config
from core.channel.live import UP_BYTES

REQUEST_LABEL: Final = "message/bhttp chunked request"
RESPONSE_LABEL: Final = b"message/bhttp chunked response"
LIVE_LABEL: Final = "sottovoce live v1"
_END: Final = bytes.fromhex("0500000203e8")
DEFAULT_AEAD: Final = Aead.AES_256_GCM

Vector = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """What the inner requests are for; the defaults are what stands in the files."""

    method: str = "GET"
    scheme: str = "https"
    authority: str = "sottovoce.invalid"
    path: str = "/v1/models"


TARGET: Final = Target()


def prefixed(data: bytes) -> bytes:
    """`data` behind its length."""
    return varint.encode(len(data)) + data


def plain(segments: Sequence[Any], target: Target = TARGET) -> bytes:
    """The bytes that segments stand for."""
    data = bytearray()
    for segment in segments:
        if isinstance(segment, Mapping) and "zeros_up_to" in segment:
            data += bytes(segment["zeros_up_to"] - len(data))
        else:
            data += _segment(segment, target)
    return bytes(data)


def _segment(segment: Any, target: Target) -> bytes:
    match segment:
        case str() if segment.startswith("{"):
            return prefixed(str(getattr(target, segment[1:-1])).encode())
        case str():
            return bytes.fromhex(segment)
        case {"text": str(text)}:
            return text.encode("latin-1")
        case {"string": str(text)}:
            return prefixed(text.encode("latin-1"))
        case {"zeros": int(count)}:
            return bytes(count)
        case {"repeat": str(data), "times": int(times)}:
            return bytes.fromhex(data) * times
    raise ValueError(f"a segment that is none: {segment!r}")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A request as it goes over the wire, and what its answer opens with.

    parts: their lengths and bytes by the names that `send` gives them, in the order in which an honest sender sends
    them.
    """

    wire: bytes
    parts: Mapping[str, tuple[bytes, bytes]]
    aead: Aead
    enc: bytes
    secret: bytes = field(repr=False)

    def answer_keys(self, response_nonce: bytes) -> tuple[Aead, bytes, bytes]:
        """RFC 9458 section 4.4."""
        prk = extract(self.enc + response_nonce, self.secret)
        return self.aead, expand(prk, b"key", self.aead.nk), expand(prk, b"nonce", NN)

    @property
    def nonce_bytes(self) -> int:
        return max(NN, self.aead.nk)

    def again(self, vector: Vector) -> bytes:
        """The bytes of the same request as one of the vector's `again` sends it."""
        return _sent(vector, self.parts)


def seal_request(
    vector: Vector, config: KeyConfig, target: Target = TARGET, *, ephemeral: bytes | None = None
) -> Sealed:
    """Seal what a vector of `requests.json` describes. ephemeral: a fresh one unless given."""
    if "sealed_to" in vector:
        config = decode_key_config(bytes.fromhex(vector["sealed_to"]))
    names, enc, context, aead = _encapsulated(vector, config, vector.get("label", REQUEST_LABEL), ephemeral)
    parts = {"header": (b"", names + enc), **_chunks(vector, target, context)}
    return Sealed(_sent(vector, parts), parts, aead, enc, context.export(RESPONSE_LABEL, max(NN, aead.nk)))


def seal_answer(vector: Vector, request: Sealed) -> bytes:
    """Seal what a vector of `answers.json` describes, in answer to `request`."""
    nonce = bytes.fromhex(vector["response_nonce"])
    sealer = Sealer(*request.answer_keys(nonce))
    return _sent(vector, {"header": (b"", nonce), **_chunks(vector, TARGET, sealer)})


def kem_of(vector: Vector) -> Kem:
    """Of the key that a vector is sealed to."""
    return Kem(vector.get("kem", Kem.X25519_HKDF_SHA256))


def _encapsulated(
    vector: Vector, config: KeyConfig, label: str, ephemeral: bytes | None
) -> tuple[bytes, bytes, SenderContext, Aead]:
    aead = Aead(vector.get("aead", DEFAULT_AEAD))
    suite = Suite(Kem(config.kem), Kdf.HKDF_SHA256, aead)
    names = config.key_id.to_bytes(1, "big") + suite.code_points
    info = label.encode() + b"\x00" + names
    enc, context = setup_sender(suite, config.public_key, info, ephemeral=ephemeral)
    return names, enc, context, aead


def _chunks(vector: Vector, target: Target, sealer: SenderContext | Sealer) -> dict[str, tuple[bytes, bytes]]:
    """Length and sealed bytes of each chunk, by its number."""
    message = plain(vector["message"], target)
    chunks: dict[str, tuple[bytes, bytes]] = {}
    at = 0
    for number, (size, aad) in enumerate(vector.get("chunks", [[None, "final"]])):
        end = len(message) if size is None else at + size
        sealed = sealer.seal(message[at:end], aad.encode())
        chunks[str(number)] = (varint.encode(0 if aad == "final" else len(sealed)), sealed)
        at = end
    return chunks


def _sent(vector: Vector, parts: Mapping[str, tuple[bytes, bytes]]) -> bytes:
    return b"".join(_item(item, parts) for item in vector.get("send", list(parts)))


def _item(item: Any, parts: Mapping[str, tuple[bytes, bytes]]) -> bytes:
    if isinstance(item, Mapping) and "bytes" in item:
        return plain(item["bytes"])
    change = item if isinstance(item, Mapping) else {"part": item}
    length, data = parts[str(change["part"])]
    if "length" in change:
        length = bytes.fromhex(change["length"])
    return length + changed(data, change)


def changed(data: bytes, change: Vector) -> bytes:
    """`data` with what a vector does to it. flip: [place, mask]; cut: how many bytes are left; append: more bytes."""
    altered = bytearray(data)
    if "flip" in change:
        place, mask = change["flip"]
        altered[place] ^= mask
    if "put" in change:
        place, text = change["put"]
        altered[place : place + len(text) // 2] = bytes.fromhex(text)
    if "cut" in change:
        del altered[change["cut"] :]
    return bytes(altered) + bytes.fromhex(change.get("append", ""))


@dataclass(frozen=True, slots=True)
class LiveCall:
    """A live session's messages up, and what its answer opens with.

    farewell: one more message, an end in its proper place: whoever has swallowed the others takes it too.
    """

    messages: tuple[bytes, ...]
    farewell: bytes
    aead: Aead
    enc: bytes
    secret: bytes = field(repr=False)

    def down_opener(self, server_nonce: bytes) -> Opener:
        prk = extract(self.enc + server_nonce, self.secret)
        return Opener(self.aead, expand(prk, b"key", self.aead.nk), expand(prk, b"nonce", NN))


def seal_live(vector: Vector, config: KeyConfig, *, ephemeral: bytes | None = None) -> LiveCall:
    """Seal what a vector of `live.json` describes."""
    names, enc, context, aead = _encapsulated(vector, config, vector.get("label", LIVE_LABEL), ephemeral)
    hello = b"\x01" + names + enc
    frames = []
    for number, segments in enumerate(vector["frames"]):
        sealed = context.seal(plain(segments).ljust(UP_BYTES, b"\0"), b"up")
        frames.append(sealed if number else hello + sealed)
    sent = vector.get("send", list(range(len(frames))))
    messages = tuple(_message(item, frames) for item in sent)
    farewell = context.seal(_END.ljust(UP_BYTES, b"\0"), b"up")
    return LiveCall(messages, farewell, aead, enc, context.export(LIVE_LABEL.encode() + b" answer", 32))


def _message(item: Any, frames: Sequence[bytes]) -> bytes:
    change = item if isinstance(item, Mapping) else {"part": item}
    return changed(frames[change["part"]], change)
