"""Each way in which an engine cannot be reached or is refused has a line of its own that says what to do."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from attestation.fetch import fetch_document
from attestation.types import CheckStatus
from core.program.http.client import open_session
from core.program.run import ExitCode
from proxy.doctor.engine import COLLATERAL_WARNING, Looked, attest, cure_of, reach
from proxy.doctor.findings import Finding, Level, exit_code
from proxy.engines.lease import Way
from proxy.engines.verifier import EngineVerifier
from tests.attestation.samples import NOW
from tests.attestation.servers import http_answer, raw_server
from tests.proxy.certificates import write_certificate
from tests.proxy.engines.test_verifier import POLICY, World, world  # noqa: F401  a fixture
from tests.proxy.fake_engine import FakeEngine


async def looked_at(
    url: str,
    *,
    tls: ssl.SSLContext | None = None,
    loopback_only: bool = False,
    egress_proxy: str | None = None,
    now: datetime | None = None,
) -> dict[str, Finding]:
    async with open_session(tls=tls, loopback_only=loopback_only, connect_timeout_s=0.5, idle_timeout_s=0.5) as session:
        found = await reach(session, Way(url, egress_proxy=egress_proxy), now=now or datetime.now(UTC))
    return {finding.subject: finding for finding in found}


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    """The URL of a socket that is never accepted from."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """A URL at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def is_failure(finding: Finding, detail: str, cure: str) -> bool:
    return finding.level is Level.FAIL and detail in finding.detail and cure in finding.cure


async def test_an_engine_that_answers_is_there_and_keeps_our_time(engine: FakeEngine) -> None:
    found = await looked_at(engine.url)
    assert {subject: finding.level for subject, finding in found.items()} == {"engine": Level.OK, "clock": Level.OK}


async def test_a_name_that_leads_nowhere(engine: FakeEngine) -> None:
    assert is_failure((await looked_at("http://engine.invalid"))["engine"], "leads nowhere", "--engine")


async def test_a_port_at_which_nothing_listens(closed: str) -> None:
    assert is_failure((await looked_at(closed))["engine"], "nothing listens", "start the engine")


async def test_a_listener_that_says_nothing(silent: str) -> None:
    assert is_failure((await looked_at(silent))["engine"], "says nothing", "log")


async def test_what_speaks_no_http() -> None:
    async with raw_server(b"SSH-2.0-canary\r\n\r\n") as server:
        found = (await looked_at(server.url))["engine"]
    assert is_failure(found, "no HTTP", "--engine")
    assert "canary" not in str(found)


async def test_what_speaks_no_tls(engine: FakeEngine) -> None:
    found = await looked_at(engine.url.replace("http://", "https://"), tls=ssl.create_default_context())
    assert is_failure(found["engine"], "no TLS", "http://")


async def test_a_certificate_that_is_not_trusted_here(tmp_path: Path) -> None:
    write_certificate(tmp_path / "cert", tmp_path / "key", "engine.example")
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    async with FakeEngine().running(listening) as engine:
        found = (await looked_at(engine.url, tls=ssl.create_default_context()))["engine"]
        trusting = ssl.create_default_context(cafile=tmp_path / "cert")
        assert (await looked_at(engine.url, tls=trusting))["engine"].level is Level.OK
    assert is_failure(found, "certificate", "--ca-file")


async def test_an_http_proxy_that_is_not_there(closed: str) -> None:
    found = await looked_at("http://engine.example", egress_proxy=closed)
    assert is_failure(found["engine"], "HTTP proxy", "NO_PROXY")


async def test_an_http_proxy_that_refuses() -> None:
    async with raw_server(http_answer(b"", "403 Forbidden")) as proxy:
        found = await looked_at("https://engine.example", tls=ssl.create_default_context(), egress_proxy=proxy.url)
    assert is_failure(found["engine"], "HTTP proxy", "allowed")


async def test_another_machine_under_a_policy_that_proves_nothing() -> None:
    found = await looked_at("http://192.0.2.1", loopback_only=True)
    assert is_failure(found["engine"], "not this machine", "--insecure-remote-engine")


@pytest.mark.parametrize(("status", "detail"), [(503, "starts"), (404, "no engine"), (200, "no engine")])
async def test_what_answers_otherwise(status: int, detail: str) -> None:
    async with raw_server(http_answer(b"canary", f"{status} X", "Content-Type: text/html")) as server:
        found = (await looked_at(server.url))["engine"]
    assert is_failure(found, detail, "")
    assert "canary" not in str(found)


@pytest.mark.parametrize(("ahead_s", "way"), [(90, "ahead of"), (-90, "behind")])
async def test_a_clock_that_is_wrong(ahead_s: int, way: str, engine: FakeEngine) -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    engine.date = format_datetime(now - timedelta(seconds=ahead_s), usegmt=True)
    assert is_failure((await looked_at(engine.url, now=now))["clock"], f"90 s {way}", "timedatectl")


@pytest.mark.parametrize(
    "date", ["yesterday", "Fri, 31 Dec 9999 23:59:59 -2300", f"Mon, {10**30} Jan 2001 00:00:00 GMT"]
)
async def test_an_engine_that_does_not_tell_its_time(date: str) -> None:
    async with raw_server(http_answer(b"", "200 OK", f"Date: {date}")) as server:
        assert (await looked_at(server.url))["clock"].level is Level.SKIP


async def attested(world: World, at: datetime = NOW) -> Looked:  # noqa: F811
    return await attest(world.verifier, POLICY, at)


async def test_each_check_of_an_engine_that_is_accepted_has_its_line(world: World) -> None:  # noqa: F811
    looked = await attested(world)
    assert looked.attested is not None
    levels = {finding.subject: finding.level for finding in looked.findings}
    expected = {check.name: check.status for check in looked.attested.result.checks}
    words = {CheckStatus.PASS: Level.OK, CheckStatus.SKIP: Level.SKIP}
    assert levels == {name: words[status] for name, status in expected.items()} | {"collateral": levels["collateral"]}
    assert exit_code(looked.findings) is ExitCode.ACCEPTED


async def test_a_check_that_fails_says_what_to_do(world: World) -> None:  # noqa: F811
    world.log_level = "debug"
    looked = await attested(world)
    assert looked.attested is None
    (failed,) = [finding for finding in looked.findings if finding.level is Level.FAIL]
    assert failed.subject == "log level"
    assert "--log-level info" in failed.cure
    assert exit_code(looked.findings) is ExitCode.REFUSED


async def test_collateral_that_soon_expires_is_warned_of(world: World) -> None:  # noqa: F811
    looked = await attested(world)
    assert looked.attested is not None
    expires = looked.attested.result.collateral_expires_at
    assert expires is not None
    for at, level in ((expires - 2 * COLLATERAL_WARNING, Level.OK), (expires - COLLATERAL_WARNING / 2, Level.WARN)):
        (found,) = [finding for finding in (await attested(world, at)).findings if finding.subject == "collateral"]
        assert found.level is level


@pytest.mark.parametrize(
    ("answer", "code"),
    [(http_answer(b"", "500 X"), ExitCode.INTERNAL), (http_answer(b"{}"), ExitCode.REFUSED)],
    ids=["no document", "what is none"],
)
async def test_an_engine_that_does_not_attest_itself(
    answer: bytes,
    code: ExitCode,
    world: World,  # noqa: F811
) -> None:
    async with raw_server(answer) as server, aiohttp.ClientSession() as session:
        fetch = partial(fetch_document, session, server.url)
        verifier = EngineVerifier(server.url, fetch, world.verifier._store, world.telemetry)
        looked = await attest(verifier, POLICY, NOW)
    assert exit_code(looked.findings) is code
    assert looked.findings[0].cure


def test_every_kind_of_check_has_something_to_do() -> None:
    cures = {cure_of(name) for name in ("options", "snp tcb", "snp chip", "tdx xfam", "gpu 0 rim", "nras gpu", "other")}
    assert len(cures) == 7
