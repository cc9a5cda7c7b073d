"""Through which HTTP proxy does the engine have to be reached? HTTPS_PROXY, HTTP_PROXY and NO_PROXY, read by us.

aiohttp can read them itself (`trust_env`), but then it reads ~/.netrc as well and puts a credential on the outer
request. A proxy on the way sees sealed requests only.

NO_PROXY is a list with commas: `*`, a host (its subdomains too), an address, a network such as 10.0.0.0/8; each may
carry a port. This machine is never reached through a proxy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from yarl import URL


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """The URL of the HTTP proxy for `url`, or None for a direct connection. Raises ValueError on a bad one."""
    target = URL(url)
    chosen = _variable(environ, f"{target.scheme}_proxy")
    if not chosen or _is_local(target.host or "") or _is_exempt(target, _variable(environ, "no_proxy")):
        return None
    proxy = URL(chosen if "://" in chosen else f"http://{chosen}")
    if proxy.scheme not in ("http", "https") or not proxy.host:
        raise ValueError(f"{target.scheme.upper()}_PROXY is not the URL of an HTTP proxy")
    return str(proxy)


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.upper(), "")


def _is_local(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def _is_exempt(target: URL, no_proxy: str) -> bool:
    return any(_matches(target, entry.strip().lower()) for entry in no_proxy.split(",") if entry.strip())


def _matches(target: URL, entry: str) -> bool:
    if entry == "*":
        return True
    host, address = (target.host or "").lower(), _address(target.host or "")
    if address and (network := _network(entry)):
        return address in network
    name, _, port = entry.rpartition(":") if entry.rpartition(":")[2].isdecimal() else (entry, "", "")
    if port and int(port) != target.port:
        return False
    name = name.removeprefix("[").removesuffix("]").removeprefix("*").removeprefix(".")
    return host == name or host.endswith(f".{name}")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None
