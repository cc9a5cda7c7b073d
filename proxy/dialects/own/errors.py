"""What is an app told when a request about jobs cannot be fulfilled? OpenAI's envelope, as everywhere in this proxy."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.jobs.errors import (
    BusyError,
    ConflictError,
    DeniedError,
    FailedError,
    FundsError,
    JobsError,
    LedgerError,
    LostError,
    MissingError,
    ReusedKeyError,
    StoreError,
    VaultError,
)
from proxy.jobs.model import FailureKind

_log = structlog.get_logger(__name__)


class RequestError(Exception):
    """A request that is wrong in itself. param: the field at fault, by a name of ours; never text of the request."""

    def __init__(
        self, sentence: str, *, param: str | None = None, status: int = 400, code: str = "invalid_value"
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.param = param
        self.status = status
        self.code = code


def refused(
    status: int, code: str, sentence: str, *, param: str | None = None, retry_after_s: float | None = None
) -> web.Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": sentence, "type": kind, "param": param, "code": code}
    response = web.json_response({"error": error}, status=status, headers={"Cache-Control": "no-store"})
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if status in (408, 413, 415):
        response.force_close()  # the rest of the body is not waited for
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


_ROWS: Final[Mapping[type[JobsError], tuple[int, str, str]]] = {
    BusyError: (409, "idempotency_key_in_use", "The first request with this idempotency key is being answered."),
    ConflictError: (409, "job_conflict", "The job is in a state in which this cannot be done."),
    DeniedError: (401, "invalid_api_key", "The API key is missing, unknown, over or revoked."),
    FundsError: (402, "insufficient_funds", "The account cannot pay for this."),
    LedgerError: (500, "ledger_altered", "The ledger of this account is not as it was written."),
    LostError: (503, "store_unavailable", "Jobs cannot be kept or read now."),
    MissingError: (404, "job_not_found", "There is no such job."),
    ReusedKeyError: (422, "idempotency_key_reused", "This idempotency key came with another request."),
    StoreError: (503, "store_unavailable", "Jobs cannot be kept or read now."),
    VaultError: (500, "sealed_data_unreadable", "What is kept of this job cannot be opened."),
}
_OTHER: Final = (500, "internal_error", "The proxy had an error.")
_STORE_RETRY_S: Final = 5.0


def _response(exc: JobsError | RequestError) -> web.Response:
    if isinstance(exc, RequestError):
        return refused(exc.status, exc.code, exc.sentence, param=exc.param)
    if isinstance(exc, FailedError) and exc.failure.kind is FailureKind.MEDIA_TOO_LARGE:
        limit = exc.failure.numbers.get("limit_bytes", 0)
        return refused(413, "file_too_large", f"Maximum content size limit ({limit}) exceeded", param="file")
    retry_after_s = exc.retry_after_s if isinstance(exc, BusyError) else None
    retry_after_s = _STORE_RETRY_S if isinstance(exc, StoreError) else retry_after_s
    return refused(*_ROWS.get(type(exc), _OTHER), retry_after_s=retry_after_s)


def answering(handler: Handler) -> Handler:
    """A handler whose errors become answers of this dialect."""

    @functools.wraps(handler)
    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except (JobsError, RequestError) as exc:
            response = _response(exc)
            _log.info("job_request_refused", status=response.status, error=type(exc).__name__)
            return response

    return answered
