"""Key configs against the figures of the draft, and every way to spoil one."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.channel.hpke import Aead, Suite
from core.channel.kdf import Kdf
from core.channel.kem import Kem, PrivateKey
from core.channel.keyconfig import (
    GatewayKey,
    KeyConfig,
    decode_key_config,
    decode_key_configs,
    encode_key_configs,
)
from core.errors import ChannelError
from tests.core.channel.vectors import load

PUBLISHED = bytes.fromhex(load("ohttp_chunked_08")["key_config"])
OURS = KeyConfig.for_key(PrivateKey.from_bytes(bytes(range(32))))
FOREIGN = bytes.fromhex("077777") + bytes(99) + bytes.fromhex("000400010002")

configs = st.sampled_from(Kem).flatmap(
    lambda kem: st.builds(
        KeyConfig,
        st.integers(0, 255),
        st.just(int(kem)),
        st.binary(min_size=kem.npk, max_size=kem.npk),
        st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)), min_size=1, max_size=9).map(tuple),
    )
)


def test_the_key_config_of_the_draft_is_read_and_written() -> None:
    config = decode_key_config(PUBLISHED)
    assert config.key_id == 1
    assert config.kem == Kem.X25519_HKDF_SHA256
    assert (
        config.public_key
        == PrivateKey.from_bytes(bytes.fromhex(load("ohttp_chunked_08")["gateway_private_key"])).public_key
    )
    assert config.suites == ((1, 1), (1, 3))
    assert config.encode() == PUBLISHED


@given(st.lists(configs, min_size=1, max_size=5))
def test_what_is_written_is_read(written: list[KeyConfig]) -> None:
    assert decode_key_configs(encode_key_configs(written)) == tuple(written)


def test_the_identity_of_a_key_is_the_digest_of_its_config() -> None:
    assert OURS.digest == sha256(OURS.encode()).digest()
    assert OURS.path_digest == sha256(OURS.encode()).hexdigest()[:32]


def test_our_key_id_is_the_first_byte_of_a_digest() -> None:
    assert OURS.key_id == sha256(b"\x00\x20" + OURS.public_key).digest()[0]


def test_we_offer_aes_256_first() -> None:
    assert OURS.suites == ((1, 2), (1, 3), (1, 1))
    assert OURS.preferred_suite() == Suite(Kem.X25519_HKDF_SHA256, Kdf.HKDF_SHA256, Aead.AES_256_GCM)


def test_the_owners_order_decides_among_the_suites_we_support() -> None:
    config = KeyConfig(1, 0x0020, bytes(32), ((2, 1), (1, 9), (1, 3), (1, 1)))
    assert config.preferred_suite().aead is Aead.CHACHA20_POLY1305


@pytest.mark.parametrize(
    "config",
    [KeyConfig(1, 0x0020, bytes(32), ((2, 1), (1, 9))), KeyConfig(1, 0x7777, bytes(99), ((1, 2),))],
    ids=["suites", "kem"],
)
def test_without_a_suite_we_support_there_is_nothing_to_prefer(config: KeyConfig) -> None:
    with pytest.raises(ChannelError, match="no suite that we support"):
        config.preferred_suite()


KEY = bytes.fromhex("010020") + bytes(32)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "before its public key"),
        (KEY[:2], "before its public key"),
        (KEY[:20], "before its suites"),
        (KEY + b"\x00", "before its suites"),
        (KEY + b"\x00\x00", "one or more pairs"),
        (KEY + b"\x00\x02\x00\x01", "one or more pairs"),
        (KEY + b"\x00\x06\x00\x01\x00\x02\x00\x01", "one or more pairs"),
        (KEY + b"\x00\x08\x00\x01\x00\x02", "inside its suites"),
        (PUBLISHED[:-1], "inside its suites"),
        (PUBLISHED + b"\x00", "after its suites"),
    ],
)
def test_a_spoiled_config_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ChannelError, match=reason):
        decode_key_config(data)
    with pytest.raises(ChannelError, match=reason):
        decode_key_configs(encode_key_configs([OURS]) + len(data).to_bytes(2, "big") + data)


def test_every_truncation_of_a_config_is_refused() -> None:
    for size in range(len(PUBLISHED)):
        with pytest.raises(ChannelError):
            decode_key_config(PUBLISHED[:size])


@pytest.mark.parametrize("garbage", [b"\x00", b"\xff\xff", b"\x00\x30" + bytes(8)])
def test_garbage_after_a_list_discards_the_whole_list(garbage: bytes) -> None:
    with pytest.raises(ChannelError, match="ends inside an entry"):
        decode_key_configs(encode_key_configs([OURS, OURS]) + garbage)


def test_a_list_cut_inside_an_entry_is_discarded() -> None:
    encoded = encode_key_configs([OURS, decode_key_config(PUBLISHED)])
    ends = {len(encode_key_configs([OURS])), len(encoded)}
    for size in set(range(1, len(encoded))) - ends:
        with pytest.raises(ChannelError):
            decode_key_configs(encoded[:size])


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ChannelError, match="is empty"):
        decode_key_configs(b"")


def test_a_key_of_an_unknown_kem_is_kept_as_it_came() -> None:
    data = len(FOREIGN).to_bytes(2, "big") + FOREIGN + encode_key_configs([OURS])
    unknown, ours = decode_key_configs(data)
    assert (unknown.key_id, unknown.kem) == (7, 0x7777)
    assert unknown.encode() == FOREIGN
    assert ours == OURS
    assert encode_key_configs([unknown, ours]) == data
    with pytest.raises(ChannelError, match="no suite that we support"):
        unknown.preferred_suite()


def test_a_post_quantum_key_is_written_and_read_with_its_kem() -> None:
    key = GatewayKey.generate((), Kem.MLKEM768_X25519)
    encoded = key.config.encode()
    assert encoded[1:3] == bytes.fromhex("647a")
    assert len(encoded) == 3 + 1_216 + 2 + 12
    assert decode_key_config(encoded) == key.config
    assert key.config.key_id == sha256(b"\x64\x7a" + key.config.public_key).digest()[0]
    assert key.config.preferred_suite() == Suite(Kem.MLKEM768_X25519, Kdf.HKDF_SHA256, Aead.AES_256_GCM)
    assert (key.config.is_post_quantum, OURS.is_post_quantum) == (True, False)


def test_a_new_key_avoids_every_id_in_use() -> None:
    taken = set(range(256)) - {5, 250}
    keys = [GatewayKey.generate(taken) for _ in range(4)]
    assert {key.config.key_id for key in keys} <= {5, 250}
    assert all(key.config == KeyConfig.for_key(key.private_key) for key in keys)


def test_when_every_id_is_in_use_there_is_no_new_key() -> None:
    with pytest.raises(ValueError, match="every key id"):
        GatewayKey.generate(range(256))


def test_a_gateway_key_shows_no_secret() -> None:
    assert "secret=***" in repr(GatewayKey.generate(()))
