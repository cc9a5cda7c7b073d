"""How many connections does a listener keep, and which one gives way? Accepting without asyncio's server.

Of that server there is no way to say how many connections it may take, and when descriptors run out it tries again a
hundred times at once, each try with a line in the log and a timer of its own: it then does nothing else.

Here a connection that has asked for nothing yet, or waits between two requests, gives way to the next one when there
are too many; where all are at work, the next one is closed. Whoever opens connections and says nothing keeps out
nobody.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, Protocol

import structlog

_log = structlog.get_logger(__name__)

FIRST_HEAD_S: Final = 10.0
"""How long a new connection may take to ask for something."""
MAX_CONNECTIONS: Final = 1_024
BACKLOG: Final = MAX_CONNECTIONS
"""Where more come at once than this, Linux loses some, and resets others (SYN cookies)."""
MAX_DESCRIPTORS: Final = 65_536
_RETRY_S: Final = 1.0
_TELL_S: Final = 60.0


def raise_descriptor_limit() -> int:
    """Let this process have as many descriptors as it may, up to `MAX_DESCRIPTORS`; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return most
    with suppress(OSError, ValueError):  # macOS may refuse what it names as the limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Connection(Protocol):
    """One connection, as far as it is looked at here."""

    @property
    def idle(self) -> bool:
        """Whether it waits for a request, or for the rest of one's head."""

    def cut(self) -> None:
        """Close it at once."""


class Connections:
    """The connections of one listener."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._arriving = 0
        self._silent: dict[Connection, None] = {}  # the oldest first
        self._served: dict[Connection, None] = {}

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """One more is being made, and makes itself known."""
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    def came(self, connection: Connection) -> None:
        self._silent[connection] = None

    def asked(self, connection: Connection) -> None:
        """Say that it has sent a whole head."""
        if connection in self._silent:
            del self._silent[connection]
            self._served[connection] = None

    def left(self, connection: Connection) -> None:
        self._silent.pop(connection, None)
        self._served.pop(connection, None)

    def make_room(self) -> bool:
        """Make room for one more, if need be; whether there is any."""
        if self._arriving + len(self._silent) + len(self._served) < self._max_connections:
            return True
        idle = next(iter(self._silent), None) or next((each for each in self._served if each.idle), None)
        if idle is None:
            return False
        self.left(idle)
        idle.cut()
        return True


@asynccontextmanager
async def accepting(
    address: tuple[str, int],
    make_protocol: Callable[[], asyncio.Protocol],
    connections: Connections,
    *,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Sequence[tuple[str, int]]]:
    """Accept connections while the context is open; yields the addresses bound, of which a name may have several.

    Raises OSError.
    """
    sockets = await _bound(*address)
    tasks = {
        asyncio.create_task(_accept(listener, make_protocol, connections, tls))  # noqa: TID251 - ended below
        for listener in sockets
    }
    try:
        yield [listener.getsockname()[:2] for listener in sockets]
    finally:
        for task in tasks:
            task.cancel()
        try:
            await asyncio.wait(tasks)
        finally:
            _close(sockets)


async def _bound(host: str, port: int) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)  # asks nobody
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, target in dict.fromkeys(found):
            sockets.append(socket.create_server(target, family=family, backlog=BACKLOG))
            sockets[-1].setblocking(False)
    except OSError as exc:
        _close(sockets)
        raise OSError(exc.errno, f"{os.strerror(exc.errno or 0).lower()}: {host} port {port}") from exc
    return sockets


def _close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()


async def _accept(
    listener: socket.socket,
    make_protocol: Callable[[], asyncio.Protocol],
    connections: Connections,
    tls: ssl.SSLContext | None,
) -> None:
    told_at, untold = -_TELL_S, 0
    async with asyncio.TaskGroup() as group:
        while True:
            try:
                # Not the loop's sock_accept: when it is cancelled while somebody comes, nobody closes his connection.
                await _readable(listener)
                accepted, _ = listener.accept()
                accepted.setblocking(False)
            except (ConnectionError, BlockingIOError):  # it left before it was accepted
                continue
            except OSError as exc:  # no descriptors, no memory
                untold += 1
                if time.monotonic() - told_at >= _TELL_S:
                    _log.error("cannot_accept_connections", error=exc.strerror, times=untold)
                    told_at, untold = time.monotonic(), 0
                await asyncio.sleep(_RETRY_S)
                continue
            if connections.make_room():
                group.create_task(_serve(accepted, make_protocol, connections, tls))
            else:
                accepted.close()


async def _readable(listener: socket.socket) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(listener, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(listener)


async def _serve(
    accepted: socket.socket,
    make_protocol: Callable[[], asyncio.Protocol],
    connections: Connections,
    tls: ssl.SSLContext | None,
) -> None:
    """Hand a connection to its protocol."""
    loop = asyncio.get_running_loop()
    try:
        with connections.arriving():
            await loop.connect_accepted_socket(
                make_protocol, accepted, ssl=tls, ssl_handshake_timeout=FIRST_HEAD_S if tls else None
            )
    except OSError:
        return  # it left, or its handshake failed
    except Exception as exc:  # noqa: BLE001 - one connection must not end the accepting of all others
        _log.error("http_connection_failed", error=type(exc).__name__)
