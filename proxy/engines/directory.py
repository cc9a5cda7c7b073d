"""Which machines stand behind a name? DNS, asked anew each time (RFC 1035; SRV: RFC 2782).

Nothing is cached here, and no answer is believed: whoever is named has to prove himself like anybody else. So all that
a lying name server can do is to name nobody that does. Priorities and weights of SRV records are not looked at: the
pool chooses by who has the least to do.
"""

from __future__ import annotations

import dns.asyncresolver
import dns.exception
import dns.rdatatype

from proxy.engines.discovery import DirectoryError

ANSWER_S = 5.0


class Dns:
    """A `Directory`: the name servers of this machine (`/etc/resolv.conf`, read anew), or those of `resolver`."""

    def __init__(self, resolver: dns.asyncresolver.Resolver | None = None) -> None:
        self._resolver = resolver

    async def addresses(self, name: str) -> tuple[str, ...]:
        try:
            answers = await self._asked().resolve_name(name, lifetime=ANSWER_S)
        except (dns.exception.DNSException, OSError) as exc:
            raise DirectoryError(type(exc).__name__) from exc
        return tuple(sorted(answers.addresses()))

    async def services(self, name: str) -> tuple[tuple[str, int], ...]:
        try:
            answer = await self._asked().resolve(name, dns.rdatatype.SRV, lifetime=ANSWER_S, search=True)
        except (dns.exception.DNSException, OSError) as exc:
            raise DirectoryError(type(exc).__name__) from exc
        return tuple(sorted((each.target.to_text(omit_final_dot=True), each.port) for each in answer))

    def _asked(self) -> dns.asyncresolver.Resolver:
        return self._resolver or dns.asyncresolver.Resolver()
