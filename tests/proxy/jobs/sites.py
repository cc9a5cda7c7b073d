"""Sites with recordings, on loopback, and names that lead there."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import pytest
from aiohttp import web

from proxy.jobs.outward import Bounds

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOPBACK: Final = Bounds(networks=(ipaddress.ip_network("127.0.0.1/32"),), ports=(80, 443))
"""As if the operator had named this machine."""


@asynccontextmanager
async def site(handler: Handler, *, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Serves everything by `handler`; its URL."""

    async def served(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", served)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        bound = web.TCPSite(runner, host, 0)
        await bound.start()
        address = runner.addresses[0]
        yield f"http://{f'[{host}]' if ':' in host else host}:{address[1]}"
    finally:
        await runner.cleanup()


def name_leads_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name leads there, whatever it is."""

    async def resolved(host: str, port: int, **_: object) -> list[object]:
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in addresses
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
