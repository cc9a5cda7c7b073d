"""A body can be read again from its beginning, and what leaves memory is sealed."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from typing import IO, Any

import pytest
from nacl.exceptions import CryptoError

from proxy.sealed.spool import Allowance, BodyReader, RetainedBody

CANARY = b"canary speech "


class App:
    """A body that arrives as fast as the test says."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = deque(pieces)
        self.ready = asyncio.Event()
        self.ready.set()

    async def read(self) -> bytes:
        await self.ready.wait()
        return self.pieces.popleft() if self.pieces else b""


async def everything(reader: BodyReader) -> bytes:
    body = b""
    while piece := await reader.read():
        body += piece
    return body


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[IO[bytes]]:
    """Every temporary file that is made."""
    made: list[IO[bytes]] = []
    make = tempfile.TemporaryFile

    def remember(**options: Any) -> IO[bytes]:
        made.append(make(**options))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", remember)
    return made


async def test_what_was_received_is_replayed_and_what_still_arrives_follows(files: list[IO[bytes]]) -> None:
    app = App(b"one ", b"two ", b"three")
    with RetainedBody(app.read, Allowance()) as body:
        first = BodyReader(body)
        assert [await first.read(), await first.read()] == [b"one ", b"two "]
        assert await everything(BodyReader(body)) == b"one two three"
        assert body.received_bytes == 13
    assert files == []


@pytest.mark.parametrize("allowance", [Allowance(), Allowance(20)])
async def test_what_leaves_memory_is_replayed_too_and_is_not_readable(
    files: list[IO[bytes]], allowance: Allowance
) -> None:
    pieces = [CANARY + b"%d" % number for number in range(10)]
    with RetainedBody(App(*pieces).read, allowance, memory_bytes=40) as body:
        assert await everything(BodyReader(body)) == b"".join(pieces)
        assert await everything(BodyReader(body)) == b"".join(pieces)
        (file,) = files
        file.seek(0)
        on_disk = file.read()
        assert len(on_disk) > 8 * len(CANARY)
        assert CANARY not in on_disk
        assert CANARY.strip() not in on_disk
    assert file.closed


async def test_pieces_on_disk_cannot_be_swapped(files: list[IO[bytes]]) -> None:
    with RetainedBody(App(b"a" * 20, b"b" * 20).read, Allowance(), memory_bytes=0) as body:
        await everything(BodyReader(body))
        files[0].seek(0)
        first, second = files[0].read(36), files[0].read(36)
        files[0].seek(0)
        files[0].write(second + first)
        with pytest.raises(CryptoError):
            await everything(BodyReader(body))


async def test_memory_is_given_back() -> None:
    allowance = Allowance(100)
    with RetainedBody(App(b"x" * 60).read, allowance) as body:
        await everything(BodyReader(body))
        assert allowance.left_bytes == 40
    assert allowance.left_bytes == 100


async def test_a_forgotten_body_goes_on_but_not_again() -> None:
    with RetainedBody(App(b"one", b"two").read, Allowance()) as body:
        reader = BodyReader(body)
        await reader.read()
        body.forget()
        assert not body.can_replay
        assert await reader.read() == b"two"
        with pytest.raises(RuntimeError):
            await BodyReader(body).read()


async def test_a_full_disk_costs_the_retry_and_not_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> IO[bytes]:
        raise OSError("no space")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with RetainedBody(App(b"one", b"two").read, Allowance(), memory_bytes=3) as body:
        assert await everything(BodyReader(body)) == b"onetwo"
        assert not body.can_replay


async def test_a_cancelled_reader_loses_nothing() -> None:
    app = App(b"one", b"two")
    with RetainedBody(app.read, Allowance()) as body:
        app.ready.clear()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(BodyReader(body).read())
            follower = group.create_task(everything(BodyReader(body)))
            await asyncio.sleep(0)
            waiting.cancel()
            app.ready.set()
        assert follower.result() == b"onetwo"
