"""May whoever opened this connection use the proxy? Host, Origin, Sec-Fetch-Site and a token.

A listener on loopback can be reached by every page in a browser on the machine, and the proxy may hold an API key. In
this order:

1. Host            names this proxy. A name that an attacker's DNS points at 127.0.0.1 does not (DNS rebinding).
2. Origin          is the listener's own, or was allowed. `localhost:3000` is another origin than `localhost:8080`.
3. Sec-Fetch-Site  is `none` or `same-origin` when there is no Origin: browsers leave that away on plain GETs.
4. preflight       is answered for an allowed origin. It cannot carry a token (Fetch, section 3.2.2).
5. token           matches, where one was set: `Authorization: Bearer` when the proxy holds the API key, so that
                   OpenAI's SDK can send it, and `X-Sottovoce-Token` when Authorization belongs to the engine. Pages can
                   set neither on a WebSocket: there the subprotocols `openai-insecure-api-key.TOKEN` and
                   `sottovoce-token.TOKEN` stand for them. Of one that was given both ways the header counts.

WebSockets ignore CORS and have no preflight, so all of this is decided before one is opened (RFC 6455, section 10.2).

A browser that opens the proxy's page can show no token. The page's files are the same for everybody, so 5 is not asked
of them; what they show and send goes through all five.

Programs that are no browsers send neither 2 nor 3; there the operating system's rules and the token are what protects.
"""

from __future__ import annotations

import hmac
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from core.channel.gateway import is_released
from core.program.http.listener import host_name
from proxy.errors import ErrorCode, ProxyError
from proxy.local.offer import Offer, is_websocket

TOKEN_HEADER: Final = "X-Sottovoce-Token"  # noqa: S105 - the name of a header
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
CORS_ORIGIN: Final = web.RequestKey("cors_origin", str)
"""The allowed foreign origin that a request came from; absent for all others."""

_SAME_SITE: Final = (None, "none", "same-origin")
_PREFLIGHT_HEADERS: Final[Mapping[str, str]] = {
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, DELETE",
    # The wildcard does not cover Authorization (Fetch, section 3.2.3).
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "*, authorization",
    hdrs.ACCESS_CONTROL_MAX_AGE: "600",
    "Access-Control-Allow-Private-Network": "true",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """What the guard looks at: header values as they came; every value of those that must come once."""

    hosts: tuple[str, ...]
    origins: tuple[str, ...] = ()
    sec_fetch_site: str | None = None
    is_preflight: bool = False
    authorization: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """hosts: names without ports. origins: allowed besides the listener's own. scheme: http or https.

    token: what apps must show, if anything. token_is_authorization: see 5 of the module.
    """

    hosts: frozenset[str] = LOOPBACK_HOSTS
    origins: frozenset[str] = frozenset()
    scheme: str = "http"
    token: str | None = field(default=None, repr=False)
    token_is_authorization: bool = False


@dataclass(frozen=True, slots=True)
class Admission:
    """foreign_origin: the allowed origin that must be named in the answer. preflight: answer it without a handler."""

    foreign_origin: str | None = None
    preflight: bool = False


def admit(caller: Caller, rules: Rules) -> Admission:
    """Apply `rules`, in the order of the module. Raises ProxyError."""
    host = _check_host(caller, rules)
    foreign_origin = _check_origin(caller, rules, own=f"{rules.scheme}://{host}")
    if caller.is_preflight and foreign_origin is not None:
        return Admission(foreign_origin, preflight=True)
    _check_token(caller, rules)
    return Admission(foreign_origin)


def _check_host(caller: Caller, rules: Rules) -> str:
    """The Host header, in lower case."""
    host = caller.hosts[0].lower() if len(caller.hosts) == 1 else ""
    if host_name(host) not in rules.hosts:
        raise ProxyError(ErrorCode.HOST_NOT_ALLOWED)
    return host


def _check_origin(caller: Caller, rules: Rules, *, own: str) -> str | None:
    """The allowed origin that is not the listener's own, if it is one, in its own spelling: so it must be answered."""
    if len(caller.origins) > 1:
        raise ProxyError(ErrorCode.ORIGIN_NOT_ALLOWED)
    origin = caller.origins[0] if caller.origins else None
    if origin is not None and origin.lower() in rules.origins:
        return origin
    if (origin is not None and origin.lower() != own) or caller.sec_fetch_site not in _SAME_SITE:
        raise ProxyError(ErrorCode.ORIGIN_NOT_ALLOWED)
    return None


def _check_token(caller: Caller, rules: Rules) -> None:
    if rules.token is None:
        return
    shown = _bearer(caller.authorization) if rules.token_is_authorization else caller.token
    if shown is None or not hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), rules.token.encode()):
        raise ProxyError(ErrorCode.INVALID_LOCAL_TOKEN)


def _bearer(authorization: str | None) -> str | None:
    scheme, _, value = (authorization or "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


def cors_headers(origin: str, names: Iterable[str]) -> Mapping[str, str]:
    """What an answer to an allowed foreign origin carries besides its own headers, of these names.

    A page sees a few headers by itself (Fetch, section 4.5); the others that an engine may send are named one by one.
    """
    exposed = sorted(name for name in map(str.lower, names) if is_released(name))
    return {
        str(hdrs.ACCESS_CONTROL_ALLOW_ORIGIN): origin,
        str(hdrs.ACCESS_CONTROL_EXPOSE_HEADERS): ", ".join(exposed),
        str(hdrs.VARY): str(hdrs.ORIGIN),
    }


def allowed_hosts(listened: Iterable[str], allowed: Iterable[str]) -> frozenset[str]:
    """Names that the Host header may have: this machine's, the addresses listened at, and what was allowed."""
    return LOOPBACK_HOSTS | {host.lower() for host in listened} | set(allowed)


def guard(rules: Rules, open_paths: Container[str] = ()) -> Middleware:
    """The middleware that lets nobody past whom `rules` refuse. open_paths: URLs where no token is asked for."""
    tokenless = replace(rules, token=None)

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        admission = admit(_caller(request), tokenless if request.path in open_paths else rules)
        if admission.foreign_origin is not None:
            request[CORS_ORIGIN] = admission.foreign_origin
        if admission.preflight:
            return web.Response(status=204, headers=_PREFLIGHT_HEADERS)
        return await handler(request)

    return guarded


def _caller(request: web.Request) -> Caller:
    headers = request.headers
    offer = Offer.of(headers) if is_websocket(headers) else Offer()
    return Caller(
        hosts=tuple(headers.getall(hdrs.HOST, ())),
        origins=tuple(headers.getall(hdrs.ORIGIN, ())),
        sec_fetch_site=headers.get("Sec-Fetch-Site"),
        is_preflight=request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in headers,
        authorization=headers.get(hdrs.AUTHORIZATION, f"Bearer {offer.keys[0]}" if offer.keys else None),
        token=headers.get(TOKEN_HEADER, offer.token),
    )
