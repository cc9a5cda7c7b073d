"""What do the headers of a form and of its parts say? Strictly where it decides, gently where it is of no use to us.

::

    Content-Type: multipart/form-data; boundary=BOUNDARY                          (of the request)
    Content-Disposition: form-data; name="file"; filename="a.wav"
    Content-Type: audio/pcm; rate=16000

RFC 7578 over RFC 9110, section 5.6.6. All that is asked of a file name is whether there is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from core.transcript.faults import Fault, FaultKind, Subject

# What can be malformed.
BOUNDARY: Final = Subject("boundary")
"""The parameter of the Content-Type."""
DISPOSITION: Final = Subject("disposition")
FILE_NAME: Final = Subject("file_name")
FIELD_NAME: Final = Subject("field_name")
CHARSET: Final = Subject("charset")
TRANSFER_ENCODING: Final = Subject("transfer_encoding")


@dataclass(frozen=True, slots=True)
class MediaType:
    """The Content-Type of the file.

    name: in lower case. parameters: by their names in lower case; None if they cannot be read.
    """

    name: str
    parameters: Mapping[str, str] | None = field(default_factory=dict, repr=False)


# RFC 9110, section 5.6.6, in Latin-1: `; name=token` or `; name="quoted"`.
_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = re.compile(rf'[ \t]*;[ \t]*({_NAME})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^ \t;"]+))')
_MEDIA_TYPE: Final = re.compile(rf"{_NAME}/{_NAME}")
# A file name as scripts paste it into the header: a quote or a final backslash in quotes, or blanks without quotes. It
# ends where the header does; what could be another parameter makes it ambiguous.
_PASTED_FILE_NAME: Final = re.compile(
    r'[ \t]*;[ \t]*name[ \t]*=[ \t]*(?:"([^"\\]*)"|([^ \t;"]+))'
    rf"[ \t]*;[ \t]*filename[ \t]*=(?:(?!;[ \t]*{_NAME}[ \t]*=).)*"
    r'(?:;[ \t]*filename\*[ \t]*=[^;"]*)?',
    re.IGNORECASE,
)
# RFC 2046, section 5.1.1 wants fewer characters, but `*****` is what many Android programs send.
_BOUNDARY: Final = re.compile(r"[ -~]{0,69}[!-~]")
# RFC 7578, section 4.7: senders should not encode; these three change nothing.
_IDENTITY_ENCODINGS: Final = frozenset({"", "7bit", "8bit", "binary"})
CHARSETS: Final[Mapping[str, str]] = {
    "utf-8": "utf-8",
    "us-ascii": "utf-8",
    "iso-8859-1": "latin-1",
    "windows-1252": "cp1252",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
}
"""What a field's Content-Type may call its text (RFC 7578, section 4.4), and the codec that reads it."""


def boundary_of(content_type: str | None) -> str:
    """The boundary that the request's Content-Type names.

    Raises Fault: MEDIA_TYPE for another type, MALFORMED without a usable boundary.
    """
    kind, semicolon, rest = (content_type or "").partition(";")
    if kind.strip().lower() != "multipart/form-data":
        raise Fault(FaultKind.MEDIA_TYPE)
    boundary = (_parameters(semicolon + rest) or {}).get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise Fault(FaultKind.MALFORMED, BOUNDARY)
    return boundary


def disposition_of(header: str) -> tuple[str, bool]:
    """The field's name in Latin-1, and whether there is a file name beside it. Raises Fault(MALFORMED)."""
    kind, semicolon, rest = header.partition(";")
    if kind.strip().lower() != "form-data":
        raise Fault(FaultKind.MALFORMED, DISPOSITION)
    parameters = _parameters(semicolon + rest)
    if parameters is not None:
        return parameters.get("name", ""), not parameters.keys().isdisjoint({"filename", "filename*"})
    pasted = _PASTED_FILE_NAME.fullmatch(semicolon + rest)
    if pasted is None:
        raise Fault(FaultKind.MALFORMED, FILE_NAME if "filename" in rest.lower() else DISPOSITION)
    return pasted[1] or pasted[2] or "", True


def check_transfer_encoding(header: str) -> None:
    """Raise Fault(MALFORMED) where the part's bytes are not sent as they are."""
    if header.lower() not in _IDENTITY_ENCODINGS:
        raise Fault(FaultKind.MALFORMED, TRANSFER_ENCODING)


def field_name(name: bytes, limit: int) -> str:
    """The name in UTF-8. limit: in bytes. Raises Fault(MALFORMED)."""
    text = _decoded(name, "utf-8")
    if not text or len(name) > limit:
        raise Fault(FaultKind.MALFORMED, FIELD_NAME, numbers={"limit_name_bytes": limit})
    return text


def media_type_of(header: str) -> MediaType | None:
    """What a part's Content-Type says; None for none that can be read."""
    kind, semicolon, rest = header.partition(";")
    name = kind.strip().lower()
    # Parameters that cannot be read are told by whoever needs them; most media types are never looked at.
    return MediaType(name, _parameters(semicolon + rest)) if _MEDIA_TYPE.fullmatch(name) else None


def field_text(value: bytearray, content_type: str) -> str:
    """The text of a field: in UTF-8 (RFC 7578, section 5.1.2) unless its type names another charset.

    Raises Fault(MALFORMED).
    """
    kind = media_type_of(content_type)
    charset = (kind.parameters or {}).get("charset", "utf-8") if kind else "utf-8"
    codec = CHARSETS.get(charset.lower())
    text = _decoded(value, codec) if codec else None
    if text is None:
        raise Fault(FaultKind.MALFORMED, CHARSET)
    return text


def _parameters(text: str) -> dict[str, str] | None:
    """The parameters after a header's first value; None for a name given twice, or anything between them."""
    parameters: dict[str, str] = {}
    text, position = text.rstrip(" \t;"), 0
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None or (name := match[1].lower()) in parameters:
            return None
        quoted, plain = match[2], match[3]
        parameters[name] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        position = match.end()
    return parameters


def _decoded(data: bytes | bytearray, codec: str) -> str | None:
    # A value, not an exception: a decoder's carries the bytes along.
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return None
