"""Who may open a live session: a key, or a secret that stands for one, within the key's limits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from core.channel.client_secrets import issuer_in, issuer_of
from core.transcript.faults import AUDIO, MODEL, Fault, FaultKind
from engine.access.api_keys import ApiKey, ApiKeys, digest
from engine.access.authority import Anyone, Authority, KeyHolders
from engine.access.client_secrets import MAX_SESSION_BYTES, ClientSecrets, Issued
from engine.api import SpeechApplication
from engine.gateway.admission import Admission
from engine.gateway.exchange import Head
from engine.openai.errors import to_response
from engine.realtime.door import LiveDoor
from engine.telemetry import PREFIX, Telemetry
from tests.engine.realtime.live import CATALOGUE, NOW, App, Room, silence, speech
from tests.waiting import until

SECRET = "sk-sv-one"
OTHER = "sk-sv-two"
PATH = "/v1/realtime?intent=transcription"
FLAT = {"input_audio_format": "g711_ulaw", "input_audio_transcription": {"language": "de"}, "turn_detection": None}


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """An application with a door for live sessions. limits: of the first key."""

    limits: Mapping[str, int] = field(default_factory=dict)
    asks_for_keys: bool = True
    max_sessions: int = 8

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.room = Room()
        keys = ApiKeys(
            keys=(
                ApiKey("one", digest(SECRET), **dict[str, Any](self.limits)),
                ApiKey("two", digest(OTHER), live_sessions=1),
            )
        )
        self.holders = KeyHolders(keys, places=4, live_places=2, clock=self.clock)
        authority: Authority = self.holders if self.asks_for_keys else Anyone()
        self.telemetry = Telemetry("fake")
        around = self.room.around
        self.secrets = ClientSecrets(b"k" * 32, "here", clock=self.clock, random=lambda size: b"n" * size)
        self.admission = Admission(max_requests=self.max_sessions, max_body_bytes=0)
        self.application = SpeechApplication(
            CATALOGUE,
            self.room.pipeline,
            Admission(max_requests=4, max_body_bytes=1_000),
            self.telemetry.speech,
            authority=authority,
            live=LiveDoor(
                type(around)(around.ears, around.recogniser, CATALOGUE, self.clock, around.new_id),
                authority,
                self.secrets,
                self.admission,
            ),
            max_request_bytes=1_000,
            request_timeout_s=60.0,
        )

    @asynccontextmanager
    async def app(self, path: str = PATH, key: str | None = SECRET, **headers: str) -> AsyncIterator[App]:
        session = await self.application.open_live(head("GET", path, key, **headers), source="here")
        app = App(session)
        try:
            async with app.reading():
                yield app
        finally:
            session.close()
            await until(session._work.done)

    async def post(self, path: str, body: object, key: str | None = SECRET) -> tuple[int, Any]:
        exchange = await self.application.open(head("POST", path, key), source="here")
        with closing(exchange):
            exchange.feed(body if isinstance(body, bytes) else json.dumps(body).encode())
            answer = await exchange.answer()
        assert isinstance(answer.body, bytes)
        return answer.status, json.loads(answer.body)

    async def secret(self, body: object = None) -> str:
        _, told = await self.post("/v1/realtime/client_secrets", body or {})
        return str(told["value"])


def head(method: str, path: str, key: str | None, **headers: str) -> Head:
    shown = {} if key is None else {"authorization": f"Bearer {key}"}
    return Head(method, path, shown | {name.replace("_", "-"): value for name, value in headers.items()})


async def refused(house: House, path: str = PATH, key: str | None = SECRET, **headers: str) -> Fault:
    with pytest.raises(Fault) as fault:
        await house.application.open_live(head("GET", path, key, **headers), source="here")
    return fault.value


async def test_a_key_opens_a_session() -> None:
    house = House()
    async with house.app() as app:
        app.append(speech(0.64) + silence(0.64))
        await app.some("completed")
    house.telemetry.close_window()
    counted = f'{PREFIX}_requests_total{{backend="fake",endpoint="realtime",status="101"}} 1.0'
    assert counted in house.telemetry.snapshot().exposition().decode()


@pytest.mark.parametrize(("key", "kind"), [(None, FaultKind.MISSING), ("sk-sv-none", FaultKind.UNAUTHENTICATED)])
async def test_nobody_else_does(key: str | None, kind: FaultKind) -> None:
    fault = await refused(House(), key=key)
    assert fault.kind is kind
    assert to_response(fault).status == 401


async def test_whoever_has_no_key_learns_of_no_target() -> None:
    assert (await refused(House(), "/v1/elsewhere", key="sk-sv-none")).kind is FaultKind.UNAUTHENTICATED
    assert (await refused(House(), "/v1/elsewhere")).kind is FaultKind.UNKNOWN


@pytest.mark.behaviour(6)
async def test_a_model_in_the_url_is_the_default() -> None:
    async with House().app(f"{PATH}&model=whisper-1") as app:
        (created,) = await app.some("session.created")
        app.set(transcription={"language": "en"})
        (changed,) = await app.some("session.updated")
    for event in (created, changed):
        assert event["session"]["audio"]["input"]["transcription"]["model"] == "whisper-1"


async def test_a_model_that_is_served_needs_no_intent() -> None:
    async with House().app("/v1/realtime?model=whisper") as app:
        await app.some("session.created")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{PATH}&model=nobody", 404),
        ("/v1/realtime?model=nobody", 404),
        ("/v1/realtime", 400),
        ("/v1/realtime?intent=conversation&model=whisper", 400),
        (f"{PATH}&model=whisper&model=other", 400),
    ],
)
@pytest.mark.behaviour(6)
async def test_another_model_or_intent_is_refused(path: str, status: int) -> None:
    assert to_response(await refused(House(), path)).status == status


async def test_the_code_of_an_unknown_model_is_openais() -> None:
    fault = await refused(House(), f"{PATH}&model=nobody")
    assert (fault.kind, fault.subject) == (FaultKind.UNKNOWN, MODEL)


@pytest.mark.behaviour(11)
async def test_an_older_client_says_so_in_a_header() -> None:
    async with House().app(openai_beta="realtime=v1") as app:
        await app.some("transcription_session.created")


async def test_a_receipt_that_is_asked_for_in_other_words_is_refused() -> None:
    assert (await refused(House(), sottovoce_receipt="yes")).kind is FaultKind.INVALID


async def test_without_ears_there_are_no_sessions() -> None:
    house = House()
    house.application.live = None
    assert (await refused(house)).kind is FaultKind.UNKNOWN
    with pytest.raises(Fault):
        await house.post("/v1/realtime/client_secrets", {})


# --- limits


@pytest.mark.behaviour(43)
async def test_one_session_too_many_of_a_key_is_refused() -> None:
    house = House()
    async with house.app(), house.app():
        fault = await refused(house)
        assert to_response(fault).status == 429
        assert json.loads(to_response(fault).body)["error"]["code"] == "rate_limit_exceeded"
        async with house.app(key=OTHER):
            assert (await refused(house, key=OTHER)).kind is FaultKind.OVER_RATE
    async with house.app():
        pass


async def test_an_engine_has_so_many_sessions() -> None:
    house = House(max_sessions=1, asks_for_keys=False)
    async with house.app(key=None):
        assert to_response(await refused(house, key=None)).status == 503
    async with house.app(key=None):
        pass


async def test_live_sessions_leave_the_places_of_requests() -> None:
    house = House(limits={"concurrent_requests": 1})
    async with house.app():
        assert (await house.post("/v1/realtime/client_secrets", {}))[0] == 200


async def test_a_refused_session_holds_nothing() -> None:
    house = House(limits={"live_sessions": 1})
    async with house.app():
        await refused(house)
    assert house.admission.requests == 0


@pytest.mark.behaviour(43)
async def test_audio_is_charged_as_it_is_heard_and_a_used_up_day_ends_the_session() -> None:
    house = House(limits={"audio_seconds_per_day": 3})
    async with house.app() as app:
        app.append(speech(0.96) + silence(0.64))
        await app.some("completed")
        app.append(silence(2))
        ended = await app.ended()
    assert isinstance(ended, Fault)
    assert ended.kind is FaultKind.OVER_QUOTA
    assert (await refused(house)).kind is FaultKind.OVER_QUOTA


async def test_what_was_committed_is_told_before_a_used_up_day_ends_the_session() -> None:
    house = House(limits={"audio_seconds_per_day": 1})
    async with house.app() as app:
        app.set(turn_detection=None)
        app.append(speech(0.64))
        app.commit()
        app.append(speech(0.64))
        await app.ended()
    assert len(app.of("completed")) == 1


@pytest.mark.parametrize("opened_with", ["key", "secret"])
async def test_a_key_that_is_revoked_ends_its_sessions_behind_what_was_committed(opened_with: str) -> None:
    house = House()
    key = SECRET if opened_with == "key" else await house.secret()
    async with house.app(key=key) as app, house.app(key=OTHER) as other:
        app.set(turn_detection=None)
        app.append(speech(0.64))
        app.commit()
        await until(lambda: app.session.behind_s == 0 and bool(app.of("input_audio_buffer.committed")))
        house.holders.replace(ApiKeys(keys=(ApiKey("two", digest(OTHER)),)))
        for each in (app, other):
            each.append(speech(0.64) + silence(0.64))
        ended = await app.ended()
        await other.some("completed")
        assert other.end is None
    assert isinstance(ended, Fault)
    assert ended.kind is FaultKind.UNAUTHENTICATED
    assert len(app.of("completed")) == 1


async def test_a_key_that_expires_ends_its_session() -> None:
    house = House()
    house.holders.replace(ApiKeys(keys=(ApiKey("one", digest(SECRET), expires=datetime.fromtimestamp(NOW + 60, UTC)),)))
    async with house.app() as app:
        app.append(speech(0.64) + silence(0.64))
        await app.some("completed")
        house.clock.now += 60
        app.append(silence(0.1))
        ended = await app.ended()
    assert isinstance(ended, Fault)
    assert ended.kind is FaultKind.UNAUTHENTICATED


# --- secrets


async def test_a_secret_opens_sessions_with_its_settings() -> None:
    house = House()
    asked = {
        "expires_after": {"anchor": "created_at", "seconds": 10},
        "session": {
            "type": "transcription",
            "audio": {"input": {"transcription": {"language": "de"}, "turn_detection": None}},
        },
    }
    status, told = await house.post("/v1/realtime/client_secrets", asked)
    assert status == 200
    assert told["expires_at"] == NOW + 10
    assert told["session"]["id"].startswith("sess_")
    assert told["session"]["object"] == "realtime.transcription_session"
    for _ in range(2):
        async with house.app("/v1/realtime", key=told["value"]) as app:
            (created,) = await app.some("session.created")
            assert created["session"]["audio"] == told["session"]["audio"]
            app.set(transcription={"language": "en"})
            (changed,) = await app.some("session.updated")
            assert changed["session"]["audio"]["input"]["turn_detection"] is None


async def test_a_secret_is_for_ten_minutes_unless_told() -> None:
    _, told = await House().post("/v1/realtime/client_secrets", {})
    assert told["expires_at"] == NOW + 600


@pytest.mark.parametrize("seconds", [9, 7_201, -1])
@pytest.mark.behaviour(46)
async def test_a_secret_of_another_length_is_refused(seconds: int) -> None:
    status, told = await House().post("/v1/realtime/client_secrets", {"expires_after": {"seconds": seconds}})
    assert status == 400
    assert (told["error"]["code"], told["error"]["param"]) == ("invalid_value", "expires_after.seconds")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b"[]", "invalid_type"),
        ({"expires_after": 7}, "invalid_type"),
        ({"expires_after": {"seconds": "10"}}, "invalid_type"),
        ({"expires_after": {"anchor": "yesterday"}}, "invalid_value"),
        ({"session": {"type": "realtime"}}, "invalid_parameter"),
        (
            {"session": {"type": "transcription", "audio": {"input": {"transcription": {"model": "x"}}}}},
            "model_not_found",
        ),
        (
            {"session": {"type": "transcription", "audio": {"input": {"transcription": {"prompt": "x" * 5_000}}}}},
            "invalid_value",
        ),
    ],
)
async def test_what_no_session_can_be_gets_no_secret(body: object, code: str) -> None:
    status, told = await House().post("/v1/realtime/client_secrets", body)
    assert (status, told["error"]["code"]) == (400, code)


async def test_a_long_request_for_a_secret_is_not_read() -> None:
    with pytest.raises(Fault) as fault:
        await House().post("/v1/realtime/client_secrets", b" " * 65_537)
    assert fault.value.kind is FaultKind.TOO_LARGE


@pytest.mark.behaviour(46)
async def test_a_secret_that_has_expired_opens_nothing_and_what_it_opened_goes_on() -> None:
    house = House()
    secret = await house.secret({"expires_after": {"seconds": 10}})
    async with house.app(key=secret) as app:
        house.clock.now += 10
        assert (await refused(house, key=secret)).kind is FaultKind.UNAUTHENTICATED
        app.append(speech(0.64) + silence(0.64))
        await app.some("completed")


@pytest.mark.parametrize("asks_for_keys", [True, False])
@pytest.mark.behaviour(46)
async def test_a_secret_that_was_changed_opens_nothing(*, asks_for_keys: bool) -> None:
    house = House(asks_for_keys=asks_for_keys)
    secret = await house.secret()
    for place in range(3, len(secret), 7):
        changed = secret[:place] + ("A" if secret[place] != "A" else "B") + secret[place + 1 :]
        assert (await refused(house, key=changed)).kind is FaultKind.UNAUTHENTICATED
    for cut in (3, 4, 20, len(secret) - 4):
        assert (await refused(house, key=secret[:cut] if cut > 3 else "ek_A")).kind is FaultKind.UNAUTHENTICATED


async def test_a_secret_of_another_engine_opens_nothing() -> None:
    secret = ClientSecrets(b"o" * 32, "here", clock=lambda: NOW, random=lambda size: b"n" * size).issue(
        Issued(digest(SECRET), b"{}"), expires_at=int(NOW) + 100
    )
    assert (await refused(House(), key=secret)).kind is FaultKind.UNAUTHENTICATED


async def test_sessions_of_a_secret_are_its_keys() -> None:
    house = House(limits={"live_sessions": 1})
    secret = await house.secret()
    async with house.app(key=secret):
        assert (await refused(house)).kind is FaultKind.OVER_RATE
        assert (await refused(house, key=secret)).kind is FaultKind.OVER_RATE


async def test_a_secret_ends_with_its_key() -> None:
    house = House()
    secret = await house.secret()
    house.holders.replace(ApiKeys())
    assert (await refused(house, key=secret)).kind is FaultKind.UNAUTHENTICATED


async def test_a_secret_is_no_key_for_files() -> None:
    house = House()
    secret = await house.secret()
    with pytest.raises(Fault) as fault:
        await house.post("/v1/realtime/client_secrets", {}, key=secret)
    assert fault.value.kind is FaultKind.UNAUTHENTICATED
    assert fault.value.subject is not AUDIO


@pytest.mark.behaviour(47)
async def test_an_older_request_for_a_secret_gets_the_older_answer() -> None:
    house = House()
    status, told = await house.post("/v1/realtime/transcription_sessions", FLAT)
    assert status == 200
    assert told["input_audio_format"] == "g711_ulaw"
    assert told["client_secret"]["expires_at"] == NOW + 60
    async with house.app(key=told["client_secret"]["value"], openai_beta="realtime=v1") as app:
        (created,) = await app.some("transcription_session.created")
    assert created["session"]["input_audio_format"] == "g711_ulaw"
    assert created["session"]["input_audio_transcription"]["language"] == "de"
    assert created["session"]["turn_detection"] is None


def test_a_secret_tells_whose_it_is_and_opens_for_nobody_else() -> None:
    def secrets(instance: str) -> ClientSecrets:
        return ClientSecrets(b"k" * 32, instance, clock=lambda: NOW, random=lambda size: b"n" * size)

    secret = secrets("here").issue(Issued("h", b"s"), expires_at=int(NOW) + 10)
    assert issuer_in(secret) == issuer_of("here") != issuer_of("there")
    assert secrets("here").find(secret) == Issued("h", b"s")
    assert secrets("there").find(secret) is None


@pytest.mark.parametrize("secret", ["ek_", "ek_short", "ek_-", "ek_0123456789"])
def test_what_is_no_secret_of_ours_is_nobodys(secret: str) -> None:
    assert issuer_in(secret) is None


async def test_a_secret_fits_into_a_header() -> None:
    issued = Issued("h" * 64, b"s" * MAX_SESSION_BYTES)
    secrets = House().secrets
    secret = secrets.issue(issued, expires_at=int(NOW) + 10)
    assert len(secret) < 4_500
    assert secrets.find(secret) == issued
    with pytest.raises(ValueError, match="too long"):
        secrets.issue(Issued("h", b"s" * (MAX_SESSION_BYTES + 1)), expires_at=int(NOW))
