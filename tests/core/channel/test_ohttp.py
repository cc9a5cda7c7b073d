"""Chunked OHTTP against the draft's own figures, and every attack on a body that we could think of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.channel import varint
from core.channel.hpke import (
    NN,
    Aead,
    Opener,
    Suite,
    setup_recipient,
    setup_sender,
)
from core.channel.kdf import Kdf, expand, extract
from core.channel.kem import Kem, PrivateKey
from core.channel.keyconfig import GatewayKey, KeyConfig, decode_key_config
from core.channel.ohttp import (
    MAX_CHUNK_BYTES_ACCEPTED,
    RequestOpener,
    RequestSealer,
    ResponseOpener,
    ResponseSealer,
)
from core.errors import ChannelError, KeyMismatchError
from tests.core.channel.vectors import load, pieces
from tests.core.channel.work import processor_s

SUITES = {aead: Suite(Kem.X25519_HKDF_SHA256, Kdf.HKDF_SHA256, aead) for aead in Aead}
GATEWAY = GatewayKey.generate(())
HEADER_BYTES = 7 + 32
NONCE = bytes(range(32))

aeads = pytest.mark.parametrize("aead", list(Aead), ids=lambda aead: str(aead.name))
messages = st.tuples(st.lists(st.binary(min_size=1, max_size=300), max_size=6), st.binary(max_size=300))
sizes = st.lists(st.integers(1, 200), min_size=1, max_size=8)


@dataclass(frozen=True)
class Figures:
    """The figures of the draft's appendix A as bytes."""

    key: GatewayKey
    ephemeral: bytes
    request: list[bytes]
    request_chunks: list[bytes]
    response_nonce: bytes
    response: list[bytes]
    response_chunks: list[bytes]


def split(message: str, lengths: list[int]) -> list[bytes]:
    data = bytes.fromhex(message)
    return [data[end - size : end] for size, end in zip(lengths, accumulate(lengths), strict=True)]


def read_figures() -> Figures:
    raw = load("ohttp_chunked_08")
    request, response = raw["encapsulated_request"], raw["encapsulated_response"]
    return Figures(
        key=GatewayKey(
            decode_key_config(bytes.fromhex(raw["key_config"])),
            PrivateKey.from_bytes(bytes.fromhex(raw["gateway_private_key"])),
        ),
        ephemeral=bytes.fromhex(raw["client_ephemeral_private_key"]),
        request=[bytes.fromhex(part) for part in (request["header"] + request["enc"], *request["chunks"])],
        request_chunks=split(raw["binary_http_request"], raw["request_chunk_plaintext_lengths"]),
        response_nonce=bytes.fromhex(raw["response_nonce"]),
        response=[bytes.fromhex(part) for part in (response["nonce"], *response["chunks"])],
        response_chunks=split(raw["binary_http_response"], raw["response_chunk_plaintext_lengths"]),
    )


DRAFT = read_figures()


def seal_all(sealer: RequestSealer | ResponseSealer, chunks: Sequence[bytes], final: bytes = b"") -> list[bytes]:
    """Header, chunks and final chunk, each as it goes out."""
    return [sealer.header, *(sealer.seal(chunk) for chunk in chunks), sealer.seal_final(final)]


def open_all(opener: RequestOpener | ResponseOpener, body: bytes, cuts: Sequence[int] = (1 << 20,)) -> list[bytes]:
    """Every chunk of a whole body, the final one last."""
    opened = [chunk for piece in pieces(body, list(cuts)) for chunk in opener.feed(piece)]
    return [*opened, opener.finish()]


def exchange() -> tuple[RequestSealer, list[bytes], ResponseSealer]:
    """A small request and the sealer of its answer."""
    sealer, opener = RequestSealer(GATEWAY.config), RequestOpener([GATEWAY])
    request = seal_all(sealer, [b"first", b"second"], b"last")
    open_all(opener, b"".join(request))
    return sealer, request, opener.response_sealer(NONCE)


# The published figures


def test_the_client_reproduces_the_draft() -> None:
    sealer = RequestSealer(DRAFT.key.config, SUITES[Aead.AES_128_GCM], ephemeral=DRAFT.ephemeral)
    assert seal_all(sealer, DRAFT.request_chunks[:-1], DRAFT.request_chunks[-1]) == DRAFT.request
    opened = open_all(sealer.response_opener(), b"".join(DRAFT.response))
    assert opened == DRAFT.response_chunks


def test_the_gateway_reproduces_the_draft() -> None:
    opener = RequestOpener([DRAFT.key])
    assert open_all(opener, b"".join(DRAFT.request)) == DRAFT.request_chunks
    sealer = opener.response_sealer(DRAFT.response_nonce)
    assert seal_all(sealer, DRAFT.response_chunks[:-1], DRAFT.response_chunks[-1]) == DRAFT.response


def test_the_key_ladder_of_the_draft_is_ours_step_by_step() -> None:
    raw = load("ohttp_chunked_08")
    info, enc, nonce = (bytes.fromhex(raw[name]) for name in ("request_info", "enc", "response_nonce"))
    context = setup_recipient(SUITES[Aead.AES_128_GCM], DRAFT.key.private_key, enc, info)
    secret = context.export(b"message/bhttp chunked response", 16)
    prk = extract(enc + nonce, secret)
    assert secret.hex() == raw["exported_secret"]
    assert prk.hex() == raw["prk"]
    assert expand(prk, b"key", 16).hex() == raw["aead_key"]
    base_nonce = expand(prk, b"nonce", NN)
    assert base_nonce.hex() == raw["aead_base_nonce"]
    opener = Opener(Aead.AES_128_GCM, expand(prk, b"key", 16), base_nonce)
    for number, chunk_nonce in enumerate(raw["chunk_nonces"]):
        opener._seq = number
        assert opener._nonce().hex() == chunk_nonce


def test_our_hpke_reproduces_the_unchunked_exchange_of_rfc_9458() -> None:
    raw = load("ohttp_rfc9458")
    names = ("gateway_private_key", "client_ephemeral_private_key", "request_info", "encapsulated_request")
    skR, skE, info, request = (bytes.fromhex(raw[name]) for name in names)  # noqa: N806
    suite, key = SUITES[Aead.AES_128_GCM], PrivateKey.from_bytes(skR)
    enc, sender = setup_sender(suite, key.public_key, info, ephemeral=skE)
    plaintext = bytes.fromhex(raw["binary_http_request"])
    assert info[-7:] + enc + sender.seal(plaintext) == request
    recipient = setup_recipient(suite, key, enc, info)
    assert recipient.open(request[HEADER_BYTES:]) == plaintext
    secret = recipient.export(b"message/bhttp response", 16)
    prk = extract(enc + bytes.fromhex(raw["response_nonce"]), secret)
    assert [secret.hex(), prk.hex()] == [raw["exported_secret"], raw["prk"]]
    opener = Opener(Aead.AES_128_GCM, expand(prk, b"key", 16), expand(prk, b"nonce", NN))
    response = bytes.fromhex(raw["encapsulated_response"])
    assert opener.open(response[16:]).hex() == raw["binary_http_response"]


# What a whole exchange gives


@given(st.sampled_from(Aead), messages, messages, sizes)
def test_an_exchange_arrives_whatever_the_pieces(
    aead: Aead, question: tuple[list[bytes], bytes], answer: tuple[list[bytes], bytes], cuts: list[int]
) -> None:
    sealer, opener = RequestSealer(GATEWAY.config, SUITES[aead]), RequestOpener([GATEWAY])
    assert open_all(opener, b"".join(seal_all(sealer, *question)), cuts) == [*question[0], question[1]]
    answering = opener.response_sealer(os.urandom(opener.response_nonce_length))
    answered = open_all(sealer.response_opener(), b"".join(seal_all(answering, *answer)), cuts)
    assert answered == [*answer[0], answer[1]]


def test_a_chunk_is_let_out_with_its_last_byte() -> None:
    sealer, opener = RequestSealer(GATEWAY.config), RequestOpener([GATEWAY])
    header, first, second, _ = seal_all(sealer, [b"first", b"second"])
    assert opener.feed(header + first[:-1]) == []
    assert opener.feed(first[-1:] + second[:1]) == [b"first"]
    assert opener.feed(second[1:]) == [b"second"]


def test_the_gateway_learns_enc_then_who_authenticated() -> None:
    sealer, opener = RequestSealer(GATEWAY.config), RequestOpener([GATEWAY])
    opener.feed(sealer.header[:-1])
    assert (opener.enc, opener.authenticated) == (None, False)
    opener.feed(sealer.header[-1:])
    assert (opener.enc, opener.authenticated) == (sealer.header[7:], False)
    opener.feed(sealer.seal(b"x"))
    assert opener.authenticated


def test_a_request_of_one_final_chunk_authenticates_at_its_end() -> None:
    opener = RequestOpener([GATEWAY])
    opener.feed(b"".join(seal_all(RequestSealer(GATEWAY.config), [])))
    assert not opener.authenticated
    assert opener.finish() == b""
    assert opener.authenticated


def test_the_configs_preferred_suite_is_used_unless_another_is_chosen() -> None:
    assert RequestSealer(GATEWAY.config).header[5:7] == b"\x00\x02"
    assert RequestSealer(GATEWAY.config, SUITES[Aead.CHACHA20_POLY1305]).header[5:7] == b"\x00\x03"


def test_a_request_finds_its_key_among_several() -> None:
    others = [GatewayKey.generate({GATEWAY.config.key_id}) for _ in range(3)]
    body = b"".join(seal_all(RequestSealer(GATEWAY.config), [b"x"]))
    assert open_all(RequestOpener([*others, GATEWAY]), body) == [b"x", b""]


@aeads
def test_the_response_nonce_is_as_long_as_the_longer_of_nonce_and_key(aead: Aead) -> None:
    opener = RequestOpener([GATEWAY])
    opener.feed(b"".join(seal_all(RequestSealer(GATEWAY.config, SUITES[aead]), [b"x"])))
    assert opener.response_nonce_length == max(12, aead.nk)
    with pytest.raises(ValueError, match="response nonce takes"):
        opener.response_sealer(bytes(opener.response_nonce_length - 1))
    assert opener.response_sealer(bytes(opener.response_nonce_length)).header == bytes(opener.response_nonce_length)


def test_the_largest_chunk_is_accepted_and_lengths_are_minimal() -> None:
    largest = bytes(MAX_CHUNK_BYTES_ACCEPTED)
    sealer = RequestSealer(GATEWAY.config)
    body = seal_all(sealer, [b"x", largest], largest)
    assert body[1][:1] == varint.encode(17)
    assert body[2][:4] == varint.encode(len(largest) + 16)
    assert body[3][:1] == b"\0"
    assert open_all(RequestOpener([GATEWAY]), b"".join(body), [65_536]) == [b"x", largest, largest]


@pytest.mark.parametrize("form", [2, 4, 8])
def test_a_longer_length_than_needed_is_accepted(form: int) -> None:
    def lengthen(framed: bytes) -> bytes:
        value = (form.bit_length() - 1) << 8 * form - 2 | framed[0]
        return value.to_bytes(form, "big") + framed[1:]

    header, chunk, final = seal_all(RequestSealer(GATEWAY.config), [b"chunk"], b"last")
    body = header + lengthen(chunk) + lengthen(final)
    assert open_all(RequestOpener([GATEWAY]), body, [1]) == [b"chunk", b"last"]


def test_25_mib_in_pieces_that_fit_no_chunk_take_linear_time() -> None:
    def write() -> bytes:
        return b"".join(seal_all(RequestSealer(GATEWAY.config), [bytes(16_384)] * 1_600))

    def read() -> None:
        opener = RequestOpener([GATEWAY])
        assert sum(len(chunk) for piece in cuts for chunk in opener.feed(piece)) == 25 << 20
        assert opener.finish() == b""

    body, linear_s = write(), processor_s(write)
    for piece_bytes in (65_000, len(body)):
        cuts = pieces(body, [piece_bytes])
        assert processor_s(read) < 10 * linear_s


# The header


def renamed(at: int, value: int) -> bytes:
    header = bytearray(RequestSealer(GATEWAY.config).header)
    header[at] = value
    return bytes(header)


KEY_ID = GATEWAY.config.key_id


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (renamed(0, KEY_ID ^ 1), "no key has the id"),
        (renamed(2, 0x21), "not of KEM 0x0021"),
        (renamed(1, 0x64), "not of KEM 0x6420"),
        (renamed(4, 2), "does not offer KDF 0x0002"),
        (renamed(6, 9), "with AEAD 0x0009"),
        (renamed(5, 0xFF), "with AEAD 0xff02"),
    ],
    ids=lambda one: one if isinstance(one, str) else "header",
)
def test_a_header_that_names_what_we_do_not_hold_is_a_key_mismatch(header: bytes, reason: str) -> None:
    for opener in (RequestOpener([GATEWAY]), RequestOpener([GATEWAY])):
        with pytest.raises(KeyMismatchError, match=reason):
            opener.feed(header[:7])  # before enc has arrived


def test_a_suite_we_know_but_do_not_offer_is_a_key_mismatch() -> None:
    config = GATEWAY.config
    narrow = KeyConfig(config.key_id, config.kem, config.public_key, ((1, 1),))
    with pytest.raises(KeyMismatchError, match="does not offer"):
        RequestOpener([GatewayKey(narrow, GATEWAY.private_key)]).feed(RequestSealer(config).header)


def test_a_suite_offered_but_not_known_is_a_key_mismatch() -> None:
    config = GATEWAY.config
    wide = GatewayKey(KeyConfig(config.key_id, config.kem, config.public_key, ((1, 9),)), GATEWAY.private_key)
    with pytest.raises(KeyMismatchError, match="does not offer"):
        RequestOpener([wide]).feed(renamed(6, 9))


@pytest.mark.parametrize("enc", [bytes(32), (1).to_bytes(32, "little"), ((1 << 255) - 20).to_bytes(32, "little")])
def test_a_low_order_enc_is_a_key_mismatch(enc: bytes) -> None:
    with pytest.raises(KeyMismatchError, match="encapsulated key is not usable"):
        RequestOpener([GATEWAY]).feed(RequestSealer(GATEWAY.config).header[:7] + enc)


def test_the_right_id_with_the_wrong_key_is_a_key_mismatch() -> None:
    config = GATEWAY.config
    other = PrivateKey.generate()
    stale = KeyConfig(config.key_id, config.kem, other.public_key, config.suites)
    with pytest.raises(KeyMismatchError, match="first chunk does not open"):
        RequestOpener([GATEWAY]).feed(b"".join(seal_all(RequestSealer(stale), [b"x"])))
    only_final = RequestOpener([GATEWAY])
    only_final.feed(b"".join(seal_all(RequestSealer(stale), [])))
    with pytest.raises(KeyMismatchError, match="first chunk does not open"):
        only_final.finish()


def test_without_keys_nothing_opens() -> None:
    with pytest.raises(KeyMismatchError, match="no key has the id"):
        RequestOpener([]).feed(RequestSealer(GATEWAY.config).header)


@pytest.mark.parametrize("public_key", [bytes(32), bytes(31)])
def test_the_client_refuses_a_key_that_gives_no_secret(public_key: bytes) -> None:
    with pytest.raises(ChannelError, match="low order"):
        RequestSealer(KeyConfig(1, 0x0020, public_key, ((1, 2),)))


# Post-quantum keys

PQ_GATEWAY = GatewayKey.generate({GATEWAY.config.key_id}, Kem.MLKEM768_X25519)
PQ_HEADER_BYTES = 7 + 1_120


@aeads
@given(message=messages, cuts=sizes)
def test_what_is_sealed_to_a_post_quantum_key_is_opened(
    aead: Aead, message: tuple[list[bytes], bytes], cuts: list[int]
) -> None:
    sealer = RequestSealer(PQ_GATEWAY.config, Suite(Kem.MLKEM768_X25519, Kdf.HKDF_SHA256, aead))
    opener = RequestOpener([GATEWAY, PQ_GATEWAY])
    assert len(sealer.header) == PQ_HEADER_BYTES
    assert open_all(opener, b"".join(seal_all(sealer, *message)), cuts) == [*message[0], message[1]]
    answer = opener.response_sealer(bytes(opener.response_nonce_length))
    answered = b"".join(seal_all(answer, [b"answer"], b"end"))
    assert open_all(sealer.response_opener(), answered) == [b"answer", b"end"]


def test_every_cut_of_a_post_quantum_header_waits_for_more_or_is_refused() -> None:
    sealer = RequestSealer(PQ_GATEWAY.config)
    request = b"".join(seal_all(sealer, [], b"last"))
    for size in range(len(request)):
        opener = RequestOpener([PQ_GATEWAY])
        assert opener.feed(request[:size]) == []
        with pytest.raises(ChannelError):
            opener.finish()


@pytest.mark.parametrize("at", [0, 1, 2, 3, 6, 7, 600, 7 + 1_087, 7 + 1_088, PQ_HEADER_BYTES - 1, PQ_HEADER_BYTES + 5])
def test_a_changed_post_quantum_header_or_first_chunk_is_a_mismatch_of_the_key(at: int) -> None:
    request = b"".join(seal_all(RequestSealer(PQ_GATEWAY.config), [b"first"]))
    changed = request[:at] + bytes([request[at] ^ 1]) + request[at + 1 :]
    with pytest.raises(KeyMismatchError):
        open_all(RequestOpener([PQ_GATEWAY]), changed)


# The chunks


def framed(sealed: bytes) -> bytes:
    return varint.encode(len(sealed)) + sealed


def with_aad(aad: bytes, *, final: bool) -> bytes:
    """A request whose last chunk carries the associated data of the other kind."""
    sealer = RequestSealer(GATEWAY.config)
    start = sealer.header + sealer.seal(b"first")
    sealed = sealer._context.seal(b"chunk", aad)
    return start + (b"\0" + sealed if final else framed(sealed))


HEADER, FIRST, SECOND, THIRD, FINAL = seal_all(RequestSealer(GATEWAY.config), [b"1", b"2", b"3"], b"4")
CHUNK_ATTACKS = {
    "swapped": (HEADER + FIRST + THIRD + SECOND + FINAL, "does not authenticate"),
    "the first two swapped": (HEADER + SECOND + FIRST + THIRD + FINAL, "first chunk does not open"),
    "one dropped": (HEADER + FIRST + THIRD + FINAL, "does not authenticate"),
    "the first dropped": (HEADER + SECOND + THIRD + FINAL, "first chunk does not open"),
    "the last before the final dropped": (HEADER + FIRST + SECOND + FINAL, "does not authenticate"),
    "one repeated": (HEADER + FIRST + SECOND + SECOND + THIRD + FINAL, "does not authenticate"),
    "the final missing": (HEADER + FIRST + SECOND + THIRD, "final chunk is missing"),
    "cut inside a chunk": (HEADER + FIRST + SECOND[:-1], "inside a chunk"),
    "cut inside a length": (HEADER + FIRST + b"\x40", "inside a chunk"),
    "cut after the final marker": (HEADER + FIRST + SECOND + THIRD + FINAL[:1], "inside the final chunk"),
    "cut inside the final tag": (HEADER + FIRST + SECOND + THIRD + FINAL[:16], "inside the final chunk"),
    "cut inside the final chunk": (HEADER + FIRST + SECOND + THIRD + FINAL[:-1], "does not authenticate"),
    "a byte after the final": (HEADER + FIRST + SECOND + THIRD + FINAL + b"\0", "does not authenticate"),
    "a chunk made the final": (HEADER + FIRST + SECOND + b"\0" + THIRD[1:], "does not authenticate"),
    "the final made a chunk": (HEADER + FIRST + SECOND + THIRD + framed(FINAL[1:]), "does not authenticate"),
    "a final with empty aad": (with_aad(b"", final=True), "does not authenticate"),
    "a chunk with the final aad": (with_aad(b"final", final=False), "does not authenticate"),
    "a header alone": (HEADER, "final chunk is missing"),
    "a cut header": (HEADER[:-1], "inside its header"),
    "names alone": (HEADER[:7], "inside its header"),
    "nothing": (b"", "inside its header"),
}


@pytest.mark.parametrize("attack", CHUNK_ATTACKS)
@pytest.mark.parametrize("size", [1, 1_000])
def test_a_body_is_refused_when_its_chunks_are(attack: str, size: int) -> None:
    body, reason = CHUNK_ATTACKS[attack]
    with pytest.raises(ChannelError, match=reason):
        open_all(RequestOpener([GATEWAY]), body, [size])


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        (1, "shorter than its tag"),
        (15, "shorter than its tag"),
        (16, "not the final one is empty"),
        (MAX_CHUNK_BYTES_ACCEPTED + 17, "too long"),
        (varint.MAX_VARINT, "too long"),
    ],
)
def test_a_length_is_refused_before_its_chunk_arrives(length: int, reason: str) -> None:
    opener = RequestOpener([GATEWAY])
    with pytest.raises(ChannelError, match=reason) as caught:
        opener.feed(RequestSealer(GATEWAY.config).header + varint.encode(length))
    assert not isinstance(caught.value, KeyMismatchError)
    sealer, _, answer = exchange()
    response = sealer.response_opener()
    with pytest.raises(ChannelError, match=reason):
        response.feed(answer.header + varint.encode(length))


@pytest.mark.parametrize(("chunk_bytes", "reason"), [(99, "too short"), (100, None), (200, None), (201, "too long")])
def test_a_gateway_asks_for_chunks_of_its_own_sizes_but_for_a_short_last_one(
    chunk_bytes: int, reason: str | None
) -> None:
    body = b"".join(seal_all(RequestSealer(GATEWAY.config), [bytes(chunk_bytes)], b"x"))
    opener = RequestOpener([GATEWAY], min_chunk_bytes=100, max_chunk_bytes=200)
    with pytest.raises(ChannelError, match=reason) if reason else nullcontext():
        assert open_all(opener, body) == [bytes(chunk_bytes), b"x"]


def test_a_gateways_largest_chunk_bounds_the_final_one() -> None:
    sealer = RequestSealer(GATEWAY.config)
    opener = RequestOpener([GATEWAY], max_chunk_bytes=200)
    with pytest.raises(ChannelError, match="the final chunk is too long"):
        opener.feed(sealer.header + sealer.seal_final(bytes(201)))


def test_an_empty_chunk_that_is_not_final_is_refused_though_it_authenticates() -> None:
    sealer = RequestSealer(GATEWAY.config)
    with pytest.raises(ChannelError, match="not the final one is empty"):
        RequestOpener([GATEWAY]).feed(sealer.header + framed(sealer._context.seal(b"")))


def test_a_final_chunk_is_refused_while_it_grows_too_long() -> None:
    opener = RequestOpener([GATEWAY])
    opener.feed(HEADER + FIRST + b"\0" + bytes(MAX_CHUNK_BYTES_ACCEPTED + 16))
    with pytest.raises(ChannelError, match="final chunk is too long"):
        opener.feed(b"\0")
    assert len(opener._buffer) == 0


def test_a_later_failure_is_no_key_mismatch() -> None:
    opener = RequestOpener([GATEWAY])
    opener.feed(HEADER + FIRST)
    with pytest.raises(ChannelError) as caught:
        opener.feed(THIRD)
    assert not isinstance(caught.value, KeyMismatchError)


# Altered on the way


def flips(body: bytes) -> list[bytes]:
    number = int.from_bytes(body, "big")
    return [(number ^ 1 << bit).to_bytes(len(body), "big") for bit in range(8 * len(body))]


def test_every_bit_flip_of_a_request_is_refused() -> None:
    body = b"".join(seal_all(RequestSealer(GATEWAY.config), [b"first", b"second"], b"last"))
    for altered in flips(body):
        with pytest.raises(ChannelError):
            open_all(RequestOpener([GATEWAY]), altered)


def test_every_bit_flip_of_a_header_is_a_key_mismatch() -> None:
    header, first, *_ = seal_all(RequestSealer(GATEWAY.config), [b"first"])
    for altered in flips(header):
        opener = RequestOpener([GATEWAY])
        with pytest.raises(KeyMismatchError):
            opener.feed(altered + first)
        assert not opener.authenticated


def test_every_truncation_of_a_request_is_refused() -> None:
    body = b"".join(seal_all(RequestSealer(GATEWAY.config), [b"first", b"second"], b"last"))
    for size in range(len(body)):
        with pytest.raises(ChannelError):
            open_all(RequestOpener([GATEWAY]), body[:size])


def response_openers(count: int) -> tuple[list[ResponseOpener], bytes]:
    """As many openers of one and the same response, and its body."""
    sealer, _, answer = exchange()
    first = sealer.response_opener()
    body = b"".join(seal_all(answer, [b"first", b"second"], b"last"))
    return [ResponseOpener(first._secret) for _ in range(count)], body


def test_every_bit_flip_of_a_response_is_refused() -> None:
    _, body = response_openers(0)
    openers, body = response_openers(8 * len(body))
    for opener, altered in zip(openers, flips(body), strict=True):
        with pytest.raises(ChannelError):
            open_all(opener, altered)


def test_every_truncation_of_a_response_is_refused() -> None:
    _, body = response_openers(0)
    openers, body = response_openers(len(body))
    for size, opener in enumerate(openers):
        with pytest.raises(ChannelError):
            open_all(opener, body[:size])


def test_the_answer_to_another_request_does_not_open() -> None:
    sealer, _, _ = exchange()
    _, _, other = exchange()
    with pytest.raises(ChannelError, match="does not authenticate"):
        open_all(sealer.response_opener(), b"".join(seal_all(other, [b"answer"])))


def test_a_request_sent_back_is_no_answer() -> None:
    sealer, request, _ = exchange()
    with pytest.raises(ChannelError):
        open_all(sealer.response_opener(), b"".join(request))
    sealer, request, _ = exchange()
    with pytest.raises(ChannelError, match="does not authenticate"):
        open_all(sealer.response_opener(), NONCE + b"".join(request[1:]))


def test_an_answer_under_another_nonce_does_not_open() -> None:
    sealer, _, answer = exchange()
    _, *chunks = seal_all(answer, [b"answer"])
    with pytest.raises(ChannelError, match="does not authenticate"):
        open_all(sealer.response_opener(), bytes(32) + b"".join(chunks))


# The states


def test_a_failed_opener_stays_failed() -> None:
    opener = RequestOpener([GATEWAY])
    opener.feed(HEADER + FIRST)
    with pytest.raises(ChannelError, match="does not authenticate"):
        opener.feed(THIRD)
    with pytest.raises(ChannelError, match="failed before"):
        opener.feed(SECOND)
    with pytest.raises(ChannelError, match="failed before"):
        opener.finish()
    with pytest.raises(ChannelError, match="failed before"):
        opener.response_sealer(NONCE)


def test_an_opener_that_failed_at_the_end_stays_failed() -> None:
    opener = RequestOpener([GATEWAY])
    opener.feed(HEADER + FIRST)
    with pytest.raises(ChannelError, match="final chunk is missing"):
        opener.finish()
    with pytest.raises(ChannelError, match="failed before"):
        opener.feed(SECOND)


def test_a_key_mismatch_is_told_once_and_the_opener_stays_failed() -> None:
    opener = RequestOpener([])
    with pytest.raises(KeyMismatchError):
        opener.feed(HEADER)
    with pytest.raises(ChannelError, match="failed before"):
        opener.feed(b"")


def test_after_the_end_an_opener_is_not_used_again() -> None:
    opener = RequestOpener([GATEWAY])
    open_all(opener, HEADER + FIRST + SECOND + THIRD + FINAL)
    with pytest.raises(RuntimeError, match="has ended"):
        opener.feed(b"")
    with pytest.raises(RuntimeError, match="has ended"):
        opener.finish()


def test_after_the_final_chunk_a_sealer_seals_nothing() -> None:
    sealer, _, answer = exchange()
    answer.seal_final()
    for ended in (sealer, answer):
        with pytest.raises(RuntimeError, match="final chunk has been sealed"):
            ended.seal(b"x")
        with pytest.raises(RuntimeError, match="final chunk has been sealed"):
            ended.seal_final()


def test_a_sealer_does_not_seal_what_would_be_refused() -> None:
    sealer = RequestSealer(GATEWAY.config)
    with pytest.raises(ValueError, match="only the final chunk may be empty"):
        sealer.seal(b"")
    for seal in (sealer.seal, sealer.seal_final):
        with pytest.raises(ValueError, match="would be refused"):
            seal(bytes(MAX_CHUNK_BYTES_ACCEPTED + 1))
    assert open_all(RequestOpener([GATEWAY]), sealer.header + sealer.seal_final(b"x")) == [b"x"]


def test_there_is_one_opener_and_one_sealer_for_the_answer() -> None:
    sealer, opener = RequestSealer(GATEWAY.config), RequestOpener([GATEWAY])
    open_all(opener, b"".join(seal_all(sealer, [b"x"])))
    opener.response_sealer(NONCE)
    with pytest.raises(RuntimeError, match="has been given out"):
        opener.response_sealer(bytes(32))
    sealer.response_opener()
    with pytest.raises(RuntimeError, match="has been given out"):
        sealer.response_opener()


def test_no_answer_is_sealed_before_a_chunk_has_opened() -> None:
    opener = RequestOpener([GATEWAY])
    with pytest.raises(RuntimeError, match="header has not been read"):
        _ = opener.response_nonce_length
    opener.feed(HEADER)
    assert opener.response_nonce_length == 32
    with pytest.raises(RuntimeError, match="no chunk of the request has opened"):
        opener.response_sealer(NONCE)
    opener.feed(FIRST)
    assert opener.response_sealer(NONCE).header == NONCE


def test_an_answer_may_begin_before_the_request_has_ended() -> None:
    sealer, opener = RequestSealer(GATEWAY.config), RequestOpener([GATEWAY])
    opener.feed(sealer.header + sealer.seal(b"head"))
    early = opener.response_sealer(NONCE)
    response = sealer.response_opener()
    assert response.feed(early.header + early.seal(b"429")) == [b"429"]
    assert opener.feed(sealer.seal(b"still coming")) == [b"still coming"]
    assert open_all(response, early.seal_final()) == [b""]


def test_no_object_shows_a_secret() -> None:
    sealer, _, answer = exchange()
    response = sealer.response_opener()
    secret = response._secret
    shown = "".join(map(repr, (sealer, answer, response, secret, RequestOpener([GATEWAY]))))
    assert secret.secret.hex()[:8] not in shown
    assert repr(secret.secret) not in shown
