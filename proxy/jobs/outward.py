"""How are addresses asked that strangers name? Within bounds, and with nothing that is ours.

Connections go only to public addresses, and to networks that the operator named: the socket's own address is looked at
(`core.program.http.client.open_public_session`). They never go through an HTTP proxy, for then the proxy's address
would be looked at and the proxy would connect to anything; `HTTPS_PROXY` is not obeyed here. Where there is no other
way out, nothing can be reached. An address that is refused and one that is not there look the same to whoever named it.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from core.program.addresses import is_public
from core.program.http.client import open_public_session

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

CONNECT_S: Final = 10.0
SILENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where connections may lead: to the public at some ports, and to networks that the operator named at any.

    ports: None for any. public: whether the public may be reached at all.
    """

    networks: Sequence[Network] = ()
    ports: Collection[int] | None = None
    public: bool = True

    def reachable(self, address: str, port: int) -> bool:
        if self.public and is_public(address) and (self.ports is None or port in self.ports):
            return True
        return "%" not in address and any(ipaddress.ip_address(address) in network for network in self.networks)


LINK_PORTS: Final = (80, 443)


def outward_session(
    bounds: Bounds, *, tls: ssl.SSLContext | None = None, silence_s: float = SILENCE_S
) -> aiohttp.ClientSession:
    """The caller closes it. tls: other roots than the system's. silence_s: the longest of the other end."""
    return open_public_session(
        connect_timeout_s=CONNECT_S, idle_timeout_s=silence_s, tls=tls, reachable=bounds.reachable
    )
