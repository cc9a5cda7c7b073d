"""Lengths are rounded as documented, and padding comes off without a trace."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.channel.bhttp import ResponseEncoder, ResponseHead
from core.channel.padding import (
    EVENT_BYTES,
    HEAD_BYTES,
    PaddingStripper,
    pad_event,
    padme,
    request_padding,
    response_padding,
    stream_filler,
)
from tests.core.channel.vectors import pieces

lengths = st.integers(0, 1 << 40)
sizes = st.lists(st.integers(1, 300), min_size=1, max_size=8)
lookalikes = [b"data: x", b"", b":", b": ping", b":pad", b":padding", b":pad x", b":pad 0x", b"x :pad 0", b":pa"]
lines = st.sampled_from(lookalikes) | st.binary(max_size=300).filter(
    lambda line: b"\n" not in line and not re.fullmatch(rb":pad 0*", line)
)
events = (
    st.lists(lines, max_size=6)
    .map(lambda some: b"\n".join([*some, b"", b""]))
    .filter(lambda event: event.endswith(b"\n\n"))
)


def strip(stream: bytes, cuts: list[int]) -> bytes:
    stripper = PaddingStripper()
    return b"".join([*(stripper.feed(piece) for piece in pieces(stream, cuts)), stripper.finish()])


@pytest.mark.parametrize(
    ("length", "padded"),
    [(0, 0), (1, 1), (2, 2), (8, 8), (9, 10), (16, 16), (17, 18), (1_000, 1_024), (26_214_400, 26_214_400)],
)
def test_padme_rounds_to_few_significant_bits(length: int, padded: int) -> None:
    assert padme(length) == padded


@given(lengths)
def test_padme_adds_at_most_12_percent(length: int) -> None:
    assert length <= padme(length) <= length * 1.12


@given(lengths, lengths)
def test_padme_keeps_order_and_what_is_rounded(a: int, b: int) -> None:
    assert padme(padme(a)) == padme(a)
    assert (padme(a) <= padme(b)) or a > b


def test_padme_leaves_few_lengths_to_tell_apart() -> None:
    assert len({padme(length) for length in range(1 << 20, 1 << 21)}) == 33


@given(lengths)
def test_a_request_is_padded_to_padme_and_to_no_less_than_16_kib(length: int) -> None:
    assert length + request_padding(length) == max(16_384, padme(length))


@given(lengths)
def test_a_response_is_padded_to_a_multiple_of_4_kib(length: int) -> None:
    assert 0 <= response_padding(length) < 4_096
    assert (length + response_padding(length)) % 4_096 == 0


@pytest.mark.parametrize("heartbeats", [0, 1])
def test_the_head_of_a_stream_is_padded_to_a_multiple_of_512_whatever_its_length(heartbeats: int) -> None:
    for size in range(1_100):
        encoder = ResponseEncoder()
        _ = [encoder.informational(102) for _ in range(heartbeats)]
        head = encoder.head(ResponseHead(200, (("x-request-id", "a" * size),)))
        filler = stream_filler(len(head))
        padded = head + encoder.content(filler)
        assert len(padded) % HEAD_BYTES == 0
        assert len(padded) < len(head) + 2 * HEAD_BYTES
        assert strip(filler, [size + 1]) == b""
        assert strip(filler + pad_event(b"data: x\n\n"), [7]) == b"data: x\n\n"


@given(st.integers(0, 600))
def test_an_event_is_padded_to_a_multiple_of_256(size: int) -> None:
    event = b"data: " + b"x" * size + b"\n\n"
    padded = pad_event(event)
    assert len(padded) % EVENT_BYTES == 0
    assert len(padded) < len(event) + EVENT_BYTES + len(":pad \n")
    comment, line_end, rest = padded.partition(b"\n")
    assert comment.startswith(b":pad ")
    assert set(comment[5:]) <= {ord("0")}
    assert line_end + rest == b"\n" + event


@given(st.lists(events, max_size=5), sizes)
@example([b"\n\n"], [1])
@example([b"data: [DONE]\n\n"] * 3, [255, 1])
def test_stripping_gives_the_events_back_whatever_the_pieces(stream: list[bytes], cuts: list[int]) -> None:
    padded = b"".join(pad_event(event) for event in stream)
    assert strip(padded, cuts) == b"".join(stream)


@given(st.lists(lines, max_size=8), sizes)
def test_whatever_is_no_padding_line_passes_untouched(stream: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(stream)
    assert strip(data, cuts) == data


@pytest.mark.parametrize(
    "stream",
    [
        b": keep-alive\n\n",
        b":pad\n",
        b":pad 0",
        b":pad 00 \n",
        b":pad 00\r\n",
        b":pad " + b"0" * (HEAD_BYTES + 65) + b"\n",
        b"data: a\r:pad 0\n",
        b"data: :pad 0\n",
        b" :pad 0\n",
    ],
)
def test_what_only_resembles_padding_passes(stream: bytes) -> None:
    for size in (1, 2, 7, len(stream)):
        assert strip(stream, [size]) == stream


def test_an_event_is_let_through_as_soon_as_it_is_there() -> None:
    stripper = PaddingStripper()
    assert stripper.feed(pad_event(b"data: a\n\n")) == b"data: a\n\n"
    assert stripper.feed(b":pad 0") == b""
    assert stripper.feed(b"0\ndata: b") == b"data: b"
    assert stripper.feed(b"c\n") == b"c\n"


def test_what_is_held_back_never_grows_beyond_a_padding_line() -> None:
    stripper = PaddingStripper()
    passed = sum(len(stripper.feed(b":pad 0" if at == 0 else b"0")) for at in range(1_000))
    assert 1_000 + 5 - passed <= HEAD_BYTES + 64 + 5


@pytest.mark.parametrize("event", [b"", b"data: x", b"data: x\n"])
def test_only_a_complete_event_is_padded(event: bytes) -> None:
    with pytest.raises(ValueError, match="ends in a blank line"):
        pad_event(event)


def test_an_event_that_holds_padding_cannot_be_padded() -> None:
    with pytest.raises(ValueError, match="holds a padding line"):
        pad_event(pad_event(b"data: x\n\n"))
