"""What does an app get from each URL of AudioToTextAI's API?

::

    POST /api/v1/transcribe/        a job, of a file in a form
    POST /api/v1/transcribe/url/    a job, of a link
    GET  /api/v1/transcribe/{id}/   how it stands, and its result; ?segments=true lists them
    GET  /api/v1/languages/

The slash at the end may be left out. All of them need a key.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from pathlib import PurePath
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from core.errors import OversizeError
from proxy.dialects import bodies
from proxy.dialects.answering import Words, answered, refusing, told
from proxy.dialects.audiototext import rendering
from proxy.dialects.audiototext.errors import AudioToTextError, Code, bad, no_credits, of_jobs_error
from proxy.dialects.audiototext.requests import MAX_BODY_BYTES, parse_flag, parse_options, parse_url_request
from proxy.dialects.desk import Caller, Desk
from proxy.dialects.forms import FormError, read_form
from proxy.dialects.media_types import MEDIA_TYPES
from proxy.jobs.model import BlobSource, JobId, JobOptions, JobStatus, LinkSource, NewJob, Source, Upload

DIALECT: Final = "audiototext"
ROOT: Final = "/api/v1"
_UPLOAD_LIFETIME_MS: Final = 3_600_000
_MAX_NAME_CHARS: Final = 255

PATHS: Final = {
    "/api/v1/transcribe": "POST",
    "/api/v1/transcribe/url": "POST",
    "/api/v1/transcribe/{id}": "GET",
    "/api/v1/languages": "GET",
}

_Work = Callable[[web.Request, Caller], Awaitable[web.Response]]
_WORDS: Final = Words(of_jobs=of_jobs_error, invalid=bad, internal=lambda: AudioToTextError(Code.SERVER_ERROR))


def routes(desk: Desk) -> list[tuple[str, str, Handler]]:
    """Method, path and handler of every route."""
    api = _Api(desk)
    work = dict(zip(PATHS, (api.of_file, api.of_link, api.get, api.languages), strict=True))
    served = [(method, path + end, api.handler(work[path])) for path, method in PATHS.items() for end in ("/", "")]
    wrong = [
        ("*", path + end, refusing(AudioToTextError(Code.METHOD_NOT_ALLOWED, allow=method)))
        for path, method in PATHS.items()
        for end in ("/", "")
    ]
    return [*served, *wrong, ("*", f"{ROOT}/{{tail:.*}}", refusing(AudioToTextError(Code.NOT_FOUND, "Not found")))]


class _Api:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def handler(self, work: _Work) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await answered(request, lambda: self._admitted(request, work), _WORDS)

        return handle

    async def _admitted(self, request: web.Request, work: _Work) -> web.Response:
        return await work(request, await self._desk.caller(request.headers))

    async def of_file(self, request: web.Request, caller: Caller) -> web.Response:
        if bodies.is_compressed(request):
            raise bad("Content-Encoding is not supported.")
        await self._check_funds(caller)
        taken: list[Upload] = []

        async def take(name: str | None, content: AsyncIterator[bytes]) -> None:
            taken.append(await self._receive(caller, name, content))

        try:
            form = await read_form(request, take, idle_s=self._desk.idle_s)
        except FormError as exc:
            raise bad(str(exc)) from None
        options = parse_options(form.fields, self._desk.can())
        if not taken or not taken[0].size_bytes:
            raise bad("file is required and must not be empty.")
        used = await self._desk.uploads.consume(caller.account.id, taken[0].id)
        if used.blob is None:
            raise AudioToTextError(Code.SERVER_ERROR)
        return await self._submitted(caller, BlobSource(used.blob, used.name), options, used.size_bytes)

    async def of_link(self, request: web.Request, caller: Caller) -> web.Response:
        if request.content_type != "application/json":
            raise bad("The request body must be sent with Content-Type: application/json.")
        if not self._desk.takes_links:
            raise bad("Links are not available: this proxy fetches none. Send the file.")
        await self._check_funds(caller)
        try:
            body = await bodies.read(request, MAX_BODY_BYTES, idle_s=self._desk.idle_s)
        except OversizeError:
            raise bad(f"The request body is longer than {MAX_BODY_BYTES} bytes.") from None
        url, options = parse_url_request(body, self._desk.can())
        return await self._submitted(caller, LinkSource(url), options, None)

    async def get(self, request: web.Request, caller: Caller) -> web.Response:
        account, job_id = caller.account.id, JobId(request.match_info["id"])
        wants_segments = parse_flag(request.query, "segments", default=False)
        job = await self._desk.jobs.get(account, job_id)
        result = await self._desk.jobs.result(account, job_id) if job.status is JobStatus.COMPLETED else None
        return told(rendering.job(job, result, segments=wants_segments))

    async def languages(self, _: web.Request, __: Caller) -> web.Response:
        return told(rendering.languages())

    async def _check_funds(self, caller: Caller) -> None:
        """Before a file is taken from an account that pays and has nothing left. Raises AudioToTextError."""
        if caller.pays:
            held = await self._desk.accounts.balance(caller.account.id)
            if held.available <= 0:
                raise AudioToTextError(Code.INSUFFICIENT_CREDITS, "You have 0 credits remaining.")

    async def _receive(self, caller: Caller, name: str | None, content: AsyncIterator[bytes]) -> Upload:
        name = re.split(r"[\\/]", name or "")[-1][-_MAX_NAME_CHARS:] or "recording"
        media_type = MEDIA_TYPES.get(PurePath(name).suffix.lower().removeprefix("."), "application/octet-stream")
        uploads = self._desk.uploads
        upload = await uploads.issue(caller.account.id, name, media_type, lifetime_ms=_UPLOAD_LIFETIME_MS)
        return await uploads.receive(upload.id, content, max_bytes=self._desk.max_file_bytes)

    async def _submitted(
        self, caller: Caller, source: Source, options: JobOptions, size_bytes: int | None
    ) -> web.Response:
        self._desk.check_links(source.url if isinstance(source, LinkSource) else None, options)
        audio_ms = await self._audio_ms(caller, source, options)
        estimated = await self._estimated(caller, audio_ms)
        new = NewJob(
            account=caller.account.id,
            dialect=DIALECT,
            source=source,
            options=options,
            key=caller.principal.key,
            size_bytes=size_bytes,
            audio_ms=audio_ms,
        )
        return told(rendering.submitted(await self._desk.jobs.submit(new), estimated))

    async def _audio_ms(self, caller: Caller, source: Source, options: JobOptions) -> int | None:
        """Asked for who pays or has a limit: to find the length, the file is read once more. Raises FailedError."""
        limit_ms = caller.account.plan.max_audio_ms
        matters = caller.pays or limit_ms is not None
        if self._desk.lengths is None or not matters or not isinstance(source, BlobSource):
            return None
        return await self._desk.lengths.audio_ms(source, options, max_audio_ms=limit_ms)

    async def _estimated(self, caller: Caller, audio_ms: int | None) -> Decimal | None:
        """Raises AudioToTextError where there are not enough credits."""
        if not caller.pays:
            return Decimal(0)
        if audio_ms is None:
            return None
        needs = rendering.credits_of(caller.account.plan, audio_ms)
        has = (await self._desk.accounts.balance(caller.account.id)).available
        if has < needs:
            raise no_credits(rendering.plain(has), rendering.plain(needs))
        return needs
