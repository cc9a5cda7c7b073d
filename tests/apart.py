"""A machine of its own, as far as the network goes, and a cable to it that can be pulled: a network namespace.

Sockets on both sides are real, and learn nothing of what happens to the cable: whoever waits there is half open.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.requirements import need_program

_CLONE_NEWNET: Final = 0x40000000
_RULES: Final = """
table inet cut {
    chain coming { type filter hook input priority 0; policy drop; }
    chain going { type filter hook output priority 0; policy drop; }
}
"""


@dataclass(frozen=True, slots=True)
class Apart:
    """A namespace. here, there: the addresses of both ends; program: what a command is run under, to run there."""

    name: str
    here: str
    there: str
    program: tuple[str, ...]

    def pull(self) -> None:
        """Pull the cable, at the far end."""
        _ip("-n", self.name, "link", "set", "cable", "down")

    def plug(self) -> None:
        _ip("-n", self.name, "link", "set", "cable", "up")

    def swallow(self) -> None:
        """Let every packet be lost without a word, as a firewall does that has forgotten its connections."""
        subprocess.run([*self.program, "nft", "-f", "-"], input=_RULES, text=True, check=True)

    def pass_on(self) -> None:
        subprocess.run([*self.program, "nft", "delete", "table", "inet", "cut"], check=True)

    def socket(self) -> socket.socket:
        """A TCP socket of that machine, in this process."""

        def made() -> socket.socket:
            there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(there, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            finally:
                os.close(there)

        with ThreadPoolExecutor(1) as threads:  # of which the one thread goes there, and ends
            return threads.submit(made).result()


@contextmanager
def apart() -> Iterator[Apart]:
    """A namespace while the context is open. Skips where none may be made."""
    need_program("ip")
    need_program("nft")
    name = f"sottovoce-{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as exc:  # no package would help
        pytest.skip(f"no network namespace may be made here: {exc.stderr.strip()}")
    cable, subnet = f"svt{os.getpid()}", f"198.18.{os.getpid() % 250}"  # of RFC 2544: nobody has it
    there = Apart(name, f"{subnet}.1", f"{subnet}.2", ("ip", "netns", "exec", name))
    try:
        _ip("link", "add", cable, "type", "veth", "peer", "name", "cable", "netns", name)
        _ip("address", "add", f"{there.here}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        _ip("-n", name, "address", "add", f"{there.there}/30", "dev", "cable")
        _ip("-n", name, "link", "set", "cable", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield there
    finally:
        subprocess.run(["ip", "link", "del", cable], check=False, capture_output=True)
        _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    program = "ip" if not Path("/usr/sbin/ip").exists() else "/usr/sbin/ip"
    subprocess.run([program, *arguments], check=True, capture_output=True, text=True)
