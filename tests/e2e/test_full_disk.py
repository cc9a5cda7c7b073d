"""The disk is full, for real: no request is answered wrongly for that, and nothing half written is taken for whole."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.sealed.spool import Allowance
from tests.e2e.conftest import TEXT, TRANSCRIPTIONS, form, whole_path
from tests.full_disk import SmallDisk, small_disk
from tests.proxy.conftest import policy  # noqa: F401 - a fixture
from tests.proxy.engines.processes import ANSWERS, HOLDS_ANSWER
from tests.proxy.engines.test_faults import WHOLE, Two, answered, two
from tests.waiting import until

ROOM = 4 * 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", ROOM) as made:
        yield made


@pytest.fixture
def spool(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    """Where bodies go that leave memory."""
    monkeypatch.setattr(tempfile, "tempdir", str(disk.path))
    return disk


async def killed_over(both: Two) -> tuple[int, bytes]:
    """What an app gets whose engine is killed when it has all of the request, and nothing was kept in memory."""
    both.proxy.service.sender.courier.allowance = Allowance(0)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(both.ask())
        await until(lambda: WHOLE in both.first.said)
        await both.first.kill()
        return await asking


async def test_with_room_on_the_disk_another_engine_gets_the_body(policy: Path, spool: SmallDisk) -> None:  # noqa: F811 - the fixture
    async with two(policy, HOLDS_ANSWER) as both:
        status, _ = await killed_over(both)
        assert status == 200
        assert WHOLE in both.second.said
        assert spool.names == [], "it has no name"


async def test_on_a_full_disk_the_app_is_told_once_and_no_engine_gets_half_a_body(
    policy: Path,  # noqa: F811 - the fixture
    spool: SmallDisk,
) -> None:
    spool.fill()
    async with two(policy, HOLDS_ANSWER) as both:
        status, body = await killed_over(both)
        assert (status, json.loads(body)["error"]["code"]) == (502, "stream_truncated")
        assert not [word for word in both.second.said if word.startswith("complete")]
        await answered(both)


async def test_on_a_full_disk_what_needs_no_retry_is_answered(policy: Path, spool: SmallDisk) -> None:  # noqa: F811 - the fixture
    spool.fill()
    async with two(policy, ANSWERS) as both:
        both.proxy.service.sender.courier.allowance = Allowance(0)
        await answered(both)
        assert WHOLE in both.first.said


async def test_a_receipt_that_has_no_room_costs_no_answer_and_leaves_no_half_of_itself(
    disk: SmallDisk, tmp_path: Path
) -> None:
    receipts = disk.path / "receipts"
    async with whole_path(tmp_path, receipts_dir=receipts) as whole:
        headers = {"Sottovoce-Receipt": "1"}
        for has_room in (False, True):
            (disk.make_room if has_room else disk.fill)()
            async with whole.session.post(whole.url + TRANSCRIPTIONS, data=form(), headers=headers) as response:
                assert (response.status, (await response.json())["text"]) == (200, TEXT)
            await until(lambda: not has_room or list(receipts.glob("*.json")))  # noqa: B023 - awaited here
            assert [*receipts.glob("*")] == [*receipts.glob("*.json")]
            assert len([*receipts.glob("*")]) == has_room
