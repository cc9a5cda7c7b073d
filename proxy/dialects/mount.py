"""Which URLs do the job APIs have, all together? No two mean different things by the same method at the same path."""

from __future__ import annotations

from typing import Final

from aiohttp.typedefs import Handler

from proxy.dialects.audiototext import routes as audiototext
from proxy.dialects.desk import Desk
from proxy.dialects.privocio import routes as privocio
from proxy.dialects.scriptivox import routes as scriptivox

Mounted = tuple[str, str, Handler]

_OTHERS: Final = {"/v1/transcriptions": "POST"}


def mounted(desk: Desk) -> list[Mounted]:
    """Method, path and handler, in the order in which they are asked."""
    return [*scriptivox.routes(desk), *privocio.routes(desk), *audiototext.routes(desk), *scriptivox.fallbacks(_OTHERS)]
