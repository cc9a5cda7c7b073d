"""What do the job APIs work with? The ports of `proxy.jobs`, limits, and what belongs to this deployment alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

from proxy.dialects.answering import shown_key
from proxy.dialects.rates import RateLimits, Rates
from proxy.jobs.errors import DeniedError
from proxy.jobs.links import LinkError, check_receiver, direct_link
from proxy.jobs.model import (
    LOCAL_ACCOUNT,
    Account,
    AccountId,
    ApiKey,
    Balance,
    BlobSource,
    Capabilities,
    JobOptions,
    KeyId,
    Meter,
    Principal,
)
from proxy.jobs.ports import Accounts, Answers, Blobs, Clock, Jobs, Splitter, Uploads


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    principal: Principal
    account: Account

    @property
    def name(self) -> str:
        """By which limits tell callers apart."""
        return self.principal.key or self.principal.account

    @property
    def pays(self) -> bool:
        return self.account.plan.meter in (Meter.CENTS, Meter.CREDITS)


@dataclass(frozen=True, slots=True)
class Everybody:
    """Accounts where none are kept: whatever key is shown, or none, all is one account's."""

    accounts: Accounts

    async def authenticate(self, key: str) -> tuple[Principal, Account]:  # noqa: ARG002 - of `Accounts`
        return Principal(LOCAL_ACCOUNT), await self.account(LOCAL_ACCOUNT)

    async def account(self, account: AccountId) -> Account:
        return await self.accounts.account(account)

    async def keys(self, account: AccountId) -> Sequence[ApiKey]:
        return await self.accounts.keys(account)

    async def add_key(self, account: AccountId, name: str, *, lifetime_ms: int | None = None) -> tuple[ApiKey, str]:
        return await self.accounts.add_key(account, name, lifetime_ms=lifetime_ms)

    async def revoke(self, account: AccountId, key: KeyId) -> ApiKey:
        return await self.accounts.revoke(account, key)

    async def balance(self, account: AccountId) -> Balance:
        return await self.accounts.balance(account)


class Lengths(Protocol):
    """How long a recording is that was sent here."""

    async def audio_ms(self, source: BlobSource, options: JobOptions, *, max_audio_ms: int | None = None) -> int | None:
        """None where that is known only once it was heard.

        Raises FailedError for what cannot be heard at all, or is longer than `max_audio_ms`.
        """


@dataclass(frozen=True, slots=True)
class PlannedLengths:
    """Lengths as a splitter finds them; what it makes on the way is forgotten."""

    blobs: Blobs
    splitter: Splitter

    async def audio_ms(self, source: BlobSource, options: JobOptions, *, max_audio_ms: int | None = None) -> int | None:
        recording = await self.blobs.open(source.blob, name=source.name)
        plan = await self.splitter.plan(recording, options, max_audio_ms=max_audio_ms)
        if plan.blob is not None:
            await self.blobs.forget(plan.blob)
        return plan.audio_ms


@dataclass(frozen=True, slots=True)
class Desk:
    """signing_key: for the URLs that files are sent to. idle_s: how long a caller may pause in sending.

    has_resolver: a command knows more links. plain_webhooks: they may be of http.
    deposit_url: where accounts are paid into; empty where nobody pays. max_file_bytes: of every account.
    lengths: asked before a job of an account that pays, or whose plan limits it; None where nobody can say beforehand.
    is_ready: whether an engine has proved itself, for whoever waits for one. authorization_is_ours: that header has
    the proxy's own token, so that keys come in `X-Api-Key` alone.
    """

    jobs: Jobs
    uploads: Uploads
    accounts: Accounts
    answers: Answers
    clock: Clock
    signing_key: bytes = field(repr=False)
    _: KW_ONLY
    can: Callable[[], Capabilities] = Capabilities
    takes_links: bool = True
    has_resolver: bool = False
    plain_webhooks: bool = True
    rates: Rates = field(default_factory=RateLimits)
    idle_s: float = 60.0
    deposit_url: str = ""
    lengths: Lengths | None = None
    is_ready: Callable[[], bool] = lambda: True
    max_file_bytes: int = 5 * 2**30
    authorization_is_ours: bool = False

    def check_links(self, url: str | None, options: JobOptions) -> None:
        """Raises LinkError for a link that is not fetched, and for a webhook that is not called."""
        if options.webhook_url is not None:
            check_receiver(options.webhook_url, plain=self.plain_webhooks)
        if url is not None:
            try:
                direct_link(url)
            except LinkError as exc:
                if not (exc.resolvable and self.has_resolver):
                    raise

    async def caller(self, headers: Mapping[str, str], *, sessions: bool = False) -> Caller:
        """Who shows a key in a request's headers; whoever keeps no accounts lets everybody in. Raises DeniedError.

        sessions: whether the API knows them.
        """
        key = shown_key(headers, authorization=not self.authorization_is_ours)
        principal, account = await self.accounts.authenticate(key or "")
        if principal.is_session and not sessions:
            raise DeniedError
        return Caller(principal, account)
