"""How do we get the attestation document of an engine?"""

from __future__ import annotations

import asyncio

import aiohttp

from attestation.document import MAX_DOCUMENT_BYTES, WELL_KNOWN_PATH, AttestationDocument, parse_document
from attestation.errors import FetchError
from attestation.types import Nonce

FETCH_TIMEOUT_S = 30.0
"""Collecting GPU evidence takes seconds, and two collections may come before ours."""


async def fetch_document(
    session: aiohttp.ClientSession, engine_url: str, nonce: Nonce, *, proxy: str | None = None
) -> AttestationDocument:
    """Ask the engine at `engine_url` to attest itself over `nonce`.

    session: from `attestation.http.open_session`. proxy: an HTTP proxy's URL.
    Raises FetchError when no document came, EvidenceError when what came is none.
    """
    try:
        async with (
            asyncio.timeout(FETCH_TIMEOUT_S),
            session.get(
                engine_url.rstrip("/") + WELL_KNOWN_PATH,
                params={"nonce": nonce.hex()},
                headers={"Accept": "application/json"},
                allow_redirects=False,
                proxy=proxy,
            ) as response,
        ):
            if response.status != 200:
                raise FetchError(f"the engine answered {response.status} to a request for its attestation")
            return parse_document(await _read_bounded(response.content, MAX_DOCUMENT_BYTES))
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        raise FetchError(f"the engine cannot be reached ({type(exc).__name__})") from exc


async def _read_bounded(stream: aiohttp.StreamReader, limit_bytes: int) -> bytes:
    data = bytearray()
    async for piece in stream.iter_any():
        data += piece
        if len(data) > limit_bytes:
            raise FetchError(f"the attestation document is longer than {limit_bytes} bytes")
    return bytes(data)
