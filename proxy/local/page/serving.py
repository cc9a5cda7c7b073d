"""What is the page of the proxy made of, and under which headers does each file leave?

::

    /                 index.html
    /page/NAME        what it names: a stylesheet, an icon, and modules of JavaScript

Files as they are, with no secret and no state in them; index.html alone says whether this proxy takes jobs. A browser
is told to hold the page to that (CSP level 3, Trusted Types): it loads from this proxy alone, runs no script and no
style but these files, reads no text as HTML, and is framed by nobody. What it shows comes from `/attestation` and
`/v1`, where every rule of the guard holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

_TYPES: Final = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}

_HTML: Final = b'<html lang="en">'

_RULES: Final = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "media-src blob:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)

HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "; ".join(_RULES),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every file. `no-cache` has the browser ask each time, and get a 304: a page never outlives its proxy's version."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file, its media type, and its digest for `If-None-Match`."""

    body: bytes
    content_type: str
    etag: str


def page_files(jobs_max_file_bytes: int | None = None) -> Mapping[str, PageFile]:
    """Every file of the page, by the path of its URL. jobs_max_file_bytes: None where no jobs are taken."""
    files = {}
    for entry in resources.files(__package__).iterdir():
        if (content_type := _TYPES.get(PurePath(entry.name).suffix)) is not None:
            body = entry.read_bytes()
            path = "/" if entry.name == "index.html" else f"/page/{entry.name}"
            if path == "/" and jobs_max_file_bytes is not None:
                body = body.replace(_HTML, b'<html lang="en" data-jobs-max-bytes="%d">' % jobs_max_file_bytes)
            files[path] = PageFile(body, content_type, hashlib.sha256(body).hexdigest()[:32])
    return files


def handler_of(file: PageFile) -> Handler:
    """The handler of one file: the whole of it, or 304 to whoever has it already (RFC 9110, section 13.1.2)."""

    async def get_file(request: web.Request) -> web.Response:
        headers = {**HEADERS, hdrs.ETAG: f'"{file.etag}"'}
        if any(tag.value in (file.etag, "*") for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, content_type=file.content_type, charset="utf-8", headers=headers)

    return get_file
