"""How does a collector get what a scrape would? It is pushed to it now and then, where a program is told to.

What is pushed is what `/metrics` shows at that moment, and the spans that have ended since. A collector that does not
answer is told of once, and loses nothing of the metrics, which are cumulative.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import aiohttp
import structlog
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from core.program.http.client import is_this_machine, open_session, proxy_for
from core.program.metrics import Snapshot
from core.program.run import project_version
from core.program.settings import ProgramSettings, SecretFile
from core.program.spans import Span, Spans

if TYPE_CHECKING:
    from core.program.otlp import Source

_log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/x-protobuf"
_TRY_AGAIN: Final = (429, 502, 503, 504)
"""What a collector says that may take the same later (OTLP, "Retryable Response Codes")."""
_PATIENCE_S: Final = 10.0
_LAST_PATIENCE_S: Final = 2.0


def _collector(text: str) -> str:
    try:
        url = urlsplit(text)
        _ = url.port  # raises when it is no port
    except ValueError:
        url = urlsplit("")
    if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc or set(text) & set("?#\\ "):
        raise ValueError("a collector's URL is http://HOST[:PORT][/PATH] or https://, without user, query or fragment")
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.proto") is None:
        raise ValueError("needs the extra `otel`: pip install 'sottovoce[otel]'")
    return text.rstrip("/")


class PushOptions(ProgramSettings):
    """Where metrics are pushed to, and how often."""

    otlp_endpoint: Annotated[str, AfterValidator(_collector)] | None = Field(
        None, description="URL of an OTLP/HTTP collector, without /v1/metrics. Default: nothing is pushed."
    )
    otlp_token: SecretFile | None = Field(None, description="@FILE with a bearer token for the collector.")
    otlp_ca_file: Path | None = Field(None, description="PEM roots for the collector's TLS, in place of the system's.")
    otlp_period_s: float = Field(60.0, ge=1, description="Seconds from one push to the next.")

    @field_validator("otlp_token")
    @classmethod
    def _not_in_the_clear(cls, token: SecretFile | None, info: ValidationInfo) -> SecretFile | None:
        url = urlsplit(info.data.get("otlp_endpoint") or "")
        if token is not None and url.scheme == "http" and not is_this_machine(url.hostname or ""):
            raise ValueError("the collector is on another machine, and the token would go there in the clear")
        return token

    @field_validator("otlp_ca_file")
    @classmethod
    def _roots(cls, path: Path | None) -> Path | None:
        try:
            if path is not None:
                ssl.create_default_context(cafile=path)
        except OSError:
            raise ValueError("not a file of PEM certificates") from None
        return path


@asynccontextmanager
async def pushing(
    options: PushOptions,
    service: str,
    snapshot: Callable[[], Snapshot],
    *,
    environ: Mapping[str, str],
    spans: Spans | None = None,
    nap: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[None]:
    """Push while the context is open, and once more when it is left; nothing where no collector is named.

    service: what the program is called there. snapshot: what a scrape would get. environ: names an HTTP proxy.
    """
    if options.otlp_endpoint is None:
        yield
        return
    tls = ssl.create_default_context(cafile=options.otlp_ca_file)
    async with open_session(
        tls=tls, loopback_only=False, connect_timeout_s=_PATIENCE_S, idle_timeout_s=_PATIENCE_S
    ) as session:
        pusher = _Pusher(session, options, environ, source=_source(service), snapshot=snapshot, spans=spans or Spans())
        task = asyncio.create_task(pusher.push_for_ever(options.otlp_period_s, nap))  # noqa: TID251 - ended below
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            await pusher.push(_LAST_PATIENCE_S)


def _source(service: str) -> Source:
    from core.program.otlp import Source  # an extra, which only who pushes loads  # noqa: PLC0415

    return Source(service, project_version(), secrets.token_hex(8), time.time_ns())


class _Pusher:
    """Pushes to one collector."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        options: PushOptions,
        environ: Mapping[str, str],
        *,
        source: Source,
        snapshot: Callable[[], Snapshot],
        spans: Spans,
    ) -> None:
        self._session = session
        self._url = options.otlp_endpoint or ""
        self._headers = {"Content-Type": MEDIA_TYPE}
        if options.otlp_token is not None:
            self._headers["Authorization"] = f"Bearer {options.otlp_token.get_secret_value()}"
        self._environ = environ
        self._source = source
        self._snapshot = snapshot
        self._spans = spans
        self._failing = False

    async def push_for_ever(self, period_s: float, nap: Callable[[float], Awaitable[None]]) -> None:
        while True:
            await nap(period_s)
            await self.push(_PATIENCE_S)

    async def push(self, patience_s: float) -> None:
        """Push once. What goes wrong is told in the log, once until it goes well again."""
        from core.program.otlp import encode_metrics, encode_spans  # noqa: PLC0415

        spans = self._spans.ended()
        try:
            async with asyncio.timeout(patience_s):
                await self._post("/v1/metrics", encode_metrics(self._snapshot(), self._source, time.time_ns()))
                if spans:
                    await self._post_spans(spans, encode_spans(spans, self._source))
        except (
            aiohttp.ClientError,
            OSError,
            ValueError,
        ) as exc:  # ValueError: of what the environment names as a proxy
            if not self._failing:
                _log.warning("not_pushed", error=type(exc).__name__, status=getattr(exc, "status", None))
            self._failing = True
        else:
            if self._failing:
                _log.info("pushed_again")
            self._failing = False

    async def _post_spans(self, spans: list[Span], body: bytes) -> None:
        try:
            await self._post("/v1/traces", body)
        except aiohttp.ClientResponseError as exc:
            if exc.status not in _TRY_AGAIN:
                self._spans.take(spans)  # they would be refused again
            raise
        self._spans.take(spans)

    async def _post(self, path: str, body: bytes) -> None:
        async with self._session.post(
            self._url + path,
            data=body,
            headers=self._headers,
            allow_redirects=False,
            proxy=proxy_for(self._url, self._environ),
        ) as response:
            if not 200 <= response.status < 300:
                raise aiohttp.ClientResponseError(response.request_info, (), status=response.status)
