"""AudioToTextAI's routes over real sockets."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest

from proxy.dialects.audiototext.routes import PATHS
from proxy.jobs.errors import FailedError, StoreError
from proxy.jobs.limits import check_length
from proxy.jobs.model import (
    BlobSource,
    Capabilities,
    Failure,
    FailureKind,
    Job,
    JobId,
    JobOptions,
    JobStatus,
    LinkSource,
    Meter,
    PlanTerms,
    UploadState,
)
from tests.proxy.dialects.audiototext.test_rendering import DONE, RESULT
from tests.proxy.dialects.conftest import CAN_ALL, Answer, Apis, serving
from tests.proxy.dialects.fakes import KEY, ME, OTHER_KEY, REVOKED_KEY

BEARER = f"Bearer {KEY}"
URL = "https://example.com/podcast.mp3"
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
A_FIELD = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
END = b"\r\n--b--\r\n"


def error_of(answer: Answer) -> tuple[int, str]:
    told = answer.json()
    assert set(told) == {"error", "message"}
    return answer.status, told["error"]


def form(content: bytes | io.BytesIO | None = b"sound", *, name: str = "audio.mp3", **fields: str) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for field, value in fields.items():
        data.add_field(field, value)
    if content is not None:
        data.add_field("file", content, filename=name)
    return data


async def submit(apis: Apis, data: aiohttp.FormData | None = None) -> Job:
    answer = await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=data or form())
    assert answer.status == 200, answer.body
    return apis.jobs.jobs[JobId(answer.json()["id"])]


class FakeLengths:
    def __init__(self, audio_ms: int | None = None, failure: Failure | None = None) -> None:
        self.audio = audio_ms
        self.failure = failure

    async def audio_ms(self, source: BlobSource, options: JobOptions, *, max_audio_ms: int | None = None) -> int | None:
        check_length(self.audio, max_audio_ms)
        if self.failure is not None:
            raise FailedError(self.failure)
        return self.audio


@pytest.mark.parametrize("end", ["", "/"])
async def test_a_file_becomes_a_job(apis: Apis, end: str) -> None:
    data = form(diarization="true", language="en")
    answer = await apis.ask("POST", f"/api/v1/transcribe{end}", key=BEARER, data=data)
    told = answer.json()
    assert (answer.status, told) == (200, {"id": told["id"], "status": "processing", "estimated_credits": 0.0})
    new = apis.jobs.submitted[0]
    assert isinstance(new.source, BlobSource)
    assert (new.source.name, apis.uploads.content[new.source.blob]) == ("audio.mp3", b"sound")
    assert (new.options.language, new.options.diarize, new.dialect) == ("en", True, "audiototext")
    assert new.size_bytes == 5


async def test_fields_may_come_behind_the_file(apis: Apis) -> None:
    data = form()
    data.add_field("language", "fr")
    assert (await submit(apis, data)).options.language == "fr"


async def test_a_large_file_flows_in_pieces(apis: Apis) -> None:
    await submit(apis, form(io.BytesIO(b"x" * 3_000_000)))
    assert [len(content) for content in apis.uploads.content.values()] == [3_000_000]


@pytest.mark.parametrize("name", ["../../etc/talk.mp3", "/talk.mp3", "talk.mp3"])
async def test_a_name_is_the_last_of_its_path(apis: Apis, name: str) -> None:
    body = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\nx\r\n--b--\r\n'
    answer = await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=body.encode(), headers=FORM)
    assert answer.status == 200
    assert [upload.name for upload in apis.uploads.uploads.values()] == ["talk.mp3"]


@pytest.mark.parametrize("data", [form(None, language="en"), form(b""), form(model="other"), form(diarization="maybe")])
async def test_a_form_that_lacks_its_file_or_has_a_bad_field_is_refused(apis: Apis, data: aiohttp.FormData) -> None:
    assert error_of(await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=data)) == (400, "bad_request")
    assert not apis.jobs.submitted


async def test_two_files_are_refused(apis: Apis) -> None:
    data = form()
    data.add_field("file", b"more", filename="b.mp3")
    assert error_of(await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=data)) == (400, "bad_request")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("text/plain", b"x"),
        ("multipart/form-data", b"x"),
        (FORM["Content-Type"], b"no boundary"),
        (FORM["Content-Type"], b"--b\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nx"),
        (FORM["Content-Type"], A_FIELD + b"\xff" + END),
        (FORM["Content-Type"], b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c--" + END),
        (FORM["Content-Type"], A_FIELD + b"x" * 70_000 + END),
        (FORM["Content-Type"], (A_FIELD + b"x\r\n") * 65 + END),
    ],
)
async def test_what_is_no_form_is_refused(apis: Apis, content_type: str, body: bytes) -> None:
    headers = {"Content-Type": content_type}
    answer = await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=body, headers=headers)
    assert error_of(answer) == (400, "bad_request")
    assert not apis.jobs.submitted


async def test_a_file_that_is_too_large_is_refused() -> None:
    async with serving(CAN_ALL, max_file_bytes=10) as apis:
        answer = await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=form(b"x" * 11))
        assert error_of(answer) == (413, "payload_too_large")


async def test_a_plan_limits_file_and_length_and_both_are_named() -> None:
    async with serving(CAN_ALL, lengths=FakeLengths(200_000)) as apis:
        for terms, refusal, named in (
            (PlanTerms("free", max_upload_bytes=2), (413, "payload_too_large"), "2 bytes"),
            (PlanTerms("free", max_audio_ms=180_000), (400, "bad_request"), "180 s"),
        ):
            apis.accounts.plans[ME] = terms
            answer = await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=form())
            assert error_of(answer) == refusal
            assert named in answer.json()["message"]
        assert not apis.jobs.submitted


async def test_a_form_may_be_waited_for(apis: Apis) -> None:
    answer = await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=form(), expect100=True)
    assert answer.status == 200


async def test_a_form_may_come_in_chunks(apis: Apis) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        for _ in range(50):
            yield b"\r\n" * 1_000
        yield b"\r\n--b--\r\n"

    answer = await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=pieces(), headers=FORM)
    assert answer.status == 200
    assert list(apis.uploads.content.values()) == [b"\r\n" * 50_000]


@pytest.mark.parametrize("end", ["", "/"])
async def test_a_link_becomes_a_job(apis: Apis, end: str) -> None:
    answer = await apis.ask("POST", f"/api/v1/transcribe/url{end}", key=BEARER, json={"url": URL, "diarization": True})
    assert (answer.status, answer.json()["status"]) == (200, "processing")
    assert apis.jobs.submitted[0].source == LinkSource(URL)


async def test_a_link_needs_json(apis: Apis) -> None:
    headers = {"Content-Type": "text/plain"}
    answer = await apis.ask("POST", "/api/v1/transcribe/url/", key=BEARER, data=b"{}", headers=headers)
    assert error_of(answer) == (400, "bad_request")
    answer = await apis.ask("POST", "/api/v1/transcribe/url/", key=BEARER, json={"url": "nothing"})
    assert error_of(answer) == (400, "bad_request")


async def test_a_job_is_told_until_it_is_done(apis: Apis) -> None:
    job = await submit(apis)
    apis.jobs.set(replace(job, status=JobStatus.PROCESSING, progress_pct=45))
    told = (await apis.ask("GET", f"/api/v1/transcribe/{job.id}/", key=BEARER)).json()
    assert told == {"id": job.id, "status": "processing", "progress": 45}
    apis.jobs.set(replace(DONE, id=job.id), RESULT)
    told = (await apis.ask("GET", f"/api/v1/transcribe/{job.id}/", key=BEARER)).json()
    assert (told["status"], told["transcript"], "segments" in told) == ("completed", "Hello and welcome. Hi.", False)
    told = (await apis.ask("GET", f"/api/v1/transcribe/{job.id}?segments=true", key=BEARER)).json()
    assert len(told["segments"]) == 3


async def test_a_flag_of_the_query_that_is_none_is_refused(apis: Apis) -> None:
    job = await submit(apis)
    answer = await apis.ask("GET", f"/api/v1/transcribe/{job.id}/?segments=some", key=BEARER)
    assert error_of(answer) == (400, "bad_request")


async def test_a_job_that_is_unknown_or_anothers_is_not_found(apis: Apis) -> None:
    job = await submit(apis)
    for path, key in [("nothing", KEY), (job.id, OTHER_KEY)]:
        answer = await apis.ask("GET", f"/api/v1/transcribe/{path}/", key=f"Bearer {key}")
        assert error_of(answer) == (404, "not_found")
        assert answer.json()["message"] == "Transcription not found"


async def test_jobs_of_the_other_api_are_told_in_these_words_too(apis: Apis) -> None:
    submitted = await apis.ask("POST", "/v1/transcribe", json={"url": URL})
    told = (await apis.ask("GET", f"/api/v1/transcribe/{submitted.json()['id']}/", key=BEARER)).json()
    assert told["status"] == "processing"


async def test_languages_are_listed(apis: Apis) -> None:
    for end in ("", "/"):
        told = (await apis.ask("GET", f"/api/v1/languages{end}", key=BEARER)).json()
        assert len(told["languages"]) == 120


@pytest.mark.parametrize(("path", "method"), PATHS.items())
async def test_every_route_needs_a_key_that_is_good(apis: Apis, path: str, method: str) -> None:
    for key in (None, "Bearer", "Bearer wrong", f"Bearer {REVOKED_KEY}"):
        answer = await apis.ask(method, path.replace("{id}", "x") + "/", key=key)
        assert error_of(answer) == (401, "unauthorized")


@pytest.mark.parametrize(("path", "method"), PATHS.items())
async def test_another_method_is_refused_in_these_words(apis: Apis, path: str, method: str) -> None:
    answer = await apis.ask("PUT", path.replace("{id}", "x") + "/", key=BEARER)
    assert error_of(answer) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == method


async def test_a_path_that_is_not_there_is_refused_in_these_words(apis: Apis) -> None:
    assert error_of(await apis.ask("GET", "/api/v1/nothing", key=BEARER)) == (404, "not_found")


async def test_a_failure_of_ours_is_a_server_error(apis: Apis) -> None:
    apis.jobs.failure = StoreError()
    answer = await apis.ask("POST", "/api/v1/transcribe/url/", key=BEARER, json={"url": URL})
    assert error_of(answer) == (500, "server_error")


# ---------------------------------------------------------------- credits


async def test_who_pays_is_told_what_it_will_cost() -> None:
    async with serving(CAN_ALL, lengths=FakeLengths(330_000)) as apis:
        apis.accounts.pay(ME, "100", meter=Meter.CREDITS, price="60")
        answer = await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=form())
        assert answer.json()["estimated_credits"] == 5.5
        assert apis.jobs.submitted[0].audio_ms == 330_000


async def test_who_cannot_pay_is_told_before_anything_begins() -> None:
    async with serving(CAN_ALL, lengths=FakeLengths(1_800_000)) as apis:
        apis.accounts.pay(ME, "10", meter=Meter.CREDITS, price="60")
        answer = await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=form())
        assert error_of(answer) == (402, "insufficient_credits")
        assert answer.json()["message"] == ("You have 10 credits remaining but this transcription requires 30 credits.")
        assert not apis.jobs.submitted


async def test_what_cannot_be_heard_is_refused_at_once_where_it_was_looked_at() -> None:
    failure = Failure(FailureKind.MEDIA_UNREADABLE)
    async with serving(CAN_ALL, lengths=FakeLengths(failure=failure)) as apis:
        apis.accounts.pay(ME, "10", meter=Meter.CREDITS, price="60")
        answer = await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=form())
        assert error_of(answer) == (400, "bad_request")


async def test_who_has_nothing_left_sends_no_file(apis: Apis) -> None:
    apis.accounts.pay(ME, "0", meter=Meter.CREDITS)
    answer = await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=form())
    assert error_of(answer) == (402, "insufficient_credits")
    assert not apis.uploads.uploads


async def test_a_link_of_who_pays_has_no_estimate_yet(apis: Apis) -> None:
    apis.accounts.pay(ME, "10", meter=Meter.CREDITS, price="60")
    answer = await apis.ask("POST", "/api/v1/transcribe/url/", key=BEARER, json={"url": URL})
    assert answer.json()["estimated_credits"] is None


async def test_the_file_of_a_job_is_used_up(apis: Apis) -> None:
    await submit(apis)
    assert [upload.state for upload in apis.uploads.uploads.values()] == [UploadState.CONSUMED]


async def test_what_the_engine_cannot_do_is_refused() -> None:
    async with serving(Capabilities()) as apis:
        answer = await apis.ask("POST", "/api/v1/transcribe/", key=BEARER, data=form(diarization="true"))
        assert error_of(answer) == (400, "bad_request")
