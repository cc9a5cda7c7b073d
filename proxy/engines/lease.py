"""Which engine does a request go to? It gets a lease: where to send, what to seal to, and to whom to say how it went.

A request has one lease at a time and asks for another only when it got no answer, or when its key was not the engine's.
Whoever relays it knows neither how engines are found and trusted nor how many there are (`proxy.engines.pool`)::

    lease = await engines.lease()
    with lease.carried():
        200, a chunk opened     lease.accepted()
        422                     lease = await lease.mismatched()
        no answer               lease.failed(7.0); lease = await engines.lease(avoiding={lease.engine})
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NewType, Protocol

from yarl import URL

from attestation.statement import Statement
from core.channel.keyconfig import KeyConfig

EngineId = NewType("EngineId", int)
"""The place of an engine among those that the proxy knows; nothing that leaves the proxy names it otherwise.

Places are taken again once an engine has left, so there are never more than the largest pool has.
"""


@dataclass(frozen=True, slots=True)
class Way:
    """How an engine is reached.

    url: to which paths are added; it may hold an address, and then `host` is the HOST[:PORT] under which the engine is
    asked, and for which its certificate counts. egress_proxy: URL of an HTTP proxy on the way.
    """

    url: str
    host: str | None = None
    egress_proxy: str | None = None

    def asking(self, headers: Mapping[str, str]) -> dict[str, Any]:
        """How a client session is asked for it: options of a request with these headers."""
        options: dict[str, Any] = {"proxy": self.egress_proxy, "headers": headers}
        if self.host is None:
            return options
        return options | {"headers": {"Host": self.host, **headers}, "server_hostname": URL(f"//{self.host}").host}


class Lease(Protocol):
    """What one request needs of one engine."""

    @property
    def engine(self) -> EngineId: ...

    @property
    def way(self) -> Way: ...

    @property
    def key(self) -> KeyConfig: ...

    @property
    def live_key(self) -> KeyConfig | None:
        """The key of live sessions; None where the engine serves none."""

    @property
    def statement(self) -> Statement:
        """What the engine proved: its limits among it."""

    @property
    def statement_sha256(self) -> str:
        """Of its bytes, hexadecimal."""

    @property
    def stands(self) -> bool:
        """Whether what goes on under this lease may: since it was given no other policy and no refusal came."""

    @property
    def has_spare(self) -> bool:
        """Whether there is another engine, to which what this one loses may go."""

    def carried(self) -> AbstractContextManager[None]:
        """The engine has work with this, while the context is open."""

    def accepted(self) -> None:
        """A part of an answer authenticated, so the engine holds its key."""

    def answered(self, after_s: float) -> None:
        """The head of an answer authenticated; it began so soon after the engine had all of the request."""

    async def mismatched(self, *, live: bool = False, avoiding: frozenset[EngineId] = frozenset()) -> Lease:
        """Another lease than this, whose key the engine does not open: of an engine that is ready, or under a new key.

        live: whether it was the key of live sessions. avoiding: engines that gave this request no answer.
        Raises ProxyError if there is none.
        """

    def failed(self, retry_after_s: float | None) -> None:
        """The request got no answer. retry_after_s: what was said of when it would."""


class Engines(Protocol):
    """The engines that requests may be sealed to."""

    async def lease(self, *, avoiding: frozenset[EngineId] = frozenset(), issuer: bytes | None = None) -> Lease:
        """An engine for a request; one that proves itself first, where necessary. Raises ProxyError.

        avoiding: engines that gave this request no answer; one that has answered others since is leased where no other
        is ready. issuer: who issued what the request shows and alone can take it (`core.channel.client_secrets`); of no
        account where that is none of these.
        """
