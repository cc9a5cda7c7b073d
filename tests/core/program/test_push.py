"""A collector gets what a scrape would, now and then and at the end; one that fails is told of once."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import LogCapture

import core.program.push
from core.program.metrics import Registry
from core.program.push import MEDIA_TYPE, PushOptions, pushing
from core.program.spans import Spans
from tests.core.program.collector import Collector
from tests.proxy.certificates import write_certificate
from tests.waiting import until


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector().running() as running:
        yield running


class Naps:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.over = asyncio.Semaphore(0)
        self.asked_s: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked_s.append(seconds)
        await self.over.acquire()


def counting() -> Registry:
    metrics = Registry("ours")
    metrics.counter("errors_total", "Errors.").inc(2)
    return metrics


def options(collector: Collector | str, **more: Any) -> PushOptions:
    return PushOptions(otlp_endpoint=collector if isinstance(collector, str) else collector.url, **more)


async def test_what_a_scrape_shows_is_pushed_now_and_then(collector: Collector) -> None:
    metrics, naps = counting(), Naps()
    async with pushing(options(collector, otlp_period_s=7), "ours", metrics.snapshot, environ={}, nap=naps):
        for count in (1, 2):
            naps.over.release()
            await collector.until(count)
            assert collector.latest["ours_errors_total"].sum.data_points[0].as_double == 2
        assert naps.asked_s[0] == 7
    assert {head["Content-Type"] for head in collector.heads} == {MEDIA_TYPE}
    assert all("Authorization" not in head for head in collector.heads)
    assert collector.traces == []


async def test_what_is_left_is_pushed_at_the_end(collector: Collector) -> None:
    metrics = counting()
    async with pushing(options(collector), "ours", metrics.snapshot, environ={}, nap=Naps()):
        assert collector.metrics == []
    assert len(collector.metrics) == 1


async def test_nothing_is_pushed_where_no_collector_is_named() -> None:
    def snapshot() -> Any:
        raise AssertionError

    async with pushing(PushOptions(), "ours", snapshot, environ={}):
        pass


async def test_spans_are_pushed_once(collector: Collector) -> None:
    spans, naps = Spans(10), Naps()
    with spans.trace("whole"):
        pass
    async with pushing(options(collector), "ours", counting().snapshot, environ={}, spans=spans, nap=naps):
        naps.over.release()
        await collector.until(1)
    assert [span.name for span in collector.spans] == ["whole"]
    assert len(collector.metrics) == 2


@pytest.mark.parametrize(("status", "kept"), [(503, 1), (400, 0)])
async def test_spans_that_could_not_be_pushed_are_kept_unless_they_would_be_refused_again(
    status: int, kept: int, collector: Collector, log: LogCapture
) -> None:
    spans = Spans(10)
    with spans.trace("whole"):
        pass
    collector.traces_status = status
    async with pushing(options(collector), "ours", counting().snapshot, environ={}, spans=spans, nap=Naps()):
        pass
    assert len(spans.ended()) == kept
    assert [(entry["event"], entry["status"]) for entry in log.entries] == [("not_pushed", status)]


async def test_a_collector_that_fails_is_told_of_once_until_it_works_again(
    collector: Collector, log: LogCapture
) -> None:
    naps = Naps()
    async with pushing(options(collector), "ours", counting().snapshot, environ={}, nap=naps):
        for count, status in enumerate((500, 302, 200, 500), 1):
            collector.status = status
            naps.over.release()
            await until(lambda: len(naps.asked_s) == count + 1)  # noqa: B023 - waited for at once
        collector.status = 200
    assert [entry["event"] for entry in log.entries] == ["not_pushed", "pushed_again", "not_pushed", "pushed_again"]


async def test_a_collector_that_is_not_there_stops_nothing(log: LogCapture) -> None:
    async with pushing(options("http://127.0.0.1:9"), "ours", counting().snapshot, environ={}, nap=Naps()):
        pass
    assert [entry["event"] for entry in log.entries] == ["not_pushed"]
    assert "127.0.0.1" not in str(log.entries)


async def test_a_proxy_of_the_environment_that_is_none_stops_nothing(log: LogCapture) -> None:
    environ = {"HTTP_PROXY": "ftp://canary"}
    async with pushing(options("http://collector.example"), "ours", counting().snapshot, environ=environ, nap=Naps()):
        pass
    assert [entry["event"] for entry in log.entries] == ["not_pushed"]
    assert "canary" not in str(log.entries)


async def test_a_token_and_roots_of_its_own_are_for_the_collector(tmp_path: Path) -> None:
    write_certificate(tmp_path / "cert", tmp_path / "key", "collector.example")
    (tmp_path / "token").write_text("canary\n")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    async with Collector().running(tls) as collector:
        told = options(collector, otlp_token=f"@{tmp_path / 'token'}", otlp_ca_file=tmp_path / "cert")
        async with pushing(told, "ours", counting().snapshot, environ={}, nap=Naps()):
            pass
    assert [head["Authorization"] for head in collector.heads] == ["Bearer canary"]


@pytest.mark.parametrize(
    "url", ["ftp://collector", "http://", "http://user@collector", "http://collector?query", "http://collector/#a", "x"]
)
def test_what_is_no_collectors_url_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="collector's URL"):
        options(url)


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.program.push, "find_spec", lambda _: None)
    with pytest.raises(ValidationError, match=r"sottovoce\[otel\]"):
        options("http://127.0.0.1:4318")


def test_a_token_goes_to_no_other_machine_in_the_clear(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("canary\n")
    token = f"@{tmp_path / 'token'}"
    options("http://127.0.0.1:4318", otlp_token=token)
    options("https://collector.example", otlp_token=token)
    with pytest.raises(ValidationError, match="in the clear") as caught:
        options("http://collector.example", otlp_token=token)
    assert "canary" not in str(caught.value)


def test_roots_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "roots").write_text("canary")
    with pytest.raises(ValidationError, match="PEM"):
        options("https://collector.example", otlp_ca_file=tmp_path / "roots")
