"""A file that is asked for by its places reads like one that is in memory."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.media import content as module
from core.media.content import HELD_BLOCKS, READ_BYTES, InBlocks, InMemory, block_bytes, places_of, starts_with


def in_blocks(data: bytes) -> tuple[InBlocks, list[int]]:
    """The file, and which blocks of it were fetched."""
    fetched = []

    def fetch(number: int) -> bytes:
        fetched.append(number)
        return data[number * READ_BYTES :][: block_bytes(len(data), number)]

    return InBlocks(len(data), fetch), fetched


@given(st.binary(max_size=40), st.data())
def test_any_place_reads_as_in_memory(data: bytes, draw: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "READ_BYTES", 7)
        content = InBlocks(len(data), lambda number: data[number * 7 : number * 7 + 7])
        for _ in range(5):
            start, end = draw.draw(st.integers(0, 50)), draw.draw(st.integers(0, 50))
            assert content.read(start, end) == InMemory(data).read(start, end)


def test_the_last_blocks_are_held_and_no_more() -> None:
    content, fetched = in_blocks(bytes(READ_BYTES * (HELD_BLOCKS + 1) + 5))
    for number in range(HELD_BLOCKS + 2):
        content.read(number * READ_BYTES, number * READ_BYTES + 1)
    content.read((HELD_BLOCKS + 1) * READ_BYTES, content.size)
    assert fetched == list(range(HELD_BLOCKS + 2))
    content.read(0, 1)
    assert fetched[-1] == 0


@pytest.mark.parametrize("number", [-1, 2, 1 << 31])
def test_there_is_no_block_beyond_the_end(number: int) -> None:
    assert [block_bytes(READ_BYTES + 1, each) for each in (0, 1)] == [READ_BYTES, 1]
    with pytest.raises(ValueError, match="no such block"):
        block_bytes(READ_BYTES + 1, number)


def test_an_empty_file_has_no_block() -> None:
    with pytest.raises(ValueError, match="no such block"):
        block_bytes(0, 0)


def test_a_beginning_is_known_anywhere() -> None:
    assert starts_with(InMemory(b"abcd"), b"cd", 2)
    assert not starts_with(InMemory(b"abcd"), b"cde", 2)


@given(st.binary(max_size=60).map(lambda data: data.replace(b"\x07", b"ab!")), st.integers(0, 20), st.integers(0, 60))
def test_places_are_found_over_the_ends_of_what_is_looked_at(data: bytes, start: int, end: int) -> None:
    pattern = re.compile(rb"ab.?")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SCAN_BYTES", 5)
        found = list(places_of(InMemory(data), pattern, start, end, longest=3))
    assert found == [match.start() for match in pattern.finditer(data[:end], start)]
