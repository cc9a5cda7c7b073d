"""Inside the process: a long file is told apart stretch by stretch, in the memory of one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engine.backends.framing import PREFIX, Fields, MessageBuffer
from engine.backends.speakers.messages import (
    FRAMING,
    MAX_JSON_BYTES,
    MAX_PCM_BYTES,
    Kind,
    decode_fields,
    decode_prefix,
    encode,
)
from engine.backends.speakers.model import Busy, Samples, Stretch
from engine.backends.speakers.worker import STRETCH_BYTES, STRETCH_S, Server

BLOCK = 65_536


class Alternating:
    """A model to which the first half of a stretch is one voice, and the second another."""

    same = 0.7

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.bounds: list[tuple[int, int]] = []
        self.failure: Exception | None = None

    def diarize(self, samples: Samples, speech: npt.NDArray[np.uint8], least: int, most: int, busy: Busy) -> Stretch:
        busy()
        if self.failure:
            raise self.failure
        self.heard.append(len(samples))
        self.bounds.append((least, most))
        half = len(samples) / 32_000
        voices = np.eye(2, dtype=np.float32)
        return Stretch([(0.0, half, 0), (half, 2 * half, 1)], voices)


class Peer:
    """The engine's end of a server in a thread."""

    def __init__(self, model: Alternating) -> None:

        ours, theirs = socket.socketpair()
        self.channel = ours
        self._buffer = MessageBuffer(FRAMING)
        self._pending: list[Fields] = []
        self.file = FileIO(theirs.detach(), "r+")
        self.server = Server(self.file, model)
        self.thread = Thread(target=self.server.run)
        self.thread.start()

    def say(self, kind: Kind, pcm: bytes = b"", **fields: Any) -> None:
        self.channel.sendall(encode(kind, fields, pcm, b"\xff" * -(-len(pcm) // 1024)))

    def answer(self) -> Fields:
        while not self._pending:
            self._pending += self._buffer.feed(self.channel.recv(1 << 16))
        answer = self._pending.pop(0)
        return self.answer() if answer["kind"] is Kind.BUSY else answer

    def ask(self, kind: Kind, pcm: bytes = b"", **fields: Any) -> Fields:
        self.say(kind, pcm, **fields)
        return self.answer()


@contextmanager
def serving(model: Alternating) -> Iterator[Peer]:
    peer = Peer(model)
    try:
        assert peer.answer()["kind"] is Kind.READY
        yield peer
    finally:
        peer.channel.close()
        peer.thread.join()
        peer.file.close()


def test_seventy_minutes_are_told_apart_in_the_memory_of_ten() -> None:
    model = Alternating()
    blocks = -(-70 * 60 * 32_000 // BLOCK)
    most_held = 0
    with serving(model) as peer:
        peer.ask(Kind.OPEN, id=1, least=2, most=20)
        for _ in range(blocks):
            assert peer.ask(Kind.BLOCK, bytes(BLOCK), id=1)["kind"] is Kind.TAKEN
            most_held = max(most_held, len(peer.server._files[1].pcm))
        heard = peer.ask(Kind.CONCLUDE, id=1)
        assert peer.server._files == {}
    assert most_held < STRETCH_BYTES
    assert max(model.heard) * 2 <= STRETCH_BYTES + BLOCK
    assert len(model.heard) == 7
    assert model.bounds == [(1, 20)] * 7, "in one of the stretches somebody may be silent"
    assert len(heard["voices"]) == 2, "the voices of all stretches are those of two people"
    assert [speaker for *_, speaker in heard["turns"]] == [0, 1] * 7
    assert heard["turns"][-1][1] == pytest.approx(blocks * BLOCK / 32_000, abs=0.01)
    assert heard["turns"][2][0] == pytest.approx(STRETCH_S, abs=3.0)


def test_a_file_that_cannot_be_heard_is_gone_and_the_next_is_heard() -> None:
    model = Alternating()
    with serving(model) as peer:
        peer.ask(Kind.OPEN, id=1, least=1, most=20)
        peer.ask(Kind.BLOCK, bytes(BLOCK), id=1)
        model.failure = RuntimeError("what was said")
        failed = peer.ask(Kind.CONCLUDE, id=1)
        assert (failed["kind"], failed["error"]) == (Kind.FAILED, "RuntimeError")
        assert "what was said" not in str(failed)
        model.failure = None
        assert peer.ask(Kind.CONCLUDE, id=1)["kind"] is Kind.FAILED
        peer.ask(Kind.OPEN, id=2, least=2, most=3)
        peer.ask(Kind.BLOCK, bytes(BLOCK), id=2)
        assert len(peer.ask(Kind.CONCLUDE, id=2)["turns"]) == 2
    assert model.bounds == [(2, 3)]


def test_a_file_that_is_forgotten_takes_no_memory() -> None:
    with serving(Alternating()) as peer:
        peer.ask(Kind.OPEN, id=1, least=1, most=20)
        peer.ask(Kind.BLOCK, bytes(BLOCK), id=1)
        peer.say(Kind.FORGET, id=1)
        peer.ask(Kind.OPEN, id=2, least=1, most=20)
        assert list(peer.server._files) == [2]


def test_who_waits_is_told_that_work_goes_on() -> None:
    now = [0.0]
    read, write = os.pipe()
    file = FileIO(write, "w")
    server = Server(file, Alternating(), clock=lambda: now[0])
    for at_s in (1.5, 1.9, 2.6):
        now[0] = at_s
        server._busy()
    assert len(list(MessageBuffer(FRAMING).feed(os.read(read, 4096)))) == 2
    os.close(read)
    file.close()


@pytest.mark.parametrize(
    "odd",
    [
        lambda: encode(Kind.BLOCK, {}, bytes(1024)),
        lambda: encode(Kind.BLOCK, {}, bytes(MAX_PCM_BYTES + 2), bytes(1025)),
        lambda: encode(Kind.HEARD, {"same": float("nan")}),
        lambda: decode_prefix(PREFIX.pack(MAX_JSON_BYTES + 1, 0)),
        lambda: decode_fields(b"[]"),
        lambda: decode_fields(b'{"kind":"sing"}'),
        lambda: list(MessageBuffer(FRAMING).feed(PREFIX.pack(2, 2) + b"{}")),
    ],
)
def test_what_is_no_message_is_refused(odd: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".*"):
        odd()


def test_a_process_whose_engine_is_gone_ends() -> None:
    with serving(Alternating()) as peer:
        peer.channel.close()
        peer.thread.join(10)
        assert not peer.thread.is_alive()
