"""Where are the engines now? One by one, or behind names that are looked up again and again.

::

    http://engine:8800                       one engine
    dns+http://engines:8800                  one at every address of the name, such as of a headless Service
    srv+https://_sottovoce._tcp.example      one at every address of every host and port of the service

An engine is asked at its address, and under the name: its certificate counts for that. A name that nothing is found out
about, or that nobody stands behind, changes nothing: whoever stood behind it may still serve, and if he does not, that
shows. A name server that names more than a pool takes does not displace who is there.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, Protocol
from urllib.parse import SplitResult, urlsplit

import structlog

from attestation.fetch import parse_engine_url
from proxy.engines.lease import Way

_log = structlog.get_logger(__name__)

ADDRESSES: Final = "dns+"
SERVICE: Final = "srv+"

LOOK_AGAIN_S: Final = 10.0
"""How long an engine may have come, or gone, without being noticed; beside the time that name servers keep answers."""


class DirectoryError(Exception):
    """Nothing was found out about a name, which says nothing about who stands behind it; its text is the reason."""


class Directory(Protocol):
    """Who knows what stands behind names: `proxy.engines.directory`."""

    async def addresses(self, name: str) -> tuple[str, ...]:
        """Every address of a host, of both families. Raises DirectoryError, also when there is none."""

    async def services(self, name: str) -> tuple[tuple[str, int], ...]:
        """Every host and port of a service. Raises DirectoryError, also when there is none."""


WayTo = Callable[[str, str | None], Way]
"""How an engine is reached, by its URL and, where that holds an address, the HOST[:PORT] under which it is asked."""


def parse_engine(text: str) -> str:
    """Where an engine is, or several behind a name, without a final slash. Raises ValueError."""
    kind, url = _kind_and_url(text)
    if not kind:
        return parse_engine_url(text)
    split = urlsplit(parse_engine_url(url))
    host = split.hostname or ""
    if _is_address(host):
        raise ValueError(f"behind {kind} stands a name, not an address")
    if kind == SERVICE and (split.port is not None or not host.startswith("_")):
        raise ValueError(f"{SERVICE}https://_SERVICE._tcp.DOMAIN is without a port, which its records tell")
    return kind + parse_engine_url(url)


def is_named(engine: str) -> bool:
    """Whether several may stand behind it."""
    return bool(_kind_and_url(engine)[0])


def url_of(engine: str) -> str:
    """The URL by which its host is meant."""
    return _kind_and_url(engine)[1]


def _kind_and_url(engine: str) -> tuple[str, str]:
    kind = next((kind for kind in (ADDRESSES, SERVICE) if engine.startswith(kind)), "")
    return kind, engine.removeprefix(kind)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Discovery:
    """A `Finder` (`proxy.engines.pool`) of what the settings name."""

    def __init__(
        self,
        engines: Sequence[str],
        directory: Directory,
        way_to: WayTo,
        *,
        nap: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """engines: as of `parse_engine`."""
        self._engines = tuple(engines)
        self._directory = directory
        self._way_to = way_to
        self._nap = nap
        self._found: dict[str, tuple[Way, ...]] = {}
        self._has_looked = False

    async def changes(self) -> tuple[Way, ...]:
        if self._has_looked:
            await self._nap(LOOK_AGAIN_S)
        self._has_looked = True
        async with asyncio.TaskGroup() as group:
            for engine in self._engines:
                group.create_task(self._look_up(engine))
        return tuple(way for engine in self._engines for way in self._found.get(engine, ()))

    async def _look_up(self, engine: str) -> None:
        try:
            self._found[engine] = await self._ways(engine)
        except DirectoryError as exc:
            # Neither the name nor what the server said: who stands behind it is nobody else's business.
            _log.warning("engines_not_found", place=self._engines.index(engine), error=str(exc))

    async def _ways(self, engine: str) -> tuple[Way, ...]:
        kind, url = _kind_and_url(engine)
        if not kind:
            return (self._way_to(url, None),)
        split = urlsplit(url)
        name = split.hostname or ""
        targets = [(name, split.port)] if kind == ADDRESSES else await self._directory.services(name)
        return tuple([way for host, port in targets async for way in self._behind(split, host, port)])

    async def _behind(self, url: SplitResult, host: str, port: int | None) -> AsyncIterator[Way]:
        for address in await self._directory.addresses(host):
            literal = f"[{address}]" if ":" in address else address
            there = url._replace(netloc=_with_port(literal, port)).geturl()
            yield self._way_to(there, _with_port(host, port))


def _with_port(host: str, port: int | None) -> str:
    return host if port is None else f"{host}:{port}"
