from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.channel.records import MAX_EVENT_BYTES
from proxy.errors import ErrorCode, ProxyError
from proxy.local.live_events import MAX_AUDIO_BYTES, Audio, Passed, Refused, end_of, error_event, said


def append(audio: str, **members: Any) -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": audio, **members})


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@given(st.binary(max_size=1_000))
def test_the_audio_of_an_append_goes_by_itself(data: bytes) -> None:
    assert said(append(encoded(data))) == Audio(data)
    assert said(append(encoded(data), event_id="e1")) == Audio(data)


@given(st.text(max_size=200))
def test_whatever_is_no_append_passes_as_it_is(text: str) -> None:
    assert said(text) == Passed(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[]",
        '{"type":["input_audio_buffer.append"]}',
        '{"type":"input_audio_buffer.append"}',
        '{"type":"input_audio_buffer.append","audio":7}',
        append("AAA"),
        append("AAAA="),
        append("AAAA===="),
        append("===="),
        append("AA==AAAA"),
        append("AA-_"),
        append("AAAA\n"),
        append("ÄÄÄÄ"),
        append("AAAA", further=1),
        "[" * 100_000,
    ],
)
def test_what_is_not_exactly_an_append_is_the_engines_to_judge(text: str) -> None:
    assert said(text) == Passed(text.encode())


def _refused(text: str) -> dict[str, Any]:
    refused = said(text)
    assert isinstance(refused, Refused)
    event: dict[str, Any] = json.loads(refused.answer)
    assert event["type"] == "error"
    assert event["event_id"].startswith("event_")
    error: dict[str, Any] = event["error"]
    return error


def test_what_cannot_pass_is_refused_here() -> None:
    long = _refused(json.dumps({"type": "x", "event_id": "e1", "canary": "c" * MAX_EVENT_BYTES}))
    assert (long["code"], long["param"], long["event_id"]) == ("invalid_value", None, "e1")
    assert "ccc" not in str(long)
    assert _refused("x" * (MAX_EVENT_BYTES + 1))["event_id"] is None
    assert _refused(json.dumps({"event_id": "e" * 513, "x": "x" * MAX_EVENT_BYTES}))["event_id"] is None
    assert _refused(append("*" * MAX_EVENT_BYTES))["param"] == "audio"


def test_an_append_holds_fifteen_mebibytes_and_not_a_byte_more() -> None:
    assert said(append(encoded(bytes(MAX_AUDIO_BYTES)))) == Audio(bytes(MAX_AUDIO_BYTES))
    assert _refused(append(encoded(bytes(MAX_AUDIO_BYTES + 1))))["param"] == "audio"


@pytest.mark.parametrize(
    ("code", "closed"),
    [
        (ErrorCode.INVALID_API_KEY, 3000),
        (ErrorCode.LIVE_NOT_SERVED, 4000),
        (ErrorCode.INVALID_REQUEST, 4000),
        (ErrorCode.NO_ATTESTED_ENGINE, 1013),
        (ErrorCode.ENGINE_UNAVAILABLE, 1013),
        (ErrorCode.ATTESTATION_REFUSED, 1011),
        (ErrorCode.STREAM_TRUNCATED, 1011),
        (ErrorCode.UPSTREAM_PROTOCOL_ERROR, 1011),
    ],
)
def test_an_error_has_a_close_code_that_tells_whether_to_try_again(code: ErrorCode, closed: int) -> None:
    end = end_of(ProxyError(code))
    assert (end.code, end.reason.partition(".")[2]) == (closed, code.value)


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_has_an_event_and_an_end(code: ErrorCode) -> None:
    error = json.loads(error_event(ProxyError(code, numbers={"limit_bytes": 1})))["error"]
    assert set(error) == {"message", "type", "param", "code", "event_id"}
    assert end_of(ProxyError(code)).reason == f"{error['type']}.{code.value}"
