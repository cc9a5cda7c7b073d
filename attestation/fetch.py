"""How do we get the attestation document of an engine?"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import aiohttp

from attestation.document import MAX_DOCUMENT_BYTES, WELL_KNOWN_PATH, AttestationDocument, parse_document
from attestation.errors import FetchError
from attestation.types import Nonce
from core.errors import OversizeError
from core.program.http.client import NotLoopbackError, read_bounded

FETCH_TIMEOUT_S = 30.0
"""Collecting GPU evidence takes seconds, and two collections may come before ours."""


def parse_engine_url(text: str) -> str:
    """An engine's URL without a final slash: http or https, a host, perhaps a port and a path. Raises ValueError.

    A user name in it would become an `Authorization` header in the clear, and a query would be lost.
    """
    try:
        url = urlsplit(text)
        _ = url.port  # raises when it is no port
    except ValueError:
        url = urlsplit("")
    if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc or set(text) & set("?#\\"):
        raise ValueError("an engine's URL is http://HOST[:PORT][/PATH] or https://, without user, query or fragment")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("an engine's URL is printable ASCII without spaces")
    return text.rstrip("/")


async def fetch_document(
    session: aiohttp.ClientSession,
    engine_url: str,
    nonce: Nonce,
    *,
    proxy: str | None = None,
    host: str | None = None,
) -> AttestationDocument:
    """Ask the engine at `engine_url` to attest itself over `nonce`.

    session: from `core.program.http.client.open_session`. proxy: an HTTP proxy's URL; None with a session that is for
    loopback only, since the proxy could be on this machine and the engine behind it elsewhere. host: the HOST[:PORT]
    under which the engine is asked, and for which its certificate counts, where the URL has an address.
    Raises FetchError when no document came, EvidenceError when what came is none.
    """
    try:
        async with (
            asyncio.timeout(FETCH_TIMEOUT_S),
            session.get(
                engine_url.rstrip("/") + WELL_KNOWN_PATH,
                params={"nonce": nonce.hex()},
                headers={"Accept": "application/json"} | ({"Host": host} if host else {}),
                allow_redirects=False,
                proxy=proxy,
                server_hostname=urlsplit(f"//{host}").hostname if host else None,
            ) as response,
        ):
            if response.status != 200:
                raise FetchError(f"the engine answered {response.status} to a request for its attestation")
            data = await read_bounded(response.content, MAX_DOCUMENT_BYTES)
            return await asyncio.to_thread(parse_document, data)  # megabytes of it would hold everybody else up
    except OversizeError as exc:
        raise FetchError(str(exc)) from exc
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        raise FetchError(f"the engine cannot be reached ({_reason(exc)})") from exc


def _reason(exc: BaseException) -> str:
    """The kind of failure; of the messages only our own, for the others may quote what the other end sent."""
    cause = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else exc
    return str(cause) if isinstance(cause, NotLoopbackError) else type(cause).__name__
