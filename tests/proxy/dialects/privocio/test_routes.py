"""Privocio's routes over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from core.transcript.types import Segment, Task, Transcript
from proxy.dialects.privocio.errors import FAILURES, STATUSES, Code, PrivocioError
from proxy.jobs.errors import StoreError
from proxy.jobs.limits import check_length
from proxy.jobs.model import (
    Balance,
    BlobSource,
    Capabilities,
    Failure,
    FailureKind,
    Job,
    JobOptions,
    JobResult,
    JobStatus,
    Meter,
    PartPlan,
    PlanTerms,
)
from tests.proxy.dialects.conftest import CAN_ALL, Answer, Apis, serving
from tests.proxy.dialects.fakes import KEY, ME, REVOKED_KEY, SESSION
from tests.proxy.dialects.scriptivox.test_rendering import RESULT
from tests.proxy.dialects.test_published import done
from tests.waiting import until

BEARER = f"Bearer {KEY}"
SIGNED_IN = f"Bearer {SESSION}"
PATHS = ["/v1/transcriptions", "/v1/transcriptions/stream"]
READER = re.compile(r"^event: (.+)\ndata: (.+)$", re.DOTALL)
"""The document's own."""


def error_of(answer: Answer) -> tuple[int, str]:
    told = answer.json()
    assert set(told) == {"error"}
    assert set(told["error"]) == {"code", "message"}
    return answer.status, told["error"]["code"]


def form(content: bytes | None = b"sound", /, **fields: str) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for field, value in fields.items():
        data.add_field(field, value)
    if content is not None:
        data.add_field("file", content, filename="recording.wav", content_type="audio/wav")
    return data


def failing(kind: FailureKind) -> Any:
    def fail(job: Job) -> tuple[Job, JobResult | None]:
        return replace(job, status=JobStatus.FAILED, failure=Failure(kind)), None

    return fail


def events_of(body: bytes) -> list[tuple[str, Any]]:
    """As the document's own reader takes them apart."""
    blocks = body.decode().split("\n\n")
    found = [READER.match(block) for block in blocks]
    return [(match[1], json.loads(match[2])) for match in found if match]


@pytest.fixture
async def apis() -> AsyncIterator[Apis]:
    async with serving(CAN_ALL) as served:
        served.jobs.outcome = done
        yield served


async def test_a_file_is_waited_for(apis: Apis) -> None:
    answer = await apis.ask("POST", "/v1/transcriptions", key=BEARER, data=form(model="whisper-1", language="en"))
    assert (answer.status, answer.content_type) == (200, "application/json")
    told = answer.json()
    assert (told["text"], told["language"], told["duration"]) == ("Hello, yes.", "en", 11.7)
    assert told["segments"][0] == {"id": 0, "start": 0.5, "end": 3.2, "text": "Hello,"}
    new = apis.jobs.submitted[0]
    assert (new.options.model, new.options.language, new.dialect) == (None, "en", "privocio")


async def test_nothing_is_kept_when_the_answer_was_made(apis: Apis) -> None:
    await apis.ask("POST", "/v1/transcriptions", key=BEARER, data=form())
    assert set(apis.jobs.jobs) == apis.jobs.deleted


async def test_a_job_is_waited_for_until_it_is_over(apis: Apis) -> None:
    apis.jobs.outcome = None

    async def is_there() -> bool:
        return bool(apis.jobs.jobs)

    async with asyncio.TaskGroup() as group:
        asking = group.create_task(apis.ask("POST", "/v1/transcriptions", key=BEARER, data=form()))
        await until(is_there)
        assert not asking.done()
        apis.jobs.outcome = done
    assert asking.result().json()["text"] == "Hello, yes."


@pytest.mark.parametrize("path", PATHS)
async def test_the_job_of_whoever_leaves_is_cancelled_and_forgotten(apis: Apis, path: str) -> None:
    apis.jobs.outcome = None

    async def is_there() -> bool:
        return bool(apis.jobs.jobs)

    async def is_gone() -> bool:
        return set(apis.jobs.jobs) == apis.jobs.deleted

    async with asyncio.TaskGroup() as group:
        asking = group.create_task(apis.ask("POST", path, key=BEARER, data=form()))
        await until(is_there)
        asking.cancel()
    await until(is_gone)
    assert all(job.is_cancelled for job in apis.jobs.jobs.values())


@pytest.mark.parametrize(
    ("path", "fields"), [(PATHS[1], {}), (PATHS[0], {"stream": "true"}), (PATHS[0], {"stream": "1"})]
)
async def test_segments_come_as_events(apis: Apis, path: str, fields: dict[str, str]) -> None:
    answer = await apis.ask("POST", path, key=BEARER, data=form(**fields))
    assert (answer.status, answer.content_type) == (200, "text/event-stream")
    assert b"\r" not in answer.body
    names = [name for name, _ in events_of(answer.body)]
    assert names == ["segment", "segment", "done"]
    assert events_of(answer.body)[1][1] == {"id": 1, "start": 3.5, "end": 4.0, "text": "yes."}
    assert events_of(answer.body)[2][1] == {"text": "Hello, yes.", "language": "en", "duration": 11.7}


async def test_segments_come_while_the_rest_is_being_heard(apis: Apis) -> None:
    apis.jobs.outcome = None
    first = replace(RESULT.transcript, duration_s=3.4, segments=(Segment(0.5, 3.2004, " Hello,"),))
    headers = {"Authorization": BEARER}
    async with apis.client.post(f"{apis.url}{PATHS[1]}", data=form(), headers=headers) as answer:
        apis.jobs.parts.append((PartPlan(0, 0, 3_400), first))
        seen = b""
        while not events_of(seen):
            seen += await answer.content.readuntil(b"\n\n")
        assert [name for name, _ in events_of(seen)] == ["segment"]
        assert not next(iter(apis.jobs.jobs.values())).status.is_final
        apis.jobs.outcome = done
        seen += await answer.read()
    told = events_of(seen)
    assert [(name, value.get("id")) for name, value in told] == [("segment", 0), ("segment", 1), ("done", None)]
    assert [value["text"] for _, value in told] == ["Hello,", "yes.", "Hello, yes."]
    assert apis.jobs.submitted[0].options.longest_part_s == 60


@pytest.mark.parametrize("field", [{"channels": "true"}, {"redact": "url"}])
async def test_no_part_tells_alone_what_all_decide_on_together(field: dict[str, str]) -> None:
    async with serving(replace(CAN_ALL, cut=True, redact=True)) as apis:
        alone = Transcript(Task.TRANSCRIBE, "en", 3.4, "alone", (Segment(0.5, 3.2, "alone"),))
        apis.jobs.parts, apis.jobs.outcome = [(PartPlan(0, 0, 3_400), alone)], None
        asking = apis.client.post(f"{apis.url}{PATHS[1]}", data=form(**field), headers={"Authorization": BEARER})
        async with asking as answer:
            assert await answer.content.readuntil(b"\n\n") == b": waiting\n\n"
            apis.jobs.outcome = done
            assert b"alone" not in await answer.read()


async def test_a_stream_that_fails_says_so_in_its_last_event(apis: Apis) -> None:
    apis.jobs.outcome = failing(FailureKind.ENGINE_FAILED)
    answer = await apis.ask("POST", PATHS[1], key=BEARER, data=form())
    assert [(name, told["error"]["code"]) for name, told in events_of(answer.body)] == [
        ("error", "runtime_unavailable")
    ]


async def test_modes_shape_the_answer(apis: Apis) -> None:
    agent = await apis.ask("POST", PATHS[0], key=BEARER, data=form(output_mode="agent"))
    assert (agent.json()["v"], agent.json()["segs"][1]) == (1, [3.5, 4.0, "yes.", 0])
    clean = await apis.ask("POST", PATHS[0], key=BEARER, data=form(output_mode="clean"))
    assert clean.json()["text"] == "Hello, yes."


@pytest.mark.parametrize(
    "data",
    [
        form(None),
        form(b""),
        form(language="xx"),
        form(output_mode="poem"),
        form(stream="maybe"),
        form(prompt="x" * 4097),
    ],
)
@pytest.mark.parametrize("path", PATHS)
async def test_a_form_that_cannot_be_is_refused(apis: Apis, path: str, data: aiohttp.FormData) -> None:
    assert error_of(await apis.ask("POST", path, key=BEARER, data=data)) == (400, "bad_request")
    assert not apis.jobs.submitted


async def test_a_body_that_is_no_form_is_refused(apis: Apis) -> None:
    assert error_of(await apis.ask("POST", PATHS[0], key=BEARER, json={})) == (400, "bad_request")


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (FailureKind.MEDIA_UNREADABLE, 415, "unsupported_media_type"),
        (FailureKind.MEDIA_TOO_LONG, 413, "payload_too_large"),
        (FailureKind.ENGINE_FAILED, 502, "runtime_unavailable"),
        (FailureKind.ENGINE_REFUSED, 400, "bad_request"),
        (FailureKind.FUNDS, 429, "quota_exceeded"),
        (FailureKind.INTERNAL, 500, "internal_error"),
    ],
)
async def test_a_failure_has_its_status_and_code(apis: Apis, kind: FailureKind, status: int, code: str) -> None:
    apis.jobs.outcome = failing(kind)
    assert error_of(await apis.ask("POST", PATHS[0], key=BEARER, data=form())) == (status, code)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("bad_request", 400),
        ("unauthorized", 401),
        ("forbidden", 403),
        ("not_found", 404),
        ("payload_too_large", 413),
        ("runtime_unavailable", 502),
    ],
)
def test_an_error_has_the_status_of_the_document(code: str, status: int) -> None:
    assert PrivocioError(Code(code)).status == status
    assert (set(STATUSES), set(FAILURES)) == (set(Code), set(FailureKind))


async def test_without_an_attested_engine_nothing_is_taken() -> None:
    async with serving(CAN_ALL, is_ready=lambda: False) as apis:
        answer = await apis.ask("POST", PATHS[0], key=BEARER, data=form())
        assert error_of(answer) == (502, "runtime_unavailable")
        assert not apis.uploads.uploads


async def test_a_store_that_cannot_be_reached_is_our_fault(apis: Apis) -> None:
    apis.jobs.failure = StoreError()
    assert error_of(await apis.ask("POST", PATHS[0], key=BEARER, data=form())) == (500, "internal_error")


# ---------------------------------------------------------------- plans


class FakeLengths:
    async def audio_ms(self, source: BlobSource, options: JobOptions, *, max_audio_ms: int | None = None) -> int | None:
        assert isinstance(source, BlobSource)
        assert options.segments
        check_length(200_000, max_audio_ms)
        return 200_000


async def test_a_plan_limits_the_file(apis: Apis) -> None:
    apis.accounts.plans[ME] = PlanTerms("free", max_upload_bytes=4)
    refused = await apis.ask("POST", PATHS[0], key=BEARER, data=form())
    assert error_of(refused) == (413, "payload_too_large")
    assert "4 bytes" in refused.json()["error"]["message"]


async def test_a_plan_limits_the_length_of_a_recording() -> None:
    async with serving(CAN_ALL, lengths=FakeLengths()) as apis:
        apis.jobs.outcome = done
        apis.accounts.plans[ME] = PlanTerms("free", max_audio_ms=180_000)
        answer = await apis.ask("POST", PATHS[0], key=BEARER, data=form())
        assert error_of(answer) == (413, "payload_too_large")
        assert "180 s" in answer.json()["error"]["message"]
        assert not apis.jobs.submitted
        apis.accounts.plans[ME] = PlanTerms("go", max_audio_ms=900_000)
        assert (await apis.ask("POST", PATHS[0], key=BEARER, data=form())).status == 200


async def test_a_plan_limits_requests_per_minute(apis: Apis) -> None:
    apis.accounts.plans[ME] = PlanTerms("free", requests_per_minute=3)
    for _ in range(3):
        assert (await apis.ask("POST", PATHS[0], key=BEARER, data=form())).status == 200
    refused = await apis.ask("POST", PATHS[1], key=BEARER, data=form())
    assert error_of(refused) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) >= 1


async def test_a_plan_limits_requests_at_a_time(apis: Apis) -> None:
    apis.accounts.plans[ME] = PlanTerms("free", concurrency=1)
    apis.jobs.outcome = None

    async def is_there() -> bool:
        return bool(apis.jobs.jobs)

    async with asyncio.TaskGroup() as group:
        first = group.create_task(apis.ask("POST", PATHS[0], key=BEARER, data=form()))
        await until(is_there)
        assert error_of(await apis.ask("POST", PATHS[0], key=BEARER, data=form())) == (429, "concurrency_limit")
        apis.jobs.outcome = done
    assert first.result().status == 200
    assert (await apis.ask("POST", PATHS[0], key=BEARER, data=form())).status == 200


# ---------------------------------------------------------------- accounts, health, methods


async def test_an_account_is_told_with_its_limits_and_never_a_secret(apis: Apis) -> None:
    apis.accounts.plans[ME] = PlanTerms("go", quota_ms=1_440_000_000, requests_per_minute=30, concurrency=2)
    told = (await apis.ask("GET", "/v1/me", key=BEARER)).json()
    assert (told["id"], told["plan"], told["api_key"]) == ("me", "go", {"id": "key of me", "prefix": "sk_live_"})
    assert told["limits"]["audio_hours_per_4_weeks"] == 400
    assert KEY not in json.dumps(told)


async def test_the_hours_of_a_period_are_told(apis: Apis) -> None:
    apis.accounts.plans[ME] = PlanTerms("go", Meter.HOURS_28D, quota_ms=400 * 3_600_000)
    apis.accounts.balances[ME] = Balance(Meter.HOURS_28D, Decimal("399.5"), Decimal("0.25"))
    assert (await apis.ask("GET", "/v1/usage", key=BEARER)).json() == {
        "period_start": "2025-01-15T10:30:00Z",
        "period_end": "2025-02-12T10:30:00Z",
        "audio_seconds_used": 1800.0,
        "audio_seconds_remaining": 399.25 * 3600,
    }
    apis.clock.at_ms += 28 * 24 * 3_600_000
    assert (await apis.ask("GET", "/v1/usage", key=BEARER)).json()["period_start"] == "2025-02-12T10:30:00Z"


async def test_what_is_not_counted_is_null(apis: Apis) -> None:
    told = (await apis.ask("GET", "/v1/usage", key=BEARER)).json()
    assert set(told.values()) == {None}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/api-keys"), ("POST", "/v1/api-keys"), ("DELETE", "/v1/api-keys/x")]
)
async def test_keys_are_not_managed_with_a_key(apis: Apis, method: str, path: str) -> None:
    assert error_of(await apis.ask(method, path, key=BEARER)) == (403, "forbidden")
    assert not apis.accounts.made


async def test_a_session_makes_lists_and_revokes_keys(apis: Apis) -> None:
    made = await apis.ask("POST", "/v1/api-keys", key=SIGNED_IN, json={"name": "laptop", "unknown": 1})
    assert made.status == 201
    told = made.json()
    assert set(told) == {"id", "name", "prefix", "secret", "created_at", "expires_at", "revoked_at"}
    assert (told["name"], told["secret"].startswith(told["prefix"])) == ("laptop", True)
    listed = (await apis.ask("GET", "/v1/api-keys", key=SIGNED_IN)).json()["data"]
    assert [key["name"] for key in listed] == ["mine", "laptop"]
    assert told["secret"] not in json.dumps(listed)
    assert (await apis.ask("DELETE", f"/v1/api-keys/{told['id']}", key=SIGNED_IN)).status == 204
    listed = (await apis.ask("GET", "/v1/api-keys", key=SIGNED_IN)).json()["data"]
    assert [key["revoked_at"] is None for key in listed] == [True, False]
    assert (await apis.ask("POST", "/v1/api-keys", key=SIGNED_IN)).json()["name"] == "key"


async def test_a_session_is_of_one_account_and_revokes_no_session(apis: Apis) -> None:
    mine = (await apis.ask("POST", "/v1/api-keys", key=SIGNED_IN)).json()["id"]
    for key, path in (
        ("Bearer sess_other", mine),
        (SIGNED_IN, "session of me"),
        (SIGNED_IN, "key of other"),
        (SIGNED_IN, "nobody's"),
    ):
        refused = await apis.ask("DELETE", f"/v1/api-keys/{path}", key=key)
        assert error_of(refused) == (404, "not_found")


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"name": 1}', b'{"name": ""}', b'{"name": "a\\u0000"}', b"x" * 5000])
async def test_a_key_whose_name_is_none_is_not_made(apis: Apis, body: bytes) -> None:
    assert error_of(await apis.ask("POST", "/v1/api-keys", key=SIGNED_IN, data=body)) == (400, "bad_request")
    assert not apis.accounts.made


async def test_a_plan_without_keys_lets_a_session_transcribe_and_make_none(apis: Apis) -> None:
    apis.accounts.plans[ME] = PlanTerms("free", max_active_keys=0)
    assert error_of(await apis.ask("POST", "/v1/api-keys", key=SIGNED_IN)) == (403, "forbidden")
    assert (await apis.ask("POST", PATHS[0], key=SIGNED_IN, data=form())).json()["text"] == "Hello, yes."
    me = (await apis.ask("GET", "/v1/me", key=SIGNED_IN)).json()
    assert (me["id"], me["api_key"]) == ("me", None)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/balance"), ("GET", "/v1/transcriptions"), ("GET", "/api/v1/languages/")]
)
async def test_a_session_is_none_of_the_other_apis_keys(apis: Apis, method: str, path: str) -> None:
    assert (await apis.ask(method, path, key=SIGNED_IN)).status == 401


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("PUT", "/v1/api-keys", "GET, POST"), ("GET", "/v1/api-keys/x", "DELETE")]
)
async def test_another_method_of_keys_is_not_taken(apis: Apis, method: str, path: str, allow: str) -> None:
    refused = await apis.ask(method, path, key=SIGNED_IN)
    assert error_of(refused) == (405, "method_not_allowed")
    assert refused.headers["Allow"] == allow


@pytest.mark.parametrize(
    ("method", "path"), [("POST", PATHS[0]), ("POST", PATHS[1]), ("GET", "/v1/me"), ("GET", "/v1/api-keys")]
)
async def test_every_route_needs_a_key_that_is_good(apis: Apis, method: str, path: str) -> None:
    for key in (None, "Bearer", "Bearer wrong", f"Bearer {REVOKED_KEY}"):
        answer = await apis.ask(method, path, key=key)
        assert error_of(answer) == (401, "unauthorized")
        assert answer.json()["error"]["message"] == "Missing or invalid Authorization header"


async def test_health_needs_no_key(apis: Apis) -> None:
    answer = await apis.ask("GET", "/healthz", key=None)
    assert (answer.status, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(("path", "allow"), [(PATHS[1], "POST"), ("/v1/me", "GET"), ("/healthz", "GET")])
async def test_another_method_is_refused(apis: Apis, path: str, allow: str) -> None:
    answer = await apis.ask("PUT", path, key=BEARER)
    assert error_of(answer) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == allow


async def test_an_engine_that_can_little_is_enough() -> None:
    async with serving(Capabilities(words=False)) as apis:
        apis.jobs.outcome = done
        assert (await apis.ask("POST", PATHS[0], key=BEARER, data=form())).status == 200
