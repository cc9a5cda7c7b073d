"""How much of a request may arrive, and how slowly? Its bytes as they come, counted and timed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from engine.gateway.admission import UploadPace
from engine.gateway.outer import RefusedError


class Upload:
    """The bytes of one request. monotonic: seconds."""

    def __init__(
        self, request: web.Request, pace: UploadPace, *, max_bytes: int, monotonic: Callable[[], float]
    ) -> None:
        self._request = request
        self._pace = pace
        self._max_bytes = max_bytes
        self._monotonic = monotonic
        self._begun = monotonic()
        self._received_bytes = 0
        self._size_bytes = 0

    def admitted(self, size_bytes: int) -> None:
        """Ask for a pace that fits the size, from now on: the wait for a place was not the sender's."""
        self._begun = self._monotonic()
        self._size_bytes = size_bytes

    async def read(self) -> bytes:
        """What has arrived; nothing at the end. Raises RefusedError (oversize), TimeoutError."""
        async with asyncio.timeout(self._pace.idle_s):
            data = await self._request.content.readany()
        self._received_bytes += len(data)
        if self._received_bytes > self._max_bytes:
            raise RefusedError(413, "oversize")
        elapsed_s = self._monotonic() - self._begun
        if self._pace.too_slow(self._received_bytes, elapsed_s, size_bytes=self._size_bytes):
            raise TimeoutError
        return data
