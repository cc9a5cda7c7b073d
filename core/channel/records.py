"""What is said in a live session, and how does it fill frames that are all of one size?

The plaintext of a frame, whatever it holds::

    frame   = record ...  zeros to the size of the frame
    record  = type (1)  length (3)  body (length)

    01 head     the head of the request or of its answer, as Binary HTTP (`core.channel.live`)
    02 event    an event of the API, or the last part of one
    03 event, more follows
    04 audio    bytes of the format in force, cut anywhere
    05 end      code (2)  reason: the body of a WebSocket close frame (RFC 6455 section 5.5.1)
    06 receipt  ASCII: what the answerer signed of all that passed before (`attestation.receipt`)

Audio and events come in the order in which they were said. What a reader refuses, and why:

1. A frame of another size, a record that is longer than what is left of its frame, a type that is not in the list.
2. Zeros that are none: behind the last record, a type of 00, nothing but zeros stands.
3. A direction that does not begin with its head, and a second one.
4. A record of another type between the parts of an event, so also an end: the event would not be whole. An event of
   more than MAX_EVENT_BYTES. An empty part, and empty audio: they say nothing and cost time.
5. Anything behind the end, in its frame or in another; a code that no close frame carries; a reason that is no text.
6. Anything but an end behind a receipt; a receipt that is empty, or no ASCII.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

from core.errors import ChannelError

MAX_EVENT_BYTES: Final = 1_048_576
MAX_REASON_BYTES: Final = 123
_HEADER_BYTES: Final = 4
_RECORD_MEMORY_BYTES: Final = 128
"""What a record that waits takes beside its body."""
_NEVER_SENT: Final = (1005, 1006, 1015)
"""Codes that say how a connection ended without one (RFC 6455 section 7.4.1)."""


class _Type(IntEnum):
    PADDING = 0
    HEAD = 1
    EVENT = 2
    EVENT_PART = 3
    AUDIO = 4
    END = 5
    RECEIPT = 6


_WHOLE: Final = (_Type.END, _Type.RECEIPT)
"""Never cut: what does not fit into what is left of a frame goes into the next one."""


@dataclass(frozen=True, slots=True)
class HeadRecord:
    """The head of a request or of an answer, not decoded."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EventRecord:
    """A whole event."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AudioRecord:
    """Some audio, at least one byte; where it is cut means nothing."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndRecord:
    """The end of a direction: a close code for the application, and a reason."""

    code: int
    reason: str = ""

    def __post_init__(self) -> None:
        """Check 5 of the module, whichever side made it; ValueError."""
        if not 1000 <= self.code <= 4999 or self.code in _NEVER_SENT:
            raise ValueError("a code that no close frame carries")
        if len(self.reason.encode()) > MAX_REASON_BYTES:
            raise ValueError("a reason that is too long for a close frame")


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """A receipt of the session so far; an end follows it. Only the answerer says one."""

    text: str


Record: TypeAlias = HeadRecord | EventRecord | AudioRecord | EndRecord | ReceiptRecord


class FrameWriter:
    """Keeps what is to be said, and lays it into frames when these are asked for."""

    def __init__(self, frame_bytes: int, *, begun: bool = False) -> None:
        """frame_bytes: plaintext of each frame. begun: the head was said before, in a frame of its own."""
        self._frame_bytes = frame_bytes
        self._waiting: deque[tuple[_Type, bytearray]] = deque()
        self._begun = begun
        self._ends = False
        self.waiting_bytes = 0
        """Of the records that wait."""

    @property
    def held_bytes(self) -> int:
        """About how much memory what waits takes, however short each record is."""
        return self.waiting_bytes + _RECORD_MEMORY_BYTES * len(self._waiting)

    @property
    def waiting_frames(self) -> int:
        """About how many frames what waits would fill."""
        return -(-self.waiting_bytes // self._frame_bytes)

    @property
    def ended(self) -> bool:
        """Whether the end has been laid into a frame: there is none after that."""
        return self._ends and not self._waiting

    def head(self, data: bytes) -> None:
        """Begin. ValueError when the head does not fit into the first frame."""
        if not data or len(data) > self._frame_bytes - _HEADER_BYTES:
            raise ValueError("a head that does not fit into a frame")
        if self._begun:
            raise RuntimeError("the head has been said")
        self._add(_Type.HEAD, data)
        self._begun = True

    def event(self, data: bytes) -> None:
        """Say a whole event. ValueError when it is longer than MAX_EVENT_BYTES."""
        if len(data) > MAX_EVENT_BYTES:
            raise ValueError("an event that is too long")
        self._check_open()
        self._add(_Type.EVENT, data)

    def audio(self, data: bytes) -> None:
        """Say some audio; none is said by none."""
        self._check_open()
        if not data:
            return
        if self._waiting and self._waiting[-1][0] is _Type.AUDIO:  # one record instead of many small ones
            self._waiting[-1][1].extend(data)
            self.waiting_bytes += len(data)
        else:
            self._add(_Type.AUDIO, data)

    def receipt(self, text: str) -> None:
        """Say the receipt, before the end. ValueError when it does not fit into a frame."""
        self._check_open()
        if not text or len(text) > self._frame_bytes - _HEADER_BYTES:
            raise ValueError("a receipt that does not fit into a frame")
        self._add(_Type.RECEIPT, text.encode("ascii"))

    def end(self, end: EndRecord) -> None:
        """Say that this is all."""
        self._check_open()
        self._ends = True
        self._add(_Type.END, end.code.to_bytes(2, "big") + end.reason.encode())

    def frame(self) -> bytes:
        """The plaintext of the next frame: as much as fits of what waits, or nothing but padding."""
        if not self._begun:
            raise RuntimeError("the head has not been said")
        if self.ended:
            raise RuntimeError("the end has been said")
        plain = bytearray()
        while self._waiting and (record := self._next(self._frame_bytes - len(plain))):
            plain += record
        return bytes(plain.ljust(self._frame_bytes, b"\0"))

    def _check_open(self) -> None:
        if not self._begun or self._ends:
            raise RuntimeError("out of order: before the head, or after the end")

    def _add(self, kind: _Type, body: bytes) -> None:
        self._waiting.append((kind, bytearray(body)))
        self.waiting_bytes += _HEADER_BYTES + len(body)

    def _next(self, room: int) -> bytes:
        """The first that waits, or the part of it that fits into `room` bytes; nothing when none does."""
        kind, body = self._waiting[0]
        fitting = room - _HEADER_BYTES
        if len(body) <= fitting:
            self._waiting.popleft()
            self.waiting_bytes -= _HEADER_BYTES
        elif fitting < 1 or kind in _WHOLE:
            return b""
        else:
            kind = _Type.EVENT_PART if kind is _Type.EVENT else kind
        part = bytes(body[:fitting])
        del body[:fitting]
        self.waiting_bytes -= len(part)
        return kind.to_bytes(1, "big") + len(part).to_bytes(3, "big") + part


class FrameReader:
    """Takes the frames of one direction apart, in order. A failure is final."""

    def __init__(self, frame_bytes: int) -> None:
        self._frame_bytes = frame_bytes
        self._begun = False
        self._failed = False
        self._event: bytearray | None = None  # the parts so far of one that is not whole
        self._receipted = False
        self.ended = False

    def read(self, plain: bytes) -> list[Record]:
        """What the next frame says. Raises ChannelError, now and ever after."""
        if self._failed:
            raise ChannelError("the session has failed before")
        try:
            return self._read(plain)
        except ChannelError:
            self._failed = True
            raise

    def _read(self, plain: bytes) -> list[Record]:
        if len(plain) != self._frame_bytes:
            raise ChannelError("a frame of another size")
        if self.ended:
            raise ChannelError("a frame after the end")
        records: list[Record] = []
        for kind, body in _cut(plain):
            if (record := self._record(kind, body)) is not None:
                records.append(record)
        if not self._begun:
            raise ChannelError("a session without a head")
        return records

    def _record(self, kind: int, body: bytes) -> Record | None:
        """A record, or None for a part of an event. Checks 3 to 6 of the module."""
        if self.ended:
            raise ChannelError("a record after the end")
        if (kind == _Type.HEAD) is self._begun:
            raise ChannelError("the head is not the first record, or not the only one")
        if self._event is not None and kind not in (_Type.EVENT, _Type.EVENT_PART):
            raise ChannelError("an event is not whole")
        if self._receipted and kind != _Type.END:
            raise ChannelError("more than an end behind a receipt")
        match kind:
            case _Type.HEAD:
                self._begun = True
                return HeadRecord(body)
            case _Type.EVENT | _Type.EVENT_PART:
                return self._event_part(body, last=kind == _Type.EVENT)
            case _Type.AUDIO if body:
                return AudioRecord(body)
            case _Type.END:
                self.ended = True
                return _end_of(body)
            case _Type.RECEIPT if body and body.isascii():
                self._receipted = True
                return ReceiptRecord(body.decode("ascii"))
        raise ChannelError("a record of a type that is not known, or an empty one")

    def _event_part(self, body: bytes, *, last: bool) -> EventRecord | None:
        if not body and not last:
            raise ChannelError("a part of an event is empty")
        event = self._event if self._event is not None else bytearray()
        if len(event) + len(body) > MAX_EVENT_BYTES:
            raise ChannelError("an event is too long")
        event += body
        self._event = None if last else event
        return EventRecord(bytes(event)) if last else None


def _cut(plain: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and bodies of the records of a frame. Checks 1 and 2 of the module."""
    at = 0
    while at < len(plain):
        if plain[at] == _Type.PADDING:
            if plain.count(0, at) != len(plain) - at:
                raise ChannelError("the padding is not zero")
            return
        start = at + _HEADER_BYTES
        end = start + int.from_bytes(plain[at + 1 : start], "big")
        if end > len(plain) or start > len(plain):
            raise ChannelError("a record is longer than its frame")
        yield plain[at], plain[start:end]
        at = end


def _end_of(body: bytes) -> EndRecord:
    try:
        return EndRecord(int.from_bytes(body[:2], "big"), body[2:].decode())
    except ValueError as exc:
        raise ChannelError("an end that is none") from exc
