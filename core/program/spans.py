"""Where did a request spend its time? Spans with names of ours, kept until a collector takes them.

The ids of a trace and of its spans are random and stand nowhere else: not in a log, not in a header, not in what is
sealed. None is taken from a caller, or handed on. What a span says beside its name and its time is up to whoever opens
it: words of closed sets, as of a metric's labels.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

CAPACITY = 4_096
"""Spans that are kept for a collector that does not answer; then the oldest give way."""

Attribute = str | int


@dataclass(frozen=True, slots=True)
class Span:
    """One that has ended. trace_id: 16 bytes. span_id: 8. parent_id: 8, or none."""

    name: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Attribute]
    failed: bool


@dataclass(slots=True)
class OpenSpan:
    """One that lasts. attributes: what it will say."""

    trace_id: bytes = b""
    span_id: bytes = b""
    attributes: dict[str, Attribute] = field(default_factory=dict)
    failed: bool = False


_current: ContextVar[OpenSpan | None] = ContextVar("current_trace", default=None)


class Spans:
    """The spans of one program."""

    def __init__(self, capacity: int = 0) -> None:
        """capacity: none are kept, unless one is given."""
        self._ended: deque[Span] = deque(maxlen=capacity)

    @contextmanager
    def trace(self, name: str) -> Iterator[OpenSpan]:
        """A span that stands for itself, of which `step` makes parts while it lasts; in one task."""
        root = OpenSpan(os.urandom(16), os.urandom(8)) if self._ended.maxlen else OpenSpan()
        before = _current.set(root)
        try:
            with self._lasting(name, root, b""):
                yield root
        finally:
            _current.reset(before)

    @contextmanager
    def step(self, name: str) -> Iterator[OpenSpan]:
        """A part of the trace that lasts. It has no parts of its own, so that a generator may be left within it."""
        if (whole := _current.get()) is None or not self._ended.maxlen:
            yield OpenSpan()
            return
        part = OpenSpan(whole.trace_id, os.urandom(8))
        with self._lasting(name, part, whole.span_id):
            yield part

    def say(self, **attributes: Attribute) -> None:
        """Say something of the trace that lasts."""
        if (whole := _current.get()) is not None:
            whole.attributes.update(attributes)

    def fail(self, **attributes: Attribute) -> None:
        """Say that the trace which lasts has failed, and how."""
        if (whole := _current.get()) is not None:
            whole.failed = True
            whole.attributes.update(attributes)

    def ended(self) -> list[Span]:
        """Those that were not taken yet, the oldest first."""
        return list(self._ended)

    def take(self, spans: list[Span]) -> None:
        """They have arrived, and are forgotten."""
        for span in spans:
            if self._ended and self._ended[0] is span:  # else it has given way meanwhile
                self._ended.popleft()

    @contextmanager
    def _lasting(self, name: str, span: OpenSpan, parent_id: bytes) -> Iterator[None]:
        began_ns, started_ns = time.time_ns(), time.monotonic_ns()
        try:
            yield
        except BaseException:
            span.failed = True
            raise
        finally:
            ended_ns = began_ns + time.monotonic_ns() - started_ns
            attributes = dict(span.attributes)
            self._ended.append(
                Span(name, span.trace_id, span.span_id, parent_id, began_ns, ended_ns, attributes, span.failed)
            )
