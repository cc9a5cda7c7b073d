"""What do the handlers of all dialects work with, and whose request is it?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from aiohttp import hdrs, web

from proxy.jobs.errors import DeniedError
from proxy.jobs.model import LOCAL_ACCOUNT, Capabilities, Principal
from proxy.jobs.ports import Engine
from proxy.jobs.service import Kept


@dataclass(frozen=True, slots=True)
class ServedJobs:
    """The parts behind the routes. with_accounts: whoever asks shows a key; otherwise all jobs are one account's.

    here: what can be done on this side; the rest is for the engine to say.
    takes_links: recordings are fetched. max_file_bytes: of one that is sent. has_resolver: a command knows more links.
    plain_webhooks: they may be of http, for they may be in a network that the operator named.
    """

    kept: Kept
    engine: Engine
    here: Capabilities
    with_accounts: bool
    takes_links: bool
    max_file_bytes: int
    has_resolver: bool = False
    plain_webhooks: bool = False

    @property
    def capabilities(self) -> Capabilities:
        """Also of the engine that has proved itself."""
        engine = self.engine.capabilities
        return replace(engine, summary=engine.summary or self.here.summary, cut=self.here.cut, redact=self.here.redact)


JOBS: Final = web.AppKey("jobs", ServedJobs)


async def principal_of(request: web.Request) -> Principal:
    """Whose request it is: by `X-Api-Key`, or else `Authorization`, with or without `Bearer`. Raises DeniedError.

    In this order, because Authorization may have to hold the proxy's own token (`proxy.local.guard`).
    """
    served = request.app[JOBS]
    if not served.with_accounts:
        return Principal(LOCAL_ACCOUNT)
    shown = request.headers.get("X-Api-Key") or request.headers.get(hdrs.AUTHORIZATION) or ""
    scheme, _, rest = shown.strip().partition(" ")
    key = rest.strip() if scheme.lower() == "bearer" else shown.strip()
    if not key:
        raise DeniedError
    principal, _ = await served.kept.accounts.authenticate(key)
    return principal
