"""What is compared is asked for alike of every side, and what went wrong is told and not counted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from aiohttp import web

from benchmarks import compare, regression
from benchmarks.beside import DIRECT, NGINX, SEALED, missing
from benchmarks.load import Batch, Caller, FailedError, Question, cpu_s, family, in_flight, resident_bytes
from benchmarks.plots import QUANTITIES, pictures
from benchmarks.sealing import PIECE_BYTES, measure
from core.channel.kem import Kem, available_kems
from core.program.http.listener import Address, listening
from engine.gateway.outer import outer_error
from tests.places import ROOT


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A server that says how much it was sent, whole or as a stream, or refuses."""

    async def answer(request: web.Request) -> web.StreamResponse:
        size = len(await request.read())
        if request.path == "/refused":
            return web.Response(status=503, text="busy")
        if request.path == "/whole":
            return web.json_response({"size": size})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(3):
            await response.write(b"data: %d\n\n" % size)
        return response

    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/{path:.*}", answer)
    async with listening(app, [Address("127.0.0.1", 0)], error_response=outer_error) as (address, *_):
        yield f"http://{address}"


def question(url: str, path: str, *, streamed: bool = False) -> Question:
    return Question.post(url, path, bytes(100_000), "text/plain", streamed=streamed)


async def test_a_caller_asks_again_on_its_connection(url: str) -> None:
    caller = Caller(url)
    for path, streamed in (("/whole", False), ("/stream", True), ("/whole", False)):
        assert await caller.ask(question(url, path, streamed=streamed)) > 0
    caller.close()


@pytest.mark.parametrize(
    ("path", "streamed", "said"), [("/refused", False, "503"), ("/whole", True, "200"), ("/stream", False, "200")]
)
async def test_another_answer_than_was_asked_for_is_a_failure(url: str, path: str, streamed: bool, said: str) -> None:
    caller = Caller(url)
    with pytest.raises(FailedError, match=f"^{said} "):
        await caller.ask(question(url, path, streamed=streamed))
    caller.close()


async def test_each_place_asks_at_least_once_and_failures_are_not_counted_as_answers(url: str) -> None:
    good, bad = Batch(), Batch()
    await in_flight(good, url, question(url, "/whole"), at_a_time=5, for_s=0.0)
    await in_flight(bad, url, question(url, "/refused"), at_a_time=5, for_s=0.0)
    assert (len(good.times_s), good.failures) == (5, [])
    assert (bad.times_s, len(bad.failures)) == ([], 5)


def test_what_a_process_used_is_that_of_those_that_it_started_too() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        pids = family([os.getpid()])
        assert {os.getpid(), child.pid} <= set(pids)
        assert cpu_s(pids) >= cpu_s([os.getpid()]) > 0
        assert resident_bytes(pids) > resident_bytes([os.getpid()]) > 0
        assert resident_bytes([os.getpid()], "VmHWM") >= resident_bytes([os.getpid()])
    finally:
        child.communicate()


@pytest.mark.parametrize("kem", available_kems())
@pytest.mark.parametrize("body_bytes", [0, 1, PIECE_BYTES, PIECE_BYTES + 1])
def test_bodies_of_any_size_are_sealed_and_opened(body_bytes: int, kem: Kem) -> None:
    measured = measure(kem, body_bytes, 1)
    assert (measured.kem, measured.body_bytes) == (kem.name, body_bytes)
    assert measured.channel_ms > 0


@pytest.mark.slow
async def test_all_sides_are_measured_in_one_run() -> None:
    plan = compare.Plan(sizes=("10 KB",), concurrencies=(1, 4), rounds=1, for_s=0.0, pairs=2)
    names = [name for name in (DIRECT, NGINX, SEALED) if not missing(name)]
    cells = await compare.measured(plan, names)
    assert [cell.side for cell in cells] == names * 4
    assert [(cell.failed, cell.why) for cell in cells] == [(0, "")] * len(cells)
    assert {(cell.concurrency, cell.streamed) for cell in cells} == {(1, False), (4, False), (1, True), (4, True)}
    assert all(cell.median_ms and cell.p99_ms and cell.requests_per_s for cell in cells)
    assert all((cell.memory_bytes is None) == cell.streamed for cell in cells)  # as many bytes as before tell nothing
    paired = {cell.side for cell in cells if cell.added_ms is not None}
    assert paired == ({DIRECT, SEALED} if NGINX in names else set())


def test_litellm_is_the_one_of_the_clients() -> None:
    versions = [
        re.findall(r"==(\S+)", (ROOT / path).read_text())
        for path in ("benchmarks/litellm-proxy.txt", "tests/clients/litellm.txt")
    ]
    assert versions[0] == versions[1] != []


# --- figures as data and as pictures


def cell(side: str, **given: Any) -> dict[str, Any]:
    load = {"body": "10 KB", "concurrency": 1, "streamed": False, "requests": 9, "failed": 0, "why": ""}
    numbers = {"median_ms": 1.0, "p99_ms": 2.0, "requests_per_s": 1000.0, "cpu_ms": 1.0, "memory_bytes": 100}
    return {"side": side, **load, **numbers, "added_ms": None, **given}


def figures(**of_sealed: Any) -> dict[str, Any]:
    sealing = [{"kem": "X", "body_bytes": 10_000, "channel_ms": 3.0, "cipher_ms": 2.0, "copy_ms": 1.0}]
    return {"format": 1, "cells": [cell(DIRECT), cell(SEALED, **of_sealed)], "sealing": sealing}


def compared(tmp_path: Path, before: dict[str, Any], after: dict[str, Any], *options: str) -> int:
    paths = [tmp_path / name for name in ("before.json", "after.json")]
    for path, data in zip(paths, (before, after), strict=True):
        path.write_text(json.dumps(data))
    return regression.main([*map(str, paths), *options])


def test_a_run_is_no_worse_than_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(tmp_path, figures(), figures()) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize(
    "worse", [{"median_ms": 1.3}, {"cpu_ms": 1.3}, {"memory_bytes": 130}, {"requests_per_s": 700.0}]
)
def test_what_is_worse_by_more_than_the_tolerance_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], worse: dict[str, Any]
) -> None:
    assert compared(tmp_path, figures(), figures(**worse)) == 1
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.endswith("WORSE")]
    assert next(iter(worse)) in told
    assert compared(tmp_path, figures(), figures(**worse), "--tolerance", "0.5") == 0
    assert compared(tmp_path, figures(**worse), figures()) == 0


def test_sealing_that_is_slower_beside_the_cipher_is_told(tmp_path: Path) -> None:
    slower = figures()
    slower["sealing"][0]["channel_ms"] = 4.0
    assert compared(tmp_path, figures(), slower) == 1


def test_a_slower_machine_is_no_regression(tmp_path: Path) -> None:
    slow = {"median_ms": 9.0, "cpu_ms": 9.0, "requests_per_s": 111.0}
    after = figures(**slow)
    after["cells"][0] |= slow
    assert compared(tmp_path, figures(), after) == 0


@pytest.mark.parametrize(
    "other", [{"format": 2, "cells": [], "sealing": []}, {"format": 1, "cells": [], "sealing": []}, {}]
)
def test_what_cannot_be_compared_is_told(tmp_path: Path, other: dict[str, Any]) -> None:
    assert compared(tmp_path, figures(), other) == 2


def test_a_picture_has_a_bar_for_each_figure_and_none_for_what_is_missing() -> None:
    cells = [cell(DIRECT), cell(NGINX, median_ms=10.0), cell(SEALED, median_ms=None), cell(SEALED, concurrency=8)]
    found = pictures(cells)
    assert set(found) == {f"{quantity}_whole" for quantity in QUANTITIES}
    picture = ET.fromstring(found["median_ms_whole"])
    bars = [bar for bar in picture.iter("{http://www.w3.org/2000/svg}rect") if len(bar)]
    assert [bar[0].text for bar in bars] == ["direct: 1.00", "nginx: 10.00", "sealed: 1.00"]
