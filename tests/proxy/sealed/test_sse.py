"""Events leave whole, without filler, whatever pieces they arrive in."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.channel.padding import pad_event
from proxy.errors import ErrorCode, ProxyError
from proxy.sealed import sse
from proxy.sealed.sse import EventStream, error_event

EVENTS = [b'data: {"n":%d}\n\n' % number for number in range(5)] + [b": keep-alive\n\n", b"data: [DONE]\n\n"]
PADDED = b"".join(pad_event(event) for event in EVENTS)


@given(st.lists(st.integers(0, len(PADDED)), max_size=20))
def test_padded_events_come_out_whole_however_they_are_cut(cuts: list[int]) -> None:
    stream, edges = EventStream(), [0, *sorted(cuts), len(PADDED)]
    out = [stream.feed(PADDED[start:end]) for start, end in pairwise(edges)]
    assert all(piece == b"" or piece.endswith(b"\n\n") for piece in out)
    assert b"".join(out) + stream.finish() == b"".join(EVENTS)


def test_half_an_event_is_held_back() -> None:
    stream = EventStream()
    assert stream.feed(b"data: 1\n\ndata: hal") == b"data: 1\n\n"
    assert stream.feed(b"f\n") == b""
    assert stream.feed(b"\n") == b"data: half\n\n"


def test_what_follows_the_last_event_belongs_to_the_answer_once_the_end_is_authentic() -> None:
    stream = EventStream()
    stream.feed(b"data: 1\n\n: trailing")
    assert stream.finish() == b": trailing"


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 10)
    with pytest.raises(ProxyError) as caught:
        EventStream().feed(b"data: more than ten")
    assert caught.value.code is ErrorCode.UPSTREAM_PROTOCOL_ERROR


def test_the_error_event_is_one_event_with_openais_envelope_and_no_done() -> None:
    name, data, *rest = error_event(ProxyError(ErrorCode.STREAM_TRUNCATED)).decode().split("\n")
    assert name == "event: error"
    assert rest == ["", ""]
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "stream_truncated"
