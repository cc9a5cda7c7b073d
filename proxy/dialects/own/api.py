"""What can an app do with jobs at `/v1/jobs`? Our own API; `openapi.json` beside this says it in full.

::

    POST   /v1/jobs                 a form with `file`, or JSON with `url`; 201 and the job
    GET    /v1/jobs                 newest first, page by page (`cursor`)
    GET    /v1/jobs/{id}            how it is
    GET    /v1/jobs/{id}/result     what was heard: format=json|text|srt|vtt and more
    GET    /v1/jobs/{id}/receipts   what engines signed of its parts
    POST   /v1/jobs/{id}/cancel     it ends, and is told as cancelled from then on
    DELETE /v1/jobs/{id}            204; its content is forgotten
    GET    /v1/jobs/openapi.json
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any, Final, TypeVar

from aiohttp import BodyPartReader, hdrs, web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Handler

from proxy.dialects.own.errors import RequestError, answering
from proxy.dialects.own.parsing import (
    MAX_FIELD_BYTES,
    MAX_JSON_BYTES,
    MAX_REFERENCE_BYTES,
    MAX_REFERENCES_BYTES,
    REFERENCES,
    REPEATED,
    Submission,
    check_capabilities,
    check_links,
    parse,
    parse_json,
    parse_list,
    parse_result,
)
from proxy.dialects.own.rendering import job_object, page_object, receipts_object, result_body
from proxy.dialects.served import JOBS, ServedJobs, principal_of
from proxy.jobs.errors import JobsError
from proxy.jobs.limits import least
from proxy.jobs.model import BlobId, BlobSource, Job, JobId, LinkSource, NewJob, Principal, StoredAnswer
from proxy.jobs.ports import Once
from proxy.local.exchange import ask_for_body
from proxy.local.service import SERVICE

T = TypeVar("T")

NAME: Final = "own"
_ROUTE: Final = "own submit"
_MAX_KEY: Final = 255
_JSON: Final = "application/json"
_NO_STORE: Final = {"Cache-Control": "no-store"}
_OPENAPI: Final = files(__package__) / "openapi.json"


def routes() -> list[tuple[str, str, Handler]]:
    """Method, path and handler."""
    table: list[tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]] = [
        ("POST", "/v1/jobs", submit),
        ("GET", "/v1/jobs", list_jobs),
        ("GET", "/v1/jobs/openapi.json", openapi),
        ("GET", "/v1/jobs/{id}", show),
        ("DELETE", "/v1/jobs/{id}", remove),
        ("GET", "/v1/jobs/{id}/result", result),
        ("GET", "/v1/jobs/{id}/receipts", receipts),
        ("POST", "/v1/jobs/{id}/cancel", cancel),
        ("*", "/v1/jobs{rest:(?:/.*)?}", nothing_here),
    ]
    return [(method, path, answering(handler)) for method, path, handler in table]


async def nothing_here(_: web.Request) -> web.StreamResponse:
    raise RequestError("Invalid URL, or a method that it does not have.", status=404, code="not_found")


async def openapi(_: web.Request) -> web.Response:
    return web.Response(body=await asyncio.to_thread(_OPENAPI.read_bytes), content_type=_JSON)


async def list_jobs(request: web.Request) -> web.Response:
    principal, served = await principal_of(request), request.app[JOBS]
    query = parse_list(_query(request))
    try:
        page = await served.kept.jobs.list(principal.account, query)
    except ValueError:
        raise RequestError("The value of cursor is not allowed here.", param="cursor") from None
    return web.json_response(page_object(page), headers=_NO_STORE)


async def show(request: web.Request) -> web.Response:
    principal = await principal_of(request)
    return _answer(await request.app[JOBS].kept.jobs.get(principal.account, _id(request)))


async def cancel(request: web.Request) -> web.Response:
    principal = await principal_of(request)
    return _answer(await request.app[JOBS].kept.jobs.cancel(principal.account, _id(request)))


async def remove(request: web.Request) -> web.Response:
    principal = await principal_of(request)
    await request.app[JOBS].kept.jobs.delete(principal.account, _id(request))
    return web.Response(status=204)


async def result(request: web.Request) -> web.Response:
    principal, wanted = await principal_of(request), parse_result(_query(request))
    made = await request.app[JOBS].kept.jobs.result(principal.account, _id(request))
    body, media_type = result_body(made, wanted)
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: media_type, **_NO_STORE})


async def receipts(request: web.Request) -> web.Response:
    principal, job = await principal_of(request), _id(request)
    made = await request.app[JOBS].kept.jobs.result(principal.account, job)
    return web.json_response(receipts_object(job, made.receipts), headers=_NO_STORE)


async def submit(request: web.Request) -> web.Response:
    principal, served = await principal_of(request), request.app[JOBS]
    key = _idempotency_key(request)
    await ask_for_body(request)
    if request.content_type == "multipart/form-data":
        return await _submit_file(request, served, principal, key)
    if request.content_type == _JSON:
        return await _submit_link(request, served, principal, key)
    sentence = "A job is submitted as multipart/form-data or application/json."
    raise RequestError(sentence, status=415, code="unsupported_media_type")


async def _submit_link(request: web.Request, served: ServedJobs, principal: Principal, key: str | None) -> web.Response:
    body = await _read(request)
    submission = parse_json(body)
    check_capabilities(submission, served.capabilities)
    check_links(submission, has_resolver=served.has_resolver, plain_webhooks=served.plain_webhooks)
    if submission.url is None:
        raise RequestError("A file or a url is needed.", param="url", code="missing_required_parameter")
    if not served.takes_links:
        raise RequestError("This proxy fetches no links.", param="url", code="unsupported_parameter")
    new = NewJob(principal.account, NAME, LinkSource(submission.url), submission.options, key=principal.key)
    return await _once(served, new, key, body)


async def _submit_file(request: web.Request, served: ServedJobs, principal: Principal, key: str | None) -> web.Response:
    owner = await served.kept.accounts.account(principal.account)
    form = _Form(served, request.app[SERVICE].idle_timeout_s, least(served.max_file_bytes, owner.plan.max_upload_bytes))
    try:
        await form.read(request)
        submission = parse(form.values)
        check_capabilities(submission, served.capabilities)
        check_links(submission, has_resolver=served.has_resolver, plain_webhooks=served.plain_webhooks)
        blob = form.checked_blob(submission)
        new = NewJob(
            principal.account,
            NAME,
            BlobSource(blob, form.filename),
            submission.options,
            key=principal.key,
            size_bytes=form.size_bytes,
        )
        fingerprint = submission.model_dump_json().encode() + form.digest.digest()
        response = await _once(served, new, key, fingerprint)
        form.is_used = response.headers.get("Idempotent-Replay") is None
    except (web.RequestPayloadError, HttpProcessingError, ValueError) as exc:
        raise RequestError("The form is not well-formed, or broke off.", code="invalid_multipart") from exc
    else:
        return response
    finally:
        await form.forget()


class _Form:
    """A form as it arrives: fields in memory, the file into a sealed recording."""

    def __init__(self, served: ServedJobs, stall_s: float, max_file_bytes: int | None) -> None:
        self._served = served
        self._stall_s = stall_s
        self._max_file_bytes = max_file_bytes
        self._blob: BlobId | None = None
        self.values: dict[str, Any] = {}
        self.filename: str | None = None
        self.size_bytes = 0
        self.digest = hashlib.sha256()
        self.is_used = False

    async def read(self, request: web.Request) -> None:
        """Raises RequestError, FailedError, ValueError."""
        left_bytes = {True: MAX_REFERENCES_BYTES, False: MAX_JSON_BYTES}
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name is None:
                raise RequestError("Every part of the form needs a name.", code="invalid_multipart")
            if part.name == "file":
                await self._keep(part)
                continue
            name = part.name.removesuffix("[]")
            is_voice = name == REFERENCES
            limit_bytes = MAX_REFERENCE_BYTES if is_voice else MAX_FIELD_BYTES
            left_bytes[is_voice] -= self._take(name, await _field(part, self._stall_s, limit_bytes))
            if left_bytes[is_voice] < 0:
                raise RequestError("The fields of the form are too long.")

    async def _keep(self, part: BodyPartReader) -> None:
        if self._blob is not None:
            raise RequestError("There is more than one file.", param="file")
        self.filename = part.filename
        content = self._hashed(part)
        self._blob, self.size_bytes = await self._served.kept.blobs.put(content, max_bytes=self._max_file_bytes)

    async def _hashed(self, part: BodyPartReader) -> AsyncIterator[bytes]:
        while piece := await _in_time(part.read_chunk(65_536), self._stall_s):
            self.digest.update(piece)
            yield bytes(piece)

    def _take(self, name: str, value: str) -> int:
        """Keep a field; how long it was."""
        if name in REPEATED:
            self.values[name] = [*self.values.get(name, ()), value]
        elif name in self.values:
            raise RequestError("A field is given twice.", param=name if name in Submission.model_fields else None)
        else:
            self.values[name] = value
        return len(name) + len(value)

    def checked_blob(self, submission: Submission) -> BlobId:
        """Raises RequestError."""
        if submission.url is not None:
            raise RequestError("A url is submitted as application/json.", param="url")
        if self._blob is None:
            raise RequestError("A file is needed.", param="file", code="missing_required_parameter")
        return self._blob

    async def forget(self) -> None:
        """A recording for which there is no job."""
        if self._blob is not None and not self.is_used:
            await self._served.kept.blobs.forget(self._blob)


async def _field(part: BodyPartReader, stall_s: float, limit_bytes: int) -> str:
    """Raises RequestError, ValueError for what is not UTF-8."""
    data = bytearray()
    while piece := await _in_time(part.read_chunk(8192), stall_s):
        data += piece
        if len(data) > limit_bytes:
            raise RequestError("A field of the form is too long.")
    return data.decode()


async def _in_time(piece: Awaitable[T], stall_s: float) -> T:
    """The next piece of a body. Raises RequestError when it does not come."""
    try:
        async with asyncio.timeout(stall_s):
            return await piece
    except TimeoutError:
        raise RequestError("The request body stopped arriving.", status=408, code="upload_timeout") from None


async def _read(request: web.Request) -> bytes:
    """A body of JSON. Raises RequestError."""
    data = bytearray()
    try:
        while piece := await _in_time(request.content.readany(), request.app[SERVICE].idle_timeout_s):
            data += piece
            if len(data) > MAX_JSON_BYTES + MAX_REFERENCES_BYTES:
                raise RequestError("The body is too long.", status=413, code="body_too_large")
    except (web.RequestPayloadError, HttpProcessingError):
        raise RequestError("The body broke off.", code="invalid_json") from None
    return bytes(data)


async def _once(served: ServedJobs, new: NewJob, key: str | None, fingerprint: bytes) -> web.Response:
    """The answer to a submission, or the one that the same submission got before."""
    if key is None:
        return _answer(await served.kept.jobs.submit(new), status=201)
    answers = served.kept.answers
    if (given := await answers.begin(new.account, _ROUTE, key, fingerprint)) is not None:
        headers = dict(given.headers) | {"Idempotent-Replay": "true"}
        return web.Response(status=given.status, body=given.body, headers=headers)
    try:
        job = await served.kept.jobs.submit(new, once=Once(_ROUTE, key, _stored))
    except JobsError:
        await answers.drop(new.account, _ROUTE, key)
        raise
    answer = _stored(job)
    return web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))


def _stored(job: Job) -> StoredAnswer:
    headers = {str(hdrs.CONTENT_TYPE): _JSON, **_NO_STORE}
    return StoredAnswer(201, tuple(headers.items()), json.dumps(job_object(job)).encode())


def _answer(job: Job, *, status: int = 200) -> web.Response:
    return web.json_response(job_object(job), status=status, headers=_NO_STORE)


def _id(request: web.Request) -> JobId:
    return JobId(request.match_info["id"])


def _query(request: web.Request) -> dict[str, str]:
    """Raises RequestError where a parameter is given twice."""
    if len(set(request.query)) != len(request.query):
        raise RequestError("A parameter is given twice.")
    return dict(request.query)


def _idempotency_key(request: web.Request) -> str | None:
    """Raises RequestError."""
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not 1 <= len(keys[0]) <= _MAX_KEY or not (keys[0].isascii() and keys[0].isprintable()):
        raise RequestError("An idempotency key is 1 to 255 printable ASCII characters.")
    return keys[0]
