"""A request is a trace of its own, whose parts tell what it spent its time on; its errors are told by their codes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from core.program.spans import Span, Spans
from proxy.app import RunningProxy
from proxy.settings import ProxySettings
from proxy.telemetry import SpanName
from tests.core.program.collector import Collector
from tests.proxy.conftest import StartProxy
from tests.proxy.fake_engine import FakeEngine, Script, cut_stream, event_stream, outer

CODE = "error.type"


@pytest.fixture
async def traced(start_proxy: StartProxy) -> AsyncIterator[RunningProxy]:
    async with (
        Collector().running() as collector,
        start_proxy(otlp_endpoint=collector.url, otlp_traces=True, otlp_period_s=3600) as proxy,
    ):
        await proxy.trust.engine()
        spans(proxy)
        yield proxy


def spans(proxy: RunningProxy) -> list[Span]:
    """What has ended since it was last asked."""
    kept: Spans = proxy.service.sender.telemetry.spans
    ended = kept.ended()
    kept.take(ended)
    return ended


async def ask(proxy: RunningProxy, path: str = "/v1/audio/transcriptions") -> int:
    async with aiohttp.ClientSession() as app, app.post(f"http://{proxy.addresses[0]}{path}", data=b"x") as response:
        await response.read()
        return response.status


async def test_a_request_has_its_parts(traced: RunningProxy) -> None:
    assert await ask(traced) == 200
    *parts, whole = spans(traced)
    assert [part.name for part in parts] == [SpanName.LEASE, SpanName.SEND, SpanName.ANSWER]
    assert {part.parent_id for part in parts} == {whole.span_id}
    assert (whole.name, whole.attributes) == (SpanName.REQUEST, {"http.response.status_code": 200})
    assert parts[1].attributes == {"sottovoce.engine": 0}
    assert not any(span.failed for span in (*parts, whole))


async def test_a_request_that_the_proxy_refuses_has_its_code(traced: RunningProxy, engine: FakeEngine) -> None:
    engine.scripts += [outer(400), Script(play=event_stream), Script(play=cut_stream)]
    assert [await ask(traced), await ask(traced), await ask(traced), await ask(traced, "/other")] == [
        502,
        200,
        200,
        404,
    ]
    whole = [span for span in spans(traced) if span.name is SpanName.REQUEST]
    assert [span.attributes.get(CODE) for span in whole] == [
        "upstream_protocol_error",
        None,
        "stream_truncated",
        "not_found",
    ]
    assert [span.failed for span in whole] == [True, False, True, True]


async def test_an_engine_that_does_not_answer_shows_where(traced: RunningProxy, engine: FakeEngine) -> None:
    engine.drop_connections = True
    assert await ask(traced) == 503
    failed = [span.name for span in spans(traced) if span.failed]
    assert failed == [SpanName.SEND, SpanName.REQUEST]


async def test_a_verification_is_a_trace_of_its_own(traced: RunningProxy, engine: FakeEngine) -> None:
    engine.config_changes["log_level"] = "debug"
    engine.rotate()
    assert await ask(traced) == 502
    ended = spans(traced)
    (verification,) = [span for span in ended if span.name is SpanName.VERIFICATION]
    (request,) = [span for span in ended if span.name is SpanName.REQUEST]
    assert verification.trace_id != request.trace_id
    assert verification.failed
    assert verification.attributes == {
        "sottovoce.outcome": "refused",
        "sottovoce.reason": "key_mismatch",
        "sottovoce.check": "log level",
    }


async def test_without_traces_no_span_is_kept(start_proxy: StartProxy) -> None:
    async with Collector().running() as collector:
        async with start_proxy(otlp_endpoint=collector.url) as proxy:
            assert await ask(proxy) == 200
            assert spans(proxy) == []
        assert collector.metrics
        assert collector.traces == []


def test_traces_without_a_collector_are_a_mistake(engine: FakeEngine, policy: object) -> None:
    with pytest.raises(ValueError, match="--otlp-endpoint"):
        ProxySettings(engine="http://127.0.0.1:9", policy=policy, otlp_traces=True)
