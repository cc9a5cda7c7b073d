"""How does somebody who has signed in manage the keys of their account?

::

    GET    /v1/api-keys         {"data": [{"id", "name", "prefix", "created_at", "expires_at", "revoked_at"}, ...]}
    POST   /v1/api-keys         {"name"?} -> 201, the same with "secret", which is told this once
    DELETE /v1/api-keys/{id}    204: from now on it opens nothing

With a key each of them is 403: whoever finds a program's key gets no other keys by it.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aiohttp import web

from core.errors import OversizeError
from proxy.dialects import bodies
from proxy.dialects.answering import Told, told
from proxy.dialects.desk import Caller, Desk
from proxy.dialects.privocio.errors import Code, PrivocioError, bad
from proxy.dialects.times import iso
from proxy.jobs.errors import ConflictError, MissingError
from proxy.jobs.model import ApiKey, KeyId

_MAX_BODY_BYTES: Final = 4_096
_MAX_NAME_CHARS: Final = 64


async def list_keys(desk: Desk, _: web.Request, caller: Caller) -> web.Response:
    check_session(caller)
    known = await desk.accounts.keys(caller.account.id)
    return told({"data": [_told(key) for key in known if not key.is_session]})


async def create_key(desk: Desk, request: web.Request, caller: Caller) -> web.Response:
    check_session(caller)
    name = await _name(desk, request)
    try:
        key, text = await desk.accounts.add_key(caller.account.id, name)
    except ConflictError:
        raise PrivocioError(Code.FORBIDDEN, "The plan allows no more active API keys.") from None
    return told({**_told(key), "secret": text}, status=201)


async def revoke_key(desk: Desk, request: web.Request, caller: Caller) -> web.Response:
    check_session(caller)
    wanted = KeyId(request.match_info["id"])
    known = await desk.accounts.keys(caller.account.id)
    if not any(key.id == wanted and not key.is_session for key in known):
        raise MissingError
    await desk.accounts.revoke(caller.account.id, wanted)
    return web.Response(status=204)


def check_session(caller: Caller) -> None:
    """Raises PrivocioError."""
    if not caller.principal.is_session:
        raise PrivocioError(Code.FORBIDDEN, "This needs a session; a key is not enough.")


async def _name(desk: Desk, request: web.Request) -> str:
    """What the new key shall be called. Raises PrivocioError."""
    try:
        body = await bodies.read(request, _MAX_BODY_BYTES, idle_s=desk.idle_s)
        given = json.loads(body) if body else {}
    except (OversizeError, ValueError, RecursionError):
        raise bad("The body must be a JSON object.") from None
    name = given.get("name", "key") if isinstance(given, dict) else None
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME_CHARS or not name.isprintable():
        raise bad(f"name must be 1 to {_MAX_NAME_CHARS} printable characters.")
    return name


def _told(key: ApiKey) -> Told:
    moments: dict[str, Any] = {
        "created_at": key.created_ms,
        "expires_at": key.expires_ms,
        "revoked_at": key.revoked_ms,
    }
    shown = {name: None if at_ms is None else iso(at_ms) for name, at_ms in moments.items()}
    return {"id": key.id, "name": key.name, "prefix": key.prefix, **shown}
