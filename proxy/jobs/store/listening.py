"""How does one replica hear of what another wrote? PostgreSQL's LISTEN, on a connection of its own."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import asyncpg
import structlog
from sqlalchemy import URL

from proxy.jobs.store.database import CONNECT_TIMEOUT_S
from proxy.jobs.store.notices import CHANNEL, Notices

_log = structlog.get_logger(__name__)

RECONNECT_S: Final = 1.0


async def listen(url: URL, notices: Notices) -> None:
    """Pass on notices for ever; after each break whoever waits looks for what was missed."""
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    while True:
        try:
            await _listen_once(dsn, notices)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
            _log.warning("job_notices_lost", error=type(exc).__name__)
        await asyncio.sleep(RECONNECT_S)


async def _listen_once(dsn: str, notices: Notices) -> None:
    ended = asyncio.Event()
    connection: Any = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S)
    try:
        connection.add_termination_listener(lambda *_: ended.set())
        await connection.add_listener(CHANNEL, lambda *heard: notices.tell(heard[-1]))
        notices.tell_all()
        await ended.wait()
    finally:
        await connection.close(timeout=1)
