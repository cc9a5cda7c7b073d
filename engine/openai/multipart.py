"""What a multipart/form-data body says: its text fields in order, and the bytes of its one file.

RFC 7578 over RFC 2046, section 5.1.1::

    --BOUNDARY CRLF
    Content-Disposition: form-data; name="model" CRLF
    CRLF
    whisper-1 CRLF
    --BOUNDARY CRLF
    Content-Disposition: form-data; name="file"; filename="a.wav" CRLF
    Content-Type: audio/wav CRLF
    CRLF
    ...bytes... CRLF
    --BOUNDARY-- CRLF

Only the callback level of python-multipart is used: its form parser writes larger files to disk. Its log records
and exceptions quote the body, so neither leaves this module. Everything is bounded and held in memory once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from engine.errors import ErrorCode, RequestError
from engine.types import MAX_FILE_BYTES

if TYPE_CHECKING:  # exists for type checkers only
    from python_multipart.multipart import MultipartCallbacks


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of everything but the file is read.

    parts: a dozen fields, the rest for lists such as `keywords[]`.
    part_headers, header_line_bytes: clients send two or three lines; one may hold a long file name, percent-encoded.
    name_bytes: the longest name the API defines, `chunking_strategy[silence_duration_ms]`, has 38.
    field_bytes: a prompt may be pasted text; the model reads only its last 224 tokens.
    fields_bytes: all fields together.
    framing_bytes: what a body may hold beside the file's bytes; closes the gaps that the other bounds leave.
    """

    parts: int = 256
    part_headers: int = 16
    header_line_bytes: int = 8192
    name_bytes: int = 256
    field_bytes: int = 65_536
    fields_bytes: int = 262_144
    framing_bytes: int = 1_048_576


@dataclass(frozen=True, slots=True)
class MediaType:
    """The Content-Type of the file.

    name: in lower case. parameters: by their names in lower case; None if they cannot be read.
    """

    name: str
    parameters: Mapping[str, str] | None = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Form:
    """A body that was read to its closing boundary.

    fields: (name, value) in the order sent, repeated names included.
    audio: the bytes of the part `file`; None if there was none. Whoever takes it may clear it.
    audio_type: its media type (`audio/pcm` tells raw samples); None if none that can be read was given.
    """

    fields: tuple[tuple[str, str], ...] = field(repr=False)
    audio: bytearray | None = field(default=None, repr=False)
    audio_type: MediaType | None = None


@dataclass(slots=True)
class _Part:
    """The part being read."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    value: bytearray = field(default_factory=bytearray)
    is_file: bool = False


_NO_LIMITS: Final = Limits()

# RFC 9110, section 5.6.6, in Latin-1: `; name=token` or `; name="quoted"`.
_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = re.compile(rf'[ \t]*;[ \t]*({_NAME})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^ \t;"]+))')
_MEDIA_TYPE: Final = re.compile(rf"{_NAME}/{_NAME}")
# RFC 2046, section 5.1.1: 1 to 70 `bchars`, the last no space.
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# RFC 7578, section 4.7: senders should not encode; these three change nothing.
_IDENTITY_ENCODINGS: Final = frozenset({b"7bit", b"8bit", b"binary"})


class MultipartReader:
    """Reads one body, in pieces of any size; a reader that refused once refuses for ever.

    content_type: the request's Content-Type header, or None. content_encoding: its Content-Encoding, or None.
    Raises RequestError: UNSUPPORTED_MEDIA_TYPE for another type or any content encoding, INVALID_MULTIPART for a
    header without a usable boundary.
    """

    def __init__(
        self,
        content_type: str | None,
        *,
        content_encoding: str | None = None,
        max_file_bytes: int = MAX_FILE_BYTES,
        limits: Limits = _NO_LIMITS,
    ) -> None:
        if content_encoding is not None:  # an encoded body could grow without bound when it is decoded
            raise RequestError(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
        self._limits = limits
        self._max_file_bytes = max_file_bytes
        self._fields: list[tuple[str, str]] = []
        self._audio: bytearray | None = None
        self._audio_type: MediaType | None = None
        self._part = _Part()
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._parts = self._fields_bytes = self._read_bytes = 0
        self._begun = self._complete = False
        self._failure: RequestError | None = None
        self._parser = self._new_parser(_boundary(content_type))

    def feed(self, data: bytes) -> None:
        """Read the next piece of the body.

        Raises RequestError: FILE_TOO_LARGE as soon as the file is; INVALID_TYPE for a `file` without file name or
        a file elsewhere; INVALID_VALUE for a second `file`; INVALID_MULTIPART for anything else.
        """
        if self._failure is not None:
            raise self._failure
        try:
            self._feed(data)
        except RequestError as error:
            self._failure = error
            self._audio = None
            raise

    def finish(self) -> Form:
        """The form, once the whole body was fed.

        Raises RequestError(INVALID_MULTIPART) for a body that stops before its closing boundary, or what `feed`
        raised.
        """
        if self._failure is not None:
            raise self._failure
        if not self._complete:  # python-multipart's own `finalize` accepts a truncated body
            raise _malformed()
        return Form(tuple(self._fields), self._audio, self._audio_type)

    def _feed(self, data: bytes) -> None:
        self._read_bytes += len(data)
        if not self._begun:
            # Some clients send a line break first. A longer preamble is legal but nobody's, and python-multipart
            # reads it differently depending on how the body is cut into pieces.
            data = data.lstrip(b"\r\n")
            self._begun = bool(data)
        if not self._parses(data):
            raise _malformed()
        limit = self._max_file_bytes + self._limits.framing_bytes
        if self._read_bytes > limit:
            raise _malformed(limit_body_bytes=limit)

    def _parses(self, data: bytes) -> bool:
        # A value, not an exception: the parser's quotes the body, and would hang on to ours as its context.
        try:
            self._parser.write(data)
        except FormParserError:
            return False
        return True

    def _new_parser(self, boundary: str) -> MultipartParser:
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        parser = MultipartParser(
            boundary,
            callbacks,
            max_header_count=self._limits.part_headers,
            max_header_size=self._limits.header_line_bytes,
        )
        parser.logger = _mute_logger()
        return parser

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > self._limits.parts:
            raise _malformed(limit_parts=self._limits.parts)
        self._part = _Part()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        name, value = bytes(self._header_name).lower(), bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()
        # A bare line feed would be a second header to a laxer reader, and a repeated one is a choice left to us.
        if _CONTROLS.search(value) or name in self._part.headers:
            raise _malformed()
        self._part.headers[name] = value

    def _on_headers_finished(self) -> None:
        part = self._part
        disposition = _disposition(part.headers)
        part.name = _field_name(disposition.get("name", ""), self._limits.name_bytes)
        part.is_file = "filename" in disposition or "filename*" in disposition
        if part.headers.get(b"content-transfer-encoding", b"binary").lower() not in _IDENTITY_ENCODINGS:
            raise _malformed()
        if (part.name == "file") is not part.is_file:
            raise RequestError(ErrorCode.INVALID_TYPE, "file" if part.name == "file" else None)
        if part.is_file:
            self._begin_audio(part)

    def _begin_audio(self, part: _Part) -> None:
        if self._audio is not None:
            raise RequestError(ErrorCode.INVALID_VALUE, "file")
        self._audio = bytearray()
        self._audio_type = _media_type(part.headers.get(b"content-type", b"").decode("latin-1"))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.is_file and self._audio is not None:
            self._extend_audio(self._audio, memoryview(data)[start:end])
        else:
            self._extend_field(data[start:end])

    def _extend_audio(self, audio: bytearray, data: memoryview) -> None:
        read_bytes = len(audio) + len(data)
        if read_bytes > self._max_file_bytes:
            numbers = {"limit_bytes": self._max_file_bytes, "read_bytes": read_bytes}
            raise RequestError(ErrorCode.FILE_TOO_LARGE, "file", numbers=numbers)
        audio += data

    def _extend_field(self, data: bytes) -> None:
        self._part.value += data
        self._fields_bytes += len(data)
        if len(self._part.value) > self._limits.field_bytes:
            raise _malformed(limit_field_bytes=self._limits.field_bytes)
        if self._fields_bytes > self._limits.fields_bytes:
            raise _malformed(limit_fields_bytes=self._limits.fields_bytes)

    def _on_part_end(self) -> None:
        if not self._part.is_file:
            self._fields.append((self._part.name, _text(bytes(self._part.value))))

    def _on_end(self) -> None:
        self._complete = True


def _malformed(**numbers: int) -> RequestError:
    return RequestError(ErrorCode.INVALID_MULTIPART, numbers=numbers)


def _mute_logger() -> logging.Logger:
    """A logger of nobody's that drops everything: the parser's warnings quote the body."""
    # A registered one could be switched on again by the program's logging configuration.
    logger = logging.Logger("multipart", logging.CRITICAL + 1)  # noqa: LOG001
    logger.disabled = True
    return logger


def _boundary(content_type: str | None) -> str:
    kind, _, _ = (content_type or "").partition(";")
    if kind.strip().lower() != "multipart/form-data":
        raise RequestError(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
    boundary = _parameters((content_type or "")[len(kind) :]).get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise _malformed()
    return boundary


def _disposition(headers: dict[bytes, bytes]) -> dict[str, str]:
    kind, semicolon, rest = headers.get(b"content-disposition", b"").decode("latin-1").partition(";")
    if kind.strip().lower() != "form-data":
        raise _malformed()
    return _parameters(semicolon + rest)


def _parameters(text: str) -> dict[str, str]:
    """The parameters after a header's first value; a name given twice, or anything between them, is refused."""
    parameters: dict[str, str] = {}
    text, position = text.rstrip(" \t;"), 0
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None or (name := match[1].lower()) in parameters:
            raise _malformed()
        quoted, plain = match[2], match[3]
        parameters[name] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        position = match.end()
    return parameters


def _field_name(latin1: str, limit: int) -> str:
    name = latin1.encode("latin-1")
    if len(name) > limit:
        raise _malformed(limit_name_bytes=limit)
    if not name:
        raise _malformed()
    return _text(name)


def _media_type(header: str) -> MediaType | None:
    kind, semicolon, rest = header.partition(";")
    name = kind.strip().lower()
    if not _MEDIA_TYPE.fullmatch(name):
        return None
    try:
        return MediaType(name, _parameters(semicolon + rest))
    except RequestError:  # whoever needs them will say so; most media types are never looked at
        return MediaType(name, None)


def _text(data: bytes) -> str:
    # RFC 7578, section 5.1.2: UTF-8 is what everyone sends. A strict decoder's error would carry the bytes along.
    text = data.decode("utf-8", "replace")
    if text.encode() != data:
        raise _malformed()
    return text
