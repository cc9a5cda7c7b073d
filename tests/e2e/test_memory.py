"""What is in memory stays there: no core dump of any process of the engine, and no look into it by its own user.

Root may look anywhere, so where the tests run as root everything here gives that up first.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import wave
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.conftest import TRANSCRIPTIONS, form
from tests.e2e.processes import engine, proxy, unprivileged, until_ready
from tests.engine.backends.vllm.real_vllm import LIMIT_S, VllmEngine
from tests.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="read from Linux's /proc"),
]

LOOK = """
import json, sys
outcomes = {}
for pid in sys.argv[1:]:
    try:
        outcomes[pid] = len(open(f"/proc/{pid}/environ", "rb").read()) >= 0
    except PermissionError:
        outcomes[pid] = False
print(json.dumps(outcomes))
"""
"""A process's environment lies in its memory; opening it asks for the right to read that."""


@pytest.fixture(scope="module", name="unprivileged")
def _unprivileged() -> tuple[str, ...]:
    return unprivileged()


def readable(pids: list[int], prefix: tuple[str, ...]) -> dict[int, bool]:
    """Which processes another one of the same user may look into."""
    command = [*prefix, sys.executable, "-c", LOOK, *map(str, pids)]
    output = subprocess.run(command, check=True, capture_output=True).stdout
    return {int(pid): seen for pid, seen in json.loads(output).items()}


def core_limits(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[4:6] for line in lines if line.startswith("Max core file size"))


def descendants(pid: int) -> list[int]:
    """The process, its children, theirs, and so on."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            child, rest = int(path.parent.name), path.read_text().rpartition(")")[2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(rest.split()[1]), []).append(child)
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found


def named(pid: int) -> str:
    """What a process runs; its command line is shown to everybody."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return next((word for word in command if word.startswith(("core.", "engine."))), "a program")


def silence(path: Path, minutes: int) -> Path:
    """A file that takes its decoder some seconds."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8_000)
        file.writeframes(b"\x80" * 8_000 * 60 * minutes)
    return path


def test_a_process_that_hides_nothing_is_seen(unprivileged: tuple[str, ...]) -> None:
    """Or else the other tests would prove nothing."""
    command = [*unprivileged, "sh", "-c", "echo on; read -r _"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle:
        assert idle.stdout is not None
        assert idle.stdout.readline() == b"on\n"
        seen = readable([idle.pid], unprivileged)
        idle.communicate()
    assert seen == {idle.pid: True}


async def test_no_process_of_the_engine_can_be_looked_into_or_leaves_a_core(
    tmp_path: Path, unprivileged: tuple[str, ...]
) -> None:
    recording = silence(tmp_path / "silence.wav", minutes=50)
    async with (
        engine(tmp_path / "engine", prefix=unprivileged) as behind,
        proxy(tmp_path / "proxy", behind.url) as front,
        aiohttp.ClientSession() as session,
    ):
        await until_ready(front)
        at_rest = descendants(behind.process.pid)
        asking = asyncio.create_task(  # noqa: TID251 - cancelled below
            session.post(front.url + TRANSCRIPTIONS, data=form(recording.read_bytes()))
        )

        def stopped() -> list[int]:
            """The decoder of the file, which is still there however long it takes to look at it."""
            found = [pid for pid in descendants(behind.process.pid) if pid not in at_rest]
            for pid in found:
                os.kill(pid, signal.SIGSTOP)
            return found

        await until(stopped)
        pids = descendants(behind.process.pid)
        names = [named(pid) for pid in pids]
        seen, limits = await asyncio.to_thread(readable, pids, unprivileged), [core_limits(pid) for pid in pids]
        asking.cancel()
    # The decoder of the file is forked by the server of decoders, and so called the same.
    assert sorted(names) == [
        "core.media.worker",
        "core.media.worker",
        "engine.backends.faster_whisper.worker",
        "engine.cli:main",
    ]
    assert seen == dict.fromkeys(pids, False)
    assert limits == [["0", "0"]] * len(pids)


RESOURCE_TRACKER = b"multiprocessing.resource_tracker"
"""A helper of Python's own library that is told the names of shared memory, and nothing of what is in it."""
LISTENER = b"tee\0"
"""The tests' own, for what vLLM prints."""


async def test_no_process_of_vllm_can_be_looked_into_or_leaves_a_core(
    vllm_engine: VllmEngine, unprivileged: tuple[str, ...]
) -> None:
    await until_ready(vllm_engine.program, LIMIT_S)
    pids = descendants(vllm_engine.program.process.pid)
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
    seen, limits = await asyncio.to_thread(readable, pids, unprivileged), [core_limits(pid) for pid in pids]
    assert any(b"EngineCore" in command for command in commands.values()), "where clips are heard"
    visible = [command for pid, command in commands.items() if seen[pid]]
    assert LISTENER in [command[: len(LISTENER)] for command in visible], "or else a privileged vLLM would hide itself"
    assert all(RESOURCE_TRACKER in command or command.startswith(LISTENER) for command in visible)
    assert limits == [["0", "0"]] * len(pids)
