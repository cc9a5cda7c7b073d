"""How does a recording come here from a link? By GET, redirects by hand, within limits of bytes and time.

Nothing of ours goes out but an address and a name: no cookie, no credential, no referrer. What comes is taken as it is,
and is no page: a site that answers with one has no file for a stranger (it asks for a login, or whether one is human).
How a link fails says nothing about our network: refused and unreachable are one answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import Message
from pathlib import PurePosixPath
from typing import Final, Protocol

import aiohttp
import structlog
from yarl import URL

from proxy.jobs.errors import FailedError, TransientError
from proxy.jobs.links import MAX_REDIRECT_CHARS, DirectLink, LinkError, checked, direct_link
from proxy.jobs.model import Failure, FailureKind

_log = structlog.get_logger(__name__)

MAX_FETCH_BYTES: Final = 5 << 30
MAX_FETCH_S: Final = 1_800.0
MAX_REDIRECTS: Final = 5
MAX_NAME_CHARS: Final = 255

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_PERHAPS_LATER: Final = (408, 425, 429, 500, 502, 503, 504)
_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity"}
_PAGE: Final = re.compile(
    rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|\?xml[^>]*>\s*<!doctype\s+html)", re.IGNORECASE
)
_SNIFFED_BYTES: Final = 512


class Resolver(Protocol):
    """What knows more sites than we do: named by the operator."""

    async def resolve(self, url: str) -> str:
        """A link to the file. Raises LinkError."""


@dataclass(frozen=True, slots=True)
class Limits:
    """max_bytes: of a recording. total_s: from its link to its end."""

    max_bytes: int = MAX_FETCH_BYTES
    total_s: float = MAX_FETCH_S


DEFAULT_LIMITS: Final = Limits()


class LinkFetcher:
    """A `proxy.jobs.ports.Fetcher`.

    session: an `outward_session`; closed by its owner.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        limits: Limits = DEFAULT_LIMITS,
        resolver: Resolver | None = None,
    ) -> None:
        self._session = session
        self._limits = limits
        self._resolver = resolver

    async def fetch(self, url: str, *, max_bytes: int | None = None) -> FetchedLink:
        limit_bytes = self._limits.max_bytes if max_bytes is None else min(self._limits.max_bytes, max_bytes)
        deadline = asyncio.get_running_loop().time() + self._limits.total_s
        try:
            async with asyncio.timeout_at(deadline):
                link = await self._direct(url)
                response = await self._answer(link.url)
                try:
                    _check(response, link, limit_bytes)
                except BaseException:
                    response.close()
                    raise
        except LinkError as exc:
            raise FailedError(Failure(FailureKind.SOURCE_UNREACHABLE)) from exc
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            _log.info("link_not_fetched", error=type(exc).__name__)  # its message names the address
            raise TransientError(Failure(FailureKind.SOURCE_UNREACHABLE)) from exc
        return FetchedLink(response, limit_bytes, deadline)

    async def _direct(self, url: str) -> DirectLink:
        try:
            return direct_link(url)
        except LinkError as exc:
            if self._resolver is None or not exc.resolvable:
                raise
        return DirectLink(checked(await self._resolver.resolve(url), max_chars=MAX_REDIRECT_CHARS))

    async def _answer(self, url: URL) -> aiohttp.ClientResponse:
        """The answer at the end of the redirects. Raises LinkError, FailedError, TransientError."""
        for _ in range(MAX_REDIRECTS + 1):
            checked(str(url), max_chars=MAX_REDIRECT_CHARS)
            response = await self._session.get(url, headers=_HEADERS, allow_redirects=False)
            if response.status not in _REDIRECTS:
                return response
            target = response.headers.get("Location", "")
            response.close()
            url = _next(url, target)
        raise FailedError(Failure(FailureKind.SOURCE_UNREACHABLE))


def _next(url: URL, target: str) -> URL:
    """Raises FailedError."""
    try:
        following = url.join(URL(target))
    except ValueError:
        following = url
    if not target or (url.scheme == "https" and following.scheme != "https"):
        raise FailedError(Failure(FailureKind.SOURCE_UNREACHABLE))
    return following


def _check(response: aiohttp.ClientResponse, link: DirectLink, max_bytes: int) -> None:
    """Raises FailedError, TransientError."""
    if response.status in _PERHAPS_LATER:
        later = response.headers.get("Retry-After", "")
        wait_s = min(float(later), 600.0) if later.isdecimal() else None
        raise TransientError(Failure(FailureKind.SOURCE_UNREACHABLE), retry_after_s=wait_s)
    if response.status != 200:
        raise FailedError(Failure(FailureKind.SOURCE_UNREACHABLE))
    is_page = response.content_type in ("text/html", "application/xhtml+xml")
    is_encoded = response.headers.get("Content-Encoding", "identity").lower() != "identity"
    if is_page or is_encoded or (link.attached and "Content-Disposition" not in response.headers):
        raise FailedError(Failure(FailureKind.MEDIA_UNREADABLE))
    if (response.content_length or 0) > max_bytes:
        raise FailedError(Failure(FailureKind.MEDIA_TOO_LARGE, {"limit_bytes": max_bytes}))


class FetchedLink:
    """A `proxy.jobs.ports.Fetched`. deadline: in the loop's time."""

    def __init__(self, response: aiohttp.ClientResponse, max_bytes: int, deadline: float) -> None:
        self._response = response
        self._max_bytes = max_bytes
        self._deadline = deadline

    @property
    def name(self) -> str | None:
        header = Message()  # aiohttp's own parser warns, and quotes what it read
        header["Content-Disposition"] = self._response.headers.get("Content-Disposition", "")
        said = header.get_filename()
        name = PurePosixPath((said or self._response.url.name).replace("\\", "/")).name
        return name[:MAX_NAME_CHARS] if name and name.isprintable() else None

    async def stream(self) -> AsyncIterator[bytes]:
        """The recording. Raises FailedError, TransientError."""
        size, head = 0, b""
        try:
            while piece := await self._piece():
                size += len(piece)
                if size > self._max_bytes:
                    raise FailedError(Failure(FailureKind.MEDIA_TOO_LARGE, {"limit_bytes": self._max_bytes}))
                if len(head) < _SNIFFED_BYTES:
                    head += piece[:_SNIFFED_BYTES]
                    if _PAGE.match(head):
                        raise FailedError(Failure(FailureKind.MEDIA_UNREADABLE))
                yield piece
        finally:
            self._response.close()

    async def _piece(self) -> bytes:
        try:
            async with asyncio.timeout_at(self._deadline) as patience:
                return await self._response.content.readany()
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            if patience.expired():
                raise FailedError(Failure(FailureKind.DOWNLOAD_TIMEOUT)) from exc
            raise TransientError(Failure(FailureKind.SOURCE_INTERRUPTED)) from exc
