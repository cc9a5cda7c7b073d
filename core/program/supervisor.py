"""What does a service manager hear of a program? That it serves, that it ends, and that it still lives (sd_notify(3)).

One datagram of lines such as `READY=1`, to the socket that `NOTIFY_SOCKET` names; nothing where it names none. With
`WATCHDOG_USEC` the event loop says twice in that time that it still turns: one that hangs is started anew.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"


class Supervisor:
    """Whoever started this program, as far as it wants to be told."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # A name that begins with @ is of the abstract namespace, unix(7).
        self._address = environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self.watchdog_s = _watchdog_s(environ)

    def tell(self, state: str) -> None:
        """Say how it is. Nobody who does not listen is waited for, or missed."""
        if self._address.startswith(("/", "\0")):
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(state.encode(), self._address)


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """How often a sign of life is waited for, if it is from this process."""
    text = environ.get("WATCHDOG_USEC", "")
    meant_for_us = environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
    return int(text) / 1e6 if meant_for_us and text.isdecimal() and int(text) > 0 else None


@asynccontextmanager
async def supervised(environ: Mapping[str, str]) -> AsyncIterator[Supervisor]:
    """Whoever is told, and signs of life while the context is open: put it around all that a program does."""
    supervisor = Supervisor(environ)
    if supervisor.watchdog_s is None:
        yield supervisor
        return
    signs = asyncio.create_task(_signs_of_life(supervisor, supervisor.watchdog_s / 2))  # noqa: TID251 - ended below
    try:
        yield supervisor
    finally:
        signs.cancel()
        await asyncio.wait({signs})


async def _signs_of_life(supervisor: Supervisor, period_s: float) -> None:
    while True:
        supervisor.tell(ALIVE)
        await asyncio.sleep(period_s)
