"""What the listeners say: to apps, to web pages, to probes, and to those who speak no HTTP."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import LogCapture

from attestation.bundle import parse_bundle
from attestation.verification import verify
from proxy.app import RunningProxy
from proxy.local import endpoints
from proxy.local.endpoints import BUNDLE_NAME
from tests.proxy.conftest import StartProxy, status_url_of, url_of
from tests.proxy.fake_engine import JSON_HEADERS, FakeEngine, Reply, Script, outer
from tests.proxy.raw import connect
from tests.waiting import time_passes, until, until_settled

CANARY = b"canary-s3cret"
PATH = "/v1/audio/transcriptions"


async def code_of(response: aiohttp.ClientResponse) -> tuple[int, str]:
    return response.status, (await response.json())["error"]["code"]


# What never becomes a request


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + CANARY + b"\x00\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Long: " + CANARY * 2000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + CANARY + b" : x\r\n\r\n",
        b"GET /" + CANARY * 2000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + CANARY + b"\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + CANARY,
        b"GET /v1/x HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + CANARY + b"\r\n" + b"X-B: b\r\n" * 200 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00" + CANARY + b"\r\n\r\n",
        CANARY + b"\r\n\r\n",
    ],
    ids=["nul", "long header", "name", "long target", "length", "both lengths", "many headers", "tls", "garbage"],
)
async def test_what_is_no_http_is_answered_with_a_constant_and_not_logged(
    proxy: RunningProxy, engine: FakeEngine, log: LogCapture, request_bytes: bytes
) -> None:
    async with connect(proxy.addresses[0]) as connection:
        await connection.send(request_bytes)
        answer = await connection.rest()
    assert answer.split()[1] == b"400"
    assert b'"code": "invalid_request"' in answer
    assert CANARY not in answer
    assert CANARY.decode() not in repr(log.entries)
    assert engine.received == []


@pytest.mark.parametrize("target", [b"http://localhost/v1/models", b"/v1/models#" + CANARY, b"/v1/m\xffodels"])
async def test_a_target_that_is_no_path_is_refused(proxy: RunningProxy, engine: FakeEngine, target: bytes) -> None:
    async with connect(proxy.addresses[0]) as connection:
        await connection.send(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await connection.rest()
    assert answer.split()[1] == b"400"
    assert CANARY not in answer
    assert engine.received == []


async def test_a_path_that_is_not_served_is_404_in_openais_form(app: aiohttp.ClientSession) -> None:
    for method, path in (("GET", "/page"), ("POST", "/attestations"), ("GET", "/v2/models"), ("GET", "/v1")):
        async with app.request(method, path) as response:
            assert await code_of(response) == (404, "not_found")


async def test_a_body_that_turns_into_garbage_is_given_up(start_proxy: StartProxy, engine: FakeEngine) -> None:
    """aiohttp's compiled parser does not tell the reader of a body that it failed; the idle timeout ends it then."""
    async with start_proxy(idle_timeout_s=30) as proxy, connect(proxy.addresses[0]) as connection:
        await connection.send(head(PATH, "Transfer-Encoding: chunked") + b"8000\r\n" + bytes(0x8000) + b"\r\n")
        await until(lambda: engine.received)
        await connection.send(CANARY + b"\r\n")
        await until_settled()
        time_passes(30)
        answer = await connection.head()
    assert answer.split()[1] in (b"400", b"408")
    assert CANARY not in answer
    assert not engine.received[0].complete


# Expectations


def head(target: str = PATH, *lines: str) -> bytes:
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", ""]).encode()


async def test_continue_is_said_once_everything_but_the_body_is_in_order(
    proxy: RunningProxy, engine: FakeEngine
) -> None:
    async with connect(proxy.addresses[0]) as connection:
        await connection.send(head(PATH, "Content-Length: 4", "Expect: 100-continue"))
        assert await connection.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await connection.send(b"data")
        assert (await connection.head()).startswith(b"HTTP/1.1 200 OK")
    assert bytes(engine.received[0].content) == b"data"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (head(PATH, "Content-Length: 2000001", "Expect: 100-continue"), b"413"),
        (head(PATH, "Content-Length: 4", "Expect: 100-continue", "Content-Encoding: gzip"), b"415"),
        (head(PATH, "Content-Length: 4", "Expect: 100-continue", "Origin: https://evil.example"), b"403"),
        (head(PATH, "Content-Length: 4", "Expect: 100-continue").replace(b"localhost", b"evil.example"), b"403"),
        (head(PATH, "Content-Length: 4", "Expect: canary-s3cret"), b"417"),
        (head("/elsewhere", "Content-Length: 4", "Expect: 100-continue"), b"404"),
        (head("/elsewhere", "Content-Length: 4", "Expect: canary-s3cret"), b"404"),
    ],
)
async def test_whoever_is_refused_is_never_told_to_continue(
    proxy: RunningProxy, engine: FakeEngine, request_bytes: bytes, status: bytes
) -> None:
    async with connect(proxy.addresses[0]) as connection:
        await connection.send(request_bytes)
        answer = await connection.head()
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert CANARY not in answer
    assert engine.received == []


# The guard in its place


async def test_a_foreign_page_is_refused_before_its_body_is_read(
    app: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    async with app.post(PATH, data=b"x", headers={"Origin": "https://evil.example"}) as response:
        assert await code_of(response) == (403, "origin_not_allowed")
        assert "Access-Control-Allow-Origin" not in response.headers
    async with app.get("/attestation", headers={"Host": "evil.example"}) as response:
        assert await code_of(response) == (403, "host_not_allowed")
    assert engine.received == []


async def test_a_listed_page_gets_preflight_answers_and_errors_it_can_read(
    start_proxy: StartProxy, engine: FakeEngine
) -> None:
    origin = {"Origin": "https://app.example"}
    async with (
        start_proxy(allow_origin=("https://app.example",)) as proxy,
        aiohttp.ClientSession(url_of(proxy)) as app,
    ):
        async with app.options(PATH, headers=origin | {"Access-Control-Request-Method": "POST"}) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
            assert "authorization" in response.headers["Access-Control-Allow-Headers"]
        async with app.post(PATH, data=b"x", headers=origin) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
            assert "Origin" in response.headers["Vary"]
        async with app.get("/v2", headers=origin) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert len(engine.received) == 1


async def test_the_token_is_bearer_when_the_proxy_holds_the_key(
    start_proxy: StartProxy, engine: FakeEngine, secret_file: Any
) -> None:
    settings = {"api_key": secret_file("k3y"), "token": secret_file("t0ken")}
    async with start_proxy(**settings) as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        async with app.get("/v1/models") as response:
            assert await code_of(response) == (401, "invalid_local_token")
            assert response.headers["WWW-Authenticate"] == "Bearer"
        async with app.get("/v1/models", headers={"Authorization": "Bearer t0ken"}) as response:
            assert response.status == 200
    assert engine.received[0].header("authorization") == "Bearer k3y"


async def test_the_token_has_its_own_header_when_authorization_is_the_engines(
    start_proxy: StartProxy, engine: FakeEngine, secret_file: Any
) -> None:
    async with (
        start_proxy(token=secret_file("t0ken")) as proxy,
        aiohttp.ClientSession(url_of(proxy)) as app,
    ):
        async with app.get("/v1/models", headers={"Authorization": "Bearer t0ken"}) as response:
            assert await code_of(response) == (401, "invalid_local_token")
        headers = {"Authorization": "Bearer of-the-app", "X-Sottovoce-Token": "t0ken"}
        async with app.get("/v1/models", headers=headers) as response:
            assert response.status == 200
    (received,) = engine.received
    assert received.header("authorization") == "Bearer of-the-app"
    assert received.header("x-sottovoce-token") is None


# Request ids


@pytest.mark.parametrize(("sent", "kept"), [("abc-1_2", True), ("a" * 65, False), ("a b", False), (None, False)])
async def test_a_request_id_is_kept_or_made_and_returned(
    app: aiohttp.ClientSession, engine: FakeEngine, sent: str | None, kept: bool
) -> None:
    async with app.get("/v1/models", headers={"X-Request-Id": sent} if sent else {}) as response:
        returned = response.headers["x-request-id"]
    assert returned == engine.received[0].header("x-request-id")
    assert (returned == sent) is kept
    assert kept or re.fullmatch(r"req_[0-9a-f]{32}", returned)


async def test_errors_of_our_own_carry_a_request_id_too(app: aiohttp.ClientSession) -> None:
    async with app.get("/nowhere", headers={"X-Request-Id": "mine"}) as response:
        assert response.headers["x-request-id"] == "mine"


async def test_an_answer_leaves_once(app: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    async def again(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(endpoints, "send", again)
    async with app.post(PATH, data=b"x") as response:
        assert response.status == 200
        assert await response.read()


# Attestation


async def test_the_report_tells_every_check_and_never_shows_a_skip_as_a_pass(
    app: aiohttp.ClientSession, engine: FakeEngine, proxy: RunningProxy
) -> None:
    await until(lambda: proxy.trust.is_ready)
    async with app.get("/attestation") as response:
        report = await response.json()
    assert (report["state"], report["ready"], report["insecure"]) == ("attested", True, True)
    assert report["policy_sha256"] == proxy.trust.policy.digest
    assert "INSECURE" in report["warning"]
    assert report["engine"]["keys_sha256"] == [engine.key.config.digest.hex()]
    assert report["engine"]["statement"]["models"][0]["id"] == "whisper-fake"
    results = {check["name"]: check["status"] for check in report["engine"]["checks"]}
    assert results["nonce"] == results["binding"] == "pass"
    assert results["machine"] == "skip"
    assert re.fullmatch(r"[0-9-]{10}T[0-9:]{8}Z", report["engine"]["expires_at"])
    (one,) = report["engines"]
    assert (one["engine"], one["state"], one["ready"]) == (0, "attested", True)
    assert (one["attested"], one["last_attempt"]) == (report["engine"], report["last_attempt"])
    assert engine.url not in json.dumps(report)


async def test_a_refusal_is_reported_check_by_check(start_proxy: StartProxy, engine: FakeEngine) -> None:
    engine.config_changes["log_level"] = "debug"
    async with start_proxy() as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        await proxy.trust.refused.wait()
        async with app.get("/attestation") as response:
            report = await response.json()
        async with app.post(PATH, data=b"x") as response:
            assert await code_of(response) == (502, "attestation_refused")
            assert response.headers["x-should-retry"] == "false"
        async with app.get("/attestation/bundle") as response:
            assert await code_of(response) == (503, "no_attested_engine")
    assert (report["state"], report["ready"], report["engine"]) == ("refused", False, None)
    failed = [check["name"] for check in report["last_attempt"]["checks"] if check["status"] == "fail"]
    assert failed == ["log level"]


async def test_before_an_engine_is_attested_apps_are_told_when_to_come_back(
    start_proxy: StartProxy, engine: FakeEngine
) -> None:
    engine.attestation_failures.extend([503] * 1000)
    async with start_proxy() as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        async with app.post(PATH, data=b"x") as response:
            assert await code_of(response) == (503, "no_attested_engine")
            assert int(response.headers["Retry-After"]) >= 1
        async with app.get("/attestation") as response:
            assert (await response.json())["state"] == "unreachable"
    assert engine.received == []


async def test_the_bundle_can_be_verified_again(
    app: aiohttp.ClientSession, engine: FakeEngine, proxy: RunningProxy
) -> None:
    await until(lambda: proxy.trust.is_ready)
    async with app.get("/attestation/bundle") as response:
        assert BUNDLE_NAME in response.headers["Content-Disposition"]
        bundle = parse_bundle(await response.read())
    judged_at = datetime.fromtimestamp(bundle.fetched_at, UTC)
    again = verify(
        bundle.document, proxy.trust.policy, bundle.document.collateral, expected=bundle.nonce, now=judged_at
    )
    held = proxy.trust.held
    assert held is not None
    assert again.checks == held.result.checks


# The second listener


PROBED = ("/livez", "/readyz", "/healthz", "/metrics")


@pytest.mark.parametrize("host", ["10.1.2.3:8081", "[2001:db8::1]", "localhost:8081", "proxy.internal"])
async def test_probes_are_answered_by_address_and_under_allowed_names(start_proxy: StartProxy, host: str) -> None:
    async with start_proxy(allow_host=("proxy.internal",)) as proxy:
        await until(lambda: proxy.trust.is_ready)
        async with aiohttp.ClientSession(status_url_of(proxy), headers={"Host": host}) as probe:
            for path in PROBED:
                async with probe.get(path) as response:
                    assert response.status == 200


async def test_a_name_that_somebody_points_at_the_second_listener_reads_nothing(proxy: RunningProxy) -> None:
    async with aiohttp.ClientSession(status_url_of(proxy), headers={"Host": "evil.example"}) as probe:
        for path in PROBED:
            async with probe.get(path) as response:
                assert await code_of(response) == (403, "host_not_allowed")


@pytest.mark.parametrize("path", ["/attestation", "/attestation/bundle", *PROBED])
async def test_what_can_be_read_answers_a_head_like_a_get_and_refuses_other_methods(
    proxy: RunningProxy, path: str
) -> None:
    await until(lambda: proxy.trust.is_ready)
    url = url_of(proxy) if path.startswith("/attestation") else status_url_of(proxy)
    async with aiohttp.ClientSession(url) as session:
        async with session.get(path) as got, session.head(path) as headed:
            assert got.status == headed.status == 200
            assert got.headers["Content-Type"] == headed.headers["Content-Type"]
            assert await headed.read() == b""
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            async with session.request(method, path) as response:
                assert await code_of(response) == (405, "method_not_allowed")
                assert response.headers["Allow"] == "GET, HEAD"
                assert response.headers["x-should-retry"] == "false"


async def test_a_listed_page_may_read_the_headers_of_rate_limits(start_proxy: StartProxy, engine: FakeEngine) -> None:
    async def limited(reply: Reply) -> web.StreamResponse:
        sent = (("x-ratelimit-remaining-requests", "59"), ("openai-processing-ms", "7"), ("retry-after", "1"))
        await reply.head(429, JSON_HEADERS + sent)
        return await reply.end()

    async with start_proxy(allow_origin=("app://obsidian.md",)) as proxy, aiohttp.ClientSession(url_of(proxy)) as page:
        engine.scripts.append(Script(play=limited))
        async with page.post(PATH, data=b"x", headers={"Origin": "app://obsidian.md"}) as response:
            exposed = set(response.headers["Access-Control-Expose-Headers"].split(", "))
            assert response.headers["Access-Control-Allow-Origin"] == "app://obsidian.md"
    wanted = {"x-ratelimit-remaining-requests", "openai-processing-ms", "retry-after", "x-request-id"}
    assert wanted < exposed


async def test_the_second_listener_serves_nothing_else(proxy: RunningProxy, engine: FakeEngine) -> None:
    async with aiohttp.ClientSession(status_url_of(proxy)) as probe:
        for path in (PATH, "/v1/models", "/attestation", "/"):
            async with probe.post(path, headers={"Expect": "canary-s3cret"}) as response:
                assert response.status == 404
                assert "canary" not in await response.text()
    assert engine.received == []


async def test_readiness_says_what_is_missing_and_what_is_insecure(start_proxy: StartProxy, engine: FakeEngine) -> None:
    engine.attestation_failures.extend([503] * 1000)
    async with start_proxy() as proxy, aiohttp.ClientSession(status_url_of(proxy)) as probe:
        async with probe.get("/readyz?verbose") as response:
            assert response.status == 503
            lines = (await response.text()).splitlines()
        async with probe.get("/livez") as response:
            assert response.status == 200
    assert "[+] not draining" in lines
    assert "[-] engine attested" in lines
    assert lines[-1].startswith("INSECURE")


async def test_an_open_circuit_is_not_ready(
    app: aiohttp.ClientSession, engine: FakeEngine, proxy: RunningProxy
) -> None:
    engine.scripts.append(outer(422))
    async with app.post(PATH, data=b"x") as response:
        assert response.status == 502
    async with aiohttp.ClientSession(status_url_of(proxy)) as probe, probe.get("/readyz?verbose") as response:
        assert response.status == 503
        assert "[-] key accepted" in await response.text()


async def test_metrics_show_the_attestation(proxy: RunningProxy) -> None:
    await until(lambda: proxy.trust.is_ready)
    async with aiohttp.ClientSession(status_url_of(proxy)) as probe, probe.get("/metrics") as response:
        text = await response.text()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["sottovoce_proxy_insecure"]) == 1
    assert float(values["sottovoce_proxy_ready"]) == 1
    assert float(values['sottovoce_proxy_attestation_verifications_total{outcome="accepted"}']) == 1
    held = proxy.trust.held
    assert held is not None
    assert (
        float(values['sottovoce_proxy_attestation_expiry_timestamp_seconds{engine="0"}'])
        == held.result.expires_at.timestamp()
    )


async def test_an_error_of_ours_that_nobody_expected_says_nothing(
    app: aiohttp.ClientSession, proxy: RunningProxy, monkeypatch: pytest.MonkeyPatch, log: LogCapture
) -> None:
    async def broken() -> None:
        raise ValueError(CANARY.decode())

    monkeypatch.setattr(proxy.trust, "engine", broken)
    async with app.post(PATH, data=b"x") as response:
        body = await response.read()
    assert json.loads(body)["error"]["code"] == "internal_error"
    assert CANARY not in body
    assert "ValueError" in repr(log.entries)
    assert CANARY.decode() not in repr(log.entries)
