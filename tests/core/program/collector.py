"""An OTLP collector on a real socket that reads what it gets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from core.program.http.listener import listening
from tests.attestation.servers import LOOPBACK, constant_answer


def named(attributes: object) -> dict[str, str | int]:
    """Attributes as a dictionary."""
    assert isinstance(attributes, list)
    pairs: list[KeyValue] = attributes
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in pairs}


@dataclass
class Collector:
    """Everything that came, and what it is answered with.

    traces_status: in place of `status`, for traces. changed: notified when something came.
    """

    url: str = ""
    status: int = 200
    traces_status: int | None = None
    bodies: list[bytes] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def latest(self) -> dict[str, Metric]:
        """What was pushed last."""
        (of_source,) = self.metrics[-1].resource_metrics
        (scoped,) = of_source.scope_metrics
        return {metric.name: metric for metric in scoped.metrics}

    @property
    def spans(self) -> list[Span]:
        """All that ever came."""
        sources = [of_source for request in self.traces for of_source in request.resource_spans]
        return [span for of_source in sources for scoped in of_source.scope_spans for span in scoped.spans]

    async def until(self, count: int) -> None:
        """Wait until so many pushes of metrics have come."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.metrics) >= count)

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self.changed:
            self.bodies.append(body)
            self.heads.append(dict(request.headers))
            self.changed.notify_all()
            if request.path == "/v1/metrics":
                self.metrics.append(ExportMetricsServiceRequest.FromString(body))
                return web.Response(status=self.status)
            self.traces.append(ExportTraceServiceRequest.FromString(body))
            return web.Response(status=self.traces_status or self.status)

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Collector]:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/v1/{signal:metrics|traces}", self._take)
        async with listening(app, [LOOPBACK], error_response=constant_answer, tls=tls) as (address,):
            self.url = f"{'https' if tls else 'http'}://localhost:{address.port}"
            yield self
