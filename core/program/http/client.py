"""How does either side ask over HTTP without giving anything away? One kind of client session.

aiohttp's defaults are unsafe here one by one, so this is the only place that makes a session: no transparent
decompression, no cookies, no netrc and no environment, no default headers that identify or vary.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, hdrs
from yarl import URL

from core.errors import OversizeError
from core.program.addresses import ip_address

USER_AGENT = "sottovoce"


class NotLoopbackError(OSError):
    """Development evidence was accepted, so only this machine may be spoken to."""


class NotPublicError(OSError):
    """A stranger named where to connect to, and that is somebody's own network."""


def open_session(
    *, tls: ssl.SSLContext | None, loopback_only: bool, connect_timeout_s: float, idle_timeout_s: float
) -> aiohttp.ClientSession:
    """A client session with nothing on by default; the caller closes it, and refuses redirects per request.

    loopback_only: refuse, at the socket and so after name resolution, every address that is not this machine's.
    idle_timeout_s: the longest silence on a connection. There is no total here: long audio takes long.
    """
    connector = aiohttp.TCPConnector(
        ssl=tls if tls is not None else True,
        socket_factory=_loopback_socket if loopback_only else None,
        limit=0,
        ttl_dns_cache=10,
    )
    return _session(connector, connect_timeout_s=connect_timeout_s, idle_timeout_s=idle_timeout_s)


def open_public_session(
    *,
    connect_timeout_s: float,
    idle_timeout_s: float,
    tls: ssl.SSLContext | None = None,
    reachable: Callable[[str, int], bool],
) -> aiohttp.ClientSession:
    """As `open_session`, to addresses that strangers name: every other than a public one is refused, at the socket.

    Connections are not kept, so that each is looked at. A proxy for the way out would be what is looked at: none may be
    given to a request. reachable: whether an address and a port may be connected to (`core.program.addresses`).
    """
    connector = aiohttp.TCPConnector(
        ssl=tls if tls is not None else True,
        socket_factory=lambda address: _public_socket(address, reachable),
        limit=0,
        force_close=True,
        use_dns_cache=False,
    )
    return _session(connector, connect_timeout_s=connect_timeout_s, idle_timeout_s=idle_timeout_s)


def open_unix_session(path: Path, *, connect_timeout_s: float, idle_timeout_s: float) -> aiohttp.ClientSession:
    """As `open_session`, to whoever listens at a Unix socket, whatever host a URL names."""
    connector = aiohttp.UnixConnector(str(path), limit=0)
    return _session(connector, connect_timeout_s=connect_timeout_s, idle_timeout_s=idle_timeout_s)


def _session(
    connector: aiohttp.BaseConnector, *, connect_timeout_s: float, idle_timeout_s: float
) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        middlewares=(_upgraded_or_refused,),
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        headers={"User-Agent": USER_AGENT},
        timeout=aiohttp.ClientTimeout(
            total=None, connect=connect_timeout_s, sock_connect=connect_timeout_s, sock_read=idle_timeout_s
        ),
    )


async def _upgraded_or_refused(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """What asks for a WebSocket would follow redirects, and nothing else can tell it not to."""
    response = await handler(request)
    if hdrs.UPGRADE in request.headers and response.status != 101:
        response.close()
        raise aiohttp.WSServerHandshakeError(
            response.request_info, response.history, status=response.status, headers=response.headers
        )
    return response


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """The URL of the HTTP proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY ask for, or None for a direct connection.

    NO_PROXY is a list with commas: `*`, a host (its subdomains too), an address, a network such as 10.0.0.0/8; each may
    carry a port. This machine is never reached through a proxy. A session itself never looks at the environment, for
    aiohttp would read ~/.netrc as well and put a credential on the request. Raises ValueError on a bad proxy.
    """
    target = URL(url)
    chosen = _variable(environ, f"{target.scheme}_proxy")
    if not chosen or is_this_machine(target.host or "") or _is_exempt(target, _variable(environ, "no_proxy")):
        return None
    proxy = URL(chosen if "://" in chosen else f"http://{chosen}")
    if proxy.scheme not in ("http", "https") or not proxy.host:
        raise ValueError(f"{target.scheme.upper()}_PROXY is not the URL of an HTTP proxy")
    return str(proxy)


def is_this_machine(host: str) -> bool:
    """Whether a host is named that can be no other machine; where a name leads, only its socket shows."""
    address = ip_address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.upper(), "")


def _is_exempt(target: URL, no_proxy: str) -> bool:
    return any(_matches(target, entry.strip().lower()) for entry in no_proxy.split(",") if entry.strip())


def _matches(target: URL, entry: str) -> bool:
    if entry == "*":
        return True
    host, address = (target.host or "").lower(), ip_address(target.host or "")
    if address and (network := _ip_network(entry)):
        return address in network
    name, _, port = entry.rpartition(":") if entry.rpartition(":")[2].isdecimal() else (entry, "", "")
    if port and int(port) != target.port:
        return False
    name = name.removeprefix("[").removesuffix("]").removeprefix("*").removeprefix(".")
    return host == name or host.endswith(f".{name}")


def _ip_network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None


async def read_bounded(stream: aiohttp.StreamReader, limit_bytes: int) -> bytes:
    """A whole body. Raises OversizeError when it is longer."""
    data = bytearray()
    async for piece in stream.iter_any():
        data += piece
        if len(data) > limit_bytes:
            raise OversizeError(f"the answer is longer than {limit_bytes} bytes")
    return bytes(data)


def _loopback_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, target = address
    if not ipaddress.ip_address(target[0].partition("%")[0]).is_loopback:
        raise NotLoopbackError("not a loopback address, and development evidence is accepted on this machine only")
    return socket.socket(family, kind, protocol)


def _public_socket(address: tuple[Any, ...], reachable: Callable[[str, int], bool]) -> socket.socket:
    family, kind, protocol, _, target = address
    scope = target[3] if len(target) > 3 else 0  # names one of our own links
    if scope or not reachable(target[0], target[1]):
        raise NotPublicError("not a public address")
    return socket.socket(family, kind, protocol)
