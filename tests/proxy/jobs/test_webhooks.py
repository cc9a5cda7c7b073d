"""Messages that a job is final: over real sockets, to receivers of every kind, read by somebody else's library."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from core.transcript.types import Transcript
from proxy.jobs.errors import LostError, MissingError, StoreError, VaultError
from proxy.jobs.model import (
    LOCAL_ACCOUNT,
    AccountId,
    Delivery,
    Failure,
    FailureKind,
    Job,
    JobId,
    JobOptions,
    JobResult,
    JobStatus,
    LinkSource,
    ListQuery,
    NewJob,
    Page,
    PartPlan,
    WebhookEvent,
)
from proxy.jobs.outward import Bounds, outward_session
from proxy.jobs.ports import Once, Outbox
from proxy.jobs.sealing import RecordKey
from proxy.jobs.vault import Pepper
from proxy.jobs.webhooks import (
    DELAYS_S,
    LEASE_MS,
    MAX_ATTEMPTS,
    MAX_RETRY_AFTER_S,
    Bodies,
    Deliveries,
    Ways,
    WebhookSecret,
    account_secret,
    thin_body,
)
from tests.proxy.jobs.sites import Handler, name_leads_to, site
from tests.waiting import time_passes, until

ENDED_MS = 1_790_000_000_123

SECRET = WebhookSecret(bytes(range(32)))
OLD_SECRET = WebhookSecret(bytes(range(24)))
HERE = Bounds(networks=(ipaddress.ip_network("127.0.0.1/32"),), public=False)


def final_job(url: str | None, **changes: object) -> Job:
    job = Job(
        JobId("0198-job"),
        LOCAL_ACCOUNT,
        None,
        "openai",
        LinkSource("https://example.org/secret.mp3"),
        JobOptions(webhook_url=url, prompt="secret prompt"),
        JobStatus.COMPLETED,
        created_ms=ENDED_MS - 5_000,
        completed_ms=ENDED_MS,
    )
    return replace(job, **changes)  # type: ignore[arg-type]


@dataclass
class OneDelivery:
    """An outbox with one message, and what was said of it."""

    delivery: Delivery | None = field(
        default_factory=lambda: Delivery("msg-1", JobId("0198-job"), LOCAL_ACCOUNT, WebhookEvent.COMPLETED, 1, 1)
    )
    settled: list[str] = field(default_factory=list)
    delays_ms: list[int] = field(default_factory=list)
    lease_ms: int = 0
    is_lost: bool = False

    async def claim(self, *, lease_ms: int) -> Delivery | None:
        self.lease_ms = lease_ms
        claimed, self.delivery = self.delivery, None
        return claimed

    async def delivered(self, delivery: Delivery) -> None:
        self._settle("delivered")

    async def postpone(self, delivery: Delivery, *, delay_ms: int) -> None:
        self._settle("postponed")
        self.delays_ms.append(delay_ms)
        self.delivery = replace(delivery, attempt=delivery.attempt + 1)

    async def give_up(self, delivery: Delivery) -> None:
        self._settle("given_up")

    def _settle(self, how: str) -> None:
        if self.is_lost:
            raise LostError
        self.settled.append(how)


class OneJob:
    """`proxy.jobs.ports.Jobs` with one job, or what it raises."""

    def __init__(self, job: Job | Exception) -> None:
        self._job = job

    async def get(self, account: AccountId, job_id: JobId) -> Job:
        if isinstance(self._job, Exception):
            raise self._job
        return self._job

    async def submit(self, new: NewJob, *, once: Once | None = None) -> Job:
        raise NotImplementedError

    async def result(self, account: AccountId, job_id: JobId) -> JobResult:
        raise NotImplementedError

    async def heard(self, account: AccountId, job_id: JobId, *, after: int = 0) -> list[tuple[PartPlan, Transcript]]:
        raise NotImplementedError

    async def list(self, account: AccountId, query: ListQuery) -> Page:
        raise NotImplementedError

    async def cancel(self, account: AccountId, job_id: JobId) -> Job:
        raise NotImplementedError

    async def delete(self, account: AccountId, job_id: JobId) -> None:
        raise NotImplementedError


class Now:
    """Everybody's: a receiver refuses what is minutes old."""

    def now_ms(self) -> int:
        return int(datetime.now(UTC).timestamp() * 1000)


@dataclass
class Told:
    outcomes: list[str] = field(default_factory=list)

    def told(self, outcome: str) -> None:
        self.outcomes.append(outcome)


@asynccontextmanager
async def delivering(
    outbox: Outbox,
    job: Job | Exception,
    *,
    secrets: Sequence[WebhookSecret] = (SECRET,),
    bodies: Mapping[str, Bodies] | None = None,
    plain: Bounds = HERE,
    told: Told | None = None,
    nap: Callable[[float], asyncio.Future[None]] | None = None,
) -> AsyncIterator[Deliveries]:
    async with outward_session(Bounds()) as sealed, outward_session(plain) as opened:
        yield Deliveries(
            outbox,
            OneJob(job),
            ways=Ways(sealed, opened),
            secrets_of=lambda _: secrets,
            clock=Now(),
            observer=told or Told(),
            bodies=bodies,
            spread=lambda: 0.0,
        )


@dataclass
class Receiver:
    """Answers as it is told, and keeps what it got."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    got: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)

    async def __call__(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        return web.Response(status=self.status, headers=self.headers)


async def outcome(receiver: Handler, *, attempt: int = 1, path: str = "/hook") -> OneDelivery:
    outbox = OneDelivery()
    assert outbox.delivery is not None
    outbox.delivery = replace(outbox.delivery, attempt=attempt)
    async with site(receiver) as url, delivering(outbox, final_job(f"{url}{path}")) as deliveries:
        assert await deliveries.step()
    return outbox


# --- what is sent --------------------------------------------------------------------------------------------------


async def test_a_message_is_what_somebody_elses_library_verifies() -> None:
    receiver = Receiver()
    assert (await outcome(receiver)).settled == ["delivered"]
    ((headers, body),) = receiver.got
    told = Webhook(SECRET.shown()).verify(body, dict(headers))
    assert told == {
        "type": "transcription.completed",
        "timestamp": datetime.fromtimestamp(ENDED_MS / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "data": {"id": "0198-job", "status": "completed"},
    }
    assert (headers["webhook-id"], headers["Content-Type"]) == ("msg-1", "application/json")


async def test_a_receiver_gets_the_authorization_and_what_was_given_to_tell_again() -> None:
    receiver = Receiver()
    async with site(receiver) as url:
        job = final_job(None)
        asked = JobOptions(webhook_url=f"{url}/", webhook_authorization="Bearer mine", metadata={"order": "7"})
        async with delivering(OneDelivery(), replace(job, options=asked)) as deliveries:
            assert await deliveries.step()
    ((headers, body),) = receiver.got
    assert headers["Authorization"] == "Bearer mine"
    assert json.loads(body)["data"] == {"id": job.id, "status": "completed", "metadata": {"order": "7"}}
    assert "mine" not in repr(asked)


async def test_no_other_secret_verifies_it_and_no_other_body() -> None:
    receiver = Receiver()
    await outcome(receiver)
    ((headers, body),) = receiver.got
    with pytest.raises(Exception, match="signature"):
        Webhook(OLD_SECRET.shown()).verify(body, dict(headers))
    with pytest.raises(Exception, match="signature"):
        Webhook(SECRET.shown()).verify(body + b" ", dict(headers))


async def test_while_secrets_change_either_verifies() -> None:
    receiver, outbox = Receiver(), OneDelivery()
    async with (
        site(receiver) as url,
        delivering(outbox, final_job(url), secrets=(SECRET, OLD_SECRET)) as deliveries,
    ):
        await deliveries.step()
    ((headers, body),) = receiver.got
    for secret in (SECRET, OLD_SECRET):
        assert Webhook(secret.shown()).verify(body, dict(headers))


@given(st.binary(min_size=24, max_size=64), st.binary(max_size=50).map(lambda data: data.hex().encode()))
def test_a_signature_is_that_of_the_library(key: bytes, body: bytes) -> None:
    at = datetime.fromtimestamp(1_700_000_000, UTC)
    secret = WebhookSecret(key)
    assert secret.signature("msg", 1_700_000_000, body) == Webhook(secret.shown()).sign("msg", at, body.decode())


@pytest.mark.parametrize("size", [0, 23, 65])
def test_a_secret_has_24_to_64_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="24 to 64"):
        WebhookSecret(bytes(size))


def test_each_account_has_a_secret_of_its_own_which_is_not_shown() -> None:
    pepper = Pepper(RecordKey(bytes(32)))
    secrets = {account_secret(pepper, AccountId(name)).shown() for name in ("a", "b", "a")}
    assert len(secrets) == 2
    assert all(len(b64decode(each.removeprefix("whsec_"))) == 32 for each in secrets)
    assert repr(SECRET) == "WebhookSecret()"


async def test_nothing_of_what_was_said_or_asked_is_in_it() -> None:
    receiver = Receiver()
    await outcome(receiver)
    assert "secret" not in str(receiver.got)


def test_a_failure_says_so() -> None:
    job = final_job(None, status=JobStatus.FAILED, failure=Failure(FailureKind.MEDIA_UNREADABLE))
    assert json.loads(thin_body(job, WebhookEvent.FAILED))["type"] == "transcription.failed"


class Full:
    """A dialect that sends results, to those who asked."""

    def __init__(self, body: bytes | None) -> None:
        self._body = body

    async def body(self, job: Job, event: WebhookEvent) -> bytes | None:
        return self._body


@pytest.mark.parametrize(
    ("dialect", "body", "sent"),
    [("openai", b'{"text":"all"}', b'{"text":"all"}'), ("openai", None, None), ("other", b"{}", None)],
)
async def test_a_dialect_may_send_more(dialect: str, body: bytes | None, sent: bytes | None) -> None:
    receiver, outbox = Receiver(), OneDelivery()
    async with site(receiver) as url:
        job = final_job(url)
        async with delivering(outbox, job, bodies={dialect: Full(body)}) as deliveries:
            await deliveries.step()
    ((_, got),) = receiver.got
    assert got == (thin_body(job, WebhookEvent.COMPLETED) if sent is None else sent)


# --- how it is answered --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_two_hundred_is_delivered(status: int) -> None:
    assert (await outcome(Receiver(status))).settled == ["delivered"]


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 429, 500, 503])
async def test_anything_else_is_tried_again(status: int) -> None:
    receiver = Receiver(status, {"Location": "/elsewhere"})
    outbox = await outcome(receiver)
    assert outbox.settled == ["postponed"]
    assert outbox.delays_ms == [5_000]
    assert len(receiver.got) == 1  # no redirect was followed


async def test_gone_is_gone() -> None:
    assert (await outcome(Receiver(410))).settled == ["given_up"]


@pytest.mark.parametrize(
    ("later", "delay_ms"), [("7", 7_000), ("2", 5_000), ("9999999", round(1000 * MAX_RETRY_AFTER_S)), ("soon", 5_000)]
)
async def test_a_receiver_may_ask_for_more_time(later: str, delay_ms: int) -> None:
    assert (await outcome(Receiver(503, {"Retry-After": later}))).delays_ms == [delay_ms]


async def test_attempts_come_further_apart_and_to_an_end() -> None:
    outbox, told = OneDelivery(), Told()
    async with site(Receiver(500)) as url, delivering(outbox, final_job(url), told=told) as deliveries:
        while outbox.delivery is not None:
            await deliveries.step()
    assert outbox.delays_ms == [round(1000 * delay_s) for delay_s in DELAYS_S]
    assert told.outcomes == ["postponed"] * len(DELAYS_S) + ["given_up"]
    assert not await deliveries.step()


async def test_what_was_tried_too_often_by_those_who_died_over_it_is_given_up() -> None:
    receiver = Receiver()
    assert (await outcome(receiver, attempt=MAX_ATTEMPTS + 1)).settled == ["given_up"]
    assert receiver.got == []


async def test_the_id_stays_and_the_time_is_of_the_attempt() -> None:
    receiver = Receiver(500)
    for attempt in (1, 2):
        began_s = Now().now_ms() // 1000
        await outcome(receiver, attempt=attempt)
        headers, _ = receiver.got[-1]
        assert headers["webhook-id"] == "msg-1"
        assert began_s <= int(headers["webhook-timestamp"]) <= Now().now_ms() // 1000
    assert len(receiver.got) == 2


async def test_a_receiver_that_never_answers_is_left_within_the_lease() -> None:
    asked = asyncio.Event()

    async def mute(request: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        return web.Response()

    outbox = OneDelivery()
    async with site(mute) as url, delivering(outbox, final_job(url)) as deliveries, asyncio.TaskGroup() as group:
        group.create_task(deliveries.step())
        await asked.wait()
        time_passes(21.0)
        await until(lambda: outbox.settled)
    assert outbox.settled == ["postponed"]
    assert outbox.lease_ms == LEASE_MS > 21_000


async def test_an_endless_answer_is_not_read() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))

    assert (await outcome(endless)).settled == ["delivered"]


async def test_nobody_there_is_tried_again() -> None:
    outbox = OneDelivery()
    async with delivering(outbox, final_job("http://127.0.0.1:1/")) as deliveries:
        await deliveries.step()
    assert outbox.settled == ["postponed"]


# --- where it goes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "64:ff9b::7f00:1"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_name_that_lies_leads_nowhere(address: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name_leads_to(monkeypatch, address)
    receiver, outbox = Receiver(), OneDelivery()
    async with site(receiver) as url:
        job = final_job(f"{scheme}://hooks.example.org:{url.rpartition(':')[2]}/")
        async with delivering(outbox, job, plain=Bounds(public=False)) as deliveries:
            await deliveries.step()
    assert outbox.settled == ["postponed"]
    assert receiver.got == []


async def test_plain_http_does_not_go_to_the_public(monkeypatch: pytest.MonkeyPatch) -> None:
    name_leads_to(monkeypatch, "1.1.1.1")
    outbox = OneDelivery()
    connected: list[object] = []

    class NoSocket(socket.socket):
        def __init__(self, *arguments: object, **options: object) -> None:
            connected.append(arguments)
            raise OSError("no socket in this test")

    async with delivering(outbox, final_job("http://hooks.example.org/")) as deliveries:
        monkeypatch.setattr(socket, "socket", NoSocket)
        await deliveries.step()
    assert outbox.settled == ["postponed"]
    assert connected == []


@pytest.mark.parametrize("url", [None, "", "ftp://example.org/", "http://user:secret@127.0.0.1/"])
async def test_what_is_no_address_is_given_up(url: str | None) -> None:
    outbox = OneDelivery()
    async with delivering(outbox, final_job(url)) as deliveries:
        await deliveries.step()
    assert outbox.settled == ["given_up"]


async def test_nothing_of_an_address_is_logged() -> None:
    with capture_logs() as logs:
        async with delivering(OneDelivery(), final_job("http://127.0.0.1:1/canary")) as deliveries:
            await deliveries.step()
    assert logs
    assert "canary" not in str(logs)
    assert "127.0.0.1" not in str(logs)


# --- what becomes of the job and of the store ----------------------------------------------------------------------


async def test_a_job_that_was_deleted_sends_nothing() -> None:
    outbox = OneDelivery()
    async with delivering(outbox, MissingError()) as deliveries:
        await deliveries.step()
    assert outbox.settled == ["given_up"]


async def test_a_job_that_cannot_be_opened_is_tried_again() -> None:
    outbox = OneDelivery()
    async with delivering(outbox, VaultError("altered")) as deliveries:
        await deliveries.step()
    assert outbox.settled == ["postponed"]


async def test_a_delivery_that_another_worker_has_by_now_is_dropped() -> None:
    outbox, told = OneDelivery(is_lost=True), Told()
    async with site(Receiver()) as url, delivering(outbox, final_job(url), told=told) as deliveries:
        assert await deliveries.step()
    assert told.outcomes == ["lost"]


@pytest.mark.parametrize("error", [StoreError("away"), RuntimeError("a defect")])
async def test_neither_a_store_that_is_away_nor_a_defect_ends_the_work(error: Exception) -> None:
    receiver, outbox = Receiver(), OneDelivery()
    fails = [error, error]
    claim = outbox.claim

    async def claims(*, lease_ms: int) -> Delivery | None:
        if fails:
            raise fails.pop()
        return await claim(lease_ms=lease_ms)

    outbox.claim = claims  # type: ignore[method-assign]
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        await asyncio.sleep(0)

    async with site(receiver) as url, delivering(outbox, final_job(url)) as deliveries:
        deliveries._nap = nap
        running = asyncio.get_running_loop().create_task(deliveries.run())
        await until(lambda: outbox.settled)
        running.cancel()
        await asyncio.wait([running])
    assert outbox.settled == ["delivered"]
    assert naps


def test_the_specifications_library_knows_no_asymmetric_signature_and_passes_one_over() -> None:
    """Why `v1a` is not sent (docs/jobs-sources.md). When this fails, it can be."""
    receiver, at = Webhook(b"secret"), datetime.now(UTC)
    key = Ed25519PrivateKey.generate()
    asymmetric = "v1a," + b64encode(key.sign(f"m.{int(at.timestamp())}.{{}}".encode())).decode()
    headers = {"webhook-id": "m", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": asymmetric}
    with pytest.raises(WebhookVerificationError, match="No matching"):
        receiver.verify("{}", headers)
    symmetric = receiver.sign("m", at, "{}")
    assert receiver.verify("{}", headers | {"webhook-signature": f"{asymmetric} {symmetric}"}) == {}
