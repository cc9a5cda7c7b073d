"""Spans have random ids, parts, and an end; nothing is kept where nobody asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from core.program.spans import Spans


def test_a_trace_has_its_parts() -> None:
    spans = Spans(10)
    with spans.trace("whole") as whole, spans.step("part") as part:
        whole.attributes["status"] = 200
        part.attributes["engine"] = 0
    inner, outer = spans.ended()
    assert (outer.name, outer.attributes, outer.parent_id) == ("whole", {"status": 200}, b"")
    assert (inner.name, inner.attributes, inner.parent_id) == ("part", {"engine": 0}, outer.span_id)
    assert inner.trace_id == outer.trace_id
    assert (len(outer.trace_id), len(outer.span_id), len(inner.span_id)) == (16, 8, 8)
    assert outer.began_ns <= inner.began_ns <= inner.ended_ns
    assert not outer.failed


def test_no_two_traces_have_an_id_in_common() -> None:
    spans = Spans(10)
    for _ in range(2):
        with spans.trace("whole"):
            pass
    first, second = spans.ended()
    assert first.trace_id != second.trace_id
    assert first.span_id != second.span_id


def test_a_trace_within_a_trace_stands_for_itself() -> None:
    spans = Spans(10)
    with spans.trace("outer"):
        with spans.trace("inner"), spans.step("part of the inner"):
            pass
        with spans.step("part of the outer"):
            pass
    by_name = {span.name: span for span in spans.ended()}
    assert by_name["inner"].parent_id == b""
    assert by_name["inner"].trace_id == by_name["part of the inner"].trace_id != by_name["outer"].trace_id
    assert by_name["part of the outer"].trace_id == by_name["outer"].trace_id


def test_what_ends_in_an_error_has_failed_and_does_not_say_how() -> None:
    spans = Spans(10)
    with pytest.raises(ValueError, match="canary"), spans.trace("whole"), spans.step("part"):
        raise ValueError("canary")
    assert [span.failed for span in spans.ended()] == [True, True]
    assert "canary" not in str(spans.ended())


def test_the_trace_that_lasts_is_spoken_of() -> None:
    spans = Spans(10)
    spans.fail(reason="nobody's")
    with spans.trace("whole"):
        with spans.step("part"):
            spans.say(status=200)
        spans.fail(reason="ours")
    part, whole = spans.ended()
    assert (whole.attributes, whole.failed) == ({"status": 200, "reason": "ours"}, True)
    assert (part.attributes, part.failed) == ({}, False)


async def test_tasks_do_not_take_part_in_each_others_traces() -> None:
    spans = Spans(10)
    both = asyncio.Barrier(2)

    async def work(name: str) -> None:
        with spans.trace(name):
            await both.wait()
            with spans.step(f"part of {name}"):
                await both.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(work("first"))
        group.create_task(work("second"))
    by_name = {span.name: span for span in spans.ended()}
    for name in ("first", "second"):
        assert by_name[f"part of {name}"].parent_id == by_name[name].span_id


async def test_a_generator_may_be_left_within_a_part() -> None:
    spans = Spans(10)

    async def generate() -> AsyncIterator[int]:
        with spans.step("part"):
            yield 1
            yield 2

    with spans.trace("whole"):
        generator = generate()
        await anext(generator)
    await asyncio.get_running_loop().create_task(generator.aclose())  # type: ignore[attr-defined]
    assert [span.name for span in spans.ended()] == ["whole", "part"]


def test_nothing_is_kept_unless_asked_for() -> None:
    spans = Spans()
    with spans.trace("whole") as whole, spans.step("part"):
        assert whole.trace_id == b""
    assert spans.ended() == []


def test_a_part_of_nothing_is_not_kept() -> None:
    spans = Spans(10)
    with spans.step("part"):
        pass
    assert spans.ended() == []


def test_the_oldest_give_way_and_what_has_arrived_is_forgotten() -> None:
    spans = Spans(3)

    def make(*names: str) -> None:
        for name in names:
            with spans.trace(name):
                pass

    make("a", "b", "c")
    arrived = spans.ended()
    make("d")
    spans.take(arrived)
    assert [span.name for span in spans.ended()] == ["d"]
