"""The proxy, wired: what sends, guard, listeners.

Both listeners bind at once, before any engine has proved itself: an app that comes too early is told so, with the time
to come back, and a probe sees why. The second listener outlives the first, so that `/readyz` can say `draining`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from core.program.files import watch
from core.program.http.connections import raise_descriptor_limit
from core.program.http.listener import Address, listening, refuse_names
from core.program.memory import keep_freed_memory
from core.program.push import pushing
from core.program.run import ExitCode, until_stopped
from core.program.supervisor import READY, STOPPING, Supervisor, supervised
from proxy.dialects.off import OFF, Jobs, Route
from proxy.engines.trust import Trust
from proxy.local import endpoints
from proxy.local.endpoints import constant_refusal
from proxy.local.exchange import relay
from proxy.local.guard import Rules, allowed_hosts, guard
from proxy.local.offer import TARGET
from proxy.local.page.serving import PageFile, handler_of, page_files
from proxy.local.realtime import realtime
from proxy.local.service import SERVICE, Service
from proxy.local.tls import ServerTls
from proxy.sender import ProxyParts, Sender, StartError, read_policy_file, running, sending, warn_of
from proxy.settings import ProxySettings, listen_addresses

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """Handles for whoever started the proxy: the bound addresses and the parts behind them."""

    addresses: tuple[Address, ...]
    status_address: Address
    service: Service
    tls: ServerTls | None

    @property
    def trust(self) -> Trust:
        """What is known of the first engine."""
        return self.service.sender.engines.members[0].trust


async def serve(settings: ProxySettings) -> ExitCode:
    """Serve until SIGTERM or SIGINT, then let requests in flight finish. Raises StartError, OSError."""
    raise_descriptor_limit()
    keep_freed_memory()
    async with supervised(os.environ) as supervisor, running_proxy(settings) as proxy:
        engines = proxy.service.sender.engines
        code = await _ended(proxy, supervisor, engines.until_refused() if settings.exit_if_refused else None)
        proxy.service.draining = True
        supervisor.tell(STOPPING)
        _log.info("draining")
        _end_at_once_next_time()
    return code


def _announce(proxy: RunningProxy, supervisor: Supervisor) -> None:
    supervisor.tell(READY)
    warn_of(proxy.service.sender.engines.policy)
    _log.info(
        "serving", addresses=[str(address) for address in proxy.addresses], status_address=str(proxy.status_address)
    )


async def _ended(proxy: RunningProxy, supervisor: Supervisor, refused: Coroutine[Any, Any, None] | None) -> ExitCode:
    """Wait for a signal or, where asked for, for a refusal of every engine."""
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(until_stopped())]
        # After the line above has begun to listen for signals: who reads that we serve may tell us to stop.
        asyncio.get_running_loop().call_soon(_announce, proxy, supervisor)
        if refused is not None:
            waiting.append(group.create_task(refused))
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        were_refused = any(task.done() for task in waiting[1:])
        for task in waiting:
            task.cancel()
    return ExitCode.REFUSED if were_refused else ExitCode.ACCEPTED


def _end_at_once_next_time() -> None:
    """Draining may take as long as the longest job; who signals again does not want to wait for it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


@asynccontextmanager
async def running_proxy(settings: ProxySettings, parts: ProxyParts | None = None) -> AsyncIterator[RunningProxy]:
    """A proxy that serves while the context is open. Raises StartError, OSError."""
    parts = parts or ProxyParts()
    file, tls = read_policy_file(settings, parts.clock), _server_tls(settings)
    async with AsyncExitStack() as stack:
        sender = await stack.enter_async_context(sending(settings, file, parts))
        service = Service(sender, idle_timeout_s=settings.idle_timeout_s, overall_timeout_s=settings.overall_timeout_s)
        status_app = _status_app(service, frozenset({"localhost", *settings.allow_host}))
        status = await stack.enter_async_context(_serving(status_app, (Address.parse(settings.status_listen),)))
        jobs = await stack.enter_async_context(_jobs(settings, sender, parts))
        addresses = await stack.enter_async_context(
            _serving(
                _app(service, _rules(settings), _page(settings), jobs),
                listen_addresses(settings),
                tls=tls.context if tls else None,
                drain_s=settings.overall_timeout_s,
            )
        )
        upkeep = sender.upkeep(parts.nap)
        upkeep += jobs.upkeep()
        upkeep += [watch(tls.changed, lambda _: None, parts.nap)] if tls else []
        await stack.enter_async_context(running(upkeep))
        telemetry = sender.telemetry
        await stack.enter_async_context(
            pushing(
                settings,
                "sottovoce-proxy",
                telemetry.snapshot,
                environ=parts.environ,
                spans=telemetry.spans,
                nap=parts.nap,
            )
        )
        yield RunningProxy(addresses, status[0], service, tls)
        service.draining = True


@asynccontextmanager
async def _jobs(settings: ProxySettings, sender: Sender, parts: ProxyParts) -> AsyncIterator[Jobs]:
    """The routes of jobs, and what does them. Raises StartError."""
    if not settings.jobs:
        yield Jobs([("*", path, handler) for path, handler in OFF.items()])
        return
    try:
        from proxy.dialects.serving import serving_jobs  # whoever takes no jobs needs none of it  # noqa: PLC0415
    except ImportError as exc:
        raise StartError(f"--jobs needs the extra `jobs`: {exc.name} is not installed") from exc
    async with serving_jobs(settings, sender, parts) as jobs:
        yield jobs


def _server_tls(settings: ProxySettings) -> ServerTls | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        return ServerTls(settings.tls_cert, settings.tls_key)
    except (OSError, ValueError) as exc:
        raise StartError("--tls-cert and --tls-key: not a certificate and its key") from exc


def _rules(settings: ProxySettings) -> Rules:
    return Rules(
        hosts=allowed_hosts((address.host for address in listen_addresses(settings)), settings.allow_host),
        origins=frozenset(settings.allow_origin),
        scheme="https" if settings.is_tls else "http",
        token=settings.token.get_secret_value() if settings.token else None,
        token_is_authorization=settings.api_key is not None,
    )


def _page(settings: ProxySettings) -> Mapping[str, PageFile]:
    if not settings.page:
        return {}
    return page_files(settings.jobs_max_file_bytes if settings.jobs else None)


def _app(service: Service, rules: Rules, page: Mapping[str, PageFile], jobs: Jobs) -> web.Application:
    """What apps reach, and a browser."""
    app = _application(
        service,
        [endpoints.answer_errors, guard(rules, open_paths=page.keys())],
        {
            "/attestation": endpoints.get_attestation,
            "/attestation/bundle": endpoints.get_bundle,
            **{path: handler_of(file) for path, file in page.items()},
        },
        every_method={"/v1/{target:.*}": relay},
        first=jobs.routes,
        websockets={TARGET: realtime},
    )
    jobs.prepare(app)
    return app


def _status_app(service: Service, hosts: frozenset[str]) -> web.Application:
    """What probes and scrapes reach: by address, or under one of the names in `hosts`."""
    return _application(
        service,
        [endpoints.answer_status_errors, refuse_names(endpoints.host_refusal, hosts)],
        {
            "/livez": endpoints.livez,
            "/readyz": endpoints.readyz,
            "/healthz": endpoints.readyz,
            "/metrics": endpoints.metrics,
        },
    )


def _application(
    service: Service,
    middlewares: list[Middleware],
    to_get: Mapping[str, Handler],
    *,
    every_method: Mapping[str, Handler] | None = None,
    first: Sequence[Route] = (),
    websockets: Mapping[str, Handler] | None = None,
) -> web.Application:
    """Its last route catches all: aiohttp's own 404 meets expectations before any check, and quotes strange ones."""
    # client_max_size bounds what aiohttp would buffer by itself; nothing here asks it to.
    app = web.Application(middlewares=middlewares, client_max_size=1024)
    app[SERVICE] = service
    app.on_response_prepare.append(endpoints.finish_headers)
    app.on_shutdown.append(endpoints.end_live_sessions)
    routes = list(first)
    routes += [(method, path, handler) for path, handler in to_get.items() for method in ("GET", "HEAD")]
    routes += [("*", path, endpoints.method_not_allowed) for path in to_get]
    routes += [("GET", path, handler) for path, handler in (websockets or {}).items()]
    routes += [("*", path, handler) for path, handler in (every_method or {}).items()]
    for method, path, handler in (*routes, ("*", "/{anything:.*}", endpoints.not_found)):
        app.router.add_route(method, path, handler, expect_handler=endpoints.continue_later)
    return app


@asynccontextmanager
async def _serving(
    app: web.Application,
    addresses: tuple[Address, ...],
    *,
    tls: ssl.SSLContext | None = None,
    drain_s: float = 0.0,
) -> AsyncIterator[tuple[Address, ...]]:
    async with listening(app, addresses, error_response=constant_refusal, tls=tls, shutdown_timeout_s=drain_s) as bound:
        yield bound
