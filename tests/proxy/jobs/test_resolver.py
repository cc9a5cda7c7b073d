"""A command that the operator named: real processes, of every kind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.jobs.links import LinkError
from proxy.jobs.resolver import CommandResolver
from tests.core.media.test_decode import state_of
from tests.waiting import GIVE_UP_S, time_passes, until

LINK = "https://youtu.be/abc"


def command(directory: Path, script: str) -> CommandResolver:
    path = directory / "resolve"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return CommandResolver(path, timeout_s=GIVE_UP_S)


async def refusal_of(resolver: CommandResolver) -> None:
    with pytest.raises(LinkError):
        await resolver.resolve(LINK)


async def test_it_is_told_the_link_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOTTOVOCE_API_KEY", "secret")
    resolver = command(tmp_path, 'read -r link; echo "https://a.example/$#/$link/$(env | sort | tr "\\n" "+")"')
    answer = await resolver.resolve(LINK)
    assert answer.startswith(f"https://a.example/0/{LINK}/")
    assert "secret" not in answer
    assert "LC_ALL=C.UTF-8" in answer


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        "echo https://a.example; exit 3",
        "kill -9 $$",
        "printf 'https://a.example/\\377'",
        "yes a",
        "cat /dev/zero",
    ],
)
async def test_one_that_fails_knows_no_link(tmp_path: Path, script: str) -> None:
    with pytest.raises(LinkError):
        await command(tmp_path, script).resolve(LINK)


async def test_one_that_reads_nothing_may_still_know(tmp_path: Path) -> None:
    assert await command(tmp_path, "echo https://a.example").resolve(LINK) == "https://a.example"


async def test_one_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    slow = replace(command(tmp_path, f"sleep 1000 & echo $! > {pid_file}; wait"), timeout_s=5.0)
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(refusal_of(slow))
        await until(lambda: pid_file.exists() and pid_file.read_text().strip())
        time_passes(10.0)
        await asked
    pid = int(pid_file.read_text())
    await until(lambda: state_of(pid) == "Z")


@pytest.mark.parametrize("mode", [None, 0o600])
async def test_one_that_is_not_there_or_cannot_be_started_knows_none(tmp_path: Path, mode: int | None) -> None:
    path = tmp_path / "resolve"
    if mode is not None:
        path.write_text("#!/bin/sh\necho https://a.example\n")
        path.chmod(mode)
    with pytest.raises(LinkError):
        await CommandResolver(path).resolve(LINK)
