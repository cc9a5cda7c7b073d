"""Which addresses may be connected to because a stranger says so."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.program.addresses import is_public

PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700::1111", "2001:4860:4860::8888", "64:ff9b::808:808"]

INTERNAL = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
    *("192.168.1.1", "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.0.8", "192.0.0.192"),
    *("192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250"),
    *("240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "100::1"),
    *("2001::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1"),
    *("ff02::1", "ff0e::1", "fe80::1%eth0", "2606:4700::1111%1", "5f00::1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", INTERNAL)
def test_no_other_address_is(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0x7f.1", "2130706433", "1.1.1.1:80", "[::1]"])
def test_what_is_no_address_is_not_judged(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        is_public(text)


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_alike_in_every_form_that_leads_to_it(address: ipaddress.IPv4Address) -> None:
    plain = is_public(str(address))
    assert is_public(str(ipaddress.IPv6Address(0xFFFF_0000_0000 | int(address)))) == plain
    assert is_public(str(ipaddress.IPv6Address((0x64_FF9B << 96) | int(address)))) == plain


@given(st.ip_addresses())
def test_nothing_is_public_that_python_knows_to_be_private(address: ipaddress.IPv4Address) -> None:
    if address.is_private or address.is_loopback or address.is_multicast or address.is_unspecified:
        assert not is_public(str(address))
