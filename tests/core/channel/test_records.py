"""Whatever is said comes out of the frames as it went in; a frame that says anything else is refused, for good."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.channel.records import (
    MAX_EVENT_BYTES,
    AudioRecord,
    EndRecord,
    EventRecord,
    FrameReader,
    FrameWriter,
    HeadRecord,
    ReceiptRecord,
    Record,
)
from core.errors import ChannelError

FRAME = 64
HEAD = b"head"
HEAD_RECORD = b"\x01\x00\x00\x04head"


def record(kind: int, body: bytes = b"", *, length: int | None = None) -> bytes:
    return bytes([kind]) + (len(body) if length is None else length).to_bytes(3, "big") + body


def begun() -> FrameReader:
    """A reader that has read a head."""
    reader = FrameReader(FRAME)
    reader.read(HEAD_RECORD.ljust(FRAME, b"\0"))
    return reader


def read(*records: bytes) -> list[Record]:
    return begun().read(b"".join(records).ljust(FRAME, b"\0"))


def begun_writer() -> FrameWriter:
    writer = FrameWriter(FRAME)
    writer.head(HEAD)
    return writer


def all_read(writer: FrameWriter) -> list[Record]:
    reader, read = FrameReader(FRAME), list[Record]()
    while writer.waiting_bytes:
        read += reader.read(writer.frame())
    return read


def joined(records: list[Record]) -> list[Record]:
    """With audio of one stretch in one piece."""
    merged: list[Record] = []
    for is_audio, group in groupby(records, lambda record: isinstance(record, AudioRecord)):
        if is_audio:
            merged.append(AudioRecord(b"".join(each.data for each in group if isinstance(each, AudioRecord))))
        else:
            merged += group
    return merged


SAID = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=300).map(AudioRecord),
        st.binary(min_size=1, max_size=300).map(EventRecord),
    ),
    max_size=12,
)


@given(SAID)
def test_what_is_said_is_read_in_the_same_order(said: list[AudioRecord | EventRecord]) -> None:
    writer = FrameWriter(FRAME)
    writer.head(HEAD)
    for each in said:
        writer.audio(each.data) if isinstance(each, AudioRecord) else writer.event(each.data)
    writer.end(EndRecord(4000, "requests.rate_limit_exceeded"))
    expected: list[Record] = [HeadRecord(HEAD), *said, EndRecord(4000, "requests.rate_limit_exceeded")]
    assert joined(all_read(writer)) == joined(expected)


@given(st.binary(min_size=FRAME, max_size=FRAME))
def test_any_frame_is_read_or_refused(plain: bytes) -> None:
    reader = begun()
    try:
        reader.read(plain)
    except ChannelError:
        with pytest.raises(ChannelError, match="failed before"):
            reader.read(bytes(FRAME))


def test_an_empty_event_is_an_event() -> None:
    writer = FrameWriter(FRAME)
    writer.head(HEAD)
    writer.event(b"")
    assert FrameReader(FRAME).read(writer.frame()) == [HeadRecord(HEAD), EventRecord(b"")]


def test_a_frame_of_which_nothing_is_said_is_all_zeros() -> None:
    writer = FrameWriter(FRAME)
    writer.head(HEAD)
    writer.audio(b"")
    writer.frame()
    assert writer.frame() == bytes(FRAME)
    assert read() == []


def test_small_pieces_of_audio_share_a_record() -> None:
    writer = FrameWriter(FRAME)
    writer.head(HEAD)
    for byte in b"audio":
        writer.audio(bytes([byte]))
    assert FrameReader(FRAME).read(writer.frame()) == [HeadRecord(HEAD), AudioRecord(b"audio")]


def test_it_is_known_how_much_waits() -> None:
    writer = FrameWriter(FRAME)
    writer.head(HEAD)
    writer.audio(bytes(200))
    assert (writer.waiting_bytes, writer.waiting_frames) == (212, 4)
    writer.frame()
    assert writer.waiting_bytes == 152


def test_the_longest_event_passes_and_one_byte_more_does_not() -> None:
    writer = FrameWriter(65_536)
    writer.head(HEAD)
    writer.event(bytes(MAX_EVENT_BYTES))
    reader, events = FrameReader(65_536), list[Record]()
    while writer.waiting_bytes:
        events += reader.read(writer.frame())
    assert events[1:] == [EventRecord(bytes(MAX_EVENT_BYTES))]
    with pytest.raises(ValueError, match="too long"):
        writer.event(bytes(MAX_EVENT_BYTES + 1))
    part = record(3, bytes(60))
    reader = begun()
    for _ in range(MAX_EVENT_BYTES // 60):
        reader.read(part)
    with pytest.raises(ChannelError, match="too long"):
        reader.read(part)


REFUSED = {
    "padding that is not zero": (b"\x00\x01", "padding"),
    "a zero length that is padding in truth": (b"\x00\x00\x00\x01x", "padding"),
    "a length beyond the frame": (record(2, b"x", length=61), "longer than its frame"),
    "a header cut by the end of the frame": (record(4, bytes(57)) + b"\x04\x00", "longer than its frame"),
    "a type that is not known": (record(7, b"x"), "type"),
    "the highest type": (record(255, b"x"), "type"),
    "a second head": (record(1, HEAD), "head"),
    "empty audio": (record(4), "empty"),
    "an empty part": (record(3), "empty"),
    "audio inside an event": (record(3, b"a") + record(4, b"x"), "not whole"),
    "an end inside an event": (record(3, b"a") + record(5, b"\x03\xe8"), "not whole"),
    "an empty receipt": (record(6), "empty"),
    "a receipt that is no text": (record(6, b"\xff"), "type"),
    "a receipt inside an event": (record(3, b"a") + record(6, b"a.b"), "not whole"),
    "an event behind a receipt": (record(6, b"a.b") + record(2, b"x"), "behind a receipt"),
    "a second receipt": (record(6, b"a.b") * 2, "behind a receipt"),
    "an event behind the end": (record(5, b"\x03\xe8") + record(2, b"x"), "after the end"),
    "an end without a code": (record(5), "none"),
    "an end with half a code": (record(5, b"\x03"), "none"),
    "an end with a code that is never sent": (record(5, b"\x03\xed"), "none"),
    "an end with a code too low": (record(5, b"\x03\xe7"), "none"),
    "an end with a code too high": (record(5, b"\x13\x88"), "none"),
    "an end whose reason is no text": (record(5, b"\x03\xe8\xff"), "none"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_frame_is_refused_that_holds(name: str) -> None:
    records, why = REFUSED[name]
    with pytest.raises(ChannelError, match=why):
        read(records)


def test_a_reason_longer_than_a_close_frame_takes_is_refused() -> None:
    reader = FrameReader(512)
    with pytest.raises(ChannelError, match="none"):
        reader.read((HEAD_RECORD + record(5, b"\x03\xe8" + b"x" * 124)).ljust(512, b"\0"))
    EndRecord(1000, "x" * 123)
    with pytest.raises(ValueError, match="too long"):
        EndRecord(1000, "x" * 124)


@pytest.mark.parametrize("size", [0, FRAME - 1, FRAME + 1])
def test_a_frame_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ChannelError, match="size"):
        begun().read(bytes(size))


def test_nothing_comes_before_the_head() -> None:
    for first in (b"", record(2, b"x") + HEAD_RECORD, record(4, b"x"), record(5, b"\x03\xe8")):
        with pytest.raises(ChannelError, match="head"):
            FrameReader(FRAME).read(first.ljust(FRAME, b"\0"))
    writer = FrameWriter(FRAME)
    for say in (lambda: writer.event(b"x"), lambda: writer.audio(b"x"), writer.frame):
        with pytest.raises(RuntimeError):
            say()


def test_no_frame_comes_after_the_end() -> None:
    reader = begun()
    assert reader.read(record(5, b"\x03\xe8").ljust(FRAME, b"\0")) == [EndRecord(1000)]
    assert reader.ended
    with pytest.raises(ChannelError, match="after the end"):
        reader.read(bytes(FRAME))
    writer = FrameWriter(FRAME)
    writer.head(HEAD)
    writer.end(EndRecord(1000))
    assert (writer.ended, writer.frame()[:1], writer.ended) == (False, b"\x01", True)
    for say in (lambda: writer.event(b"x"), lambda: writer.audio(b"x"), writer.frame):
        with pytest.raises(RuntimeError):
            say()


def test_an_event_goes_on_over_frames_and_an_end_is_never_cut() -> None:
    writer = FrameWriter(FRAME)
    writer.head(HEAD)
    writer.event(bytes(FRAME - len(HEAD_RECORD) - 4 - 6))
    writer.end(EndRecord(1000, "a reason"))
    reader = FrameReader(FRAME)
    assert len(reader.read(writer.frame())) == 2
    assert reader.read(writer.frame()) == [EndRecord(1000, "a reason")]


def test_a_receipt_goes_before_the_end_and_is_never_cut() -> None:
    writer = FrameWriter(FRAME)
    writer.head(HEAD)
    writer.receipt("a." + "b" * 58)
    writer.end(EndRecord(1000))
    reader = FrameReader(FRAME)
    said = [reader.read(writer.frame()) for _ in range(3)]
    assert said == [[HeadRecord(HEAD)], [ReceiptRecord("a." + "b" * 58)], [EndRecord(1000)]]
    for text in ("", "x" * (FRAME - 3)):
        with pytest.raises(ValueError, match="fit"):
            begun_writer().receipt(text)


def test_a_head_must_fit_and_is_said_once() -> None:
    with pytest.raises(ValueError, match="fit"):
        FrameWriter(FRAME).head(bytes(FRAME - 3))
    writer = FrameWriter(FRAME)
    writer.head(bytes(FRAME - 4))
    with pytest.raises(RuntimeError):
        writer.head(HEAD)
