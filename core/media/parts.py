"""Which stretches of a file's bytes are a recording each, and in what form?

Three things about a file that FFmpeg (8.1) does not find out:

- a tag may stand before it (ID3v2.4.0, section 3.1), which FFmpeg steps over before MPEG audio and few others
- it may be a chain of files, one behind the other. Ogg is made for that (RFC 3533, section 4), each link with its own
  codec, rate and channels, and FFmpeg goes on to the next only where all three are the same; what a recorder in a
  browser wrote before and after a pause is joined like that too, and FFmpeg hears one WebM file, or MP4, and a half.
- GSM 06.10 as it is archived and sent by mail has no header at all: frames of 33 bytes, each of which begins with 0xD
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from core.media.content import Content, places_of, starts_with

ID3_HEADER_BYTES = 10

GSM_FRAME_BYTES = 33
MIN_GSM_FRAMES = 5
"""A tenth of a second, the least that is heard. Other bytes look like so many frames once in a million."""

GSM_FRAMES_AT_ONCE = 1_000

OGG_PAGE_BYTES = 27
"""The header of a page: `OggS`, version, flags, granule position, serial and sequence number, checksum, segments."""

OGG_PAGE = re.compile(b"OggS")

OGG_BEGINS = 2
"""The flag of the page that begins a logical stream."""

EBML_HEADER = re.compile(rb"\x1a\x45\xdf\xa3.{0,60}?\x42\x82.{1,8}?(?:webm|matroska)", re.DOTALL)
"""How a Matroska or WebM file begins (RFC 8794, section 11.2.1): the header's id, and in it the document's type."""

EBML_HEADER_BYTES = 100
"""More than any of them has."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes from `start` to before `end` that are a recording of their own.

    container: FFmpeg's name for its form, where FFmpeg cannot find that out; None where it can.
    """

    start: int
    end: int
    container: str | None = None


class Window(io.RawIOBase):
    """Some bytes of a file, read as if they were a whole file, without a copy of them."""

    def __init__(self, content: Content, part: Part) -> None:
        self._content = content
        self._part = part
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        begin = self._part.start + self._at
        end = self._part.end if size < 0 else min(begin + size, self._part.end)
        piece = self._content.read(begin, max(begin, end))
        self._at += len(piece)
        return piece

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self._part.end - self._part.start
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    @property
    def unread_bytes(self) -> int:
        """How much lies behind the place that was read last."""
        return max(0, self._part.end - self._part.start - self._at)


def parts_of(content: Content) -> list[Part]:
    """The recordings in a file, in the order in which they are to be heard: nearly always one."""
    start, size = _behind_tags(content), content.size
    if starts_with(content, b"OggS", start):
        return list(_ogg_links(content, start)) or [Part(start, size)]
    begins = [start]
    if EBML_HEADER.match(content.read(start, start + EBML_HEADER_BYTES)):
        begins = list(places_of(content, EBML_HEADER, start, size, longest=EBML_HEADER_BYTES))
    elif starts_with(content, b"ftyp", start + 4):
        begins = list(_mp4_files(content, start)) or [start]
    container = "gsm" if _is_gsm(content) else None
    return [Part(begin, end, container) for begin, end in pairwise([*begins, size])]


def _behind_tags(content: Content) -> int:
    at = 0
    while starts_with(content, b"ID3", at) and len(header := content.read(at, at + ID3_HEADER_BYTES)) == 10:
        if header[3] == 0xFF or any(digit & 0x80 for digit in header[6:]):
            break
        # Four digits of seven bits; the flag tells of a footer, as long as the header.
        size = sum(digit << 7 * place for place, digit in enumerate(reversed(header[6:])))
        end = at + ID3_HEADER_BYTES + size + (ID3_HEADER_BYTES if header[5] & 0x10 else 0)
        if end >= content.size:
            break
        at = end
    return at


def _is_gsm(content: Content) -> bool:
    count = content.size // GSM_FRAME_BYTES
    return count >= MIN_GSM_FRAMES and all(
        first >> 4 == 0xD
        for start in range(0, count, GSM_FRAMES_AT_ONCE)
        for first in content.read(start * GSM_FRAME_BYTES, min(start + GSM_FRAMES_AT_ONCE, count) * GSM_FRAME_BYTES)[
            ::GSM_FRAME_BYTES
        ]
    )


def _mp4_files(content: Content, start: int) -> Iterator[int]:
    """Where MP4 files begin: each has one `ftyp` box and begins with it (ISO/IEC 14496-12, 4.3)."""
    at = start
    while len(header := content.read(at, at + 16)) == 16:
        size, name, large = struct.unpack(">I4sQ", header)
        if name == b"ftyp":
            yield at
        if size == 1:
            size = large
        if size < 8:  # 0 is "to the end", everything else nonsense
            return
        at += size


def _ogg_links(content: Content, start: int) -> Iterator[Part]:
    """The links of a chain. One in which no page ends a packet of audio is left out: it broke off in its headers."""
    link, sounds, begins_before, at = start, False, True, start
    while len(header := content.read(at, at + OGG_PAGE_BYTES)) == OGG_PAGE_BYTES:
        if not header.startswith(b"OggS"):
            if (found := _next_page(content, at)) is None:
                break
            at = found
            continue
        begins = bool(header[5] & OGG_BEGINS)
        # All streams of a link begin before any goes on (RFC 3533, section 4), so this one is the next link's.
        if begins and not begins_before:
            if sounds:
                yield Part(link, at)
            link, sounds = at, False
        begins_before = begins
        # Headers have the granule position 0, and -1 means that no packet ends in the page.
        sounds = sounds or int.from_bytes(header[6:14], "little", signed=True) > 0
        table = content.read(at + OGG_PAGE_BYTES, at + OGG_PAGE_BYTES + header[26])
        end = at + OGG_PAGE_BYTES + len(table) + sum(table)
        # A page that another does not follow broke off: the next one may begin within what should be its content.
        at = end if starts_with(content, b"OggS", end) or end >= content.size else at + OGG_PAGE_BYTES
    if sounds:
        yield Part(link, content.size)


def _next_page(content: Content, at: int) -> int | None:
    return next(places_of(content, OGG_PAGE, at, content.size, longest=4), None)
