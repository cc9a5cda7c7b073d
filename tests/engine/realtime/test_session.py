"""What an app sees of a live session: OpenAI's events, in their order, and every text once (`behaviours`)."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from core.errors import BackendError
from engine.gateway.live import End, SessionExpiredError
from engine.realtime.events import MAX_AUDIO_BYTES
from engine.realtime.session import MAX_IDLE_S, MAX_UNREAD_BYTES
from engine.realtime.settings import Shape
from engine.types import Hearing
from tests.engine.fakes import FakeAnalyser, FakeTranscriber, scripted
from tests.engine.realtime.live import NOW, PREFIX, Room, silence, speech
from tests.engine.realtime.test_updates import CLIENTS
from tests.waiting import time_passes, until, until_settled

MANUAL = {"turn_detection": None}


@pytest.mark.behaviour(1)
async def test_a_session_is_told_at_once_and_whole() -> None:
    async with Room().app() as app:
        (created,) = await app.some("session.created")
    session = created["session"]
    assert session.pop("id").startswith("sess_")
    assert session == {
        "type": "transcription",
        "object": "realtime.transcription_session",
        "expires_at": int(NOW) + 3_600,
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24_000},
                "transcription": {"model": "whisper", "language": None, "prompt": None},
                "noise_reduction": None,
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.5,
                    "prefix_padding_ms": 300,
                    "silence_duration_ms": 500,
                },
            }
        },
        "include": None,
    }


@pytest.mark.behaviour(18)
async def test_a_turn_is_told_in_order() -> None:
    async with Room().app(transcription={"language": "en"}) as app:
        app.append(silence(0.8) + speech(3.0) + silence(0.8))
        await app.some("completed")
    kinds = [kind for kind in app.kinds if kind != "delta"]
    assert kinds == [
        "session.created",
        "session.updated",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "completed",
    ]


@pytest.mark.behaviour(20, 23)
async def test_times_count_from_the_first_sample_with_the_padding_and_the_silence() -> None:
    async with Room().app() as app:
        app.append(silence(0.96) + speech(3.2) + silence(0.96))
        (completed,) = await app.some("completed")
        (started,), (stopped,) = (
            await app.some("input_audio_buffer.speech_started"),
            app.of("input_audio_buffer.speech_stopped"),
        )
    assert started["item_id"] == stopped["item_id"] == completed["item_id"]
    assert started["audio_start_ms"] == 960 - 320  # 300 ms are ten windows
    assert stopped["audio_end_ms"] == 960 + 3_200 + 512
    assert completed["usage"] == {"type": "duration", "seconds": 4.032}
    assert completed["content_index"] == 0


@pytest.mark.behaviour(23)
async def test_times_go_on_behind_a_commit() -> None:
    async with Room().app() as app:
        app.append(speech(1.0)[:-1_000])
        app.commit()
        app.append(silence(0.96) + speech(1.0) + silence(0.6))
        await app.some("completed", 2)
        _, second = app.of("input_audio_buffer.speech_started")
    assert second["audio_start_ms"] == pytest.approx(992 - 1_000 / 48 + 960 - 320, abs=2)


@pytest.mark.behaviour(19, 20)
async def test_items_are_chained() -> None:
    async with Room().app() as app:
        app.append((speech(0.64) + silence(0.64)) * 3)
        await app.some("completed", 3)
        committed = app.of("input_audio_buffer.committed")
    ids = [event["item_id"] for event in committed]
    assert [event["previous_item_id"] for event in committed] == [None, *ids[:2]]
    assert [event["previous_item_id"] for event in app.of("conversation.item.done")] == [None, *ids[:2]]
    assert [event["item"]["id"] for event in app.of("conversation.item.added")] == ids
    assert [event["item_id"] for event in app.of("completed")] == ids


async def test_texts_come_in_the_order_of_their_items() -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    calls = iter(gates)

    class InTurn:
        async def wait(self) -> object:
            return await next(calls).wait()

    room = Room(FakeTranscriber(gate=InTurn()))
    async with room.app(**MANUAL, transcription={"language": "en", "delay": "xhigh"}) as app:
        for _ in range(2):
            app.append(speech(0.64))
            app.commit()
        await until(lambda: room.transcriber.live == 2)
        gates[1].set()
        await until_settled(lambda: len(app.told))
        assert not app.of("completed")
        gates[0].set()
        first, second = await app.some("completed", 2)
    assert [first["item_id"], second["item_id"]] == [
        event["item_id"] for event in app.of("input_audio_buffer.committed")
    ]
    whole = [kind for kind in app.kinds if kind in ("delta", "completed")]
    assert whole == ["delta", "completed", "delta", "completed"]


async def test_an_update_keeps_what_it_does_not_name() -> None:
    async with Room().app() as app:
        app.set(transcription={"language": "de"}, noise_reduction={"type": "near_field"})
        app.set(transcription={"prompt": "Namen"})
        app.set(turn_detection=None)
        updated = (await app.some("session.updated", 3))[-1]["session"]["audio"]["input"]
    assert updated["transcription"] == {"model": "whisper", "language": "de", "prompt": "Namen"}
    assert updated["noise_reduction"] == {"type": "near_field"}
    assert updated["turn_detection"] is None


@pytest.mark.parametrize(
    ("session", "code", "param"),
    [
        ({}, "missing_required_parameter", "session.type"),
        ({"type": "realtime"}, "invalid_parameter", "session.type"),
        ({"type": "other"}, "invalid_value", "session.type"),
    ],
)
@pytest.mark.behaviour(4)
async def test_another_kind_of_session_is_refused_and_the_session_lives(
    session: dict[str, object], code: str, param: str
) -> None:
    async with Room().app() as app:
        app.say("session.update", session=session, event_id="mine")
        (error,) = await app.some("error")
        assert (error["error"]["code"], error["error"]["param"]) == (code, param)
        assert error["error"]["type"] == "invalid_request_error"
        app.append(speech(0.64) + silence(0.64))
        await app.some("completed")


@pytest.mark.behaviour(5)
async def test_an_apps_id_comes_back_in_its_error_alone_and_no_id_twice() -> None:
    async with Room().app() as app:
        app.say("session.update", session={"type": "transcription"}, event_id="good one")
        app.say("nonsense", event_id="bad one")
        (error,) = await app.some("error")
    assert error["error"]["event_id"] == "bad one"
    assert "good one" not in json.dumps(app.told)
    ids = [event["event_id"] for event in app.told]
    assert len(set(ids)) == len(ids)


BAD_EVENTS = [
    (b"{", "invalid_json", None),
    (b"\xff\xfe", "invalid_json", None),
    (b"[]", "invalid_json", None),
    (b"{}", "missing_required_parameter", "type"),
    (b'{"type": 7}', "invalid_type", "type"),
    (b'{"type": "nonsense"}', "invalid_value", "type"),
    (b'{"type": "response.create"}', "unsupported_value", "type"),
    (b'{"type": "conversation.item.create", "item": {}}', "unsupported_value", "type"),
    (b'{"type": "output_audio_buffer.clear"}', "unsupported_value", "type"),
    (b'{"type": "input_audio_buffer.append"}', "missing_required_parameter", "audio"),
    (b'{"type": "input_audio_buffer.append", "audio": 7}', "invalid_type", "audio"),
    (b'{"type": "input_audio_buffer.append", "audio": "%"}', "invalid_value", "audio"),
    (b'{"type": "session.update", "session": 7}', "invalid_type", "session"),
    (b'{"type": "input_audio_buffer.commit", "event_id": 7}', "invalid_value", "event_id"),
    (b'{"type": "input_audio_buffer.commit", "event_id": "' + b"x" * 513 + b'"}', "invalid_value", "event_id"),
]


@pytest.mark.parametrize(("event", "code", "param"), BAD_EVENTS)
@pytest.mark.behaviour(15, 38)
async def test_an_event_that_cannot_be_followed_is_one_error(event: bytes, code: str, param: str | None) -> None:
    async with Room().app() as app:
        app.session.event(event)
        (error,) = await app.some("error")
        assert (error["error"]["code"], error["error"]["param"]) == (code, param)
        app.set()
        await app.some("session.updated")
        assert len(app.of("error")) == 1


async def test_an_error_repeats_nothing_of_an_event() -> None:
    async with Room().app() as app:
        app.say("canary", audio="canary")
        app.set(transcription={"model": "canary", "language": "canary"})
        app.set(turn_detection={"type": "canary"})
        await app.some("error", 3)
    assert "canary" not in json.dumps(app.told)


@pytest.mark.behaviour(12)
async def test_audio_before_the_settings_is_heard() -> None:
    async with Room().app() as app:
        app.append(speech(0.64))
        app.set(turn_detection={"type": "server_vad", "silence_duration_ms": 300})
        app.append(silence(0.64))
        assert len(await app.texts(1)) == 1


@pytest.mark.parametrize("chunk", [1, 2_399, 2_400, 48_000, 10**7])
@pytest.mark.behaviour(14)
async def test_it_makes_no_difference_how_audio_is_cut(chunk: int) -> None:
    audio = silence(0.32) + speech(1.6) + silence(0.64) + speech(0.96) + silence(0.64)
    async with Room().app(transcription={"language": "en", "delay": "xhigh"}) as app:
        app.append(audio, chunk)
        assert await app.texts(2) == ["21", "13"]


@pytest.mark.behaviour(15)
async def test_appended_events_are_heard_as_audio_is() -> None:
    async with Room().app(**MANUAL) as app:
        audio = speech(0.64)
        app.say("input_audio_buffer.append", audio=base64.b64encode(audio[:999]).decode())
        app.say("input_audio_buffer.append", audio="")
        app.say("input_audio_buffer.append", audio=base64.b64encode(audio[999:]).decode())
        app.commit()
        await app.some("completed")
    assert not app.of("error")


@pytest.mark.behaviour(16)
async def test_more_than_15_mib_at_a_time_are_refused() -> None:
    async with Room().app(**MANUAL) as app:
        app.say("input_audio_buffer.append", audio=base64.b64encode(bytes(MAX_AUDIO_BYTES + 1)).decode())
        (error,) = await app.some("error")
        assert error["error"]["param"] == "audio"
        app.commit()
        await app.some("error", 2)
        assert app.session.behind_s == 0


@pytest.mark.parametrize(("sent", "said"), [(0, "0.00"), (4_752, "99.00")])
@pytest.mark.behaviour(17)
async def test_too_little_to_commit_is_refused_in_openais_words(sent: int, said: str) -> None:
    async with Room().app(**MANUAL) as app:
        app.append(bytes(sent))
        app.commit(event_id="mine")
        (error,) = await app.some("error")
    assert error["error"] == {
        "type": "invalid_request_error",
        "code": "input_audio_buffer_commit_empty",
        "message": "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, but "
        f"buffer only has {said}ms of audio.",
        "param": None,
        "event_id": "mine",
    }


@pytest.mark.behaviour(17)
async def test_100_ms_are_enough_to_commit() -> None:
    async with Room().app(**MANUAL) as app:
        app.append(bytes(4_800))
        app.commit()
        (completed,) = await app.some("completed")
    assert (completed["transcript"], completed["usage"]["seconds"]) == ("", 0.1)


async def test_after_a_turn_there_is_nothing_to_commit() -> None:
    async with Room().app() as app:
        app.append(speech(0.64) + silence(0.64))
        await app.some("completed")
        app.commit()
        (error,) = await app.some("error")
    assert "0.00ms" in error["error"]["message"]


@pytest.mark.behaviour(21)
async def test_nothing_is_asked_of_the_backend_for_silence() -> None:
    room = Room()
    async with room.app(**MANUAL) as app:
        app.append(silence(60))
        app.commit()
        assert await app.texts(1) == [""]
    assert not room.transcriber.heard


async def test_silence_is_no_turn() -> None:
    async with Room().app() as app:
        app.append(silence(30))
        await until(lambda: app.session.behind_s == 0)
        await until_settled(lambda: len(app.told))
        assert app.kinds == ["session.created"]


@pytest.mark.behaviour(22)
async def test_clear_forgets_audio_and_the_next_item_is_another() -> None:
    room = Room(FakeTranscriber(script=lambda clip, _: " one two three"))
    async with room.app(**MANUAL, transcription={"language": "en", "delay": "minimal"}) as app:
        for _ in range(4):
            app.append(speech(1.024))
            await until(lambda: app.session.behind_s == 0)
            await until_settled(lambda: len(app.told))
        (delta, *_) = await app.some("delta")
        app.say("input_audio_buffer.clear")
        await app.some("input_audio_buffer.cleared")
        app.commit()
        await app.some("error")
        app.append(speech(0.64))
        app.commit()
        (completed,) = await app.some("completed")
    assert completed["item_id"] != delta["item_id"]
    assert completed["usage"]["seconds"] == 0.64
    assert app.of("input_audio_buffer.committed")[0]["previous_item_id"] is None


async def test_an_empty_buffer_can_be_cleared() -> None:
    async with Room().app() as app:
        app.say("input_audio_buffer.clear")
        await app.some("input_audio_buffer.cleared")


@pytest.mark.behaviour(25)
async def test_a_commit_during_speech_ends_the_turn_and_it_is_not_told_twice() -> None:
    async with Room().app() as app:
        app.append(speech(1.28))
        app.commit()
        app.append(silence(2))
        app.append(speech(0.64) + silence(0.64))
        await app.some("completed", 2)
        await until_settled(lambda: len(app.told))
    assert [kind for kind in app.kinds if "speech" in kind or "committed" in kind] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
    ] * 2
    assert app.of("completed")[0]["usage"]["seconds"] == 1.28


@pytest.mark.behaviour(26)
async def test_a_shorter_silence_is_in_a_turn_and_a_longer_one_between_two() -> None:
    async with Room().app(turn_detection={"type": "server_vad", "silence_duration_ms": 640}) as app:
        app.append(speech(0.96) + silence(0.5) + speech(0.96) + silence(0.7) + speech(0.96) + silence(0.7))
        await app.some("completed", 2)
        await until_settled(lambda: len(app.told))
    assert [event["usage"]["seconds"] for event in app.of("completed")] == [3.072, 1.664]


@pytest.mark.behaviour(27)
async def test_the_first_word_after_a_long_silence_is_whole() -> None:
    room = Room()
    async with room.app() as app:
        app.append(silence(30.4) + speech(0.96) + silence(0.64))
        await app.some("completed")
        (started,) = app.of("input_audio_buffer.speech_started")
    first = room.transcriber.heard[-1].clip.pcm[:2]
    assert int.from_bytes(first, "little") == 950 - 10  # the window number: 300 ms before the speech
    assert started["audio_start_ms"] == 30_400 - 320


@pytest.mark.parametrize(("eagerness", "silence_ms"), [("low", 800), ("auto", 512), ("medium", 512), ("high", 320)])
@pytest.mark.behaviour(28)
async def test_semantic_vad_ends_turns(eagerness: str, silence_ms: int) -> None:
    async with Room().app(turn_detection={"type": "semantic_vad", "eagerness": eagerness}) as app:
        app.append(speech(0.96) + silence(1.6))
        await app.some("completed")
        (stopped,) = app.of("input_audio_buffer.speech_stopped")
    assert stopped["audio_end_ms"] == 960 + silence_ms


@pytest.mark.behaviour(24)
async def test_numbers_of_voice_activity_act_at_once() -> None:
    async with Room().app() as app:
        app.append(speech(0.64) + silence(0.32))
        app.set(turn_detection={"type": "server_vad", "silence_duration_ms": 320, "threshold": 0.9})
        app.append(silence(0.064) + b"\xc8" * 15_360 + silence(0.64))  # 0.78, which is not enough any more
        await app.some("completed")
        await until_settled(lambda: len(app.told))
    assert len(app.of("input_audio_buffer.speech_started")) == 1


async def test_who_stops_to_commit_gets_turns() -> None:
    async with Room().app(**MANUAL) as app:
        app.append(speech(0.64))
        app.set(turn_detection={"type": "server_vad"})
        app.append(silence(0.64) + speech(0.64) + silence(0.64))
        await app.some("completed", 2)


async def test_who_starts_to_commit_keeps_what_was_begun() -> None:
    async with Room().app() as app:
        app.append(speech(0.64))
        app.set(turn_detection=None)
        app.append(silence(3) + speech(0.64))
        app.commit()
        (completed,) = await app.some("completed")
    assert completed["usage"]["seconds"] == pytest.approx(4.3, abs=0.1)


@pytest.mark.behaviour(29)
async def test_what_is_about_answers_changes_nothing() -> None:
    async with Room().app() as app:
        app.set(
            turn_detection={
                "type": "server_vad",
                "create_response": True,
                "interrupt_response": False,
                "idle_timeout_ms": 5_000,
            },
            noise_reduction={"type": "far_field"},
            transcription={"delay": "high"},
        )
        app.append(speech(0.64) + silence(0.64))
        await app.some("completed")
    assert not app.of("error")


def growing(clip: Any, options: Any) -> str:
    """A word for every half second, as if somebody counted."""
    return "".join(f" w{number}" for number in range(round(clip.duration_s * 2)))


@pytest.mark.behaviour(30)
async def test_text_comes_while_somebody_speaks_and_is_never_taken_back() -> None:
    room = Room(FakeTranscriber(script=growing))
    async with room.app(transcription={"language": "en"}) as app:
        for _ in range(8):
            before = len(room.transcriber.heard)
            app.append(speech(1.024))
            await until(lambda before=before: len(room.transcriber.heard) > before)  # type: ignore[misc]
            await until_settled(lambda: len(app.told))
        early = "".join(event["delta"] for event in app.of("delta"))
        app.append(silence(0.64))
        (completed,) = await app.some("completed")
    assert early.startswith("w0 w1 w2 w3")
    assert not early.endswith(" w15")  # the last word is held back
    assert "".join(event["delta"] for event in app.of("delta")) == completed["transcript"]
    assert len(app.of("delta")) > 3


async def test_no_text_comes_of_little_speech() -> None:
    room = Room(FakeTranscriber(script=growing))
    async with room.app(transcription={"language": "en", "delay": "minimal"}) as app:
        for _ in range(2):
            app.append(speech(0.64))
            await until(lambda: app.session.behind_s == 0)
            await until_settled(lambda: len(room.transcriber.heard))
    assert len(room.transcriber.heard) == 2
    assert not app.of("delta")


async def test_words_that_turn_out_to_be_others_stay_and_the_text_goes_on() -> None:
    texts = scripted(" the cat sat on", " the cat sat on", " the dog sat on the mat.")
    room = Room(FakeTranscriber(script=texts))
    async with room.app(**MANUAL, transcription={"language": "en"}) as app:
        for _ in range(2):
            app.append(speech(2.048))
            await until(lambda: app.session.behind_s == 0)
            await until_settled(lambda: len(room.transcriber.heard))
        app.commit()
        (completed,) = await app.some("completed")
    assert "".join(event["delta"] for event in app.of("delta")) == "the cat sat on the mat."
    assert completed["transcript"] == "the dog sat on the mat."


@pytest.mark.behaviour(31)
async def test_a_full_backend_gets_no_looks_but_its_finals() -> None:
    gate = asyncio.Event()
    room = Room(FakeTranscriber(script=growing, gate=gate), slots=1)
    async with room.app(transcription={"language": "en"}) as app:
        app.append(speech(0.64) + silence(0.64))
        await app.some("input_audio_buffer.committed")
        await until(lambda: room.transcriber.live == 1)
        app.append(speech(6.4))
        await until(lambda: app.session.behind_s == 0)
        await until_settled(lambda: len(room.transcriber.heard))
        assert len(room.transcriber.heard) == 1
        app.append(silence(0.64))
        await app.some("input_audio_buffer.committed", 2)
        gate.set()
        assert len(await app.texts(2)) == 2


async def test_between_two_looks_is_some_speech_however_long_they_take() -> None:
    gate = asyncio.Event()
    room = Room(FakeTranscriber(script=growing, gate=gate))
    async with room.app(transcription={"language": "en"}) as app:

        async def say(seconds: float) -> int:
            app.append(speech(seconds))
            await until(lambda: app.session.behind_s == 0)
            await until_settled(lambda: len(room.transcriber.heard))
            return len(room.transcriber.heard)

        assert await say(1.6) == 1
        assert await say(1.6) == 1, "one at a time"
        gate.set()
        await until(lambda: not room.transcriber.live)
        assert await say(0.9) == 1
        assert await say(0.2) == 2


async def test_a_look_gives_way_to_a_final_text() -> None:
    gate = asyncio.Event()
    room = Room(FakeTranscriber(script=growing, gate=gate), slots=1)
    async with room.app(transcription={"language": "en"}) as app:
        app.append(speech(1.6))
        await until(lambda: room.transcriber.live == 1)
        app.append(silence(0.64))
        await until(lambda: room.transcriber.cancelled == 1)
        gate.set()
        await app.some("completed")


@pytest.mark.behaviour(52)
async def test_the_text_is_begun_at_a_pause_and_kept_if_nothing_more_is_said() -> None:
    room = Room()
    async with room.app(transcription={"language": "en", "delay": "xhigh"}) as app:
        app.append(speech(1.6) + silence(0.224))
        await until(lambda: len(room.transcriber.heard) == 1)
        assert not app.of("input_audio_buffer.committed")
        app.append(silence(0.64))
        await app.some("completed")
    assert len(room.transcriber.heard) == 1


async def test_the_text_that_was_begun_is_given_up_when_more_is_said() -> None:
    gate = asyncio.Event()
    room = Room(FakeTranscriber(gate=gate))
    async with room.app(transcription={"language": "en", "delay": "xhigh"}) as app:
        app.append(speech(1.6) + silence(0.224))
        await until(lambda: room.transcriber.live == 1)
        app.append(speech(1.6))
        await until(lambda: room.transcriber.cancelled == 1)
        gate.set()
        app.append(silence(0.64))
        await app.some("completed")
    assert room.transcriber.heard[-1].clip.duration_s > 3.2


@pytest.mark.parametrize("seconds", [35, 95, 600])
@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.behaviour(32)
async def test_no_word_of_long_speech_is_lost(seconds: int, *, manual: bool) -> None:
    room = Room()
    detection = {"turn_detection": None} if manual else {}
    async with room.app(**detection, transcription={"language": "en", "delay": "xhigh"}) as app:
        app.append(speech(seconds), 48_000)
        if manual:
            app.commit()
        else:
            app.append(silence(0.64))
        turns = 1 if manual or seconds < 300 else 2
        completed = await app.some("completed", turns)
    clips = sorted((heard.clip for heard in room.transcriber.heard), key=lambda clip: clip.pcm[:2][::-1])
    numbers = [
        int.from_bytes(clip.pcm[at : at + 2], "little") for clip in clips for at in range(0, len(clip.pcm), 1_024)
    ]
    assert sorted(numbers)[: round(seconds / 0.032)] == list(range(round(seconds / 0.032)))
    assert len(set(numbers)) == len(numbers)
    assert sum(event["usage"]["seconds"] for event in completed) == pytest.approx(seconds, abs=1)


@pytest.mark.behaviour(33)
async def test_after_long_speech_only_the_tail_is_left_to_be_heard() -> None:
    room = Room()
    async with room.app(**MANUAL, transcription={"language": "en", "delay": "xhigh"}) as app:
        app.append(speech(300), 48_000)
        await until(lambda: app.session.behind_s == 0)
        await until_settled(lambda: len(room.transcriber.heard))
        before = len(room.transcriber.heard)
        app.commit()
        await app.some("completed")
    assert len(room.transcriber.heard) == before + 1
    assert len(app.of("delta")) == before + 1


@pytest.mark.parametrize(
    ("language", "text"), [("ja", "今日はいい天気ですね、散歩に行きましょう"), ("th", "วันนี้อากาศดีมากไปเดินเล่นกันเถอะ")]
)
@pytest.mark.behaviour(34)
async def test_languages_without_spaces_come_piece_by_piece(language: str, text: str) -> None:
    room = Room(FakeTranscriber(script=lambda clip, _: text[: round(clip.duration_s * 3)]))
    async with room.app(transcription={"language": language}) as app:
        for _ in range(5):
            before = len(room.transcriber.heard)
            app.append(speech(1.024))
            await until(lambda before=before: len(room.transcriber.heard) > before)  # type: ignore[misc]
            await until_settled(lambda: len(app.told))
        app.append(silence(0.64))
        (completed,) = await app.some("completed")
    deltas = [event["delta"] for event in app.of("delta")]
    assert len(deltas) > 2
    assert "".join(deltas) == completed["transcript"]


@pytest.mark.behaviour(35)
async def test_what_is_known_of_the_language_and_words_is_told_to_the_model() -> None:
    room = Room()
    asked = {"languages": ["de", "en"], "keywords": ["Sottovoce"], "prompt": "Notes.", "language": "", "delay": "xhigh"}
    async with room.app(transcription=asked) as app:
        app.append(speech(0.64) + silence(0.64))
        (completed,) = await app.some("completed")
    (heard,) = room.transcriber.heard
    assert heard.options.language == "en"
    assert heard.options.prompt == "Glossary: Sottovoce. Notes."
    assert completed["languages"] == [{"code": "en"}]


@pytest.mark.behaviour(35)
async def test_a_null_language_is_detected() -> None:
    room = Room(FakeTranscriber(probabilities={"de": 0.9}))
    async with room.app(transcription={"language": None}) as app:
        app.append(speech(0.64) + silence(0.64))
        (completed,) = await app.some("completed")
    assert completed["languages"] == [{"code": "de"}]


async def test_a_prompt_is_of_its_session_and_no_turn_prompts_the_next() -> None:
    room = Room(FakeTranscriber(script=lambda clip, _: " said before"))
    async with room.app(transcription={"language": "en", "delay": "xhigh"}) as app:
        app.append((speech(0.64) + silence(0.64)) * 2)
        await app.some("completed", 2)
    assert [heard.options.prompt for heard in room.transcriber.heard] == [None, None]


@pytest.mark.behaviour(36)
async def test_log_probabilities_come_where_they_are_included() -> None:
    room = Room(analysers=(FakeAnalyser(),))
    async with room.app() as app:
        app.say(
            "session.update",
            session={
                "type": "transcription",
                "include": ["item.input_audio_transcription.logprobs"],
                "audio": {"input": {"transcription": {"language": "en"}}},
            },
        )
        app.append(speech(3.2) + silence(0.64))
        (completed,) = await app.some("completed")
    (delta,) = app.of("delta")
    assert delta["logprobs"] == completed["logprobs"]
    assert completed["logprobs"][0]["logprob"] == -0.5
    assert bytes(completed["logprobs"][0]["bytes"]).decode() == completed["logprobs"][0]["token"]


async def test_log_probabilities_that_a_model_does_not_have_are_refused() -> None:
    async with Room().app(transcription={"model": "other"}) as app:
        app.say(
            "session.update",
            session={"type": "transcription", "include": ["item.input_audio_transcription.logprobs"]},
        )
        (error,) = await app.some("error")
    assert error["error"]["param"] == "session.include"


@pytest.mark.behaviour(37)
async def test_a_failed_decode_is_told_and_the_next_turn_works() -> None:
    room = Room()
    async with room.app(transcription={"language": "en", "delay": "xhigh"}) as app:
        room.transcriber.fail_after = 0
        app.append(speech(0.64) + silence(0.64))
        (failed,) = await app.some("failed")
        room.transcriber.fail_after = None
        app.append(speech(0.64) + silence(0.64))
        (completed,) = await app.some("completed")
    assert failed["error"]["code"] == "backend_unavailable"
    assert failed["content_index"] == 0
    assert [failed["item_id"], completed["item_id"]] == [
        event["item_id"] for event in app.of("input_audio_buffer.committed")
    ]


async def test_a_text_that_was_begun_in_vain_and_failed_is_tried_again() -> None:
    room = Room()
    async with room.app(transcription={"language": "en", "delay": "xhigh"}) as app:
        room.transcriber.fail_after = 0
        app.append(speech(1.6) + silence(0.224))
        await until(lambda: len(room.transcriber.heard) == 1 and not room.transcriber.live)
        await until_settled()
        room.transcriber.fail_after = None
        app.append(silence(0.64))
        await app.some("completed")


@pytest.mark.behaviour(39)
async def test_a_session_ends_after_a_quarter_of_an_hour_in_which_nothing_came() -> None:
    async with Room().app() as app:
        await app.some("session.created")
        await until_settled()
        time_passes(MAX_IDLE_S - 1)
        app.append(silence(0.1))
        await until(lambda: app.session.behind_s == 0)
        await until_settled()
        time_passes(2)
        await until_settled()
        assert app.end is None
        time_passes(MAX_IDLE_S)
        assert isinstance(await app.ended(), SessionExpiredError)


@pytest.mark.behaviour(40)
async def test_what_a_session_held_is_free_when_it_is_closed() -> None:
    gate = asyncio.Event()
    room = Room(FakeTranscriber(gate=gate))
    async with room.app(transcription={"language": "en"}) as app:
        app.append(speech(3) + silence(0.3))
        await until(lambda: room.transcriber.live)
        assert room.ears.open == 1
    assert (room.transcriber.live, room.ears.open, room.returned) == (0, 0, 1)
    assert room.pipeline.idle


async def test_an_ear_that_fails_ends_the_session() -> None:
    room = Room()
    async with room.app() as app:
        room.ears.ear.fails = True
        app.append(speech(0.64))
        assert isinstance(await app.ended(), BackendError)
    assert room.returned == 1


@pytest.mark.behaviour(44)
async def test_a_client_that_reads_nothing_is_cut() -> None:
    room = Room()
    async with room.app() as app:
        for _ in range(MAX_UNREAD_BYTES // 100):
            app.say("nonsense")
        assert await app.ended() == End(1008, "The session's events were not read.")
    assert not app.of("error")


@pytest.mark.behaviour(44)
async def test_who_sends_faster_than_texts_come_is_told_how_far_behind_they_are() -> None:
    gate = asyncio.Event()
    room = Room(FakeTranscriber(gate=gate), slots=1)
    async with room.app(**MANUAL, transcription={"language": "en", "delay": "xhigh"}) as app:
        app.append(speech(400), 48_000)
        await until(lambda: len(room.transcriber.heard) == 1)
        await until_settled(lambda: app.session.behind_s)
        assert 150 < app.session.behind_s < 300
        gate.set()
        app.commit()
        (completed,) = await app.some("completed")
    assert completed["usage"]["seconds"] == 400


async def test_events_that_say_nothing_count_while_they_wait() -> None:
    gate = asyncio.Event()
    room = Room(FakeTranscriber(gate=gate), slots=1)
    async with room.app(**MANUAL, transcription={"language": "en", "delay": "xhigh"}) as app:
        app.append(speech(400), 48_000)
        await until(lambda: len(room.transcriber.heard) == 1)
        await until_settled(lambda: app.session.behind_s)
        before_s = app.session.behind_s
        for _ in range(1_000):
            app.session.event(b"")
        assert app.session.behind_s >= before_s + 1
        gate.set()
        await app.some("error", 1_000)
        assert app.session.behind_s == 0


@pytest.mark.behaviour(11)
async def test_an_older_client_is_spoken_to_in_its_own_words() -> None:
    async with Room(shape=Shape.BETA).app() as app:
        app.say(
            "transcription_session.update",
            session={
                "input_audio_format": "g711_ulaw",
                "input_audio_transcription": {"model": "whisper-1", "language": "en"},
                "turn_detection": None,
            },
        )
        app.append(b"\xff" * 8_192)
        app.commit()
        await app.some("completed")
    assert [kind for kind in app.kinds if kind != "delta"] == [
        "transcription_session.created",
        "transcription_session.updated",
        "input_audio_buffer.committed",
        "conversation.item.created",
        "completed",
    ]
    session = app.of("transcription_session.updated")[0]["session"]
    assert session["input_audio_format"] == "g711_ulaw"
    assert session["input_audio_transcription"]["model"] == "whisper-1"
    assert session["turn_detection"] is None


@pytest.mark.behaviour(11)
async def test_an_older_update_switches_the_names() -> None:
    async with Room().app() as app:
        app.say("transcription_session.update", session={"input_audio_transcription": {"language": "en"}})
        await app.some("transcription_session.updated")
        app.append(speech(0.64) + silence(0.64))
        await app.some("completed")
    assert app.of("conversation.item.created")
    assert not app.of("conversation.item.added")


async def test_all_names_of_texts_begin_alike() -> None:
    async with Room().app(transcription={"language": "en"}) as app:
        app.append(speech(0.64) + silence(0.64))
        await app.some("completed")
    texts = [event["type"] for event in app.told if "transcript" in event or "delta" in event]
    assert texts == [f"{PREFIX}.delta", f"{PREFIX}.completed"]


@pytest.mark.behaviour(45)
async def test_fifty_sessions_get_their_texts_and_files_get_on() -> None:
    room = Room(slots=2)
    async with AsyncExitStack() as stack:
        apps = [
            await stack.enter_async_context(room.app(transcription={"language": "en", "delay": "xhigh"}))
            for _ in range(50)
        ]
        for app in apps:
            app.append((speech(0.96) + silence(0.64)) * 2)
        file = await room.pipeline.transcribe(b"\xff" * 3_000, Hearing(model="whisper", language="en"))
        for app in apps:
            await app.some("completed", 2)
    assert file.text
    assert room.returned == 50


async def test_a_look_that_fails_is_nobodys_matter() -> None:
    room = Room()
    async with room.app(transcription={"language": "en"}) as app:
        room.transcriber.fail_after = 0
        app.append(speech(1.6))
        await until(lambda: len(room.transcriber.heard) == 1 and not room.transcriber.live)
        await until_settled()
        room.transcriber.fail_after = None
        app.append(silence(0.64))
        await app.some("completed")
    assert not app.of("failed")


@pytest.mark.parametrize("text", [" no" * 60, " Glossary: Sottovoce."])
async def test_a_look_that_cannot_be_believed_is_not_shown(text: str) -> None:
    """It loops, or is nothing but the prompt."""
    room = Room(FakeTranscriber(script=lambda clip, _: text if clip.duration_s < 4.3 else " one"))
    async with room.app(**MANUAL, transcription={"language": "en", "keywords": ["Sottovoce"]}) as app:
        for _ in range(4):
            before = len(room.transcriber.heard)
            app.append(speech(1.024))
            await until(lambda before=before: len(room.transcriber.heard) > before)  # type: ignore[misc]
            await until_settled(lambda: len(app.told))
        assert not app.of("delta")
        app.append(silence(0.32))
        app.commit()
        assert await app.texts(1) == ["one"]


BY_THEMSELVES = frozenset({"openai-agents", "LiveKit", "OpenWhispr"})
"""Clients whose turns end in silence; the others commit."""


@pytest.mark.behaviour(49)
@pytest.mark.parametrize("client", CLIENTS)
async def test_the_dialogue_of_a_client_ends_in_its_texts_and_without_an_error(client: str) -> None:
    """What they break on: an error, a missing answer to their update, a text twice or behind a later one."""
    session, _ = CLIENTS[client]
    room = Room(FakeTranscriber(script=lambda clip, _: " Hello there."))
    async with room.app() as app:
        app.say("session.update", session=session)
        for _ in range(2):
            app.append(speech(0.96) + silence(1.28), 2_400)
            if client not in BY_THEMSELVES:
                app.commit()
        completed = await app.some("completed", 2)
        await until_settled(lambda: len(app.told))
    assert app.kinds[:2] == ["session.created", "session.updated"]
    assert not app.of("error")
    committed = app.of("input_audio_buffer.committed")
    assert [event["item_id"] for event in completed] == [event["item_id"] for event in committed]
    assert [event["transcript"] for event in completed] == ["Hello there."] * 2
    assert all(event["usage"] for event in completed)
