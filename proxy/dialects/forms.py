"""What is in a multipart form (RFC 7578) with one file? Its fields, and the file piece by piece, in any order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http import HttpProcessingError

from proxy.dialects.bodies import BrokenBodyError
from proxy.local.exchange import ask_for_body

MAX_FIELDS: Final = 64
MAX_FIELD_BYTES: Final = 65_536
FILE: Final = "file"


class FormError(Exception):
    """Not a form that is taken; the message says why and quotes nothing."""


@dataclass(slots=True)
class Form:
    """fields: name to value; of one that came twice, the last. has_file: whether there was one."""

    fields: dict[str, str] = field(default_factory=dict)
    has_file: bool = False


FileTaker = Callable[[str | None, AsyncIterator[bytes]], Awaitable[None]]
"""Takes the name of a file and all of its content, as it comes."""


async def read_form(request: web.Request, take_file: FileTaker, *, idle_s: float) -> Form:
    """Read all of a form. Raises FormError, BrokenBodyError, ProxyError, and what `take_file` raises."""
    if request.content_type != "multipart/form-data":
        raise FormError("The request body must be multipart/form-data.")
    form = Form()
    try:
        await ask_for_body(request)
        parts = await request.multipart()
        while True:
            async with asyncio.timeout(idle_s):
                part = await parts.next()
            if part is None:
                return form
            await _read_part(form, part, take_file, idle_s)
    except TimeoutError:
        raise BrokenBodyError(stalled=True) from None
    except (web.RequestPayloadError, HttpProcessingError, ValueError, AssertionError):
        # aiohttp's reader of parts says so in all these ways.
        raise FormError("The request body is not a form, or breaks off.") from None


async def _read_part(form: Form, part: MultipartReader | BodyPartReader, take_file: FileTaker, idle_s: float) -> None:
    if isinstance(part, MultipartReader):
        raise FormError("A form within a form is not taken.")
    if part.name == FILE:
        if form.has_file:
            raise FormError("Only one file is taken.")
        form.has_file = True
        await take_file(part.filename, _pieces(part, idle_s))
        return
    if len(form.fields) >= MAX_FIELDS:
        raise FormError("There are too many fields.")
    value = bytearray()
    async for piece in _pieces(part, idle_s):
        value += piece
        if len(value) > MAX_FIELD_BYTES:
            raise FormError("A field is too long.")
    try:
        form.fields[part.name or ""] = value.decode()
    except UnicodeDecodeError:
        raise FormError("A field is not UTF-8.") from None


async def _pieces(part: BodyPartReader, idle_s: float) -> AsyncIterator[bytes]:
    while True:
        async with asyncio.timeout(idle_s):
            piece = await part.read_chunk(65_536)
        if not piece:
            return
        yield piece
