"""Live sessions from an app to an engine and back, over real sockets: only what hears is a fake."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket as sockets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict

from core.channel.pacing import Shaping
from core.program.metronome import MakeMetronome
from core.transcript.faults import Fault, FaultKind
from engine.app import EngineParts, RunningEngine, running_engine
from engine.backends.choose import Backend
from engine.gateway.live import End
from engine.settings import EngineSettings
from proxy.app import RunningProxy, running_proxy
from proxy.local.tls import ServerTls
from proxy.sender import ProxyParts
from tests.beats import Baton, Hurried
from tests.e2e.conftest import engine_settings, proxy_settings
from tests.e2e.tap import Tap, tapped
from tests.e2e.test_canary import CANARY, WORD, found, logs  # noqa: F401 - a fixture
from tests.e2e.test_nginx import nginx
from tests.engine.fakes import FakeDecoder, FakeTranscriber
from tests.engine.gateway.fake_live import FakeLiveApplication, FakeLiveSession
from tests.proxy.certificates import write_certificate
from tests.proxy.test_egress import HttpProxy
from tests.requirements import need_program
from tests.waiting import time_passes, until, until_settled

CREATED = {"type": "session.created"}
KEY = "openai-insecure-api-key."


def append(audio: bytes) -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()})


@dataclass(slots=True)
class Live:
    """Everything on the path of a live session."""

    engine: RunningEngine
    hearing: FakeLiveApplication
    tap: Tap
    proxy: RunningProxy
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://{self.proxy.addresses[0]}/v1/realtime?intent=transcription"

    @property
    def session(self) -> FakeLiveSession:
        return self.hearing.session

    def connect(self, *, protocols: Sequence[str] = (), **headers: str) -> Any:
        named = CIMultiDict((name.replace("_", "-"), value) for name, value in headers.items())
        return self.http.ws_connect(self.url, protocols=protocols, headers=named, max_msg_size=0)

    def counted(self, name: str, **labels: str) -> float:
        registry = self.proxy.service.sender.telemetry.registry
        return registry.get_sample_value(f"sottovoce_proxy_{name}", labels) or 0.0


@asynccontextmanager
async def live_path(
    directory: Path,
    hearing: FakeLiveApplication | None = None,
    *,
    metronome: MakeMetronome = Hurried,
    engine: dict[str, Any] | None = None,
    engine_metronome: MakeMetronome | None = None,
    in_front: Callable[[str], AbstractAsyncContextManager[str]] = nullcontext,
    tls: ssl.SSLContext | None = None,
    environ: Mapping[str, str] = MappingProxyType({}),
    **settings: Any,
) -> AsyncIterator[Live]:
    """Everything running; `settings` are the proxy's, `engine` the engine's.

    in_front: of the tap, at whose URL something else is called. tls: ended at the tap. environ: of the proxy.
    """
    hearing = FakeLiveApplication() if hearing is None else hearing
    parts = EngineParts(
        backend=Backend(FakeTranscriber()),
        decoder=FakeDecoder(),
        live=hearing,
        metronome=engine_metronome or metronome,
    )
    given: EngineSettings = engine_settings(directory, **engine or {})
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(running_engine(given, parts))
        tap = await stack.enter_async_context(tapped(running.address, tls))
        url = await stack.enter_async_context(in_front(tap.url))
        proxy = await stack.enter_async_context(
            running_proxy(proxy_settings(url, **settings), ProxyParts(metronome=metronome, environ=environ))
        )
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Live(running, hearing, tap, proxy, http)


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with live_path(tmp_path) as path:
        yield path


def transport_of(socket: Any) -> asyncio.Transport:
    transport = socket._response.connection.transport
    assert isinstance(transport, asyncio.Transport)
    return transport


async def closing(socket: aiohttp.ClientWebSocketResponse) -> tuple[list[dict[str, Any]], int | None, str]:
    """The events that still come, the close code, and its reason."""
    events = []
    while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
        events.append(json.loads(message.data))
    return events, socket.close_code, str(message.extra or "")


def error_codes(events: list[dict[str, Any]]) -> list[str]:
    return [event["error"]["code"] for event in events if event["type"] == "error"]


async def test_an_app_hears_what_the_engine_says_and_the_engine_what_the_app_says(live: Live) -> None:
    async with live.connect(Authorization="Bearer sk-1") as socket:
        assert await socket.receive_json() == CREATED
        await socket.send_json({"type": "session.update"})
        await socket.send_str(append(b"\x00\x01" * 30_000))
        await socket.send_json({"type": "input_audio_buffer.commit"})
        assert [(await socket.receive_json())["type"] for _ in range(2)] == [
            "session.update",
            "input_audio_buffer.commit",
        ]
        assert live.session.heard == b"\x00\x01" * 30_000
        head = live.session.head
        assert (head.method, head.path) == ("GET", "/v1/realtime?intent=transcription")
        assert head.headers["authorization"] == "Bearer sk-1"
        assert set(head.headers) == {"authorization", "x-request-id"}
        live.session.said.put_nowait(End(4000, "requests.rate_limit_exceeded"))
        assert (await closing(socket))[1:] == (4000, "requests.rate_limit_exceeded")
    await until(lambda: live.session.closed)
    await until(lambda: live.counted("live_sessions_ended_total", reason="engine") == 1)


async def test_an_app_that_goes_on_to_talk_is_told_how_its_session_ended(live: Live) -> None:
    async with live.connect() as socket, asyncio.TaskGroup() as group:
        assert await socket.receive_json() == CREATED
        told = group.create_task(closing(socket))
        live.tap.holds_up = True
        live.session.said.put_nowait(End(4000, "requests.rate_limit_exceeded"))
        await until_settled(lambda: live.counted("live_frames_total", direction="up"))  # the last has left
        await socket.send_str(append(b"\x00\x01"))
        await socket.send_json({"type": "input_audio_buffer.commit"})
        await until_settled()
        live.tap.holds_up = False
        assert await told == ([], 4000, "requests.rate_limit_exceeded")


async def test_audio_and_events_arrive_in_the_order_in_which_they_were_said(live: Live) -> None:
    async with live.connect() as socket:
        assert await socket.receive_json() == CREATED
        for number in range(50):
            await socket.send_str(append(bytes([number]) * 997))
            await socket.send_json({"number": number})
        for number in range(50):
            assert await socket.receive_json() == {"number": number}
        assert live.session.heard == b"".join(bytes([number]) * 997 for number in range(50))


@pytest.mark.parametrize("way", ["header", "subprotocol", "both"])
@pytest.mark.behaviour(7, 8)
async def test_a_key_reaches_the_engine_in_its_head_however_it_was_shown(live: Live, way: str) -> None:
    protocols = () if way == "header" else ("realtime", f"{KEY}sk-1", "openai-beta.realtime-v1")
    headers = {} if way == "subprotocol" else {"Authorization": "Bearer sk-1", "OpenAI-Beta": "realtime=v1"}
    async with live.connect(protocols=protocols, **headers) as socket:
        assert await socket.receive_json() == CREATED
        assert socket.protocol == (None if way == "header" else "realtime")
        assert "sk-1" not in str(socket._response.headers)
        assert live.session.head.headers["authorization"] == "Bearer sk-1"
        assert live.session.head.headers["openai-beta"] == "realtime=v1"


async def test_the_key_of_the_proxy_replaces_those_of_apps(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("sk-proxy")
    async with live_path(tmp_path, api_key=f"@{secret}") as live, live.connect(Authorization="Bearer sk-1") as socket:
        assert await socket.receive_json() == CREATED
        assert live.session.head.headers["authorization"] == "Bearer sk-proxy"


@pytest.mark.behaviour(7)
async def test_two_different_keys_are_refused_without_a_call(live: Live) -> None:
    async with live.connect(protocols=("realtime", f"{KEY}sk-1"), Authorization="Bearer sk-2") as socket:
        events, code, reason = await closing(socket)
    assert (error_codes(events), code, reason) == (
        ["invalid_api_key"],
        3000,
        "invalid_request_error.invalid_api_key",
    )
    assert live.hearing.sessions == []
    await until(lambda: live.counted("live_sessions_ended_total", reason="invalid_api_key") == 1)


async def test_a_key_that_the_engine_does_not_know_is_told_after_the_upgrade(tmp_path: Path) -> None:
    hearing = FakeLiveApplication(open_with=Fault(FaultKind.UNAUTHENTICATED))
    async with live_path(tmp_path, hearing) as live, live.connect() as socket:
        events, code, reason = await closing(socket)
        assert (error_codes(events), code) == (["invalid_api_key"], 3000)
        assert reason == "invalid_request_error.invalid_api_key"
        await until(lambda: live.counted("live_sessions_ended_total", reason="refused") == 1)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Sec_Fetch_Site": "same-site"},
        {"Host": "evil.example"},
    ],
)
@pytest.mark.behaviour(10)
async def test_a_page_that_may_not_is_refused_before_the_upgrade(live: Live, headers: dict[str, str]) -> None:
    before = len(live.tap.up)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        async with live.connect(protocols=("realtime", f"{KEY}sk-1"), **headers):
            pass
    assert refusal.value.status == 403
    await until_settled()
    assert b"/live/" not in live.tap.up[before:]


async def test_the_token_of_a_proxy_that_holds_the_key_may_come_as_a_subprotocol(tmp_path: Path) -> None:
    for name in ("key", "token"):
        (tmp_path / name).write_text(f"sk-{name}")
    async with live_path(tmp_path, api_key=f"@{tmp_path / 'key'}", token=f"@{tmp_path / 'token'}") as live:
        for protocols in ((), ("realtime",), ("realtime", f"{KEY}wrong"), ("realtime", "sottovoce-token.sk-token")):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                async with live.connect(protocols=protocols):
                    pass
            assert refusal.value.status == 401
        async with live.connect(protocols=("realtime", f"{KEY}sk-token")) as socket:
            assert await socket.receive_json() == CREATED
            assert live.session.head.headers["authorization"] == "Bearer sk-key"


async def test_where_the_key_is_the_apps_the_token_has_a_subprotocol_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sk-token")
    async with live_path(tmp_path, token=f"@{tmp_path / 'token'}") as live:
        for protocols in (("realtime", f"{KEY}sk-token"), ("realtime", "sottovoce-token.wrong")):
            with pytest.raises(aiohttp.WSServerHandshakeError):
                async with live.connect(protocols=protocols):
                    pass
        async with live.connect(protocols=("realtime", f"{KEY}sk-1", "sottovoce-token.sk-token")) as socket:
            assert await socket.receive_json() == CREATED
            assert live.session.head.headers["authorization"] == "Bearer sk-1"


async def test_what_asks_for_no_websocket_is_a_request_like_any_other(live: Live) -> None:
    async with live.http.get(live.url) as response:
        assert response.status == 404
    async with live.http.get(live.url, headers={"Upgrade": "websocket", "Connection": "Upgrade"}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_request")


async def test_an_append_that_is_none_is_the_engines_to_judge(live: Live) -> None:
    async with live.connect() as socket:
        assert await socket.receive_json() == CREATED
        bad = {"type": "input_audio_buffer.append", "audio": "AAA", "event_id": "e1"}
        await socket.send_json(bad)
        assert await socket.receive_json() == bad
        await socket.send_bytes(b'{"type":"input_audio_buffer.commit"}')
        await until(lambda: live.session.events[-1] == b"")


@pytest.mark.behaviour(16)
async def test_an_event_longer_than_any_may_be_is_refused_and_the_session_lives(live: Live) -> None:
    async with live.connect() as socket:
        assert await socket.receive_json() == CREATED
        await socket.send_json({"type": "session.update", "event_id": "e1", "x": "y" * 1_048_576})
        await socket.send_json({"type": "input_audio_buffer.append", "audio": "*" * 1_048_576})
        await socket.send_str(append(bytes(15 * 1024 * 1024 + 1)))
        errors = [(await socket.receive_json())["error"] for _ in range(3)]
        assert [error["code"] for error in errors] == ["invalid_value"] * 3
        assert [error["param"] for error in errors] == [None, "audio", "audio"]
        assert [error["event_id"] for error in errors] == ["e1", None, None]
        await socket.send_json({"type": "still there"})
        assert await socket.receive_json() == {"type": "still there"}


@pytest.mark.behaviour(16)
async def test_a_frame_longer_than_any_append_closes_the_connection(live: Live) -> None:
    async with live.connect() as socket:
        assert await socket.receive_json() == CREATED
        with suppress(ConnectionError):  # it may be gone before all is sent
            await socket.send_str("x" * (21 * 1024 * 1024))
        await until(lambda: live.session.closed)
        assert live.session.events == []


async def test_a_live_session_is_no_request_that_takes_an_hour(live: Live) -> None:
    async with live.connect() as socket:
        assert await socket.receive_json() == CREATED
        assert (live.counted("live_sessions"), live.counted("requests_in_flight")) == (1, 0)
    await until(lambda: live.counted("live_sessions") == 0)
    assert live.counted("request_duration_seconds_count") == 0


@pytest.mark.behaviour(14)
async def test_the_longest_append_passes(live: Live) -> None:
    audio = bytes(range(256)) * (15 * 4096)
    async with live.connect() as socket:
        assert await socket.receive_json() == CREATED
        await socket.send_str(append(audio))
        await until(lambda: len(live.session.heard) == len(audio))
        assert live.session.heard == audio


@pytest.mark.behaviour(40)
async def test_a_session_over_when_its_app_has_gone(live: Live) -> None:
    async with live.connect() as socket:
        assert await socket.receive_json() == CREATED
        await socket.close()
        await until(lambda: live.session.closed)
    await until(lambda: live.counted("live_sessions_ended_total", reason="app") == 1)
    async with live.connect() as socket:
        assert await socket.receive_json() == CREATED
        transport_of(socket).abort()
        await until(lambda: [session.closed for session in live.hearing.sessions] == [1, 1])
    await until(lambda: live.counted("live_sessions") == 0)


@pytest.mark.behaviour(41)
async def test_an_engine_that_dies_is_a_stream_that_was_cut(live: Live) -> None:
    async with live.connect() as socket:
        assert await socket.receive_json() == CREATED
        live.tap.cut()
        events, code, reason = await closing(socket)
        assert (error_codes(events), code, reason) == (["stream_truncated"], 1011, "server_error.stream_truncated")
    assert live.counted("truncated_answers_total") == 1


async def test_an_engine_that_says_nothing_any_more_is_dead(tmp_path: Path) -> None:
    async with live_path(tmp_path, engine_metronome=Baton().make) as live, live.connect() as socket:
        await until(lambda: live.hearing.sessions)
        await until_settled()
        time_passes(15.0)
        events, code, _ = await closing(socket)
        assert (error_codes(events), code) == (["stream_truncated"], 1011)


@pytest.mark.behaviour(42)
async def test_another_policy_ends_what_began_under_the_one_before(live: Live) -> None:
    async with live.connect() as socket:
        assert await socket.receive_json() == CREATED
        live.proxy.service.sender.engines.adopt(replace(live.proxy.trust.policy))
        events, code, reason = await closing(socket)
        assert (error_codes(events), code, reason) == (
            ["attestation_refused"],
            1011,
            "server_error.attestation_refused",
        )
    await until(lambda: live.session.closed)


@pytest.mark.behaviour(42)
async def test_another_key_of_the_engine_changes_nothing_for_a_session_that_lasts(live: Live) -> None:
    async with live.connect() as socket:
        assert await socket.receive_json() == CREATED
        live.engine.ring._epochs.clear()
        live.engine.ring._begin(time.time())
        async with live.connect() as later:
            assert await later.receive_json() == CREATED
        assert live.counted("key_mismatches_total") == 1
        await socket.send_str(append(b"\x00\x01" * 9_000))
        await socket.send_json({"type": "input_audio_buffer.commit"})
        assert await socket.receive_json() == {"type": "input_audio_buffer.commit"}
        assert live.hearing.sessions[0].heard == b"\x00\x01" * 9_000


async def test_a_proxy_that_stops_says_so(tmp_path: Path) -> None:
    async with live_path(tmp_path) as live, live.connect() as socket:
        assert await socket.receive_json() == CREATED
        live.proxy.service.stopping.set()
        assert (await closing(socket))[1:] == (1001, "The proxy is stopping.")


async def test_an_engine_that_serves_no_live_sessions_is_told_of(tmp_path: Path) -> None:
    async with live_path(tmp_path, engine={"max_live_sessions": 0}) as live, live.connect() as socket:
        events, code, reason = await closing(socket)
        assert (error_codes(events), code, reason) == (
            ["live_not_served"],
            4000,
            "invalid_request_error.live_not_served",
        )


async def test_an_engine_under_a_new_key_is_verified_again_and_called_once_more(live: Live) -> None:
    async with live.connect() as socket:
        assert await socket.receive_json() == CREATED
    live.engine.ring._epochs.clear()
    live.engine.ring._begin(time.time())
    async with live.connect() as socket:
        assert await socket.receive_json() == CREATED
    assert live.counted("key_mismatches_total") == 1
    assert live.counted("retries_total", reason="new_key") == 1


async def test_two_lines_of_nginx_let_live_sessions_through(tmp_path: Path) -> None:
    need_program("nginx")
    upgrade = 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
    (tmp_path / "model").mkdir()

    def stock(url: str) -> AbstractAsyncContextManager[str]:
        return nginx(tmp_path / "stock", url)

    def upgrading(url: str) -> AbstractAsyncContextManager[str]:
        return nginx(tmp_path / "upgrading", url, upgrade)

    async with live_path(tmp_path / "model", in_front=upgrading) as live, live.connect() as socket:
        assert await socket.receive_json() == CREATED
        await socket.send_str(append(bytes(60_000)))
        await until(lambda: len(live.session.heard) == 60_000)
    async with live_path(tmp_path / "model", in_front=stock) as live, live.connect() as socket:
        events, code, _ = await closing(socket)
        assert (error_codes(events), code) == (["upstream_protocol_error"], 1011), "so the lines are what did it"


async def test_an_engine_behind_tls_is_reached_through_an_http_proxy(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(cert, key, "engine.invalid")
    async with AsyncExitStack() as stack:
        ways: list[HttpProxy] = []
        environ: dict[str, str] = {}

        @asynccontextmanager
        async def through(url: str) -> AsyncIterator[str]:
            async with HttpProxy(url).running() as way:
                ways.append(way)
                environ["https_proxy"] = way.url
                yield "https://engine.invalid"

        live = await stack.enter_async_context(
            live_path(
                tmp_path,
                in_front=through,
                tls=ServerTls(cert, key).context,
                environ=environ,
                ca_file=cert,
                insecure_remote_engine=True,
            )
        )
        async with live.connect() as socket:
            assert await socket.receive_json() == CREATED
        assert set(ways[0].requests) == {("CONNECT", "engine.invalid:443")}
        assert b"/live/" in live.tap.up
        assert b"/live/" not in ways[0].heard


@pytest.mark.parametrize("code", [4422, 4400, 1013, 1000])
async def test_what_is_forged_in_the_clear_costs_one_verification_at_most(tmp_path: Path, code: int) -> None:
    @asynccontextmanager
    async def forger(url: str) -> AsyncIterator[str]:
        async def handle(request: web.Request) -> web.StreamResponse:
            if request.path.startswith("/live/"):
                forged = web.WebSocketResponse()
                await forged.prepare(request)
                await forged.receive()
                await forged.close(code=code)
                return forged
            async with aiohttp.ClientSession() as session, session.get(url + request.path_qs) as response:
                return web.Response(body=await response.read(), content_type=response.content_type)

        app = web.Application()
        app.router.add_get("/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async with live_path(tmp_path, in_front=forger) as live:
        await until(lambda: live.proxy.trust.held)
        verified = live.counted("attestation_reverifications_total", reason="key_mismatch")
        told = set()
        for _ in range(100):
            async with live.connect() as socket:
                told |= set(error_codes((await closing(socket))[0]))
        assert live.counted("attestation_reverifications_total", reason="key_mismatch") - verified <= 1
        assert told <= {"upstream_key_mismatch", "upstream_protocol_error", "engine_unavailable", "no_attested_engine"}
        assert live.hearing.sessions == []


async def _frames(live: Live, baton: Baton, said: list[str]) -> tuple[int, int]:
    """Bytes up and down during 30 ticks, in which the app says one thing each."""
    async with live.connect() as socket:
        await until(lambda: live.hearing.sessions)
        await baton.tick()
        await until_settled(lambda: (len(live.tap.up), len(live.tap.down)))
        before = len(live.tap.up), len(live.tap.down)
        for number in range(30):
            if said:
                await socket.send_str(said[number % len(said)])
            await baton.tick()
        await until_settled(lambda: (len(live.tap.up), len(live.tap.down)))
        return len(live.tap.up) - before[0], len(live.tap.down) - before[1]


@pytest.mark.parametrize("shaping", [Shaping.STRICT, Shaping.CONSTANT])
@pytest.mark.behaviour(48)
async def test_speech_silence_and_no_microphone_give_the_same_bytes(tmp_path: Path, shaping: Shaping) -> None:
    speech = append(bytes(range(240)) * 20)
    said = {"speech": [speech], "silence": [append(bytes(4_800))], "events": ['{"a":1}'], "no microphone": []}
    counted = {}
    for name, each in said.items():
        baton = Baton()
        (tmp_path / name).mkdir()
        async with live_path(tmp_path / name, metronome=baton.make, live_shaping=shaping) as live:
            counted[name] = await _frames(live, baton, each)
    per_frame_up, per_frame_down = 5_136 + 8, 1_040 + 4
    assert set(counted.values()) == {(30 * per_frame_up, 30 * per_frame_down)}


async def test_without_shaping_it_shows_when_somebody_speaks(tmp_path: Path) -> None:
    baton = Baton()
    async with live_path(tmp_path, metronome=baton.make, live_shaping=Shaping.OFF) as live, live.connect() as socket:
        await until(lambda: live.hearing.sessions)
        await until_settled(lambda: len(live.tap.up))
        before = len(live.tap.up)
        await socket.send_str(append(bytes(4_800)))
        await until(lambda: len(live.tap.up) == before + 5_144)
        await until(lambda: len(live.session.heard) == 4_800)


async def test_no_audio_leaves_before_the_engine_has_answered(tmp_path: Path) -> None:
    door = asyncio.Event()

    class Waiting(FakeLiveApplication):
        async def open_live(self, head: Any, *, source: str) -> Any:
            await door.wait()
            return await super().open_live(head, source=source)

    async with live_path(tmp_path, Waiting()) as live, live.connect() as socket:
        await socket.send_str(append(b"\x01\x02" * 2_400))
        await until(lambda: b"Upgrade" in live.tap.up)
        await until_settled(lambda: len(live.tap.up))
        sealed = live.tap.up.partition(b"/live/")[2].partition(b"\r\n\r\n")[2]
        assert len(sealed) == 6_264 + 8
        door.set()
        assert await socket.receive_json() == CREATED
        await until(lambda: live.session.heard == b"\x01\x02" * 2_400)


@pytest.mark.behaviour(51)
async def test_the_phrase_reaches_the_app_and_nothing_else(
    logs: io.StringIO,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    async with live_path(tmp_path) as live:
        for protocols in (("realtime", f"{KEY}{WORD}-key"), (f"{KEY}{WORD}-key", WORD), (WORD,)):
            async with live.connect(protocols=protocols, X_Request_Id=f"{WORD} not an id", X_Other=WORD) as socket:
                assert await socket.receive_json() == CREATED
                await socket.send_str(append(CANARY.encode() * 100))
                await socket.send_json({"type": "session.update", "prompt": CANARY})
                await socket.send_str(WORD)
                await socket.send_json({"type": "input_audio_buffer.append", "audio": WORD})
                for _ in range(3):
                    assert WORD in await socket.receive_str()
                session = live.hearing.sessions[-1]
                await until(lambda: len(session.heard) == 100 * len(CANARY))  # noqa: B023 - awaited here
                session.said.put_nowait(End(4000, "a.b") if protocols == (WORD,) else ValueError(CANARY))
                await closing(socket)
        metrics = b""
        live.engine.state.telemetry.close_window()
        for address in (live.engine.status_address, live.proxy.status_address):
            async with live.http.get(f"http://{address}/metrics") as response:
                metrics += await response.read()
        wire = bytes(live.tap.up + live.tap.down)
    assert b"live_sessions_ended_total" in metrics
    assert len(wire) > 5 * 5_176
    places = {"wire": wire, "metrics": metrics, "logs": logs.getvalue().encode()}
    assert {name: found(content) for name, content in places.items() if found(content)} == {}


@pytest.mark.slow
@pytest.mark.behaviour(44)
async def test_an_app_that_reads_nothing_is_cut(tmp_path: Path) -> None:
    def narrow(address: Any) -> sockets.socket:
        """So that little is on its way while nobody reads."""
        plain = sockets.socket(address[0], address[1])
        plain.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
        return plain

    async with (
        live_path(tmp_path) as live,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=narrow)) as session,
        session.ws_connect(live.url) as socket,
    ):
        assert await socket.receive_json() == CREATED
        transport_of(socket).pause_reading()
        delivered = live.counted("answer_bytes_total")
        stalled = 0
        while stalled < 30:  # until the app's socket holds no more
            for _ in range(20):
                live.session.said.put_nowait(b"x" * 60_000)
            await asyncio.sleep(0.05)
            now = live.counted("answer_bytes_total")
            stalled, delivered = (stalled + 1 if now == delivered else 0), now
        time_passes(10.0)
        await until(lambda: live.counted("live_sessions_ended_total", reason="stalled") == 1)
        await until(lambda: live.session.closed)
