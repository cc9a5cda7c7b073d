"""Is an address on the public internet, or is somebody's own network behind it?

Asked of the address that a socket connects to, never of a name: names lie. Python's `is_global` is not enough alone. It
calls public what leads to private addresses by way of a translator (NAT64, RFC 6052; 6to4, RFC 3056; Teredo, RFC 4380),
multicast (RFC 5771, RFC 4291 section 2.7), and what was never or is no longer assigned. Networks that are refused
beside it are those of the IANA special-purpose address registries, 2026-11-30.
"""

from __future__ import annotations

import ipaddress
from typing import Final

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""The well-known prefix (RFC 6052, section 2.1): the last four bytes are an IPv4 address."""

GLOBAL: Final = ipaddress.IPv6Network("2000::/3")
"""All that has ever been assigned of global unicast addresses (RFC 4291, section 2.4; IANA)."""

REFUSED: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers, RFC 6598
        "192.0.0.0/24",  # protocol assignments, RFC 6890
        "192.88.99.0/24",  # 6to4 relays, RFC 7526
        "198.18.0.0/15",  # benchmarks, RFC 2544
        "2001::/23",  # protocol assignments, Teredo among them
        "2002::/16",  # 6to4
    )
)


def ip_address(text: str) -> Ip | None:
    """An address, or None for what is a name."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def is_public(text: str) -> bool:
    """Whether an address, with or without a zone, may be connected to on a stranger's word. Raises ValueError."""
    if "%" in text:  # a zone names one of our own links
        return False
    return _is_public(ipaddress.ip_address(text))


def _is_public(address: Ip) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if address in NAT64:
            return _is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in GLOBAL:
            return False
    if address.is_multicast or not address.is_global:
        return False
    return not any(address in network for network in REFUSED if network.version == address.version)
