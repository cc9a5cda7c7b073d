"""How does a program of this project run, and how does it end? Its version, its signals, its exit codes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from enum import IntEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import typer

from core.errors import CoreError

T = TypeVar("T")


class ExitCode(IntEnum):
    """Documented in the README; scripts rely on them."""

    ACCEPTED = 0
    INTERNAL = 1
    USAGE = 2
    REFUSED = 10


def project_version() -> str:
    """The version that is installed; of a source tree that is not, only that."""
    try:
        return version("sottovoce")
    except PackageNotFoundError:
        return "0+source"


async def until_stopped() -> None:
    """Return when the program is asked to end (SIGTERM or SIGINT); asked a second time, it ends at once."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stopped.set)
    try:
        await stopped.wait()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def run(main: Coroutine[Any, Any, ExitCode]) -> None:
    """Run a program's coroutine, on uvloop's event loop where that is installed, and leave with its exit code."""
    with asyncio.Runner(loop_factory=faster_loop()) as runner:
        raise typer.Exit(runner.run(main))


def faster_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes uvloop's event loops (extra `speed`); None without it."""
    try:
        import uvloop  # only if somebody runs something  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop


async def unwrapped(work: Awaitable[T]) -> T:
    """Await `work`; of a task group that failed for reasons that we know, raise the first as itself."""
    try:
        return await work
    except ExceptionGroup as group:
        _, unknown = group.split(CoreError)
        if unknown:
            raise
        raise _first(group) from None


def _first(group: ExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
