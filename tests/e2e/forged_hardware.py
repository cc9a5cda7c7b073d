"""The engine's program on hardware that a test makes up: kernel and driver answer what the test wants them to.

::

    python -m tests.e2e.forged_hardware SOCKET sottovoce-engine serve ...

Only the doors to the machine are replaced, configfs-tsm and NVML; the program behind them is as shipped, but that it is
not started again in isolation, which would put the doors back. The answers come from the test over a Unix socket, since
the keys that sign them are there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Client, Listener
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import attestation.guest.devices
import attestation.guest.machine
from attestation.types import Nonce
from engine.commands import app
from tests.attestation.guest.fake_nvml import FakeNvml
from tests.attestation.guest.fake_tsm import FakeKernel


class Hardware(Protocol):
    """What a machine is asked; every method is called from a thread."""

    def describe(self) -> tuple[str, bytes, int]:
        """The provider of reports, the host's table of certificates, and the number of GPUs."""

    def report(self, inblob: bytes) -> bytes: ...

    def gpu_report(self, gpu: int, nonce: Nonce) -> bytes: ...

    def gpu_chain(self, gpu: int) -> bytes: ...


@contextmanager
def answering(hardware: Hardware, socket: Path) -> Iterator[None]:
    """Answer the programs that ask at `socket` meanwhile."""
    with Listener(str(socket), "AF_UNIX") as listener:
        thread = Thread(target=_answer, args=(hardware, listener))
        thread.start()
        try:
            yield
        finally:
            _ask(str(socket), None)
            thread.join()


def _answer(hardware: Hardware, listener: Listener) -> None:
    question: Any = ""
    while question is not None:
        with listener.accept() as connection:
            question, *arguments = connection.recv()
            connection.send(getattr(hardware, question)(*arguments) if question else None)


def _ask(socket: str, *question: Any) -> Any:
    with Client(socket, "AF_UNIX") as connection:
        connection.send(question)
        return connection.recv()


def main() -> None:
    _, socket, program, *arguments = sys.argv
    ask = partial(_ask, socket)
    provider, table, gpus = ask("describe")
    kernel = partial(FakeKernel, sign=lambda inblob, _: ask("report", inblob), provider=provider, table=table)
    nvml = FakeNvml(partial(ask, "gpu_report"), partial(ask, "gpu_chain"), gpus=gpus) if gpus else None
    vars(attestation.guest.machine).update(ConfigfsTree=kernel)
    vars(attestation.guest.devices).update(open_nvml=lambda: nvml)
    sys.argv = [program, *arguments]
    app()


if __name__ == "__main__":
    main()
