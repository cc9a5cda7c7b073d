"""A name server on a real socket, that answers as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from proxy.engines.directory import Dns


@dataclass
class NameServer(asyncio.DatagramProtocol):
    """records: texts of the records of a type and a name. rcode: what every answer says; silent: there is none."""

    records: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    silent: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0
    _transport: asyncio.DatagramTransport | None = None

    def say(self, kind: str, name: str, *records: str) -> None:
        self.records[kind, name] = list(records)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((kind, name))
        if self.silent:
            return
        answer = dns.message.make_response(query, recursion_available=True)
        answer.set_rcode(self.rcode)
        if records := self.records.get((kind, name)):
            answer.answer.append(dns.rrset.from_text(question.name, 1, "IN", kind, *records))
        assert self._transport is not None
        self._transport.sendto(answer.to_wire(), addr)

    @property
    def directory(self) -> Dns:
        """Who asks this server alone."""
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], self.port
        return Dns(resolver)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[NameServer]:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]
        try:
            yield self
        finally:
            transport.close()
