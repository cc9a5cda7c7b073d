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

What stands before the first boundary and after the last is no part of it, and blanks may follow each boundary.

Only the callback level of python-multipart is used: its form parser writes larger files to disk. It is given the body
from the first boundary on. Its log records and exceptions quote the body, so neither leaves this module. Everything is
bounded and held in memory once.
"""

from __future__ import annotations

import logging  # noqa: TID251 - to switch it off
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from core.media.types import MAX_FILE_BYTES
from core.transcript.faults import AUDIO, Fault, FaultKind, Subject
from engine.openai.form_headers import (
    MediaType,
    boundary_of,
    check_transfer_encoding,
    disposition_of,
    field_name,
    field_text,
    media_type_of,
)

if TYPE_CHECKING:  # exists for type checkers only
    from python_multipart.multipart import MultipartCallbacks


# What can be malformed.
OPENING: Final = Subject("opening")
"""The first line with the boundary."""
CLOSING: Final = Subject("closing")
"""The last one."""
BOUNDARY_LINE: Final = Subject("boundary_line")
"""What follows on any of them."""
LINE_END: Final = Subject("line_end")
PARTS: Final = Subject("parts")
PART_HEADERS: Final = Subject("part_headers")
FIELD: Final = Subject("field")
FIELDS: Final = Subject("fields")


RECORDINGS: Final = "known_speaker_references"
"""The field that holds recordings in place of text."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of everything but the file is read.

    preamble_bytes: all before the end of the line of the first boundary; mail programs write a sentence there.
    parts: a dozen fields, the rest for lists such as `keywords[]`.
    part_headers, header_line_bytes: clients send two or three lines; one may hold a long file name, percent-encoded.
    name_bytes: the longest name the API defines, `chunking_strategy[silence_duration_ms]`, has 38.
    recording_bytes: 10 s of a voice as a data URL, from 16 bits and 48 kHz in stereo down; these are fields for OpenAI.
    field_bytes: a prompt may be pasted text; the model reads only its last 224 tokens.
    fields_bytes: all fields together, but for those recordings, which only the size of the whole body bounds.
    framing_bytes: what a body may hold beside the file's bytes; closes the gaps that the other bounds leave.
    """

    preamble_bytes: int = 4096
    parts: int = 256
    part_headers: int = 16
    header_line_bytes: int = 8192
    name_bytes: int = 256
    recording_bytes: int = 4_194_304
    field_bytes: int = 65_536
    fields_bytes: int = 262_144
    framing_bytes: int = 1_048_576


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

    headers: dict[bytes, str] = field(default_factory=dict)
    name: str = ""
    value: bytearray = field(default_factory=bytearray)
    is_file: bool = False


_NO_LIMITS: Final = Limits()

# The line of the first boundary, at the start or after another line, as any program may have written its line ends.
_OPENING: Final = rb"(?:\A[\r\n]*|(\r?)\n)%b(?:(--)|[ \t]*(\r?)\n)"
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class MultipartReader:
    """Reads one body, in pieces of any size; a reader that refused once refuses for ever.

    content_type: the request's Content-Type header, or None. content_encoding: its Content-Encoding, or None.
    Raises Fault: MEDIA_TYPE for another type or any content encoding, MALFORMED for a
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
            raise Fault(FaultKind.MEDIA_TYPE)
        self._limits = limits
        self._max_file_bytes = max_file_bytes
        self._fields: list[tuple[str, str]] = []
        self._audio: bytearray | None = None
        self._audio_type: MediaType | None = None
        self._part = _Part()
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._parts = self._fields_bytes = self._read_bytes = 0
        self._in_headers = self._complete = False
        self._failure: Fault | None = None
        boundary = boundary_of(content_type)
        self._first_line = f"--{boundary}".encode()
        self._opening = re.compile(_OPENING % re.escape(self._first_line))
        self._preamble: bytes | None = b""
        self._parser = self._new_parser(boundary)

    def feed(self, data: bytes) -> None:
        """Read the next piece of the body.

        Raises Fault: TOO_LARGE as soon as the file is; WRONG_TYPE for a `file` without file name or
        a file elsewhere; REPEATED for a second `file`; MALFORMED for anything else, with what is as its subject.
        """
        if self._failure is not None:
            raise self._failure
        try:
            self._feed(data)
        except Fault as error:
            self._failure = error
            self._audio = None
            raise

    def finish(self) -> Form:
        """The form, once the whole body was fed.

        Raises Fault(MALFORMED) for a body that stops before its closing boundary, or what `feed`
        raised.
        """
        if self._failure is not None:
            raise self._failure
        if self._preamble is not None:
            raise self._not_opened()
        if not self._complete:  # python-multipart's own `finalize` accepts a truncated body
            raise Fault(FaultKind.MALFORMED, CLOSING)
        return Form(tuple(self._fields), self._audio, self._audio_type)

    def _feed(self, data: bytes) -> None:
        self._read_bytes += len(data)
        if self._preamble is not None:
            data = self._opened(self._preamble + data)
        if not self._parses(data):
            raise self._part_headers_fault() if self._in_headers else Fault(FaultKind.MALFORMED, BOUNDARY_LINE)
        if self._read_bytes > self._max_file_bytes + self._limits.framing_bytes:
            raise self._too_large(self._read_bytes)

    def _opened(self, seen: bytes) -> bytes:
        """What the parser gets of the bytes seen so far: all from the first boundary on, that line without its blanks.

        python-multipart reads a preamble differently depending on how the body is cut into pieces.
        """
        match = self._opening.search(seen, 0, self._limits.preamble_bytes)
        if match is None:
            if len(seen) >= self._limits.preamble_bytes:
                raise self._not_opened()
            self._preamble = seen
            return b""
        if b"" in (match[1], match[3]):
            raise Fault(FaultKind.MALFORMED, LINE_END)
        self._preamble = None
        return self._first_line + (match[2] or b"\r\n") + seen[match.end() :]

    def _not_opened(self) -> Fault:
        numbers = {"limit_preamble_bytes": self._limits.preamble_bytes}
        return Fault(FaultKind.MALFORMED, OPENING, numbers=numbers)

    def _part_headers_fault(self) -> Fault:
        numbers = {
            "limit_headers": self._limits.part_headers,
            "limit_header_bytes": self._limits.header_line_bytes,
        }
        return Fault(FaultKind.MALFORMED, PART_HEADERS, numbers=numbers)

    def _too_large(self, read_bytes: int) -> Fault:
        numbers = {"limit_bytes": self._max_file_bytes, "read_bytes": read_bytes}
        return Fault(FaultKind.TOO_LARGE, AUDIO, numbers=numbers)

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
        self._in_headers = True
        self._parts += 1
        if self._parts > self._limits.parts:
            raise Fault(FaultKind.MALFORMED, PARTS, numbers={"limit_parts": self._limits.parts})
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
            raise self._part_headers_fault()
        self._part.headers[name] = value.decode("latin-1").strip(" \t")

    def _on_headers_finished(self) -> None:
        self._in_headers = False
        part = self._part
        name, part.is_file = disposition_of(part.headers.get(b"content-disposition", ""))
        part.name = field_name(name.encode("latin-1"), self._limits.name_bytes)
        check_transfer_encoding(part.headers.get(b"content-transfer-encoding", ""))
        if (part.name == "file") is not part.is_file:
            raise Fault(FaultKind.WRONG_TYPE, AUDIO if part.name == "file" else None)
        if part.is_file:
            if self._audio is not None:
                raise Fault(FaultKind.REPEATED, AUDIO)
            self._audio = bytearray()
            self._audio_type = media_type_of(part.headers.get(b"content-type", ""))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.is_file and self._audio is not None:
            self._extend_audio(self._audio, memoryview(data)[start:end])
        else:
            self._extend_field(data[start:end])

    def _extend_audio(self, audio: bytearray, data: memoryview) -> None:
        read_bytes = len(audio) + len(data)
        if read_bytes > self._max_file_bytes:
            raise self._too_large(read_bytes)
        audio += data

    def _extend_field(self, data: bytes) -> None:
        self._part.value += data
        limits = self._limits
        is_recording = self._part.name.partition("[")[0] == RECORDINGS
        self._fields_bytes += 0 if is_recording else len(data)
        limit_bytes = limits.recording_bytes if is_recording else limits.field_bytes
        if len(self._part.value) > limit_bytes:
            raise Fault(FaultKind.MALFORMED, FIELD, numbers={"limit_field_bytes": limit_bytes})
        if self._fields_bytes > limits.fields_bytes:
            raise Fault(FaultKind.MALFORMED, FIELDS, numbers={"limit_fields_bytes": limits.fields_bytes})

    def _on_part_end(self) -> None:
        part = self._part
        if not part.is_file:
            self._fields.append((part.name, field_text(part.value, part.headers.get(b"content-type", ""))))

    def _on_end(self) -> None:
        self._complete = True


def _mute_logger() -> logging.Logger:
    """A logger of nobody's that drops everything: the parser's warnings quote the body."""
    # A registered one could be switched on again by the program's logging configuration.
    logger = logging.Logger("multipart", logging.CRITICAL + 1)  # noqa: LOG001
    logger.disabled = True
    return logger
