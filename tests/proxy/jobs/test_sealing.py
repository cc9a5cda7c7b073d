"""A sealed value opens whole, unaltered, in its own place, and under its own key; or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.jobs.errors import VaultError
from proxy.jobs.sealing import (
    CHUNK_BYTES,
    HEAD_BYTES,
    SEALED_CHUNK_BYTES,
    Chunks,
    Place,
    RecordKey,
    chunk_count,
    plain_bytes,
    seal,
    seal_stream,
    unseal,
)

KEY = RecordKey(bytes(range(32)))
PLACE = Place("job", "1", "details")
SIZES = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 7)


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_sealed_opens(size: int) -> None:
    plain = bytes(size)
    sealed = seal(KEY, PLACE, plain)
    assert unseal(KEY, PLACE, sealed) == plain
    assert plain_bytes(len(sealed)) == size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [1000, CHUNK_BYTES, 3 * CHUNK_BYTES])
async def test_a_stream_is_sealed_as_a_value_is(size: int, step: int) -> None:
    plain = bytes(size)
    sealed = b"".join([piece async for piece in seal_stream(KEY, PLACE, pieces(plain, step))])
    assert unseal(KEY, PLACE, sealed) == plain


@given(st.binary(max_size=300), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_every_place_takes_every_value(plain: bytes, table: str, row: str, column: str) -> None:
    place = Place(*(text.encode("utf-8", "replace").decode() for text in (table, row, column)))
    assert unseal(KEY, place, seal(KEY, place, plain)) == plain


def test_every_bit_counts() -> None:
    sealed = seal(KEY, PLACE, b"what was said")
    for at in range(len(sealed) * 8):
        altered = bytearray(sealed)
        altered[at // 8] ^= 1 << at % 8
        with pytest.raises(VaultError):
            unseal(KEY, PLACE, bytes(altered))


def test_every_truncation_is_refused() -> None:
    sealed = seal(KEY, PLACE, b"what was said")
    for length in range(len(sealed)):
        with pytest.raises(VaultError):
            unseal(KEY, PLACE, sealed[:length])


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_value_that_is_cut_between_two_chunks_is_refused(chunks: int) -> None:
    sealed = seal(KEY, PLACE, bytes(3 * CHUNK_BYTES))
    with pytest.raises(VaultError):
        unseal(KEY, PLACE, sealed[: HEAD_BYTES + chunks * SEALED_CHUNK_BYTES])


def test_chunks_that_changed_places_are_refused() -> None:
    sealed = seal(KEY, PLACE, bytes(3 * CHUNK_BYTES))
    head, body = sealed[:HEAD_BYTES], sealed[HEAD_BYTES:]
    first, second = body[:SEALED_CHUNK_BYTES], body[SEALED_CHUNK_BYTES : 2 * SEALED_CHUNK_BYTES]
    with pytest.raises(VaultError):
        unseal(KEY, PLACE, head + second + first + body[2 * SEALED_CHUNK_BYTES :])


@pytest.mark.parametrize(
    "elsewhere",
    [
        Place("part", "1", "details"),
        Place("job", "2", "details"),
        Place("job", "1", "result"),
        Place("job", "1", "details", "2"),
        Place("job1", "", "details"),
    ],
)
def test_a_value_opens_in_its_own_place_only(elsewhere: Place) -> None:
    with pytest.raises(VaultError):
        unseal(KEY, elsewhere, seal(KEY, PLACE, b"what was said"))


def test_a_value_opens_under_its_own_key_only() -> None:
    with pytest.raises(VaultError):
        unseal(RecordKey.new(), PLACE, seal(KEY, PLACE, b"what was said"))


def test_the_same_value_is_sealed_under_another_key_each_time() -> None:
    assert seal(KEY, PLACE, bytes(16))[HEAD_BYTES:] != seal(KEY, PLACE, bytes(16))[HEAD_BYTES:]


def test_a_chunk_in_the_middle_opens_alone() -> None:
    sealed = seal(KEY, PLACE, bytes(CHUNK_BYTES) + bytes([1]) * CHUNK_BYTES + b"end")
    start = HEAD_BYTES + SEALED_CHUNK_BYTES
    chunks = Chunks(KEY, PLACE, sealed[:HEAD_BYTES])
    assert chunks.open(1, sealed[start : start + SEALED_CHUNK_BYTES], last=False) == bytes([1]) * CHUNK_BYTES


@pytest.mark.parametrize("size", [0, HEAD_BYTES, HEAD_BYTES + 15, HEAD_BYTES + SEALED_CHUNK_BYTES + 15])
def test_sizes_that_no_sealed_value_has_are_refused(size: int) -> None:
    with pytest.raises(VaultError):
        chunk_count(size)


def test_a_key_is_never_shown() -> None:
    assert KEY.secret.hex() not in repr(KEY)
    assert repr(KEY.secret) not in repr(KEY)
