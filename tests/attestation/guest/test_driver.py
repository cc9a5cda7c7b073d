from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from attestation.errors import FetchError
from attestation.guest.driver import DriverThread
from tests.places import ROOT
from tests.waiting import GIVE_UP_S

SOON_S = 0.05


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a driver that hangs waits for."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_driver_is_asked_off_the_event_loop() -> None:
    thread = await DriverThread("driver", deadline_s=GIVE_UP_S).call(threading.current_thread)
    assert thread is not threading.current_thread()
    assert (thread.name, thread.daemon) == ("driver", True)


async def test_what_a_driver_raises_reaches_whoever_asked() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await DriverThread("driver", deadline_s=GIVE_UP_S).call(fail)


async def test_a_driver_that_hangs_is_given_up(gate: threading.Event) -> None:
    with pytest.raises(FetchError, match="driver did not answer in time"):
        await DriverThread("driver", deadline_s=SOON_S).call(gate.wait)


async def test_nobody_calls_beside_a_driver_that_hangs(gate: threading.Event) -> None:
    driver, calls = DriverThread("driver", deadline_s=SOON_S), list[int]()
    for _ in range(3):
        with pytest.raises(FetchError):
            await driver.call(gate.wait)
        with pytest.raises(FetchError):
            await driver.call(lambda: calls.append(1))
    assert calls == []
    assert [thread.name for thread in threading.enumerate()].count("driver") == 1


async def test_a_driver_that_came_back_is_asked_again(gate: threading.Event) -> None:
    driver = DriverThread("driver", deadline_s=SOON_S)
    with pytest.raises(FetchError):
        await driver.call(gate.wait)
    driver._deadline_s = GIVE_UP_S
    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as group:
        waiting = group.create_task(driver.call(lambda: "asked"))
        await asyncio.sleep(0)
        gate.set()
    assert waiting.result() == "asked"


async def test_calls_are_made_one_at_a_time() -> None:
    driver, at_work, most = DriverThread("driver", deadline_s=GIVE_UP_S), 0, 0

    def work() -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        threading.Event().wait(0.001)
        at_work -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(driver.call(work))
    assert most == 1


async def test_a_caller_who_leaves_does_not_free_the_driver(gate: threading.Event) -> None:
    driver = DriverThread("driver", deadline_s=GIVE_UP_S)
    began = threading.Event()

    def hang() -> None:
        began.set()
        gate.wait()

    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(driver.call(hang))
        await asyncio.to_thread(began.wait)
        leaving.cancel()
        later = group.create_task(driver.call(gate.is_set))
        await asyncio.sleep(0)
        assert not later.done()
        gate.set()
    assert later.result()


async def test_a_failure_that_nobody_waits_for_any_more_is_silent(
    gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    driver = DriverThread("driver", deadline_s=SOON_S)

    def fail_late() -> None:
        gate.wait()
        raise ZeroDivisionError

    with pytest.raises(FetchError):
        await driver.call(fail_late)
    gate.set()
    assert await driver.call(lambda: "after") == "after"
    gc.collect()
    assert caplog.records == []


def test_a_driver_that_hangs_does_not_keep_the_program() -> None:
    program = """
import asyncio, threading
from attestation.guest.driver import DriverThread
from attestation.errors import FetchError
async def main():
    try:
        await DriverThread("driver", deadline_s=0.01).call(threading.Event().wait)
    except FetchError as exc:
        print(exc)
asyncio.run(main())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=GIVE_UP_S, check=True
    )
    assert (ended.stdout, ended.stderr) == (b"driver did not answer in time\n", b"")
