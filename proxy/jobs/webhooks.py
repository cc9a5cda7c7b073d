"""How does somebody learn that a job is final, without asking? By messages in the form of Standard Webhooks.

::

    webhook-id: the delivery's, the same for every attempt      webhook-timestamp: seconds since 1970, of the attempt
    webhook-signature: "v1," base64(HMAC-SHA256(secret, id "." timestamp "." body)), several with spaces between them

(github.com/standard-webhooks, `spec/standard-webhooks.md`.) Each account has a secret of its own, so that whoever
receives one account's messages cannot forge another's. What is sent says that a job is final, and nothing of what was
heard, unless its dialect has another body for it.

A receiver answers 2xx; 410 says that there will never be one. Anything else, redirects too, is tried again, later each
time, and not before a receiver's `Retry-After`. Messages come at least once and in no promised order. Where they may go
is bounded as for links (`proxy.jobs.outward`); plain HTTP reaches only networks that the operator named.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

import aiohttp
import structlog

from proxy.jobs.errors import JobsError, LostError, MissingError, StoreError
from proxy.jobs.links import LinkError, checked
from proxy.jobs.model import AccountId, Delivery, Job, WebhookEvent
from proxy.jobs.ports import Clock, Jobs, Outbox

_log = structlog.get_logger(__name__)

TIMEOUT_S: Final = 20.0
LEASE_MS: Final = 60_000
POLL_S: Final = 1.0
STORE_PAUSE_S: Final = 1.0
DELIVERIES_AT_ONCE: Final = 4

_HOUR_S: Final = 3_600.0
DELAYS_S: Final = (5.0, 300.0, 1_800.0, *(hours * _HOUR_S for hours in (2, 5, 10, 14, 20, 24)))
"""What the specification recommends, after the first attempt, the second, and so on."""

MAX_ATTEMPTS: Final = 1 + len(DELAYS_S)

MAX_RETRY_AFTER_S: Final = 24 * _HOUR_S
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """Raises ValueError for a length that the specification does not allow."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not MIN_SECRET_BYTES <= len(self.key) <= MAX_SECRET_BYTES:
            raise ValueError("a secret of webhooks has 24 to 64 bytes")

    def shown(self) -> str:
        """As receivers' libraries take it."""
        return "whsec_" + base64.b64encode(self.key).decode()

    def signature(self, message_id: str, timestamp_s: int, body: bytes) -> str:
        signed = f"{message_id}.{timestamp_s}.".encode() + body
        return "v1," + base64.b64encode(hmac.digest(self.key, signed, "sha256")).decode()


SecretsOf = Callable[[AccountId], Sequence[WebhookSecret]]
"""The secrets of an account: one, or the new and the old while receivers change over."""


class Digest(Protocol):
    """A `proxy.jobs.vault.Pepper`."""

    def digest(self, purpose: str, *parts: bytes) -> bytes: ...


def account_secret(pepper: Digest, account: AccountId) -> WebhookSecret:
    return WebhookSecret(pepper.digest("webhook secret", account.encode()))


class Bodies(Protocol):
    """What one dialect sends."""

    async def body(self, job: Job, event: WebhookEvent) -> bytes | None:
        """JSON; None for what is sent by default. Raises MissingError, StoreError."""


class DeliveryObserver(Protocol):
    def told(self, outcome: str) -> None:
        """outcome: delivered, postponed, given_up or lost."""


@dataclass(frozen=True, slots=True)
class Ways:
    """Sessions to receivers, closed by their owner. open: for http, bounded to networks that the operator named."""

    sealed: aiohttp.ClientSession
    open: aiohttp.ClientSession


@dataclass(frozen=True, slots=True)
class _Answer:
    """How an attempt went. gone: there will never be a receiver. retry_after_s: not before."""

    delivered: bool = False
    gone: bool = False
    retry_after_s: float = 0.0


class Deliveries:
    """Works off the outbox. nap: sleeps, or less when something may be due. spread: 0 to 1, for each delay anew."""

    def __init__(
        self,
        outbox: Outbox,
        jobs: Jobs,
        *,
        ways: Ways,
        secrets_of: SecretsOf,
        clock: Clock,
        observer: DeliveryObserver,
        bodies: Mapping[str, Bodies] | None = None,
        timeout_s: float = TIMEOUT_S,
        nap: Callable[[float], Awaitable[None]] = asyncio.sleep,
        spread: Callable[[], float] = lambda: secrets.randbelow(1_000) / 1_000,
    ) -> None:
        self._outbox = outbox
        self._jobs = jobs
        self._ways = ways
        self._secrets_of = secrets_of
        self._clock = clock
        self._observer = observer
        self._bodies = bodies or {}
        self._timeout_s = timeout_s
        self._nap = nap
        self._spread = spread

    async def run(self) -> None:
        """Until it is cancelled; what is under way is then due again when its lease runs out."""
        async with asyncio.TaskGroup() as group:
            for _ in range(DELIVERIES_AT_ONCE):
                group.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                busy = await self.step()
            except StoreError as exc:
                _log.warning("webhook_store_failed", error=str(exc))
                await self._nap(STORE_PAUSE_S)
                continue
            except Exception as exc:  # noqa: BLE001 - a defect that one message meets must not end the others
                _log.error("webhook_failed", error=type(exc).__name__)
                continue
            if not busy:
                await self._nap(POLL_S)

    async def step(self) -> bool:
        """Attempt one delivery; whether there was one. Raises StoreError."""
        delivery = await self._outbox.claim(lease_ms=LEASE_MS)
        if delivery is None:
            return False
        try:
            tried_enough = delivery.attempt > MAX_ATTEMPTS  # at each, whoever made it ended before it said how it went
            await self._settle(delivery, _Answer(gone=True) if tried_enough else await self._attempt(delivery))
        except LostError:  # its job was deleted, or the lease ran out
            self._observer.told("lost")
        return True

    async def _settle(self, delivery: Delivery, answer: _Answer) -> None:
        if answer.delivered:
            await self._outbox.delivered(delivery)
            self._observer.told("delivered")
        elif answer.gone or delivery.attempt >= MAX_ATTEMPTS:
            await self._outbox.give_up(delivery)
            self._observer.told("given_up")
        else:
            delay_s = max(DELAYS_S[delivery.attempt - 1] * (1 + 0.2 * self._spread()), answer.retry_after_s)
            await self._outbox.postpone(delivery, delay_ms=round(1000 * delay_s))
            self._observer.told("postponed")

    async def _attempt(self, delivery: Delivery) -> _Answer:
        try:
            job = await self._jobs.get(delivery.account, delivery.job)
            url = checked(job.options.webhook_url or "")
            body = await self._body(job, delivery.event)
        except (MissingError, LinkError):
            return _Answer(gone=True)
        except StoreError:
            raise
        except JobsError as exc:
            _log.warning("webhook_not_made", error=type(exc).__name__)
            return _Answer()
        headers = self._headers(delivery, body)
        if job.options.webhook_authorization is not None:
            headers["Authorization"] = job.options.webhook_authorization
        session = self._ways.sealed if url.scheme == "https" else self._ways.open
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                session.post(url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                return _read(response)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            _log.info("webhook_not_delivered", error=type(exc).__name__)  # its message names the address
            return _Answer()

    async def _body(self, job: Job, event: WebhookEvent) -> bytes:
        dialect = self._bodies.get(job.dialect)
        full = None if dialect is None else await dialect.body(job, event)
        return thin_body(job, event) if full is None else full

    def _headers(self, delivery: Delivery, body: bytes) -> dict[str, str]:
        now_s = self._clock.now_ms() // 1000
        signatures = (secret.signature(delivery.id, now_s, body) for secret in self._secrets_of(delivery.account))
        return {
            "Content-Type": "application/json",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": " ".join(signatures),
        }


def _read(response: aiohttp.ClientResponse) -> _Answer:
    """What an answer's head says; its body is not read."""
    later = response.headers.get("Retry-After", "")
    retry_after_s = min(float(later), MAX_RETRY_AFTER_S) if later.isascii() and later.isdecimal() else 0.0
    return _Answer(200 <= response.status < 300, response.status == 410, retry_after_s)


def thin_body(job: Job, event: WebhookEvent) -> bytes:
    """Which job is final, and how; with what its submitter wanted told again."""
    at = datetime.fromtimestamp((job.completed_ms or job.created_ms) / 1000, UTC)
    data: dict[str, object] = {"id": job.id, "status": job.status}
    if job.options.metadata:
        data["metadata"] = dict(job.options.metadata)
    message = {
        "type": f"transcription.{event}",
        "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": data,
    }
    return json.dumps(message, separators=(",", ":")).encode()
