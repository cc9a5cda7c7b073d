"""What does an app get from each URL of Privocio's API?

::

    POST /v1/transcriptions           a transcript, when all of it is there; with stream=true as the next
    POST /v1/transcriptions/stream    server-sent events: segment ... done, or error
    GET  /v1/me                       the account of the key
    GET  /v1/usage                    what it has used of its hours; the path is ours
    *    /v1/api-keys                 the keys of the account, for a session (`keys`)
    GET  /healthz                     {"status": "ok"}

`POST /v1/audio/transcriptions` is OpenAI's, and goes straight to the engine.

A request becomes a job that is waited for, so that it is split, retried and counted like every other; its content is
forgotten when the answer has been made. Whoever leaves has it cancelled.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from core.transcript.languages import code_of
from core.transcript.types import Transcript
from proxy.dialects import bodies, extensions
from proxy.dialects.answering import Words, answered, refusing, told
from proxy.dialects.desk import Caller, Desk
from proxy.dialects.forms import FormError, read_form
from proxy.dialects.media_types import MEDIA_TYPES
from proxy.dialects.modes import Mode, segments_of, shaped
from proxy.dialects.privocio import keys
from proxy.dialects.privocio.errors import Code, PrivocioError, bad, of_failure, of_jobs_error
from proxy.dialects.privocio.paths import API_KEYS, HEALTH, ME, STREAM, TRANSCRIPTIONS, USAGE
from proxy.dialects.times import iso
from proxy.jobs.errors import ConflictError, JobsError, MissingError
from proxy.jobs.ledger import WINDOW_MS, window_start_ms
from proxy.jobs.model import (
    Account,
    Balance,
    BlobSource,
    Capabilities,
    Job,
    JobOptions,
    JobResult,
    Meter,
    NewJob,
    PartPlan,
    PlanTerms,
    Upload,
)
from proxy.jobs.stitch import PartStitcher
from proxy.local.outbox import finish, write

DIALECT: Final = "privocio"
DEFAULT_MODEL: Final = "whisper-1"
"""Whatever the engine serves first."""

_UPLOAD_LIFETIME_MS: Final = 3_600_000
_POLL_S: Final = 0.1
_MAX_POLL_S: Final = 1.0
_WAITS_TO_A_PING: Final = 10
_MAX_PROMPT_CHARS: Final = 4_096
_STREAMED_PART_S: Final = 60
"""What is told of a stream at a time, where recordings are cut."""

_Work = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
_WORDS: Final = Words(of_jobs=of_jobs_error, invalid=bad, internal=lambda: PrivocioError(Code.INTERNAL_ERROR))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a form asks for."""

    options: JobOptions
    mode: Mode
    stream: bool


def routes(desk: Desk) -> list[tuple[str, str, Handler]]:
    """Method, path and handler of every route."""
    api = _Api(desk)
    return [
        ("POST", TRANSCRIPTIONS, api.handler(api.transcribe)),
        ("POST", STREAM, api.handler(api.transcribe)),
        ("*", STREAM, refusing(PrivocioError(Code.METHOD_NOT_ALLOWED, allow="POST"))),
        ("GET", ME, api.handler(api.me)),
        ("*", ME, refusing(PrivocioError(Code.METHOD_NOT_ALLOWED, allow="GET"))),
        ("GET", USAGE, api.handler(api.usage)),
        ("*", USAGE, refusing(PrivocioError(Code.METHOD_NOT_ALLOWED, allow="GET"))),
        ("GET", API_KEYS, api.handler(partial(keys.list_keys, desk))),
        ("POST", API_KEYS, api.handler(partial(keys.create_key, desk))),
        ("*", API_KEYS, refusing(PrivocioError(Code.METHOD_NOT_ALLOWED, allow="GET, POST"))),
        ("DELETE", f"{API_KEYS}/{{id}}", api.handler(partial(keys.revoke_key, desk))),
        ("*", f"{API_KEYS}/{{id}}", refusing(PrivocioError(Code.METHOD_NOT_ALLOWED, allow="DELETE"))),
        ("GET", HEALTH, healthy),
        ("*", HEALTH, refusing(PrivocioError(Code.METHOD_NOT_ALLOWED, allow="GET"))),
    ]


async def healthy(_: web.Request) -> web.StreamResponse:
    """That this proxy answers; whether its engine does, `/readyz` of the other listener says."""
    return told({"status": "ok"})


class _Api:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._under_way: Counter[str] = Counter()

    def handler(self, work: _Work) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await answered(request, lambda: self._admitted(request, work), _WORDS)

        return handle

    async def _admitted(self, request: web.Request, work: _Work) -> web.StreamResponse:
        return await work(request, await self._desk.caller(request.headers, sessions=True))

    async def me(self, _: web.Request, caller: Caller) -> web.Response:
        account, plan = caller.account, caller.account.plan
        known = {key.id: key for key in await self._desk.accounts.keys(account.id)}
        shown = known.get(caller.principal.key) if caller.principal.key else None
        shown = None if shown is None or shown.is_session else shown
        answer: dict[str, Any] = {
            "id": account.id,
            "name": account.name,
            "plan": plan.name,
            "limits": limits_of(plan),
            "api_key": None if shown is None else {"id": shown.id, "prefix": shown.prefix},
        }
        return told(answer)

    async def usage(self, _: web.Request, caller: Caller) -> web.Response:
        held = await self._desk.accounts.balance(caller.account.id)
        return told(usage_of(caller.account, held, self._desk.clock.now_ms()))

    # ------------------------------------------------------------ transcriptions

    async def transcribe(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        await self._check_rate(caller)
        if bodies.is_compressed(request):
            raise bad("Content-Encoding is not supported.")
        with self._counted(caller):
            if not self._desk.is_ready():
                raise PrivocioError(Code.RUNTIME_UNAVAILABLE)
            wanted, upload = await self._form(request, caller)
            async with self._submitted(caller, upload, wanted.options) as job:
                if wanted.stream:
                    return await self._flow(request, job, wanted.mode)
                async for heard in self._heard(job):
                    if heard is not None:
                        more = {**extensions.found(heard), **extensions.told(wanted.options)}
                        return told({**shaped(heard.transcript, wanted.mode), **more})
                raise PrivocioError(Code.INTERNAL_ERROR)

    async def _check_rate(self, caller: Caller) -> None:
        per_minute = caller.account.plan.requests_per_minute
        if per_minute is not None:
            standing = await self._desk.rates.hit(DIALECT, caller.account.id, per_minute)
            if standing.retry_after_s is not None:
                raise PrivocioError(Code.RATE_LIMITED, retry_after_s=standing.retry_after_s)

    @contextmanager
    def _counted(self, caller: Caller) -> Iterator[None]:
        account, limit = caller.account.id, caller.account.plan.concurrency
        if limit is not None and self._under_way[account] >= limit:
            raise PrivocioError(Code.CONCURRENCY_LIMIT, retry_after_s=1)
        self._under_way[account] += 1
        try:
            yield
        finally:
            self._under_way[account] -= 1

    async def _form(self, request: web.Request, caller: Caller) -> tuple[_Wanted, Upload]:
        taken: list[Upload] = []

        async def take(name: str | None, content: AsyncIterator[bytes]) -> None:
            uploads = self._desk.uploads
            media_type = MEDIA_TYPES.get((name or "").rpartition(".")[2].lower(), "application/octet-stream")
            place = await uploads.issue(
                caller.account.id, name or "recording", media_type, lifetime_ms=_UPLOAD_LIFETIME_MS
            )
            taken.append(await uploads.receive(place.id, content, max_bytes=self._desk.max_file_bytes))

        try:
            form = await read_form(request, take, idle_s=self._desk.idle_s)
        except FormError as exc:
            raise bad(str(exc)) from None
        if not taken or not taken[0].size_bytes:
            raise bad("file is required and must not be empty.")
        return _wanted(form.fields, self._desk.can(), always_stream=request.path == STREAM), taken[0]

    @asynccontextmanager
    async def _submitted(self, caller: Caller, upload: Upload, options: JobOptions) -> AsyncIterator[Job]:
        """A job, until the answer has been made; then nothing of it is kept."""
        used = await self._desk.uploads.consume(caller.account.id, upload.id)
        if used.blob is None:
            raise PrivocioError(Code.INTERNAL_ERROR)
        source = BlobSource(used.blob, used.name)
        audio_ms = await self._length(caller.account.plan, source, options)
        new = NewJob(
            caller.account.id,
            DIALECT,
            source,
            options,
            key=caller.principal.key,
            size_bytes=used.size_bytes,
            audio_ms=audio_ms,
            at_most=caller.account.plan.concurrency,
        )
        job = await self._desk.jobs.submit(new)
        try:
            yield job
        finally:
            await self._forget(job)

    async def _length(self, plan: PlanTerms, source: BlobSource, options: JobOptions) -> int | None:
        """Asked for where the plan limits it. Raises FailedError."""
        if plan.max_audio_ms is None or self._desk.lengths is None:
            return None
        return await self._desk.lengths.audio_ms(source, options, max_audio_ms=plan.max_audio_ms)

    async def _forget(self, job: Job) -> None:
        with suppress(ConflictError, MissingError):
            await self._desk.jobs.cancel(job.account, job.id)
        with suppress(ConflictError, MissingError):
            await self._desk.jobs.delete(job.account, job.id)

    async def _heard(self, job: Job) -> AsyncIterator[JobResult | None]:
        """None as long as it waits or is being heard, and then what was. Raises PrivocioError."""
        pause_s = _POLL_S
        while True:
            found = await self._desk.jobs.get(job.account, job.id)
            if found.failure is not None:
                raise of_failure(found.failure)
            if found.status.is_final:
                yield await self._desk.jobs.result(job.account, job.id)
                return
            if not self._desk.is_ready():
                raise PrivocioError(Code.RUNTIME_UNAVAILABLE)
            yield None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MAX_POLL_S)

    async def _more(self, job: Job, after: int) -> Sequence[tuple[PartPlan, Transcript]]:
        """Parts that were heard since. What all parts together decide on, none of them tells alone."""
        if job.options.channels or job.options.redact:
            return ()
        return await self._desk.jobs.heard(job.account, job.id, after=after)

    async def _flow(self, request: web.Request, job: Job, mode: Mode) -> web.StreamResponse:
        """Events as the document's own reader takes them apart: `event` first, one line of `data`, LF only."""
        stream = _EventStream(request, self._desk.idle_s, mode)
        await stream.prepare(request)
        parts: list[tuple[PartPlan, Transcript]] = []
        try:
            async for heard in self._heard(job):
                if heard is not None:
                    await stream.done(heard.transcript)
                elif more := await self._more(job, len(parts)):
                    parts += more
                    so_far = PartStitcher().stitch(parts, job.options).transcript
                    await stream.segments(so_far)
                else:
                    await stream.wait()
        except PrivocioError as exc:
            await stream.event("error", json.loads(exc.body()))
        except JobsError as exc:
            await stream.event("error", json.loads(of_jobs_error(exc).body()))
        await finish(request, stream, stall_s=self._desk.idle_s)
        return stream


class _EventStream(web.StreamResponse):
    """An answer of server-sent events."""

    def __init__(self, request: web.Request, stall_s: float, mode: Mode) -> None:
        headers = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
        super().__init__(headers=headers)
        self._asking = request
        self._stall_s = stall_s
        self._waits = 0
        self._mode = Mode.RAW if mode is Mode.AGENT else mode
        self._heard = self._told = 0

    async def say(self, data: bytes) -> None:
        await write(self._asking, self, data, stall_s=self._stall_s)

    async def wait(self) -> None:
        """A sign of life, a comment to every reader of events: once in a while, and whoever has left is noticed."""
        self._waits += 1
        if self._waits % _WAITS_TO_A_PING == 1:
            await self.say(b": waiting\n\n")

    async def event(self, name: str, data: Mapping[str, Any]) -> None:
        line = json.dumps(data, ensure_ascii=False)
        await self.say(f"event: {name}\ndata: {line}\n\n".encode())

    async def segments(self, transcript: Transcript) -> None:
        """Those that are new, of what was heard so far."""
        new, self._heard = transcript.segments[self._heard :], len(transcript.segments)
        for segment in segments_of(new, transcript.language, self._mode, first=self._told):
            self._told += 1
            await self.event("segment", segment)

    async def done(self, transcript: Transcript) -> None:
        """The rest of them, and the end."""
        await self.segments(transcript)
        body = shaped(transcript, self._mode)
        await self.event("done", {name: body[name] for name in ("text", "language", "duration")})


def _wanted(fields: Mapping[str, str], can: Capabilities, *, always_stream: bool) -> _Wanted:
    language = fields.get("language", "")
    code = code_of(language) if language else None
    if language and code is None:
        raise bad("language is not one that is known.")
    prompt = fields.get("prompt") or None
    if prompt is not None and len(prompt) > _MAX_PROMPT_CHARS:
        raise bad(f"prompt must be at most {_MAX_PROMPT_CHARS} characters.")
    try:
        mode = Mode(fields.get("output_mode") or Mode.RAW)
    except ValueError:
        raise bad(f"output_mode must be one of: {', '.join(Mode)}") from None
    model = fields.get("model") or DEFAULT_MODEL
    streams = _flag(fields, "stream") or always_stream
    plain = JobOptions(
        model=None if model == DEFAULT_MODEL else model,
        language=code,
        prompt=prompt,
        longest_part_s=_STREAMED_PART_S if streams else None,
    )
    try:
        options = extensions.extended(plain, fields, can)
    except extensions.ExtensionError as exc:
        raise bad(str(exc)) from None
    return _Wanted(options, mode, streams)


def _flag(fields: Mapping[str, str], name: str) -> bool:
    text = fields.get(name, "false").strip().lower()
    if text not in ("true", "1", "false", "0", ""):
        raise bad(f"{name} must be true or false.")
    return text in ("true", "1")


def limits_of(plan: PlanTerms) -> Mapping[str, Any]:
    """Null is without a limit."""
    return {
        "audio_hours_per_4_weeks": None if plan.quota_ms is None else plan.quota_ms / 3_600_000,
        "requests_per_minute": plan.requests_per_minute,
        "concurrency": plan.concurrency,
        "max_audio_seconds": None if plan.max_audio_ms is None else plan.max_audio_ms / 1000,
        "max_upload_bytes": plan.max_upload_bytes,
        "api_keys": plan.max_active_keys,
    }


def usage_of(account: Account, held: Balance, now_ms: int) -> Mapping[str, Any]:
    """Of the present window of 28 days; null where hours are not counted, or not limited."""
    plan = account.plan
    if plan.meter is not Meter.HOURS_28D:
        return dict.fromkeys(("period_start", "period_end", "audio_seconds_used", "audio_seconds_remaining"))
    start_ms = window_start_ms(account.created_ms, now_ms)
    quota_s = (plan.quota_ms or 0) / 1000
    return {
        "period_start": iso(start_ms),
        "period_end": iso(start_ms + WINDOW_MS),
        "audio_seconds_used": round(quota_s - float(held.total) * 3600, 3),
        "audio_seconds_remaining": None if plan.quota_ms is None else round(float(held.available) * 3600, 3),
    }
