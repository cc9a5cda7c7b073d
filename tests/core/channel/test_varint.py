"""QUIC integers against RFC 9000 appendix A.1, and as a property."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.channel import varint
from tests.core.channel.vectors import load

EXAMPLES: list[dict[str, Any]] = load("varint_rfc9000")["examples"]
VALUES = st.integers(0, varint.MAX_VARINT)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example["encoded"]))
def test_the_examples_of_rfc_9000_decode(example: dict[str, Any]) -> None:
    encoded = bytes.fromhex(example["encoded"])
    assert varint.decode(encoded) == (example["value"], len(encoded))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example["encoded"]))
def test_the_shortest_examples_of_rfc_9000_are_what_we_write(example: dict[str, Any]) -> None:
    written = varint.encode(example["value"]).hex()
    assert (written == example["encoded"]) is example.get("shortest", True)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 1),
        (63, 1),
        (64, 2),
        (16_383, 2),
        (16_384, 4),
        ((1 << 30) - 1, 4),
        (1 << 30, 8),
        (varint.MAX_VARINT, 8),
    ],
)
def test_the_shortest_form_is_written_at_every_boundary(value: int, size: int) -> None:
    assert len(varint.encode(value)) == size
    assert varint.decode(varint.encode(value)) == (value, size)


@given(VALUES, st.binary(max_size=9), st.binary(max_size=9))
def test_what_is_written_is_read_wherever_it_stands(value: int, before: bytes, after: bytes) -> None:
    encoded = varint.encode(value)
    end = len(before) + len(encoded)
    for kind in (bytes, bytearray, memoryview):
        assert varint.decode(kind(before + encoded + after), len(before)) == (value, end)


@given(VALUES)
def test_a_cut_integer_asks_for_more(value: int) -> None:
    encoded = varint.encode(value)
    assert [varint.decode(encoded[:size]) for size in range(len(encoded))] == [None] * len(encoded)


@pytest.mark.parametrize("encoded", ["4000", "80000000", "c000000000000000"])
def test_a_longer_form_than_needed_is_accepted(encoded: str) -> None:
    assert varint.decode(bytes.fromhex(encoded)) == (0, len(encoded) // 2)


@pytest.mark.parametrize(("value", "reason"), [(-1, "negative"), (varint.MAX_VARINT + 1, "62 bits")])
def test_what_no_form_can_hold_is_not_written(value: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        varint.encode(value)
