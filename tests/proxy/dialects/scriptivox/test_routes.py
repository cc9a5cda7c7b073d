"""Scriptivox's routes over real sockets: keys, limits, uploads, jobs, lists, idempotency."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from proxy.dialects.scriptivox.paths import CANCEL, DELETE_JOB, GET_JOB, LIST, PER_ADDRESS, ROUTES, Route
from proxy.jobs.errors import FundsError, StoreError
from proxy.jobs.model import (
    Capabilities,
    Failure,
    FailureKind,
    Job,
    JobId,
    JobStatus,
    LinkSource,
    Meter,
    PlanTerms,
    UploadState,
)
from tests.proxy.dialects.conftest import Answer, Apis, serving
from tests.proxy.dialects.fakes import KEY, ME, OTHER_KEY, REVOKED_KEY
from tests.proxy.dialects.scriptivox.test_rendering import DONE, NEW, RESULT

URL = "https://example.com/podcast.mp3"
KEYED = [route for route in ROUTES if not route.path.startswith("/uploads")]


def error_of(answer: Answer) -> tuple[int, str]:
    assert answer.content_type == "application/json"
    told = answer.json()
    assert set(told) == {"error"}
    assert set(told["error"]) == {"code", "message"}
    return answer.status, told["error"]["code"]


async def uploaded(apis: Apis, content: bytes = b"sound") -> str:
    """An upload that was filled."""
    upload = (await apis.ask("POST", "/v1/upload", json={"filename": "meeting.mp3"})).json()
    answer = await apis.ask("PUT", upload["upload_url"], key=None, headers=upload["headers"], data=content)
    assert (answer.status, answer.body) == (200, b"")
    return str(upload["upload_id"])


async def submitted(apis: Apis) -> Job:
    answer = await apis.ask("POST", "/v1/transcribe", json={"url": URL})
    return apis.jobs.jobs[JobId((answer.json())["id"])]


async def completed(apis: Apis) -> Job:
    job = await submitted(apis)
    return apis.jobs.set(replace(DONE, id=job.id, key=job.key), RESULT)


def path_of(route: Route) -> str:
    return route.path.replace("{id}", "b2c3d4e5-f6a7-8901-bcde-f12345678901")


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"X-Api-Key": KEY},
        {"x-api-key": KEY},
        {"Authorization": KEY, "X-Api-Key": OTHER_KEY},
    ],
)
async def test_a_key_is_read_from_either_header_and_authorization_wins(apis: Apis, headers: dict[str, str]) -> None:
    apis.jobs.set(NEW)
    answer = await apis.ask("GET", "/v1/transcriptions", key=None, headers=headers)
    assert [item["id"] for item in (answer.json())["items"]] == [NEW.id]


@pytest.mark.parametrize("route", KEYED)
async def test_every_route_needs_a_key_that_is_good(apis: Apis, route: Route) -> None:
    for key in (None, "", "sk_live_unknown", "Basic x"):
        assert error_of(await apis.ask(route.method, path_of(route), key=key)) == (401, "INVALID_API_KEY")
    assert error_of(await apis.ask(route.method, path_of(route), key=REVOKED_KEY)) == (401, "API_KEY_REVOKED")


# ---------------------------------------------------------------- uploads


async def test_an_upload_goes_to_this_proxy_and_nowhere_else(apis: Apis) -> None:
    answer = await apis.ask("POST", "/v1/upload", json={"filename": "meeting.mp3"})
    told = answer.json()
    assert answer.status == 200
    assert told["upload_url"].startswith(f"{apis.url}/uploads/{told['upload_id']}?exp=")
    assert {**told, "upload_url": "", "upload_id": ""} == {
        "upload_id": "",
        "upload_url": "",
        "expires_in": 3600,
        "method": "PUT",
        "headers": {"Content-Type": "audio/mpeg"},
    }


async def test_a_file_is_put_without_a_key_and_becomes_a_job(apis: Apis) -> None:
    upload = await uploaded(apis, b"sound")
    answer = await apis.ask("POST", "/v1/transcribe", json={"upload_id": upload, "language": "en"})
    told = answer.json()
    assert (answer.status, told["status"]) == (200, "created")
    assert "validated" in told["message"]
    source = apis.jobs.submitted[0].source
    assert source.name == "meeting.mp3"  # type: ignore[union-attr]
    assert apis.uploads.content[source.blob] == b"sound"  # type: ignore[union-attr]
    assert apis.jobs.submitted[0].size_bytes == 5
    assert apis.jobs.submitted[0].dialect == "scriptivox"
    assert apis.jobs.submitted[0].key == "key of me"


async def test_a_file_may_come_in_chunks_without_a_length(apis: Apis) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    upload = (await apis.ask("POST", "/v1/upload", json={"filename": "a.wav"})).json()
    answer = await apis.ask("PUT", upload["upload_url"], key=None, data=pieces())
    assert answer.status == 200
    assert [len(content) for content in apis.uploads.content.values()] == [1_000_000]


async def test_a_file_may_be_waited_for(apis: Apis) -> None:
    upload = (await apis.ask("POST", "/v1/upload", json={"filename": "a.wav"})).json()
    answer = await apis.ask("PUT", upload["upload_url"], key=None, data=b"x", expect100=True)
    assert answer.status == 200


async def test_a_second_file_replaces_the_first_until_it_is_used(apis: Apis) -> None:
    upload = (await apis.ask("POST", "/v1/upload", json={"filename": "a.mp3"})).json()
    for content in (b"first", b"second"):
        assert (await apis.ask("PUT", upload["upload_url"], key=None, data=content)).status == 200
    await apis.ask("POST", "/v1/transcribe", json={"upload_id": upload["upload_id"]})
    assert apis.uploads.content[apis.jobs.submitted[0].source.blob] == b"second"  # type: ignore[union-attr]
    again = await apis.ask("PUT", upload["upload_url"], key=None, data=b"third")
    assert error_of(again) == (400, "UPLOAD_ALREADY_USED")


@pytest.mark.parametrize("part", ["id", "exp", "sig"])
async def test_a_url_that_was_changed_is_refused(apis: Apis, part: str) -> None:
    upload = (await apis.ask("POST", "/v1/upload", json={"filename": "a.mp3"})).json()
    url, upload_id = upload["upload_url"], upload["upload_id"]
    changed = {
        "id": url.replace(upload_id, upload_id[:-1] + ("0" if upload_id[-1] != "0" else "1")),
        "exp": url.replace("exp=", "exp=9"),
        "sig": url[:-2],
    }[part]
    assert error_of(await apis.ask("PUT", changed, key=None, data=b"x")) == (403, "FORBIDDEN")
    assert not apis.uploads.content


async def test_a_url_ends_after_an_hour(apis: Apis) -> None:
    upload = (await apis.ask("POST", "/v1/upload", json={"filename": "a.mp3"})).json()
    apis.clock.at_ms += 3_600_000
    put = await apis.ask("PUT", upload["upload_url"], key=None, data=b"x")
    assert error_of(put) == (400, "UPLOAD_EXPIRED")
    used = await apis.ask("POST", "/v1/transcribe", json={"upload_id": upload["upload_id"]})
    assert error_of(used) == (400, "UPLOAD_EXPIRED")


async def test_a_file_that_came_in_time_may_be_used_later(apis: Apis) -> None:
    upload = await uploaded(apis)
    apis.clock.at_ms += 7_200_000
    assert (await apis.ask("POST", "/v1/transcribe", json={"upload_id": upload})).status == 200


async def test_an_upload_that_is_unknown_empty_used_or_anothers_is_refused(apis: Apis) -> None:
    async def used(upload: str, key: str = KEY) -> tuple[int, str]:
        return error_of(await apis.ask("POST", "/v1/transcribe", key=key, json={"upload_id": upload}))

    assert await used("nothing") == (404, "UPLOAD_NOT_FOUND")
    empty = (await apis.ask("POST", "/v1/upload", json={"filename": "a.mp3"})).json()
    assert await used(empty["upload_id"]) == (400, "FILE_NOT_UPLOADED")
    upload = await uploaded(apis)
    assert await used(upload, OTHER_KEY) == (404, "UPLOAD_NOT_FOUND")
    await apis.ask("POST", "/v1/transcribe", json={"upload_id": upload})
    assert await used(upload) == (400, "UPLOAD_ALREADY_USED")


@pytest.mark.parametrize("has_length", [True, False])
async def test_a_file_that_is_too_large_is_refused(has_length: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x" * 11

    async with serving(Capabilities(), max_file_bytes=10) as apis:
        upload = (await apis.ask("POST", "/v1/upload", json={"filename": "a.mp3"})).json()
        data = b"x" * 11 if has_length else pieces()
        put = await apis.ask("PUT", upload["upload_url"], key=None, data=data)
        assert error_of(put) == (400, "FILE_TOO_LARGE")


async def test_a_plan_limits_the_file_before_a_byte_of_it_is_read(apis: Apis) -> None:
    apis.accounts.plans[ME] = PlanTerms("free", max_upload_bytes=10)
    upload = (await apis.ask("POST", "/v1/upload", json={"filename": "a.mp3"})).json()
    put = await apis.ask("PUT", upload["upload_url"], key=None, data=b"x" * 11)
    assert error_of(put) == (400, "FILE_TOO_LARGE")
    assert "10 bytes" in put.json()["error"]["message"]
    assert not apis.uploads.content


async def test_a_compressed_file_is_refused(apis: Apis) -> None:
    upload = (await apis.ask("POST", "/v1/upload", json={"filename": "a.mp3"})).json()
    put = await apis.ask("PUT", upload["upload_url"], key=None, data=b"x", headers={"Content-Encoding": "gzip"})
    assert error_of(put) == (400, "INVALID_REQUEST")


async def test_a_file_name_is_checked_before_anything_is_made(apis: Apis) -> None:
    assert error_of(await apis.ask("POST", "/v1/upload", json={"filename": "a/b.mp3"})) == (
        400,
        "INVALID_FILENAME",
    )
    assert not apis.uploads.uploads


# ---------------------------------------------------------------- jobs


async def test_a_link_becomes_a_job(apis: Apis) -> None:
    fields = {"url": URL, "diarize": True, "speaker_count": 2, "language": "en", "webhook_url": "https://a.example/"}
    answer = await apis.ask("POST", "/v1/transcribe", json=fields)
    told = answer.json()
    assert (answer.status, told["status"]) == (200, "created")
    assert "downloaded" in told["message"]
    new = apis.jobs.submitted[0]
    assert new.source == LinkSource(URL)
    assert (new.options.diarize, new.options.words, new.options.speaker_count) == (True, True, 2)
    assert new.options.webhook_url == "https://a.example/"


async def test_parameters_of_the_content_type_are_allowed(apis: Apis) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    answer = await apis.ask("POST", "/v1/transcribe", data=b'{"url": "%s"}' % URL.encode(), headers=headers)
    assert answer.status == 200


@pytest.mark.parametrize("path", ["/v1/upload", "/v1/transcribe", "/v1/transcribe/x/cancel"])
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_a_body_of_another_type_is_refused_unread(apis: Apis, path: str, content_type: str) -> None:
    answer = await apis.ask("POST", path, data=b"{}", headers={"Content-Type": content_type})
    assert error_of(answer) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert answer.headers["Accept-Post"] == "application/json"


async def test_a_body_that_is_too_large_is_refused(apis: Apis) -> None:
    answer = await apis.ask("POST", "/v1/transcribe", json={"url": "x" * 70_000})
    assert error_of(answer) == (400, "INVALID_REQUEST")


async def test_no_body_at_all_is_refused(apis: Apis) -> None:
    assert error_of(await apis.ask("POST", "/v1/upload")) == (400, "INVALID_REQUEST")


async def test_what_the_engine_cannot_do_is_refused_and_not_left_out() -> None:
    async with serving(Capabilities()) as apis:
        answer = await apis.ask("POST", "/v1/transcribe", json={"url": URL, "diarize": True})
        assert error_of(answer) == (400, "INVALID_REQUEST")
        assert not apis.jobs.submitted


async def test_links_are_refused_where_none_are_fetched() -> None:
    async with serving(Capabilities(), takes_links=False) as apis:
        answer = await apis.ask("POST", "/v1/transcribe", json={"url": URL})
        assert error_of(answer) == (400, "INVALID_REQUEST")
        answer = await apis.ask("POST", "/api/v1/transcribe/url/", json={"url": URL})
        assert (answer.status, answer.json()["error"]) == (400, "bad_request")


@pytest.mark.parametrize("has_resolver", [False, True])
async def test_a_link_that_is_known_not_to_be_fetched_is_refused_at_once(has_resolver: bool) -> None:
    async with serving(Capabilities(), has_resolver=has_resolver) as apis:
        link = {"url": "https://www.youtube.com/watch?v=dQw4w9WgXcQ"}
        one = await apis.ask("POST", "/v1/transcribe", json=link)
        other = await apis.ask("POST", "/api/v1/transcribe/url/", json=link)
        assert (one.status, other.status) == ((200, 200) if has_resolver else (400, 400))
        folder = await apis.ask("POST", "/v1/transcribe", json={"url": "https://drive.google.com/drive/folders/x"})
        assert error_of(folder) == (400, "INVALID_REQUEST")


async def test_a_webhook_that_is_never_called_is_refused_at_once() -> None:
    async with serving(Capabilities(), plain_webhooks=False) as apis:
        fields = {"url": URL, "webhook_url": "http://hooks.example/"}
        for path in ("/v1/transcribe", "/api/v1/transcribe/url/"):
            assert (await apis.ask("POST", path, json=fields)).status == 400
        assert not apis.jobs.submitted


async def test_a_job_is_told_while_it_runs_and_when_it_is_done(apis: Apis) -> None:
    job = await submitted(apis)
    told = (await apis.ask("GET", f"/v1/transcribe/{job.id}")).json()
    assert (told["status"], told["result"]) == ("created", None)
    apis.jobs.set(replace(DONE, id=job.id), RESULT)
    told = (await apis.ask("GET", f"/v1/transcribe/{job.id}")).json()
    assert told["result"]["full_transcript"] == "Hello, yes."


async def test_captions_and_text_come_in_their_media_types(apis: Apis) -> None:
    job = await completed(apis)
    for name, media_type in [("srt", "text/plain"), ("vtt", "text/vtt"), ("text", "text/plain")]:
        answer = await apis.ask("GET", f"/v1/transcribe/{job.id}?format={name}")
        assert answer.headers["Content-Type"] == f"{media_type}; charset=utf-8"
        assert b"Hello," in answer.body
    assert (await apis.ask("GET", f"/v1/transcribe/{job.id}?format=json")).content_type == "application/json"


@pytest.mark.parametrize("name", ["srt", "vtt", "text"])
async def test_captions_need_a_completed_job(apis: Apis, name: str) -> None:
    job = await submitted(apis)
    assert error_of(await apis.ask("GET", f"/v1/transcribe/{job.id}?format={name}")) == (400, "INVALID_REQUEST")


async def test_a_parameter_that_comes_twice_is_refused(apis: Apis) -> None:
    job = await completed(apis)
    answer = await apis.ask("GET", f"/v1/transcribe/{job.id}?format=srt&format=vtt")
    assert error_of(answer) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(("method", "end"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel")])
async def test_a_job_that_is_unknown_or_anothers_is_not_found(apis: Apis, method: str, end: str) -> None:
    job = await completed(apis)
    for path, key in [("nothing", KEY), ("550e8400-e29b-41d4-a716-446655440000", KEY), (job.id, OTHER_KEY)]:
        answer = await apis.ask(method, f"/v1/transcribe/{path}{end}", key=key)
        assert error_of(answer) == (404, "TRANSCRIPTION_NOT_FOUND")


async def test_a_job_is_cancelled_as_often_as_asked(apis: Apis) -> None:
    job = await submitted(apis)
    answers = [await apis.ask("POST", f"/v1/transcribe/{job.id}/cancel") for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].body == answers[1].body
    assert answers[0].json() == {
        "id": job.id,
        "status": "failed",
        "error": {"code": "CANCELLED", "message": "Cancelled by customer"},
        "released_cents": 0.5,
    }


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED])
async def test_a_job_that_is_over_is_not_cancelled(apis: Apis, status: JobStatus) -> None:
    job = await submitted(apis)
    failure = Failure(FailureKind.ENGINE_FAILED) if status is JobStatus.FAILED else None
    apis.jobs.set(replace(job, status=status, failure=failure))
    assert error_of(await apis.ask("POST", f"/v1/transcribe/{job.id}/cancel")) == (409, "CONFLICT")


async def test_a_job_is_deleted_as_often_as_asked_and_then_gone(apis: Apis) -> None:
    job = await completed(apis)
    for _ in range(2):
        answer = await apis.ask("DELETE", f"/v1/transcribe/{job.id}")
        assert (answer.status, answer.body) == (204, b"")
    assert error_of(await apis.ask("GET", f"/v1/transcribe/{job.id}")) == (404, "TRANSCRIPTION_NOT_FOUND")
    assert ((await apis.ask("GET", "/v1/transcriptions")).json())["items"] == []


async def test_a_job_in_flight_is_to_be_cancelled_first(apis: Apis) -> None:
    job = await submitted(apis)
    answer = await apis.ask("DELETE", f"/v1/transcribe/{job.id}")
    assert error_of(answer) == (409, "CONFLICT")
    assert "Cancel it first" in (answer.json())["error"]["message"]


# ---------------------------------------------------------------- lists


async def test_pages_follow_one_another(apis: Apis) -> None:
    for number in range(3):
        apis.jobs.set(replace(NEW, id=JobId(f"job {number}"), created_ms=NEW.created_ms + number))
    first = (await apis.ask("GET", "/v1/transcriptions?limit=2")).json()
    assert [item["id"] for item in first["items"]] == ["job 2", "job 1"]
    params = {"cursor": first["next_cursor"], "limit": "2"}
    second = (await apis.ask("GET", "/v1/transcriptions", params=params)).json()
    assert ([item["id"] for item in second["items"]], second["next_cursor"]) == (["job 0"], None)


async def test_the_oldest_come_first_where_asked(apis: Apis) -> None:
    for number in range(2):
        apis.jobs.set(replace(NEW, id=JobId(f"job {number}"), created_ms=NEW.created_ms + number))
    told = (await apis.ask("GET", "/v1/transcriptions?order=asc")).json()
    assert [item["id"] for item in told["items"]] == ["job 0", "job 1"]


async def test_the_first_moment_is_included_and_the_last_is_not(apis: Apis) -> None:
    apis.jobs.set(NEW)

    async def count(query: str) -> int:
        return len(((await apis.ask("GET", f"/v1/transcriptions?{query}")).json())["items"])

    assert await count("from=2025-01-15T10:30:00Z") == 1
    assert await count("from=2025-01-15T10:30:01Z") == 0
    assert await count("to=2025-01-15T10:30:00Z") == 0
    assert await count("to=2025-01-15T10:30:01Z") == 1
    assert await count("status=failed") == 0


@pytest.mark.parametrize(
    "query", ["cursor=forged", "limit=0", "limit=201", "status=done", "order=up", "from=x", "to=x"]
)
async def test_a_list_that_cannot_be_is_refused(apis: Apis, query: str) -> None:
    assert error_of(await apis.ask("GET", f"/v1/transcriptions?{query}")) == (400, "INVALID_REQUEST")


# ---------------------------------------------------------------- money


async def test_a_balance_is_told(apis: Apis) -> None:
    apis.accounts.pay(ME, "1500", "100")
    told = (await apis.ask("GET", "/v1/balance")).json()
    assert (told["available_cents"], told["estimated_hours_available"]) == (1400, 70.0)
    assert told["deposit_url"] == "https://pay.example"


async def test_an_address_that_is_not_this_machines_may_ask_300_times_a_minute(
    apis: Apis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.dialects.scriptivox.routes.is_this_machine", lambda _: False)
    for _ in range(PER_ADDRESS):
        assert (await apis.ask("GET", "/v1/balance", key=None)).status == 401
    refused = await apis.ask("GET", "/v1/balance")
    assert (refused.status, refused.headers["X-RateLimit-Limit"]) == (429, "300")
    assert int(refused.headers["Retry-After"]) >= 1
    monkeypatch.undo()
    assert (await apis.ask("GET", "/v1/balance")).status == 200


@pytest.mark.parametrize(("total", "held", "code"), [("0", "0", "ZERO_BALANCE"), ("10", "10", "INSUFFICIENT_BALANCE")])
async def test_nothing_begins_without_funds(apis: Apis, total: str, held: str, code: str) -> None:
    upload = await uploaded(apis)
    apis.accounts.pay(ME, total, held)
    for path, fields in [("upload", {"filename": "a.mp3"}), ("transcribe", {"upload_id": upload})]:
        assert error_of(await apis.ask("POST", f"/v1/{path}", json=fields)) == (402, code)
    assert not apis.jobs.submitted
    assert [each.state for each in apis.uploads.uploads.values()] == [UploadState.RECEIVED]


async def test_an_account_that_pays_nothing_needs_no_funds(apis: Apis) -> None:
    apis.accounts.pay(ME, "0", meter=Meter.HOURS_28D)
    assert (await apis.ask("POST", "/v1/transcribe", json={"url": URL})).status == 200


async def test_a_job_that_cannot_be_paid_is_refused(apis: Apis) -> None:
    apis.jobs.failure = FundsError(is_empty=False)
    answer = await apis.ask("POST", "/v1/transcribe", json={"url": URL})
    assert error_of(answer) == (402, "INSUFFICIENT_BALANCE")


# ---------------------------------------------------------------- idempotency


KEYED_ONCE = {"Idempotency-Key": "7c8f5b3a-1234-4d56-90ab-cdef01234567"}


async def test_a_request_that_comes_again_is_answered_as_before(apis: Apis) -> None:
    answers = [await apis.ask("POST", "/v1/transcribe", json={"url": URL}, headers=KEYED_ONCE) for _ in range(2)]
    assert answers[0].body == answers[1].body
    assert [answer.headers.get("Idempotent-Replay") for answer in answers] == [None, "true"]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["59", "58"]
    assert len(apis.jobs.submitted) == 1


async def test_uploads_are_answered_again_too(apis: Apis) -> None:
    answers = [await apis.ask("POST", "/v1/upload", json={"filename": "a.mp3"}, headers=KEYED_ONCE) for _ in range(2)]
    assert answers[0].body == answers[1].body
    assert len(apis.uploads.uploads) == 1


async def test_a_key_with_another_body_is_refused(apis: Apis) -> None:
    await apis.ask("POST", "/v1/transcribe", json={"url": URL}, headers=KEYED_ONCE)
    answer = await apis.ask("POST", "/v1/transcribe", json={"url": URL + "?"}, headers=KEYED_ONCE)
    assert error_of(answer) == (422, "IDEMPOTENCY_KEY_CONFLICT")


async def test_a_key_that_is_being_answered_is_to_be_waited_for(apis: Apis) -> None:
    body = b'{"url": "%s"}' % URL.encode()
    await apis.answers.begin(ME, "POST /v1/transcribe", KEYED_ONCE["Idempotency-Key"], body)
    headers = KEYED_ONCE | {"Content-Type": "application/json"}
    answer = await apis.ask("POST", "/v1/transcribe", data=body, headers=headers)
    assert error_of(answer) == (409, "IDEMPOTENCY_KEY_LOCKED")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_only_success_is_kept(apis: Apis) -> None:
    apis.jobs.failure = StoreError()
    answer = await apis.ask("POST", "/v1/transcribe", json={"url": URL}, headers=KEYED_ONCE)
    assert error_of(answer) == (500, "INTERNAL_ERROR")
    apis.jobs.failure = None
    again = await apis.ask("POST", "/v1/transcribe", json={"url": URL}, headers=KEYED_ONCE)
    assert (again.status, again.headers.get("Idempotent-Replay")) == (200, None)


async def test_keys_of_two_accounts_and_two_routes_are_apart(apis: Apis) -> None:
    await apis.ask("POST", "/v1/transcribe", json={"url": URL}, headers=KEYED_ONCE)
    await apis.ask("POST", "/v1/transcribe", key=OTHER_KEY, json={"url": URL}, headers=KEYED_ONCE)
    await apis.ask("POST", "/v1/upload", json={"filename": "a.mp3"}, headers=KEYED_ONCE)
    assert (len(apis.jobs.submitted), len(apis.uploads.uploads)) == (2, 1)


async def test_without_a_key_nothing_is_kept(apis: Apis) -> None:
    for _ in range(2):
        await apis.ask("POST", "/v1/transcribe", json={"url": URL})
    assert (len(apis.jobs.submitted), apis.answers.kept) == (2, {})


async def test_a_key_that_is_none_is_refused(apis: Apis) -> None:
    answer = await apis.ask("POST", "/v1/transcribe", json={"url": URL}, headers={"Idempotency-Key": "x" * 256})
    assert error_of(answer) == (400, "INVALID_REQUEST")


# ---------------------------------------------------------------- limits, methods, paths


@pytest.mark.parametrize(
    ("method", "path", "per_minute"),
    [
        ("POST", "/v1/upload", 60),
        ("POST", "/v1/transcribe", 60),
        ("GET", "/v1/transcribe/x", 200),
        ("GET", "/v1/transcriptions", 60),
        ("POST", "/v1/transcribe/x/cancel", 30),
        ("DELETE", "/v1/transcribe/x", 30),
        ("GET", "/v1/balance", 100),
    ],
)
async def test_each_route_has_its_limit_and_every_answer_says_so(
    apis: Apis, method: str, path: str, per_minute: int
) -> None:
    answer = await apis.ask(method, path)
    assert answer.headers["X-RateLimit-Limit"] == str(per_minute)
    assert answer.headers["X-RateLimit-Remaining"] == str(per_minute - 1)
    assert int(answer.headers["X-RateLimit-Reset"]) > 1_700_000_000
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("route", [CANCEL, DELETE_JOB])
async def test_one_request_too_many_is_refused_for_this_key_at_this_route_alone(apis: Apis, route: Route) -> None:
    for _ in range(route.per_minute):
        assert (await apis.ask(route.method, path_of(route))).status == 404
    refused = await apis.ask(route.method, path_of(route))
    assert error_of(refused) == (429, "RATE_LIMIT_EXCEEDED")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["X-RateLimit-Remaining"] == "0"
    assert (await apis.ask(route.method, path_of(route), key=OTHER_KEY)).status == 404
    assert (await apis.ask(GET_JOB.method, path_of(GET_JOB))).status == 404


async def test_a_bad_key_uses_up_nobodys_requests(apis: Apis) -> None:
    for _ in range(3):
        answer = await apis.ask(LIST.method, LIST.path, key="sk_live_unknown")
        assert answer.headers["X-RateLimit-Remaining"] == "60"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v1/balance", "GET"),
        ("GET", "/v1/upload", "POST"),
        ("PUT", "/v1/transcribe", "POST"),
        ("POST", "/v1/transcribe/x", "GET, DELETE"),
        ("GET", "/v1/transcribe/x/cancel", "POST"),
        ("DELETE", "/v1/transcriptions", "GET, POST"),
        ("GET", "/uploads/x", "PUT"),
    ],
)
async def test_another_method_is_told_which_are_taken(apis: Apis, method: str, path: str, allow: str) -> None:
    answer = await apis.ask(method, path)
    assert error_of(answer) == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == allow


@pytest.mark.parametrize("path", ["/v1/transcribe/x/y", "/v1/upload/x", "/v1/transcribe/x/cancel/y"])
async def test_a_path_below_those_that_are_served_is_not_found(apis: Apis, path: str) -> None:
    assert error_of(await apis.ask("GET", path)) == (404, "NOT_FOUND")


async def test_a_defect_of_ours_says_nothing_of_itself(apis: Apis) -> None:
    apis.jobs.failure = RuntimeError("secret words")
    answer = await apis.ask("POST", "/v1/transcribe", json={"url": URL})
    assert error_of(answer) == (500, "INTERNAL_ERROR")
    assert b"secret" not in answer.body


async def test_a_caller_who_stops_sending_is_not_waited_for_for_ever() -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async with serving(Capabilities(), idle_s=0) as apis:
        upload = (await apis.ask("GET", "/v1/balance")).json()
        assert upload["balance_cents"] == 0
        headers: dict[str, Any] = {"Content-Type": "application/json"}
        answer = await apis.ask("POST", "/v1/upload", data=stalled(), headers=headers)
        assert error_of(answer) == (400, "INVALID_REQUEST")
