"""What does an app get from each URL of Scriptivox's API?

::

    POST   /v1/upload                     a URL to put a file to
    PUT    /uploads/{id}?exp=&sig=        the file
    POST   /v1/transcribe                 a job, of an upload or of a link
    GET    /v1/transcribe/{id}            how it stands, its result, captions
    DELETE /v1/transcribe/{id}
    POST   /v1/transcribe/{id}/cancel
    GET    /v1/transcriptions             the list of jobs
    GET    /v1/balance

In this order: the address asks too often (not on this machine), the key, the key asks too often, the body's type, the
request itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from core.errors import OversizeError
from core.program.http.client import is_this_machine
from proxy.dialects import bodies
from proxy.dialects.answering import Told, Words, answered, refusing, stored, told
from proxy.dialects.desk import Caller, Desk
from proxy.dialects.export import CONTENT_TYPES, ExportError, Format, export, parse_export
from proxy.dialects.rates import Standing, untouched
from proxy.dialects.scriptivox import rendering
from proxy.dialects.scriptivox.errors import Code, ScriptivoxError, invalid, of_jobs_error
from proxy.dialects.scriptivox.paths import (
    BALANCE,
    CANCEL,
    DELETE_JOB,
    GET_JOB,
    LIST,
    PER_ADDRESS,
    PUT_FILE,
    ROUTES,
    TRANSCRIBE,
    UPLOAD,
    Route,
)
from proxy.dialects.scriptivox.requests import (
    MAX_BODY_BYTES,
    TranscribeRequest,
    parse_idempotency_key,
    parse_list,
    parse_transcribe,
    parse_upload,
)
from proxy.dialects.scriptivox.signing import is_signed, signed_path
from proxy.jobs.errors import ConflictError, FundsError, MissingError
from proxy.jobs.model import BlobSource, JobId, JobStatus, LinkSource, NewJob, Source, Upload, UploadId
from proxy.jobs.model import UploadState as State
from proxy.jobs.ports import Once

DIALECT: Final = "scriptivox"
UPLOAD_LIFETIME_MS: Final = 3_600_000


_Work = Callable[[web.Request, Caller], Awaitable[web.Response]]


def routes(desk: Desk) -> list[tuple[str, str, Handler]]:
    """Method, path and handler of every route."""
    api = _Api(desk)
    work: Mapping[Route, _Work] = {
        UPLOAD: api.upload,
        TRANSCRIBE: api.transcribe,
        GET_JOB: api.get,
        DELETE_JOB: api.delete,
        CANCEL: api.cancel,
        LIST: api.list,
        BALANCE: api.balance,
    }
    served = [(route.method, route.path, api.handler(route, do)) for route, do in work.items()]
    served.append((PUT_FILE.method, PUT_FILE.path, api.put_file))
    return served


def fallbacks(others: Mapping[str, str]) -> list[tuple[str, str, Handler]]:
    """What is answered to another method, and below the paths; to be asked after the routes of all APIs.

    others: methods that another API has at a path, for the `Allow` of a 405.
    """
    allowed: dict[str, list[str]] = {}
    for route in ROUTES:
        allowed.setdefault(route.path, []).append(route.method)
    wrong = [
        ("*", path, refusing(ScriptivoxError(Code.METHOD_NOT_ALLOWED, allow=_allow(methods, others.get(path)))))
        for path, methods in allowed.items()
    ]
    nowhere = refusing(ScriptivoxError(Code.NOT_FOUND))
    return [*wrong, *(("*", f"{path}/{{tail:.*}}", nowhere) for path in ("/v1/upload", "/v1/transcribe"))]


def _allow(methods: list[str], other: str | None) -> str:
    return ", ".join([*methods, *([other] if other else [])])


_WORDS: Final = Words(of_jobs=of_jobs_error, invalid=invalid, internal=lambda: ScriptivoxError(Code.INTERNAL_ERROR))
_WORDS_OF_UPLOADS: Final = replace(_WORDS, of_jobs=partial(of_jobs_error, missing=Code.UPLOAD_NOT_FOUND))


class _Api:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    # ------------------------------------------------------------ what all have in common

    def handler(self, route: Route, work: _Work) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            counted: list[Standing] = [untouched(route.per_minute)]
            response = await answered(request, lambda: self._admitted(request, route, work, counted), _WORDS)
            standing = counted[-1]
            response.headers["X-RateLimit-Limit"] = str(standing.limit)
            response.headers["X-RateLimit-Remaining"] = str(standing.remaining)
            response.headers["X-RateLimit-Reset"] = str(standing.reset_s)
            return response

        return handle

    async def _admitted(self, request: web.Request, route: Route, work: _Work, counted: list[Standing]) -> web.Response:
        await self._check_address(request, counted)
        caller = await self._desk.caller(request.headers)
        counted.append(await self._desk.rates.hit(route.name, caller.name, route.per_minute))
        _refuse_too_many(counted[-1])
        if bodies.has_body(request) and request.content_type != "application/json":
            raise ScriptivoxError(Code.UNSUPPORTED_MEDIA_TYPE)
        return await work(request, caller)

    async def _check_address(self, request: web.Request, counted: list[Standing]) -> None:
        if request.remote and not is_this_machine(request.remote):
            standing = await self._desk.rates.hit("address", request.remote, PER_ADDRESS)
            if standing.retry_after_s is not None:
                counted.append(standing)
            _refuse_too_many(standing)

    async def _once(
        self, request: web.Request, caller: Caller, route: Route, work: Callable[[bytes, str | None], Awaitable[Told]]
    ) -> web.Response:
        """Answer as before, where the request has a key of idempotency and was answered before.

        work: keeps its answer under the key that it is given.
        """
        body = await self._body(request)
        key = parse_idempotency_key(request.headers.get("Idempotency-Key"))
        if key is None:
            return told(await work(body, None))
        account, answers = caller.account.id, self._desk.answers
        if (before := await answers.begin(account, route.name, key, body)) is not None:
            headers = {**dict(before.headers), "Idempotent-Replay": "true"}
            return web.Response(status=before.status, headers=headers, body=before.body)
        try:
            return told(await work(body, key))
        except BaseException:
            await answers.drop(account, route.name, key)
            raise

    async def _body(self, request: web.Request) -> bytes:
        try:
            return await bodies.read(request, MAX_BODY_BYTES, idle_s=self._desk.idle_s)
        except OversizeError:
            raise invalid(f"The request body is longer than {MAX_BODY_BYTES} bytes.") from None

    async def _check_funds(self, caller: Caller) -> None:
        """Raises FundsError, before anything is begun for an account that pays and has nothing left."""
        if caller.pays:
            held = await self._desk.accounts.balance(caller.account.id)
            if held.total <= 0 or held.available <= 0:
                raise FundsError(is_empty=held.total <= 0)

    # ------------------------------------------------------------ uploads

    async def upload(self, request: web.Request, caller: Caller) -> web.Response:
        async def issue(body: bytes, key: str | None) -> Told:
            asked = parse_upload(body)
            await self._check_funds(caller)
            made = await self._desk.uploads.issue(
                caller.account.id, asked.filename, asked.content_type, lifetime_ms=UPLOAD_LIFETIME_MS
            )
            answer = rendering.upload(made, f"{request.url.origin()}{signed_path(made, self._desk.signing_key)}")
            if key is not None:
                await self._desk.answers.keep(caller.account.id, UPLOAD.name, key, stored(answer))
            return answer

        return await self._once(request, caller, UPLOAD, issue)

    async def put_file(self, request: web.Request) -> web.StreamResponse:
        """Whoever has the URL may fill it: no key is asked for."""
        return await answered(request, lambda: self._put_file(request), _WORDS_OF_UPLOADS)

    async def _put_file(self, request: web.Request) -> web.Response:
        upload, exp = UploadId(request.match_info["id"]), request.query.get("exp", "")
        if not is_signed(upload, exp, request.query.get("sig", ""), self._desk.signing_key):
            raise ScriptivoxError(Code.FORBIDDEN, "The upload URL is not one of this proxy's.")
        if int(exp) <= self._desk.clock.now_ms():
            raise ScriptivoxError(Code.UPLOAD_EXPIRED)
        if bodies.is_compressed(request):
            raise invalid("Content-Encoding is not supported.")
        content: AsyncIterator[bytes] = bodies.stream(request, idle_s=self._desk.idle_s)
        try:
            await self._desk.uploads.receive(
                upload, content, max_bytes=self._desk.max_file_bytes, announced_bytes=request.content_length
            )
        except ConflictError:
            raise ScriptivoxError(Code.UPLOAD_ALREADY_USED) from None
        return web.Response(status=200)

    # ------------------------------------------------------------ jobs

    async def transcribe(self, request: web.Request, caller: Caller) -> web.Response:
        async def submit(body: bytes, key: str | None) -> Told:
            asked = parse_transcribe(body, self._desk.can())
            self._desk.check_links(asked.url, asked.options)
            await self._check_funds(caller)
            source, size_bytes = await self._source(caller, asked)
            new = NewJob(
                account=caller.account.id,
                dialect=DIALECT,
                source=source,
                options=asked.options,
                key=caller.principal.key,
                size_bytes=size_bytes,
            )
            once = None if key is None else Once(TRANSCRIBE.name, key, lambda job: stored(rendering.created(job)))
            try:
                return rendering.created(await self._desk.jobs.submit(new, once=once))
            except MissingError:
                # The file was here in time, and its time is over by now.
                raise ScriptivoxError(Code.UPLOAD_EXPIRED) from None

        return await self._once(request, caller, TRANSCRIBE, submit)

    async def _source(self, caller: Caller, asked: TranscribeRequest) -> tuple[Source, int | None]:
        if asked.upload is None:
            if not self._desk.takes_links:
                raise invalid("url is not available: this proxy fetches no links. Upload the file.")
            return LinkSource(asked.url or ""), None
        try:
            upload = await self._desk.uploads.get(caller.account.id, asked.upload)
            self._check_upload(upload)
            used = await self._desk.uploads.consume(caller.account.id, asked.upload)
        except MissingError:
            raise ScriptivoxError(Code.UPLOAD_NOT_FOUND) from None
        except ConflictError:
            raise ScriptivoxError(Code.UPLOAD_ALREADY_USED) from None
        if used.blob is None:
            raise ScriptivoxError(Code.FILE_NOT_UPLOADED)
        return BlobSource(used.blob, used.name), used.size_bytes

    def _check_upload(self, upload: Upload) -> None:
        if upload.state is State.CONSUMED:
            raise ScriptivoxError(Code.UPLOAD_ALREADY_USED)
        if upload.state is State.ISSUED:
            is_over = upload.expires_ms <= self._desk.clock.now_ms()
            raise ScriptivoxError(Code.UPLOAD_EXPIRED if is_over else Code.FILE_NOT_UPLOADED)

    async def get(self, request: web.Request, caller: Caller) -> web.Response:
        account, job_id = caller.account.id, JobId(request.match_info["id"])
        try:
            asked = parse_export(_query(request))
        except ExportError as exc:
            raise invalid(str(exc)) from None
        job = await self._desk.jobs.get(account, job_id)
        result = await self._desk.jobs.result(account, job_id) if job.status is JobStatus.COMPLETED else None
        if asked.format is Format.JSON:
            return told(rendering.detail(job, result))
        if result is None:
            raise invalid(f"format={asked.format} requires a transcription whose status is completed.")
        headers = {"Content-Type": CONTENT_TYPES[asked.format], "Cache-Control": "no-store"}
        return web.Response(body=export(result.transcript, asked).encode(), headers=headers)

    async def list(self, request: web.Request, caller: Caller) -> web.Response:
        asked = parse_list(_query(request))
        try:
            found = await self._desk.jobs.list(caller.account.id, asked)
        except ValueError:
            raise invalid("cursor must be the next_cursor of a page of the same list.") from None
        return told(rendering.page(found))

    async def cancel(self, request: web.Request, caller: Caller) -> web.Response:
        job = await self._desk.jobs.cancel(caller.account.id, JobId(request.match_info["id"]))
        return told(rendering.cancelled(job))

    async def delete(self, request: web.Request, caller: Caller) -> web.Response:
        try:
            await self._desk.jobs.delete(caller.account.id, JobId(request.match_info["id"]))
        except ConflictError:
            raise ScriptivoxError(Code.CONFLICT, "The transcription is in flight. Cancel it first.") from None
        return web.Response(status=204)

    async def balance(self, _: web.Request, caller: Caller) -> web.Response:
        held = await self._desk.accounts.balance(caller.account.id)
        now_ms = self._desk.clock.now_ms()
        return told(rendering.balance(caller.account, held, deposit_url=self._desk.deposit_url, now_ms=now_ms))


def _query(request: web.Request) -> Mapping[str, str]:
    """Raises ScriptivoxError where a parameter comes twice: to choose would be to guess."""
    if len(request.query) != len(set(request.query)):
        raise invalid("A query parameter is given twice.")
    return request.query


def _refuse_too_many(standing: Standing) -> None:
    if standing.retry_after_s is not None:
        raise ScriptivoxError(Code.RATE_LIMIT_EXCEEDED, retry_after_s=standing.retry_after_s)
