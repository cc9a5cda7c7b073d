"""How much does a length give away? Less, once it is rounded.

::

    request     BHTTP zero padding to Padme, at least 16 KiB      the length of a recording is the length of speech
    response    BHTTP zero padding to a multiple of 4 KiB         the length of a transcript
    receipt     BHTTP zero padding to a multiple of 1 KiB         how long the claims about an answer are
    head        an SSE comment behind a stream's head, to 512     whose limits and identifiers its headers tell
    event       an SSE comment inside the event, to 256 bytes     the length of every word as it is recognised

Padme (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", PoPETs 2019)
keeps the first bit of a length and about log2(log2(length)) bits after it: at most 12 % is added, and few lengths
are left to tell apart. Binary HTTP pads only behind its last part (RFC 9292 section 3.8), so a stream pads inside.
An SSE line that starts with a colon is a comment (HTML, section 9.2.6)::

    :pad 0000000000 LF          6 bytes and any number of zeros, in front of its event or behind the head
    data: {"delta": "So"} LF
    LF

The other end takes away exactly such lines, at the start of a line, and nothing else.
"""

from __future__ import annotations

import re
from typing import Final

from core.channel import varint

MIN_REQUEST_BYTES: Final = 16_384
RESPONSE_BYTES: Final = 4_096
RECEIPT_BYTES: Final = 1_024
HEAD_BYTES: Final = 512
EVENT_BYTES: Final = 256

_PAD_START: Final = b":pad "
_MIN_LINE_BYTES: Final = len(_PAD_START) + 1
_MAX_ZEROS: Final = HEAD_BYTES + 64
_PAD_LINE: Final = re.compile(rb"^:pad 0{0,%d}\n" % _MAX_ZEROS, re.MULTILINE)
_PAD_BEGUN: Final = re.compile(rb"(?::|:p|:pa|:pad|:pad 0{0,%d})\Z" % _MAX_ZEROS)


def padme(length: int) -> int:
    """Round `length` up to a Padme length, at most 12 % above it."""
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    low_bits = exponent - exponent.bit_length()
    mask = (1 << low_bits) - 1
    return (length + mask) & ~mask


def request_padding(length: int) -> int:
    """Zeros to add to a request of `length` bytes."""
    return max(MIN_REQUEST_BYTES, padme(length)) - length


def response_padding(length: int) -> int:
    """Zeros to add to a response of `length` bytes that is not streamed."""
    return -length % RESPONSE_BYTES


def receipt_padding(length: int) -> int:
    """Zeros to add to the final chunk of a response, which carries a receipt and has `length` bytes."""
    return -length % RECEIPT_BYTES


def stream_filler(head_bytes: int) -> bytes:
    """A padding line that goes as a piece of content behind the encoded head of a stream of events.

    Head, length and line are a multiple of HEAD_BYTES together.
    """
    room = -head_bytes % HEAD_BYTES
    # A length of 64 takes two bytes, so that no line fills a room of 65; and a line is never shorter than its ends.
    if room == 65 or room < 1 + _MIN_LINE_BYTES:
        room += HEAD_BYTES
    line_bytes = room - len(varint.encode(room - 2))
    return _line(line_bytes - _MIN_LINE_BYTES)


def trailer_filler(length: int, name: str) -> str:
    """The value of a trailer `name` that fills an encoded message of `length` bytes to a multiple of RESPONSE_BYTES."""
    least = 64  # from there on its length takes two bytes
    return "0" * (least - (length + 1 + len(name) + 2 + least) % -RESPONSE_BYTES)


def _line(zeros: int) -> bytes:
    return _PAD_START + b"0" * zeros + b"\n"


def pad_event(event: bytes) -> bytes:
    """Put a comment line in front of an SSE event so that the whole is a multiple of EVENT_BYTES.

    event: complete, that is, ending in a blank line; ValueError if it is not, or holds a padding line itself.
    """
    if not event.endswith(b"\n\n"):
        raise ValueError("an SSE event ends in a blank line")
    if _PAD_LINE.search(event):
        raise ValueError("the event holds a padding line already")
    return _line(-(_MIN_LINE_BYTES + len(event)) % EVENT_BYTES) + event


class PaddingStripper:
    """Takes the padding lines out of an SSE stream that arrives in pieces of any size."""

    def __init__(self) -> None:
        self._at_line_start = True
        self._held = b""  # what may turn out to be a padding line; shorter than one

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes: all of them that are not, and cannot become, padding."""
        data = self._held + data
        start = 0 if self._at_line_start else data.find(b"\n") + 1
        if start == 0 and not self._at_line_start:
            return data
        kept = data[:start] + _PAD_LINE.sub(b"", data[start:])
        last_line = kept.rpartition(b"\n")[2]
        self._held = last_line if _PAD_BEGUN.fullmatch(last_line) else b""
        self._at_line_start = last_line == self._held
        return kept[: len(kept) - len(self._held)]

    def finish(self) -> bytes:
        """Say that the stream has ended: what was held back, since no padding line came of it."""
        held, self._held = self._held, b""
        return held
