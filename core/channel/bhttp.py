"""What does an HTTP message look like as bytes that can be sealed? Binary HTTP (RFC 9292).

We write the indeterminate-length form (section 3.2), since neither side knows a length when it starts. A request may
also come in the known-length form (section 3.1), which others write::

    request  = 2  method scheme authority path      fields 0   [ content ... ] 0   fields 0   zeros
    request  = 0  method scheme authority path    length fields    content     length fields   zeros
    response = 3  { 1xx  fields 0 } ...   status    fields 0   [ content ... ] 0   fields 0   zeros

    2, 0, 3, status     varints
    method ... path     length (varint)  bytes
    length fields       length (varint) of the fields that follow
    fields              [ length (varint, 1 ..)  name   length (varint)  value ] ...
    content             length (varint, 1 .. but in the known-length form)  bytes

Bytes in, events out, and the other way round: a head, or several when informational responses come first, then
content, then the end. Content flows through in the pieces it arrives in, whatever its length says.

What a decoder refuses, and why:

1. The known-length form of a response, and the forms of the other direction: a peer of ours sends neither.
2. A head or trailer section of more than max_head_bytes or MAX_FIELDS fields. A length over the limit is
   refused by its value, before its bytes are awaited.
3. A field name that is not a lowercase token, pseudo-headers among them (section 3.6); control characters, or
   space at either end, in a value (RFC 9113 section 8.2.1). These split headers when a message becomes text.
4. A method that is no token, a scheme, authority or path with bytes that no URI holds, a path that does not
   start with a slash, a status outside 100 .. 599.
5. An end before the content terminator. Section 3.8 lets a sender omit it; then a message that was cut could
   pass for one without content. Empty trailers may be missing; in the known-length form, whose writers count on
   it, so may empty content before them.
6. Padding that is not zero: it would be a second message that one reader sees and another does not.
7. A request whose content is cut finer than SPARE_PIECES pieces and one for every PIECE_BYTES so far: pieces cost
   time each, and a body of single bytes would take a gateway seconds. Our encoder gathers what is smaller.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar, Final, TypeAlias

from core.channel import varint
from core.errors import ChannelError

Fields: TypeAlias = tuple[tuple[str, str], ...]

DEFAULT_MAX_HEAD_BYTES: Final = 32_768
MAX_FIELDS: Final = 128
PIECE_BYTES: Final = 1_024
SPARE_PIECES: Final = 16
_KNOWN_LENGTH_REQUEST_FRAMING: Final = 0
_REQUEST_FRAMING: Final = 2
_RESPONSE_FRAMING: Final = 3

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(r"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
_METHOD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+\-.]*")
_AUTHORITY: Final = re.compile(r"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*")
_PATH: Final = re.compile(r"/[!\"$-~]*")


def _check_fields(fields: Fields) -> None:
    """Check 3 of the module; ValueError that repeats nothing of the field."""
    for name, value in fields:
        if name.startswith(":"):
            raise ValueError("a pseudo-header stands among the fields")
        if not _NAME.fullmatch(name):
            raise ValueError("a field name is not a lowercase token")
        if not _VALUE.fullmatch(value):
            raise ValueError("a field value holds a control character, or space at an end")


@dataclass(frozen=True, slots=True)
class RequestHead:
    """Control data and header section of a request (RFC 9292 sections 3.4 and 3.6)."""

    method: str
    scheme: str
    authority: str
    path: str
    headers: Fields = ()

    def __post_init__(self) -> None:
        """Checks 3 and 4 of the module, whichever side made the head."""
        for name, pattern in (
            ("method", _METHOD),
            ("scheme", _SCHEME),
            ("authority", _AUTHORITY),
            ("path", _PATH),
        ):
            if not pattern.fullmatch(getattr(self, name)):
                raise ValueError(f"the {name} of a request is malformed")
        _check_fields(self.headers)


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and header section of a response; 100 .. 199 is informational and another head follows."""

    status: int
    headers: Fields = ()

    def __post_init__(self) -> None:
        """Checks 3 and 4 of the module, whichever side made the head."""
        if not 100 <= self.status <= 599:
            raise ValueError("the status of a response is not between 100 and 599")
        _check_fields(self.headers)

    @property
    def informational(self) -> bool:
        """Whether this is an interim answer (RFC 9292 section 3.5.1)."""
        return self.status < 200


@dataclass(frozen=True, slots=True)
class Content:
    """Some of the content, at least one byte; where it is cut means nothing."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """Everything but the padding has been read."""

    trailers: Fields = ()

    def __post_init__(self) -> None:
        """Check 3 of the module."""
        _check_fields(self.trailers)


Event: TypeAlias = RequestHead | ResponseHead | Content | End


def _string(text: str) -> bytes:
    data = text.encode("latin-1")
    return varint.encode(len(data)) + data


def _section(fields: Fields) -> bytes:
    return b"".join(_string(name) + _string(value) for name, value in fields) + varint.encode(0)


class _Stage(Enum):
    """Where an encoder stands."""

    START = auto()
    HEAD = auto()
    CONTENT = auto()
    TRAILERS = auto()
    ENDED = auto()


class _Encoder:
    """Writes content and end, the same in either direction."""

    def __init__(self) -> None:
        self._stage = _Stage.START

    def _move(self, stages: tuple[_Stage, ...], then: _Stage) -> None:
        if self._stage not in stages:
            raise RuntimeError(f"out of order: the message is at its {self._stage.name}")
        self._stage = then

    def content(self, data: bytes) -> bytes:
        """Encode a chunk of content; nothing for no data, since a length of zero ends the content."""
        return b"".join(self.pieces(data))

    def pieces(self, data: bytes) -> tuple[bytes, ...]:
        """As `content`, for whoever joins it with more: `data` itself is one of the pieces."""
        self._move((_Stage.CONTENT,), _Stage.CONTENT)
        return (varint.encode(len(data)), data) if data else ()

    def end(self, trailers: Fields = (), padding: int = 0) -> bytes:
        """Encode the end of the content, the trailers and `padding` zeros."""
        section = _section(End(trailers).trailers)
        terminator = b"" if self._stage is _Stage.TRAILERS else varint.encode(0)
        self._move((_Stage.CONTENT, _Stage.TRAILERS), _Stage.ENDED)
        return terminator + section + bytes(padding)


class RequestEncoder(_Encoder):
    """Writes one request: head, content as often as needed, end."""

    def __init__(self) -> None:
        super().__init__()
        self._held = bytearray()

    def head(self, head: RequestHead) -> bytes:
        """Encode framing indicator, control data and header section."""
        self._move((_Stage.START,), _Stage.CONTENT)
        control = b"".join(map(_string, (head.method, head.scheme, head.authority, head.path)))
        return varint.encode(_REQUEST_FRAMING) + control + _section(head.headers)

    def pieces(self, data: bytes) -> tuple[bytes, ...]:
        """Encode content once there is enough of it for a piece (check 7); what is held back comes with the end."""
        if not self._held and len(data) >= PIECE_BYTES:
            return super().pieces(data)  # as it is: what arrives is large as a rule
        self._held += data
        return super().pieces(self._released() if len(self._held) >= PIECE_BYTES else b"")

    def end(self, trailers: Fields = (), padding: int = 0) -> bytes:
        return b"".join(super().pieces(self._released())) + super().end(trailers, padding)

    def _released(self) -> bytes:
        held, self._held = bytes(self._held), bytearray()
        return held


class ResponseEncoder(_Encoder):
    """Writes one response: any number of informational heads, head, content as often as needed, end."""

    def informational(self, status: int, headers: Fields = ()) -> bytes:
        """Encode an interim answer, 100 .. 199; the first call brings the framing indicator along."""
        head = ResponseHead(status, headers)
        if not head.informational:
            raise ValueError(f"{status} is not an informational status")
        return self._encode(head, _Stage.HEAD)

    def head(self, head: ResponseHead) -> bytes:
        """Encode the final status and header section, behind the framing indicator if nothing went before."""
        if head.informational:
            raise ValueError(f"{head.status} is not a final status")
        return self._encode(head, _Stage.CONTENT)

    def trailer(self, name: str, value: str) -> bytes:
        """Encode a trailer before the others are known, behind the end of the content."""
        ((name, value),) = End(((name, value),)).trailers
        terminator = b"" if self._stage is _Stage.TRAILERS else varint.encode(0)
        self._move((_Stage.CONTENT, _Stage.TRAILERS), _Stage.TRAILERS)
        return terminator + _string(name) + _string(value)

    def _encode(self, head: ResponseHead, then: _Stage) -> bytes:
        framing = varint.encode(_RESPONSE_FRAMING) if self._stage is _Stage.START else b""
        self._move((_Stage.START, _Stage.HEAD), then)
        return framing + varint.encode(head.status) + _section(head.headers)


class _State(Enum):
    """What a decoder reads next."""

    FRAMING = auto()
    CONTROL = auto()
    HEADERS = auto()
    LENGTH = auto()
    CONTENT = auto()
    TRAILERS = auto()
    PADDING = auto()
    DONE = auto()
    FAILED = auto()


_CUT: Final = {
    _State.FRAMING: "the message is empty",
    _State.CONTROL: "the message ends inside its control data",
    _State.HEADERS: "the message ends inside its headers",
    _State.LENGTH: "the content terminator is missing",
    _State.CONTENT: "the message ends inside its content",
    _State.TRAILERS: "the message ends inside its trailers",
}


class _Decoder(ABC):
    """Reads what is the same in either direction: everything but the control data."""

    _framings: ClassVar[tuple[int, ...]]
    _bounds_pieces: ClassVar[bool]

    def __init__(self, *, max_head_bytes: int = DEFAULT_MAX_HEAD_BYTES) -> None:
        """max_head_bytes: bounds a head (control data and headers) and the trailers, each by itself."""
        self._max_head_bytes = max_head_bytes
        self._state = _State.FRAMING
        self._known_length = False
        self._buffer = bytearray()
        self._offset = 0  # of the first byte in the buffer that was not consumed
        self._head_bytes = 0  # consumed of the head or of the trailers
        self._strings: list[str] = []  # names and values in turn, of the section that is being read
        self._content_left = 0  # of the piece of content that is being read
        self._content_bytes = 0  # read so far, of all pieces
        self._pieces = 0

    @abstractmethod
    def _read_control(self) -> bool:
        """Consume some control data; False while bytes are missing."""

    @abstractmethod
    def _head(self, headers: Fields) -> RequestHead | ResponseHead:
        """Make the head of which `headers` was the last part, and be ready for another if one follows."""

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes of the message: the events they complete.

        Content comes as it arrives. Only `finish` says that the message was whole: act on nothing before.
        """
        self._check_usable()
        self._buffer += data
        events: list[Event] = []
        try:
            while self._read(events):
                pass
        except ChannelError:
            self._end(_State.FAILED)
            raise
        del self._buffer[: self._offset]
        self._offset = 0
        return events

    def finish(self) -> list[Event]:
        """Say that the bytes have ended: the End event if empty parts were left out, else nothing."""
        self._check_usable()
        may_end = self._state is _State.TRAILERS or (self._known_length and self._state is _State.LENGTH)
        omitted = may_end and not self._buffer and not self._strings
        if self._state is not _State.PADDING and not omitted:
            reason = _CUT[self._state]
            self._end(_State.FAILED)
            raise ChannelError(reason)
        self._end(_State.DONE)
        return [End()] if omitted else []

    def _check_usable(self) -> None:
        if self._state is _State.FAILED:
            raise ChannelError("the message has failed before")
        if self._state is _State.DONE:
            raise RuntimeError("the message has ended")

    def _end(self, state: _State) -> None:
        self._state = state
        self._buffer.clear()

    def _read(self, events: list[Event]) -> bool:
        """Consume one element; False when the rest of the buffer does not hold one."""
        match self._state:
            case _State.FRAMING:
                return self._read_framing()
            case _State.CONTROL:
                return self._read_control()
            case _State.HEADERS | _State.TRAILERS:
                return self._read_section(events) if self._known_length else self._read_field_part(events)
            case _State.LENGTH | _State.CONTENT:
                return self._read_content(events)
            case _:
                return self._read_padding()

    def _read_framing(self) -> bool:
        if (framing := self._take_varint()) is None:
            return False
        if framing not in self._framings:
            raise ChannelError("the framing indicator is of another kind of message")
        self._known_length = framing == _KNOWN_LENGTH_REQUEST_FRAMING
        self._state = _State.CONTROL
        return True

    def _read_field_part(self, events: list[Event]) -> bool:
        """Consume a name, a value, or the empty name that ends the section."""
        if (data := self._take_prefixed()) is None:
            return False
        text = data.decode("latin-1")
        if text or len(self._strings) % 2:
            self._strings.append(text)
            if len(self._strings) > 2 * MAX_FIELDS:
                raise ChannelError("a section has too many fields")
            return True
        self._end_section(self._strings, events)
        self._strings = []
        return True

    def _read_section(self, events: list[Event]) -> bool:
        """Consume a section of known length, all of it at once: it is no longer than check 2 allows."""
        if (section := self._take_prefixed()) is None:
            return False
        self._end_section(_strings_of(section), events)
        return True

    def _end_section(self, strings: Sequence[str], events: list[Event]) -> None:
        """Say what the section was part of, or refuse it: the events check themselves."""
        fields = tuple(zip(strings[::2], strings[1::2], strict=True))
        self._head_bytes = 0
        try:
            event = self._head(fields) if self._state is _State.HEADERS else End(fields)
        except ValueError as exc:
            raise ChannelError(str(exc)) from exc
        events.append(event)
        match event:
            case End():
                self._state = _State.PADDING
            case ResponseHead(informational=True):
                self._state = _State.CONTROL
            case _:
                self._state = _State.LENGTH

    def _read_content(self, events: list[Event]) -> bool:
        """Consume all content that has arrived, as one event: tiny chunks must not cost an event each."""
        parts: list[bytes] = []
        with memoryview(self._buffer) as view:  # so that a slice is copied once, not twice
            while self._content_left or (self._state is _State.LENGTH and self._read_length()):
                part = bytes(view[self._offset : self._offset + self._content_left])
                if not part:
                    break
                parts.append(part)
                self._offset += len(part)
                self._content_left -= len(part)
                self._content_bytes += len(part)
                if not self._content_left:
                    self._state = _State.TRAILERS if self._known_length else _State.LENGTH
        if parts:
            events.append(Content(b"".join(parts)))
        return self._state is _State.TRAILERS

    def _read_length(self) -> bool:
        """Consume the length of a piece; False when there is none, or the content has ended. Check 7 of the module."""
        if (length := self._take_varint()) is None:
            return False
        self._pieces += 1
        if self._bounds_pieces and length and self._pieces > SPARE_PIECES + self._content_bytes // PIECE_BYTES:
            raise ChannelError("the content is cut too finely")
        self._content_left = length
        self._state = _State.CONTENT if length else _State.TRAILERS
        return length > 0

    def _read_padding(self) -> bool:
        if self._buffer.count(0, self._offset) != len(self._buffer) - self._offset:
            raise ChannelError("the padding is not zero")
        self._offset = len(self._buffer)
        return False

    def _take_varint(self) -> int | None:
        if (found := varint.decode(self._buffer, self._offset)) is None:
            return None
        value, self._offset = found
        return value

    def _take_prefixed(self) -> bytes | None:
        """Consume a length and as many bytes; check 2 of the module."""
        if (found := varint.decode(self._buffer, self._offset)) is None:
            return None
        length, start = found
        end = start + length
        if self._head_bytes + end - self._offset > self._max_head_bytes:
            raise ChannelError("a head or trailer section is too long")
        if end > len(self._buffer):
            return None
        self._head_bytes += end - self._offset
        self._offset = end
        return bytes(self._buffer[start:end])


def _strings_of(section: bytes) -> list[str]:
    """Names and values in turn, of a section of known length. Raises ChannelError."""
    strings: list[str] = []
    offset = 0
    while offset < len(section):
        found = varint.decode(section, offset)
        if found is None or found[0] > len(section) - found[1]:
            raise ChannelError("a field is longer than its section")
        start, offset = found[1], found[0] + found[1]
        strings.append(section[start:offset].decode("latin-1"))
        if len(strings) > 2 * MAX_FIELDS:
            raise ChannelError("a section has too many fields")
    if len(strings) % 2:
        raise ChannelError("a section ends inside a field")
    return strings


class RequestDecoder(_Decoder):
    """Reads one request: a RequestHead, Content as it comes, End."""

    _framings = (_KNOWN_LENGTH_REQUEST_FRAMING, _REQUEST_FRAMING)
    _bounds_pieces = True

    def __init__(self, *, max_head_bytes: int = DEFAULT_MAX_HEAD_BYTES) -> None:
        super().__init__(max_head_bytes=max_head_bytes)
        self._control: list[str] = []

    def _read_control(self) -> bool:
        """Consume one of method, scheme, authority and path."""
        if (text := self._take_prefixed()) is None:
            return False
        self._control.append(text.decode("latin-1"))
        if len(self._control) == 4:
            self._state = _State.HEADERS
        return True

    def _head(self, headers: Fields) -> RequestHead:
        method, scheme, authority, path = self._control
        return RequestHead(method, scheme, authority, path, headers)


class ResponseDecoder(_Decoder):
    """Reads one response: ResponseHeads of which the last is final, Content as it comes, End."""

    _framings = (_RESPONSE_FRAMING,)
    _bounds_pieces = False

    def __init__(self, *, max_head_bytes: int = DEFAULT_MAX_HEAD_BYTES) -> None:
        super().__init__(max_head_bytes=max_head_bytes)
        self._status = 0

    def _read_control(self) -> bool:
        if (status := self._take_varint()) is None:
            return False
        self._status = status
        self._state = _State.HEADERS
        return True

    def _head(self, headers: Fields) -> ResponseHead:
        return ResponseHead(self._status, headers)
