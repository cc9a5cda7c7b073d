"""Two ends understand each other, and neither understands anything else: vectors, bits, cuts."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.channel.bhttp import RequestEncoder, RequestHead, ResponseEncoder, ResponseHead
from core.channel.hpke import Aead, Suite
from core.channel.kdf import Kdf
from core.channel.kem import Kem, PrivateKey
from core.channel.keyconfig import GatewayKey, KeyConfig, decode_key_config
from core.channel.live import (
    DOWN_BYTES,
    DOWN_FRAME_BYTES,
    SERVER_NONCE_BYTES,
    UP_BYTES,
    UP_FRAME_BYTES,
    DownOpener,
    UpOpener,
    UpSealer,
    decode_request_head,
    decode_response_head,
    encode_request_head,
    encode_response_head,
)
from core.channel.records import AudioRecord, EndRecord, EventRecord, FrameWriter, HeadRecord
from core.errors import ChannelError, KeyMismatchError
from tests.core.channel.live_vectors import GATEWAY, PATH, figures, record
from tests.core.channel.vectors import load

VECTORS = load("live_v1")
SESSIONS = {session["name"]: session for session in VECTORS["sessions"]}
KEY = GatewayKey.generate(())
NONCE = bytes(range(SERVER_NONCE_BYTES))
HEAD = record(1, encode_request_head(RequestHead("GET", "https", "sottovoce.invalid", "/v1/realtime")))
OPENED = record(1, encode_response_head(ResponseHead(101)))


def up(plain: bytes = b"") -> bytes:
    return plain.ljust(UP_BYTES, b"\0")


def down(plain: bytes = b"") -> bytes:
    return plain.ljust(DOWN_BYTES, b"\0")


def message_of(given: str | dict[str, Any]) -> bytes:
    """A message of a sequence in the file."""
    if isinstance(given, str):
        return b64decode(given)
    message = bytearray(b64decode(SESSIONS[given["session"]][given["direction"]][given["index"]]))
    if "flip" in given:
        message[given["flip"][0]] ^= given["flip"][1]
    del message[given.get("cut", len(message)) :]
    return bytes(message) + bytes.fromhex(given.get("append", ""))


def gateway() -> GatewayKey:
    config = decode_key_config(bytes.fromhex(VECTORS["key"]["config"]))
    return GatewayKey(config, PrivateKey.from_bytes(bytes.fromhex(VECTORS["key"]["private"])))


def sealer_of(session: dict[str, Any]) -> UpSealer:
    suite = Suite(Kem.X25519_HKDF_SHA256, Kdf.HKDF_SHA256, Aead(session["aead"]))
    ephemeral = bytes.fromhex(session["ephemeral"])
    return UpSealer(gateway().config, suite, ephemeral=ephemeral)


def opener_for(direction: str) -> UpOpener | DownOpener:
    return UpOpener([gateway()]) if direction == "up" else sealer_of(SESSIONS["spoken"]).down_opener()


def test_the_file_is_what_its_program_writes() -> None:
    assert json.loads(PATH.read_text()) == figures()


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_of_the_file_is_sealed_to_these_very_messages(name: str) -> None:
    session = SESSIONS[name]
    sealer, opener = sealer_of(session), UpOpener([gateway()])
    messages = [sealer.seal(up(bytes.fromhex(plain))) for plain in session["up_plain"]]
    assert messages == [b64decode(message) for message in session["up"]]
    opener.open(messages[0])
    answer = opener.down_sealer(bytes.fromhex(session["server_nonce"]))
    answers = [answer.seal(down(bytes.fromhex(plain))) for plain in session["down_plain"]]
    assert answers == [b64decode(message) for message in session["down"]]


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_a_sequence_of_the_file_is_refused_at_its_last_message(case: dict[str, Any]) -> None:
    opener = opener_for(case["direction"])
    *fine, last = [message_of(given) for given in case["messages"]]
    for message in fine:
        opener.open(message)
    with pytest.raises(ChannelError) as refusal:
        opener.open(last)
    assert isinstance(refusal.value, KeyMismatchError) is case["mismatch"]
    following = b64decode(SESSIONS["spoken"][case["direction"]][len(fine)])
    with pytest.raises(ChannelError):
        opener.open(following)


class Ends:
    """A session of which both ends are here."""

    def __init__(self) -> None:
        self.sealer = UpSealer(KEY.config)
        self.hello = self.sealer.seal(up(HEAD))
        self.opener = UpOpener([KEY])
        self.opener.open(self.hello)
        self.answer = self.opener.down_sealer(NONCE)
        self.answers = self.sealer.down_opener()


def test_both_ends_understand_each_other() -> None:
    ends = Ends()
    assert ends.answers.open(ends.answer.seal(down(OPENED))) == [HeadRecord(OPENED[4:])]
    said = up(record(4, b"audio") + record(2, b"{}"))
    assert ends.opener.open(ends.sealer.seal(said)) == [AudioRecord(b"audio"), EventRecord(b"{}")]
    assert ends.answers.open(ends.answer.seal(down(record(5, b"\x03\xe8")))) == [EndRecord(1000)]
    assert ends.answers.ended
    assert not ends.opener.ended


def test_a_session_may_be_sealed_to_a_post_quantum_key() -> None:
    key = GatewayKey.generate({KEY.config.key_id}, Kem.MLKEM768_X25519)
    sealer, opener = UpSealer(key.config), UpOpener([KEY, key])
    hello = sealer.seal(up(HEAD))
    assert len(hello) == 6_264
    assert opener.open(hello) == [HeadRecord(HEAD[4:])]
    said = up(record(4, b"audio"))
    assert opener.open(sealer.seal(said)) == [AudioRecord(b"audio")]
    answers = sealer.down_opener()
    assert answers.open(opener.down_sealer(NONCE).seal(down(OPENED))) == [HeadRecord(OPENED[4:])]
    for at in (0, 1, 2, 8, 1_000, 1_127, 2_000, len(hello) - 1):
        changed = hello[:at] + bytes([hello[at] ^ 1]) + hello[at + 1 :]
        with pytest.raises(ChannelError):
            UpOpener([KEY, key]).open(changed)


def test_messages_have_two_lengths_each_way_and_no_other() -> None:
    ends = Ends()
    assert (len(ends.hello), len(ends.sealer.seal(up()))) == (5_176, 5_136)
    assert (len(ends.answer.seal(down(OPENED))), len(ends.answer.seal(down()))) == (1_072, 1_040)
    assert (UP_FRAME_BYTES, DOWN_FRAME_BYTES) == (5_136, 1_040)
    for plain in (b"", bytes(UP_BYTES - 1), bytes(UP_BYTES + 1)):
        with pytest.raises(ValueError, match="holds"):
            ends.sealer.seal(plain)
        with pytest.raises(ValueError, match="holds"):
            ends.answer.seal(plain)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=20_000), max_size=4), st.sampled_from([1, 2, 3]))
def test_any_audio_passes(pieces: list[bytes], aead: int) -> None:
    sealer, opener = UpSealer(KEY.config, Suite(Kem(32), Kdf(1), Aead(aead))), UpOpener([KEY])
    writer = FrameWriter(UP_BYTES)
    writer.head(HEAD[4:])
    for piece in pieces:
        writer.audio(piece)
    heard = bytearray()
    while writer.waiting_bytes:
        for said in opener.open(sealer.seal(writer.frame())):
            heard += said.data if isinstance(said, AudioRecord) else b""
    assert heard == b"".join(pieces)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 5_176 * 8 - 1))
def test_any_bit_of_the_hello_counts(bit: int) -> None:
    altered = bytearray(Ends().hello)
    altered[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ChannelError):
        UpOpener([KEY]).open(bytes(altered))


def test_every_bit_before_the_first_frame_counts() -> None:
    hello = Ends().hello
    for bit in range(40 * 8):
        altered = bytearray(hello)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ChannelError):
            UpOpener([KEY]).open(bytes(altered))


def test_a_hello_cut_at_any_byte_is_refused() -> None:
    hello = Ends().hello
    for length in range(len(hello)):
        with pytest.raises(ChannelError):
            UpOpener([KEY]).open(hello[:length])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1_072 * 8 - 1), st.integers(0, 1))
def test_any_bit_of_an_answer_counts(bit: int, index: int) -> None:
    ends = Ends()
    messages = [bytearray(ends.answer.seal(down(plain))) for plain in (OPENED, b"")]
    bit %= len(messages[index]) * 8
    messages[index][bit // 8] ^= 1 << bit % 8
    with pytest.raises(ChannelError):  # noqa: PT012 - at one of the two
        for message in messages:
            ends.answers.open(bytes(message))
    with pytest.raises(ChannelError):
        ends.answers.open(ends.answer.seal(down()))


def test_a_frame_of_the_other_direction_or_another_session_does_not_open() -> None:
    ends, others = Ends(), Ends()
    ends.answers.open(ends.answer.seal(down(OPENED)))
    with pytest.raises(ChannelError, match="authenticate"):
        ends.opener.open(others.sealer.seal(up()))
    others.answer.seal(down(OPENED))
    with pytest.raises(ChannelError, match="authenticate"):
        ends.answers.open(others.answer.seal(down()))
    mirrored = Ends()
    with pytest.raises(ChannelError, match="authenticate"):
        mirrored.opener.open(mirrored.answer.seal(down(OPENED)))


def test_a_key_that_is_not_held_is_a_mismatch() -> None:
    other = GatewayKey.generate([KEY.config.key_id])
    same_id = GatewayKey(
        KeyConfig(KEY.config.key_id, 32, other.config.public_key, other.config.suites), other.private_key
    )
    for held in ([other], [same_id], []):
        with pytest.raises(KeyMismatchError):
            UpOpener(held).open(Ends().hello)


def test_an_encapsulated_key_of_zeros_is_a_mismatch() -> None:
    hello = Ends().hello
    with pytest.raises(KeyMismatchError):
        UpOpener([KEY]).open(hello[:8] + bytes(32) + hello[40:])


def test_a_frame_whose_head_is_missing_is_no_mismatch() -> None:
    sealer = UpSealer(KEY.config)
    with pytest.raises(ChannelError) as refusal:
        UpOpener([KEY]).open(sealer.seal(up()))
    assert not isinstance(refusal.value, KeyMismatchError)


def test_what_would_use_a_nonce_twice_cannot_be_had() -> None:
    ends = Ends()
    with pytest.raises(RuntimeError, match="given out"):
        ends.opener.down_sealer(NONCE)
    with pytest.raises(RuntimeError, match="given out"):
        ends.sealer.down_opener()
    with pytest.raises(RuntimeError, match="no frame"):
        UpOpener([KEY]).down_sealer(NONCE)
    opener = UpOpener([KEY])
    opener.open(ends.hello)
    with pytest.raises(ValueError, match="nonce"):
        opener.down_sealer(NONCE[1:])


def test_a_session_that_failed_is_not_answered() -> None:
    opener = UpOpener([KEY])
    opener.open(Ends().hello)
    with pytest.raises(ChannelError):
        opener.open(bytes(UP_FRAME_BYTES))
    with pytest.raises(RuntimeError, match="failed"):
        opener.down_sealer(NONCE)


def test_the_encapsulated_key_names_the_session() -> None:
    ends = Ends()
    assert ends.opener.enc == ends.hello[8:40]
    assert UpOpener([KEY]).enc is None


def test_heads_are_read_back() -> None:
    request = RequestHead("GET", "https", "sottovoce.invalid", "/v1/realtime?model=a", (("authorization", "Bearer b"),))
    assert decode_request_head(encode_request_head(request)) == request
    for response in (ResponseHead(101), ResponseHead(503, (("retry-after", "1"),))):
        assert decode_response_head(encode_response_head(response)) == response


def _whole_request(content: bytes) -> bytes:
    encoder = RequestEncoder()
    head = encoder.head(RequestHead("GET", "https", "sottovoce.invalid", "/"))
    return head + encoder.content(content) + encoder.end()


def _two_responses() -> bytes:
    encoder = ResponseEncoder()
    return encoder.informational(101) + encoder.head(ResponseHead(200))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x02\x03GE", _whole_request(b""), _whole_request(b"x" * 2000), b"\x00" + HEAD[5:], b"\x03\x40\xc8\x00"],
)
def test_what_is_no_head_of_a_request_alone_is_refused(data: bytes) -> None:
    with pytest.raises(ChannelError):
        decode_request_head(data)


@pytest.mark.parametrize("data", [b"", b"\x03\x40", _two_responses(), b"\x03\x40\x65\x00\x00", HEAD[4:]])
def test_what_is_no_head_of_an_answer_alone_is_refused(data: bytes) -> None:
    with pytest.raises(ChannelError):
        decode_response_head(data)


def test_keys_of_the_file_belong_together() -> None:
    assert gateway().config == GATEWAY.config
