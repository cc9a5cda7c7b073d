"""What does an HTTP message look like as bytes that can be sealed? Binary HTTP (RFC 9292).

Only the indeterminate-length form (section 3.2), since neither side knows a length when it starts::

    request  = 2  method scheme authority path      fields 0   [ content ... ] 0   fields 0   zeros
    response = 3  { 1xx  fields 0 } ...   status    fields 0   [ content ... ] 0   fields 0   zeros

    2, 3, 0, status     varints
    method ... path     length (varint)  bytes
    fields              [ length (varint, 1 ..)  name   length (varint)  value ] ...
    content             length (varint, 1 ..)  bytes

Bytes in, events out, and the other way round: a head, or several when informational responses come first, then
content, then the end. Content flows through in the pieces it arrives in, whatever its length says.

What a decoder refuses, and why:

1. The known-length forms 0 and 1, and the form of the other direction: a peer of ours sends neither.
2. A head or trailer section of more than max_head_bytes or MAX_FIELDS fields. A length over the limit is
   refused by its value, before its bytes are awaited.
3. A field name that is not a lowercase token, pseudo-headers among them (section 3.6); control characters, or
   space at either end, in a value (RFC 9113 section 8.2.1). These split headers when a message becomes text.
4. A method that is no token, a scheme, authority or path with bytes that no URI holds, a path that does not
   start with a slash, a status outside 100 .. 599.
5. An end before the content terminator. Section 3.8 lets a sender omit it; then a message that was cut could
   pass for one without content. Empty trailers may be missing.
6. Padding that is not zero: it would be a second message that one reader sees and another does not.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar, Final, TypeAlias

from attestation.channel import varint
from attestation.errors import ChannelError

Fields: TypeAlias = tuple[tuple[str, str], ...]

DEFAULT_MAX_HEAD_BYTES: Final = 32_768
MAX_FIELDS: Final = 128
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
        self._move((_Stage.CONTENT,), _Stage.CONTENT)
        return varint.encode(len(data)) + data if data else b""

    def end(self, trailers: Fields = (), padding: int = 0) -> bytes:
        """Encode the end of the content, the trailers and `padding` zeros."""
        section = _section(End(trailers).trailers)
        self._move((_Stage.CONTENT,), _Stage.ENDED)
        return varint.encode(0) + section + bytes(padding)


class RequestEncoder(_Encoder):
    """Writes one request: head, content as often as needed, end."""

    def head(self, head: RequestHead) -> bytes:
        """Encode framing indicator, control data and header section."""
        self._move((_Stage.START,), _Stage.CONTENT)
        control = b"".join(map(_string, (head.method, head.scheme, head.authority, head.path)))
        return varint.encode(_REQUEST_FRAMING) + control + _section(head.headers)


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

    _framing: ClassVar[int]

    def __init__(self, *, max_head_bytes: int = DEFAULT_MAX_HEAD_BYTES) -> None:
        """max_head_bytes: bounds a head (control data and headers) and the trailers, each by itself."""
        self._max_head_bytes = max_head_bytes
        self._state = _State.FRAMING
        self._buffer = bytearray()
        self._offset = 0  # of the first byte in the buffer that was not consumed
        self._head_bytes = 0  # consumed of the head or of the trailers
        self._strings: list[str] = []  # names and values in turn, of the section that is being read
        self._content_left = 0  # of the content chunk that is being read

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
        """Say that the bytes have ended: the End event if empty trailers were left out, else nothing."""
        self._check_usable()
        omitted = self._state is _State.TRAILERS and not self._buffer and not self._strings
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
                return self._read_field_part(events)
            case _State.LENGTH | _State.CONTENT:
                return self._read_content(events)
            case _:
                return self._read_padding()

    def _read_framing(self) -> bool:
        if (framing := self._take_varint()) is None:
            return False
        if framing in (0, 1):
            raise ChannelError("known-length messages are not read here")
        if framing != self._framing:
            raise ChannelError("the framing indicator is of another kind of message")
        self._state = _State.CONTROL
        return True

    def _read_field_part(self, events: list[Event]) -> bool:
        """Consume a name, a value, or the empty name that ends the section."""
        if (text := self._take_string()) is None:
            return False
        if text or len(self._strings) % 2:
            self._strings.append(text)
            if len(self._strings) > 2 * MAX_FIELDS:
                raise ChannelError("a section has too many fields")
            return True
        fields = tuple(zip(self._strings[::2], self._strings[1::2], strict=True))
        self._strings.clear()
        self._head_bytes = 0
        self._end_section(fields, events)
        return True

    def _end_section(self, fields: Fields, events: list[Event]) -> None:
        """Say what the section was part of, or refuse it: the events check themselves."""
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
            while self._content_left or self._read_length():
                part = bytes(view[self._offset : self._offset + self._content_left])
                if not part:
                    break
                parts.append(part)
                self._offset += len(part)
                self._content_left -= len(part)
                self._state = _State.CONTENT if self._content_left else _State.LENGTH
        if parts:
            events.append(Content(b"".join(parts)))
        return self._state is _State.TRAILERS

    def _read_length(self) -> bool:
        """Consume the length of a content chunk; False when there is none, or the content has ended."""
        if (length := self._take_varint()) is None:
            return False
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

    def _take_string(self) -> str | None:
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
        return self._buffer[start:end].decode("latin-1")


class RequestDecoder(_Decoder):
    """Reads one request: a RequestHead, Content as it comes, End."""

    _framing = _REQUEST_FRAMING

    def __init__(self, *, max_head_bytes: int = DEFAULT_MAX_HEAD_BYTES) -> None:
        super().__init__(max_head_bytes=max_head_bytes)
        self._control: list[str] = []

    def _read_control(self) -> bool:
        """Consume one of method, scheme, authority and path."""
        if (text := self._take_string()) is None:
            return False
        self._control.append(text)
        if len(self._control) == 4:
            self._state = _State.HEADERS
        return True

    def _head(self, headers: Fields) -> RequestHead:
        method, scheme, authority, path = self._control
        return RequestHead(method, scheme, authority, path, headers)


class ResponseDecoder(_Decoder):
    """Reads one response: ResponseHeads of which the last is final, Content as it comes, End."""

    _framing = _RESPONSE_FRAMING

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
