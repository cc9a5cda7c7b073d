"""How does an error become an answer? In one place for all job APIs, in the words of each."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from core.program.http.listener import PeerGoneError
from proxy.dialects.bodies import BrokenBodyError
from proxy.errors import ProxyError
from proxy.jobs.errors import JobsError
from proxy.jobs.model import Failure, FailureKind, StoredAnswer

_log = structlog.get_logger(__name__)

Told = Mapping[str, Any]
"""An answer, before it is JSON."""

_HEADERS: Final = {"Content-Type": "application/json", "Cache-Control": "no-store"}


class Refusal(Exception, ABC):  # noqa: N818 - an answer, in the words of one API
    """A request that is refused.

    row: of its code, the status and a sentence. message: where that sentence says too little. allow: the methods that
    would be taken.
    """

    def __init__(
        self,
        code: str,
        row: tuple[int, str],
        message: str | None = None,
        *,
        retry_after_s: float | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(code)
        self.status, sentence = row
        self.message = message or sentence
        self.retry_after_s = retry_after_s
        self.allow = allow

    @abstractmethod
    def body(self) -> bytes: ...

    def headers(self) -> dict[str, str]:
        headers = dict(_HEADERS)
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.allow is not None:
            headers["Allow"] = self.allow
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


@dataclass(frozen=True, slots=True)
class Words:
    """What an API says of errors that are not its own. invalid: with a sentence of ours."""

    of_jobs: Callable[[JobsError], Refusal]
    invalid: Callable[[str], Refusal]
    internal: Callable[[], Refusal]


async def answered(
    request: web.Request, work: Callable[[], Awaitable[web.StreamResponse]], words: Words
) -> web.StreamResponse:
    """The answer that `work` makes, or why it makes none."""
    try:
        return await work()
    except Refusal as exc:
        error = exc
    except JobsError as exc:
        error = words.of_jobs(exc)
        if error.status >= 500:
            _log.error("jobs_failed", error=type(exc).__name__)
    except BrokenBodyError as exc:
        error = words.invalid("The body stopped coming." if exc.stalled else "The body is broken.")
    except (PeerGoneError, ProxyError):
        raise
    except Exception as exc:
        if request.writer.output_size > 0:
            raise
        # Its message may quote the request.
        _log.error("internal_error", error=type(exc).__name__)
        error = words.internal()
    return refused(error)


def refused(error: Refusal) -> web.Response:
    return web.Response(status=error.status, body=error.body(), headers=error.headers())


def refusing(error: Refusal) -> Handler:
    """A handler that refuses whatever comes."""

    async def refuse(_: web.Request) -> web.StreamResponse:
        return refused(error)

    return refuse


def told(answer: Told, status: int = 200) -> web.Response:
    """An answer in JSON."""
    return web.Response(status=status, body=_json(answer), headers=_HEADERS)


def stored(answer: Told) -> StoredAnswer:
    """The same, to be given again."""
    return StoredAnswer(200, tuple(_HEADERS.items()), _json(answer))


def _json(answer: Told) -> bytes:
    return json.dumps(answer, ensure_ascii=False).encode()


def limit_sentence(failure: Failure) -> str | None:
    """Which limit a recording is beyond; None where that is not what went wrong."""
    numbers = failure.numbers
    if failure.kind is FailureKind.MEDIA_TOO_LONG and "limit_ms" in numbers:
        return f"The recording is longer than {numbers['limit_ms'] // 1000} s, the limit of this plan."
    if failure.kind is FailureKind.MEDIA_TOO_LARGE and "limit_bytes" in numbers:
        return f"The file is larger than {numbers['limit_bytes']} bytes, the limit here."
    return None


def shown_key(headers: Mapping[str, str], *, authorization: bool = True) -> str | None:
    """The key or the session, as it is or behind `Bearer`; of two, the one in Authorization.

    authorization: False where that header has the proxy's own token (`proxy.local.guard`).
    """
    shown = headers.get(hdrs.AUTHORIZATION) if authorization else None
    if shown is None:
        return headers.get("X-Api-Key")
    scheme, _, key = shown.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else shown
