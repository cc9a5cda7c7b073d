"""A live session is what was sealed to us, in order, until somebody says that it is over; everything else ends it."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import socket as sockets
import weakref
from functools import partial
from urllib.parse import urlsplit

import aiohttp
import pytest

from attestation.errors import RefusedError
from attestation.receipt import ReceiptKey, parse_live_receipt, verify_live_receipt
from core.channel.gateway import LIVENESS_S
from core.channel.live import UP_FRAME_BYTES, UpSealer
from core.channel.records import EndRecord, FrameWriter, ReceiptRecord
from core.transcript.faults import Fault, FaultKind
from engine.gateway.live import End
from engine.gateway.live_gateway import STOPPING, LiveLimits
from tests.beats import Baton, Hurried
from tests.engine.gateway.fake_application import NOW
from tests.engine.gateway.fake_live import (
    BROKEN,
    CREATED,
    Caller,
    FakeLiveApplication,
    LiveServing,
    calling,
    codes,
    hello_head,
    opened,
    serving_live,
)
from tests.waiting import time_passes, until, until_settled

HURRIED = Hurried
NO_KEY = "invalid_request_error.invalid_api_key"


async def test_a_session_says_back_what_it_is_told_in_the_same_order() -> None:
    application = FakeLiveApplication()
    async with serving_live(application, HURRIED) as serving, opened(serving) as caller:
        assert await caller.event() == CREATED
        await caller.say(b'{"a":1}', b"", b"x" * 20_000, audio=b"\x01\x02" * 5_000)
        assert [await caller.event() for _ in range(3)] == [b'{"a":1}', b"", b"x" * 20_000]
        await until(lambda: application.session.heard == b"\x01\x02" * 5_000)
        head = application.session.head
        assert (head.method, head.path) == ("GET", "/v1/realtime")
        await caller.say(end=EndRecord(1000))
        assert await caller.record() == EndRecord(1000)
        assert await caller.code() == 1000
    assert set(caller.lengths) == {1_072, 1_040}
    assert caller.lengths.count(1_072) == 1
    await until(lambda: serving.count("live_sessions_ended_total", reason="app") == 1)


async def test_the_session_ends_when_the_application_says_so_and_both_ends_were_said() -> None:
    application = FakeLiveApplication()
    async with serving_live(application, HURRIED) as serving, opened(serving) as caller:
        assert await caller.event() == CREATED
        application.session.said.put_nowait(b"{}")
        application.session.said.put_nowait(End(4000, "requests.rate_limit_exceeded"))
        assert await caller.event() == b"{}"
        assert await caller.record() == EndRecord(4000, "requests.rate_limit_exceeded")
        await caller.say(b"not heard any more", end=EndRecord(1000))
        assert await caller.code() == 1000
        assert application.session.events == []
    await until(lambda: serving.count("live_sessions_ended_total", reason="engine") == 1)


@pytest.mark.parametrize("ends", ["app", "engine"])
async def test_a_receipt_covers_the_frames_that_were_heard_and_those_that_went_before_it(ends: str) -> None:
    application, key = FakeLiveApplication(), ReceiptKey()
    async with serving_live(application, HURRIED, receipt_key=key) as serving, calling(serving) as caller:
        await caller.socket.send_bytes(caller.hello(hello_head(**{"sottovoce-receipt": "1"})))
        assert (await caller.head()).status == 101
        assert await caller.event() == CREATED
        await caller.say(b"x" * 3_000, audio=bytes(96_000))
        assert await caller.event() == b"x" * 3_000
        await until(lambda: len(application.session.heard) == 96_000)
        if ends == "engine":
            application.session.said.put_nowait(End(4000, "enough"))
        else:
            await caller.say(end=EndRecord(1000))
        receipt = await caller.record()
        assert isinstance(receipt, ReceiptRecord)
        end = EndRecord(4000, "enough") if ends == "engine" else EndRecord(1000)
        assert await caller.record() == end
        claims = parse_live_receipt(receipt.text)[0]
        assert (claims.code, claims.audio_seconds, claims.model) == (end.code, 2, "openai/whisper-tiny")
        assert claims.frames_up == len(caller.sent)
        seen = {
            "up": (len(caller.sent), digest(caller.sent)),
            "down": (claims.frames_down, digest(caller.received[: claims.frames_down])),
        }
        assert verify_live_receipt(receipt.text, key.public_key, **seen)[0] == claims
        assert claims.frames_down < len(caller.received)  # nothing was said behind what it covers but itself
        for altered in ({"up": (claims.frames_up, digest(caller.sent[:-1]))}, {"down": (1, seen["down"][1])}):
            with pytest.raises(RefusedError):
                verify_live_receipt(receipt.text, key.public_key, **seen | altered)
        if ends == "engine":
            await caller.say(end=EndRecord(1000))
        assert await caller.code() == 1000


def digest(messages: list[bytes]) -> str:
    return hashlib.sha256(b"".join(messages)).hexdigest()


async def test_who_asks_for_no_receipt_gets_none_and_who_sends_one_is_refused() -> None:
    application = FakeLiveApplication()
    async with serving_live(application, HURRIED, receipt_key=ReceiptKey()) as serving:
        async with opened(serving) as caller:
            assert await caller.event() == CREATED
            application.session.said.put_nowait(End(1000))
            assert await caller.record() == EndRecord(1000)
        async with opened(serving) as caller:
            caller.writer.receipt("a.b")
            await caller.say(end=EndRecord(1000))
            assert await caller.code() == 4400


@pytest.mark.parametrize(
    ("error", "status", "code", "end"),
    [
        (Fault(FaultKind.UNAUTHENTICATED), 401, "invalid_api_key", EndRecord(3000, NO_KEY)),
        (Fault(FaultKind.OVER_RATE), 429, "rate_limit_exceeded", EndRecord(4000, "requests.rate_limit_exceeded")),
        (Fault(FaultKind.UNKNOWN), 404, "not_found", EndRecord(4000, "invalid_request_error.not_found")),
        (Fault(FaultKind.OVERLOADED), 503, "overloaded", EndRecord(1013, "server_error.overloaded")),
        (ValueError("canary"), 500, "broken", EndRecord(1011, "server_error.internal_error")),
    ],
)  # fmt: skip
async def test_a_session_that_is_not_admitted_is_told_why_inside(
    error: Exception, status: int, code: str, end: EndRecord
) -> None:
    async with serving_live(FakeLiveApplication(open_with=error), HURRIED) as serving, calling(serving) as caller:
        await caller.socket.send_bytes(caller.hello())
        assert (await caller.head()).status == status
        assert codes([await caller.event()]) == [code]
        assert await caller.record() == end
        await caller.say(end=EndRecord(1000))
        assert await caller.code() == 1000
        assert serving.gateway.sessions == 0
    await until(lambda: serving.count("live_sessions_ended_total", reason="refused") == 1)


def _grown(serving: LiveServing, taken: float) -> bool:
    return serving.count("live_frames_total", direction="up") > taken


async def test_an_end_is_waited_for_that_stands_behind_what_was_said_before_it() -> None:
    application, baton = FakeLiveApplication(), Baton()
    async with serving_live(application, baton.make) as serving, opened(serving) as caller:
        await until(lambda: application.sessions)
        for answer in (b"x" * 3_000, end := End(4000, "requests.rate_limit_exceeded")):
            application.session.said.put_nowait(answer)
        await until(lambda: application.session.answered == 2)
        for _ in range(3):
            taken = serving.count("live_frames_total", direction="up")
            await caller.say()
            await until(partial(_grown, serving, taken))
            time_passes(0.4 * LIVENESS_S)
            await until_settled()
        async with asyncio.TaskGroup() as group:
            ticking = group.create_task(baton.tick(100))
            assert [await caller.event(), await caller.event()] == [CREATED, b"x" * 3_000]
            assert await caller.record() == EndRecord(end.code, end.reason)
            ticking.cancel()
        await caller.say(end=EndRecord(1000))
        assert await caller.code() == 1000


async def test_a_session_that_goes_on_keeps_no_dead_key() -> None:
    async with serving_live(FakeLiveApplication(), HURRIED) as serving, opened(serving) as caller:
        assert await caller.event() == CREATED
        epoch = serving.ring.current(NOW)
        dies_at = epoch.dies_at
        privates = [weakref.ref(held.key.private_key) for held in (*epoch.keys, *epoch.live_keys)]
        del epoch
        serving.ring.expire(dies_at)
        gc.collect()
        assert [private() for private in privates] == [None] * 4
        await caller.say(end=EndRecord(1000))
        assert await caller.code() == 1000


async def test_there_are_no_more_sessions_than_places() -> None:
    async with serving_live(FakeLiveApplication(), HURRIED, max_sessions=1) as serving:
        async with opened(serving) as first, calling(serving) as second:
            await second.socket.send_bytes(second.hello())
            assert (await second.head()).status == 503
            assert codes([await second.event()]) == ["overloaded"]
            await first.say(end=EndRecord(1000))
            await first.code()
        await until(lambda: serving.gateway.sessions == 0)
        async with opened(serving):
            pass


async def test_whoever_is_refused_holds_no_place() -> None:
    application = FakeLiveApplication(open_with=Fault(FaultKind.UNAUTHENTICATED))
    async with serving_live(application, HURRIED, max_sessions=1) as serving, calling(serving) as stranger:
        await stranger.socket.send_bytes(stranger.hello())
        assert (await stranger.head()).status == 401
        application.open_with = None
        assert serving.gateway.sessions == 0
        async with opened(serving) as caller:
            assert await caller.event() == CREATED
            assert serving.gateway.sessions == 1


async def test_whoever_is_refused_and_stays_gives_way_to_whoever_comes() -> None:
    application = FakeLiveApplication(open_with=Fault(FaultKind.UNAUTHENTICATED))
    async with serving_live(application, HURRIED, max_arriving=1) as serving, calling(serving) as stranger:
        await _refused(stranger)
        async with calling(serving) as other:
            await _refused(other)
            assert await stranger.code() == 1013


async def _refused(caller: Caller) -> None:
    """Be told that the key is not known, and say nothing to that."""
    await caller.socket.send_bytes(caller.hello())
    assert (await caller.head()).status == 401
    assert codes([await caller.event()]) == ["invalid_api_key"]
    assert await caller.record() == EndRecord(3000, NO_KEY)


async def _status(serving: LiveServing, path: str, *, upgrade: bool = True) -> tuple[int, dict[str, str], bytes]:
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"} if upgrade else {}
    headers |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    async with aiohttp.ClientSession() as session, session.get(serving.url + path, headers=headers) as response:
        fixed = {name: value for name, value in response.headers.items() if name != "Date"}
        return response.status, fixed, await response.read()


async def test_an_unknown_key_is_refused_before_the_upgrade_with_a_constant() -> None:
    async with serving_live(FakeLiveApplication(), HURRIED) as serving:
        unknown = await _status(serving, "/live/" + "0" * 32)
        of_requests = await _status(serving, f"/live/{serving.ring.current(1e6).keys[0].key.config.path_digest}")
        assert unknown[0] == 422
        assert unknown == of_requests
        assert serving.count("envelopes_refused_total", reason="unknown_key") == 2


async def test_what_asks_for_no_websocket_is_refused() -> None:
    async with serving_live(FakeLiveApplication(), HURRIED) as serving:
        assert (await _status(serving, f"/live/{serving.config.path_digest}", upgrade=False))[0] == 400


async def test_an_engine_about_to_stop_takes_no_session_and_ends_those_that_last() -> None:
    application = FakeLiveApplication()
    async with serving_live(application, HURRIED) as serving, opened(serving) as caller:
        assert await caller.event() == CREATED
        async with asyncio.TaskGroup() as group:
            group.create_task(serving.gateway.drain(0.0))
            assert await caller.record() == EndRecord(STOPPING.code, STOPPING.reason)
            await caller.say(end=EndRecord(1000))
            assert await caller.code() == 1000
        assert (await _status(serving, f"/live/{serving.config.path_digest}"))[0] == 503
    await until(lambda: serving.count("live_sessions_ended_total", reason="stopped") == 1)


@pytest.mark.behaviour(8)
async def test_whatever_is_offered_the_answer_takes_no_subprotocol_and_no_extension() -> None:
    async with (
        serving_live(FakeLiveApplication(), HURRIED) as serving,
        aiohttp.ClientSession() as session,
        session.ws_connect(serving.live_url, compress=15, protocols=("realtime",), origin="http://a.example") as socket,
    ):
        caller = Caller(socket, serving.config)
        assert (socket.compress, socket.protocol) == (0, None)
        await socket.send_bytes(caller.hello())
        assert (await caller.head()).status == 101
        names = {name.lower() for name in socket._response.headers}
    assert names == {"upgrade", "connection", "sec-websocket-accept", "date", "server"}


async def test_a_first_message_that_does_not_open_asks_to_verify_again() -> None:
    async with serving_live(FakeLiveApplication(), HURRIED) as serving:
        for byte in (1, 8, 40, 5_175):
            async with calling(serving) as caller:
                hello = bytearray(caller.hello())
                hello[byte] ^= 1
                await caller.socket.send_bytes(bytes(hello))
                assert await caller.code() == 4422
        assert serving.count("envelopes_refused_total", reason="key_mismatch") == 4


async def test_a_first_message_of_another_form_is_refused() -> None:
    async with serving_live(FakeLiveApplication(), HURRIED) as serving:
        for shape in ("cut", "longer", "version", "empty", "head"):
            async with calling(serving) as caller:
                hello = caller.hello(b"no head at all" if shape == "head" else None)
                sent = {"cut": hello[:-1], "longer": hello + b"\0", "version": b"\x02" + hello[1:], "empty": b""}
                await caller.socket.send_bytes(sent.get(shape, hello))
                assert await caller.code() == 4400, shape
        assert serving.count("envelopes_refused_total", reason="envelope") == 5


async def test_a_head_for_somebody_else_is_refused() -> None:
    async with serving_live(FakeLiveApplication(), HURRIED) as serving, calling(serving) as caller:
        await caller.socket.send_bytes(caller.hello(hello_head(authority="engine.example")))
        assert await caller.code() == 4400


async def test_nothing_but_the_head_may_be_said_before_the_answer() -> None:
    application = FakeLiveApplication()
    async with serving_live(application, HURRIED) as serving, calling(serving) as caller:
        caller.writer.head(hello_head())
        caller.writer.audio(b"audio")
        await caller.socket.send_bytes(caller.sealer.seal(caller.writer.frame()))
        assert await caller.code() == 4400
    assert application.sessions == []


async def test_a_session_is_refused_the_second_time_whenever_that_is() -> None:
    application = FakeLiveApplication()
    async with serving_live(application, HURRIED) as serving:
        async with calling(serving) as first:
            hello = first.hello()
            await first.socket.send_bytes(hello)
            assert (await first.head()).status == 101
            async with calling(serving) as second:
                await second.socket.send_bytes(hello)
                assert await second.code() == 4400
            await first.socket.send_bytes(hello)
            assert await first.code() == 4400
        async with calling(serving) as third:
            await third.socket.send_bytes(hello)
            assert await third.code() == 4400
        assert serving.count("envelopes_refused_total", reason="replay") == 2
    assert len(application.sessions) == 1


@pytest.mark.parametrize("fault", ["flipped", "repeated", "dropped", "foreign", "short", "long", "empty", "text"])
async def test_a_frame_that_is_not_the_next_one_ends_the_session(fault: str) -> None:
    application = FakeLiveApplication()
    async with serving_live(application, HURRIED) as serving, opened(serving) as caller, opened(serving) as other:
        frames = [caller.sealer.seal(caller.writer.frame()) for _ in range(2)]
        sent = {
            "flipped": bytes([frames[0][0] ^ 1]) + frames[0][1:],
            "repeated": frames[0],
            "dropped": frames[1],
            "foreign": other.sealer.seal(other.writer.frame()),
            "short": frames[0][:-1],
            "long": frames[0] + b"\0",
            "empty": b"",
        }
        if fault == "repeated":
            await caller.socket.send_bytes(frames[0])
        if fault == "text":
            await caller.socket.send_str("x" * UP_FRAME_BYTES)
        else:
            await caller.socket.send_bytes(sent[fault])
        assert await caller.code() == 4400
        await until(lambda: [session.closed for session in application.sessions] == [1, 0])
    assert serving.count("live_sessions_ended_total", reason="cut") >= 1


async def test_a_message_longer_than_any_frame_is_not_even_read() -> None:
    async with serving_live(FakeLiveApplication(), HURRIED) as serving, opened(serving) as caller:
        await caller.socket.send_bytes(bytes(8_193))
        assert await caller.code() == 1009


async def test_a_connection_that_closes_without_an_end_is_a_session_that_was_cut() -> None:
    application = FakeLiveApplication()
    async with serving_live(application, HURRIED) as serving:
        async with opened(serving) as caller:
            await caller.say(audio=b"half a word")
        await until(lambda: application.session.closed)
        await until(lambda: serving.count("live_sessions_ended_total", reason="cut") == 1)
        assert serving.gateway.sessions == 0


async def test_pings_do_not_keep_a_session_alive() -> None:
    application, baton = FakeLiveApplication(), Baton()
    async with serving_live(application, baton.make) as serving, opened(serving) as caller:
        await caller.socket.ping()
        await until_settled()
        time_passes(15.0)
        assert await caller.code() == 4400
        await until(lambda: application.session.closed)
    assert serving.count("envelopes_refused_total", reason="too_slow") == 1


async def test_somebody_who_says_nothing_at_all_is_cut() -> None:
    async with serving_live(FakeLiveApplication(), HURRIED) as serving, calling(serving) as caller:
        await until_settled()
        time_passes(15.0)
        assert await caller.code() == 4400


@pytest.mark.behaviour(48)
async def test_as_many_frames_go_down_whatever_is_said() -> None:
    counts = []
    for events in (0, 1, 100):
        application, baton = FakeLiveApplication(), Baton()
        async with serving_live(application, baton.make) as serving, opened(serving) as caller:
            said = application.session.said
            for number in range(events):
                said.put_nowait(b"%d" % number * 400)
            await until(said.empty)
            await baton.tick(20)
            counts.append(serving.count("live_frames_total", direction="down"))
            await caller.say(end=EndRecord(1000))
            await caller.code()
    assert counts == [21, 21, 21]


async def test_an_engine_that_is_too_far_behind_reads_no_more_until_it_has_caught_up() -> None:
    application = FakeLiveApplication()
    async with serving_live(application, HURRIED) as serving, opened(serving) as caller:
        session = application.session
        session.behind_s = 121.0
        await caller.say(audio=b"first")  # it waits for a frame already, and looks again behind that one
        await until(lambda: session.heard)
        await caller.say(audio=b" second")
        await until_settled(lambda: bytes(session.heard))
        assert session.heard == b"first"
        session.behind_s = 119.0
        await until(lambda: session.heard == b"first second")


async def test_answers_are_not_asked_for_faster_than_frames_take_them() -> None:
    application, baton = FakeLiveApplication(), Baton()
    limits = LiveLimits(unread_bytes=4_000)
    async with serving_live(application, baton.make, limits=limits) as serving, opened(serving):
        for _ in range(100):
            application.session.said.put_nowait(b"x" * 1_000)
        await until_settled(lambda: application.session.answered)
        assert 4 <= application.session.answered <= 6
        await baton.tick(4)
        await until(lambda: application.session.answered > 6)


@pytest.mark.behaviour(39)
async def test_a_session_lasts_an_hour_and_no_longer() -> None:
    application = FakeLiveApplication()
    async with (
        serving_live(application, HURRIED, limits=LiveLimits(liveness_s=1e6)) as serving,
        opened(serving) as caller,
    ):
        assert await caller.event() == CREATED
        time_passes(3_600.0)
        assert codes([await caller.event()]) == ["session_expired"]
        assert await caller.record() == EndRecord(1001, "Your session hit the maximum duration of 60 minutes.")
    await until(lambda: serving.count("live_sessions_ended_total", reason="expired") == 1)


async def test_a_session_that_fails_says_so_inside() -> None:
    application = FakeLiveApplication()
    async with serving_live(application, HURRIED) as serving, opened(serving) as caller:
        assert await caller.event() == CREATED
        application.session.said.put_nowait(ValueError("canary"))
        assert await caller.event() == BROKEN
        assert await caller.record() == EndRecord(1011, "server_error.internal_error")
    await until(lambda: serving.count("live_sessions_ended_total", reason="failed") == 1)


async def test_somebody_who_reads_nothing_is_cut() -> None:
    application = FakeLiveApplication()
    async with serving_live(application, HURRIED) as serving:
        place = urlsplit(serving.url)
        with sockets.socket() as plain:
            plain.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
            plain.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(plain, (place.hostname, place.port))
            await loop.sock_sendall(plain, _upgrade(serving))
            await loop.sock_recv(plain, 4_096)
            sealer, writer = UpSealer(serving.config), FrameWriter(5_120)
            writer.head(hello_head())
            await loop.sock_sendall(plain, _masked(sealer.seal(writer.frame())))
            await until(lambda: application.sessions)

            def sent() -> float:
                return serving.count("live_frames_total", direction="down")

            stalled = 0
            while stalled < 50:  # until nothing more goes out, whatever the buffers on the way hold
                before = sent()
                await loop.sock_sendall(plain, _masked(sealer.seal(writer.frame())))
                await asyncio.sleep(0.01)
                stalled = stalled + 1 if sent() == before else 0
            time_passes(15.0)
            await until(lambda: application.session.closed)


def _upgrade(serving: LiveServing) -> bytes:
    return (
        f"GET /live/{serving.config.path_digest} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()


def _masked(message: bytes) -> bytes:
    """One binary WebSocket message; the mask is all zeros."""
    return b"\x82\xfe" + len(message).to_bytes(2, "big") + bytes(4) + message
