"""What is answered where jobs would be, when they are off? 404, and what to switch on. No store is imported."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.dialects.answering import refusing
from proxy.dialects.audiototext.errors import AudioToTextError
from proxy.dialects.audiototext.errors import Code as AudioToTextCode
from proxy.dialects.privocio import paths as privocio
from proxy.dialects.privocio.errors import Code as PrivocioCode
from proxy.dialects.privocio.errors import PrivocioError
from proxy.dialects.scriptivox.errors import Code as ScriptivoxCode
from proxy.dialects.scriptivox.errors import ScriptivoxError
from proxy.dialects.scriptivox.paths import ROUTES
from proxy.errors import ERRORS, ErrorCode, ProxyError

Route = tuple[str, str, Handler]
"""Method, path and handler."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """What is served of jobs.

    prepare: tells the application what the handlers need. upkeep: what must run for ever.
    """

    routes: Sequence[Route]
    prepare: Callable[[web.Application], None] = lambda _: None
    upkeep: Callable[[], list[Coroutine[Any, Any, None]]] = list


async def jobs_are_off(_: web.Request) -> web.StreamResponse:
    raise ProxyError(ErrorCode.JOBS_OFF)


_SENTENCE: Final = ERRORS[ErrorCode.JOBS_OFF].sentence
_SCRIPTIVOX: Final = refusing(ScriptivoxError(ScriptivoxCode.NOT_FOUND, _SENTENCE))
_PRIVOCIO: Final = refusing(PrivocioError(PrivocioCode.NOT_FOUND, _SENTENCE))
_AUDIOTOTEXT: Final = refusing(AudioToTextError(AudioToTextCode.NOT_FOUND, _SENTENCE))

OFF: Final[Mapping[str, Handler]] = {
    "/v1/jobs": jobs_are_off,
    "/v1/jobs/{rest:.*}": jobs_are_off,
    **{route.path: _SCRIPTIVOX for route in ROUTES},
    "/api/v1/{rest:.*}": _AUDIOTOTEXT,
    **dict.fromkeys((privocio.STREAM, privocio.ME, privocio.USAGE, privocio.API_KEYS), _PRIVOCIO),
    f"{privocio.API_KEYS}/{{id}}": _PRIVOCIO,
}
"""By path; each dialect has its own rows, in its own shape."""
