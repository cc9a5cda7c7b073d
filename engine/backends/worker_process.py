"""What does the engine hold of a process of a backend that it speaks to over a socket? Its end, from start to death."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from abc import ABC, abstractmethod
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from core.errors import BackendError
from engine.backends.framing import Fields, Framing, MessageBuffer
from engine.backends.surroundings import PrivateDirectory

_log = structlog.get_logger(__name__)


class WorkerProcess(asyncio.Protocol, ABC):
    """The engine's end of one process. Implements `engine.backends.keeper.ModelServer`.

    ready: set once its models are loaded, or it has ended. ended: set once it takes no more, whoever hung up.
    served: whether it has answered a call.
    """

    def __init__(self, name: str, framing: Framing[Any]) -> None:
        """name: what errors and the log call it."""
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.served = False
        self._name = name
        self._buffer = MessageBuffer(framing)
        self._private: PrivateDirectory | None = None
        self._process: Process | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def alive(self) -> bool:
        return self.ready.is_set() and not self.ended.is_set()

    @property
    def process_id(self) -> int | None:
        return self._process.pid if self._process else None

    async def launched(self, start: Awaitable[None], *, timeout_s: float, cannot: str) -> None:
        """Wait until the process has started and loaded its models; end it where it does not. Raises BackendError.

        cannot: what it could not do, where it ends at once.
        """
        try:
            await start
            async with asyncio.timeout(timeout_s):
                await self.ready.wait()
        except TimeoutError as exc:
            await self.close()
            raise BackendError(f"{self._name} did not load its models in time") from exc
        except OSError as exc:
            await self.close()
            raise BackendError(f"no process could be started for {self._name}") from exc
        except BaseException:
            await self.close()
            raise
        if self.ended.is_set():
            await self.close()
            raise BackendError(f"{self._name} could not {cannot}")

    def take_place(self, kind: str) -> Path:
        """A private directory with an empty `home` in it, which goes with the process. Raises as that does."""
        self._private = PrivateDirectory(kind)
        (self._private.path / "home").mkdir()
        return self._private.path

    async def spawn(
        self,
        python: Path,
        module: str,
        arguments: Sequence[str],
        *,
        descriptors: Sequence[int],
        environment: Mapping[str, str],
    ) -> None:
        """Start a module with a socket to it; its first arguments are the descriptor of that, and our process id."""
        ours, theirs = socket.socketpair()
        with theirs:
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_unix_connection(lambda: self, sock=ours)
            self._process = await asyncio.create_subprocess_exec(
                *(str(python), "-P", "-s", "-B", "-W", "ignore", "-m", module),
                *(str(theirs.fileno()), str(os.getpid()), *arguments),
                stdin=DEVNULL,
                stdout=DEVNULL,
                pass_fds=[theirs.fileno(), *descriptors],
                env=environment,
                cwd="/",
            )

    def send(self, message: bytes) -> None:
        if self._transport is not None:
            self._transport.write(message)

    def abort(self) -> None:
        """Hang up, whereupon the process ends."""
        if self._transport is not None:
            self._transport.abort()

    async def wait(self) -> None:
        await self.ended.wait()

    async def close(self) -> None:
        """Kill the process, which has nothing to save, and wait until it is gone; safe to call twice."""
        if self._transport is not None:
            self.abort()
            await self.ended.wait()
        if self._process is not None:
            if self._process.returncode is None:
                # Not Process.kill: it polls first, and so may take the exit status that asyncio waits for.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        if self._private is not None:
            self._private.remove()

    def data_received(self, data: bytes) -> None:
        try:
            for answer in self._buffer.feed(data):
                self.receive(answer)
        except ValueError:
            _log.warning("worker_broke_protocol", process=self._name)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the name is asyncio's
        self.ended.set()
        self.ready.set()  # nobody shall wait for it any longer
        self.forsaken()

    @abstractmethod
    def receive(self, answer: Fields) -> None:
        """Take a message of the process. Raises ValueError for one that it may not send."""

    @abstractmethod
    def forsaken(self) -> None:
        """Tell all who wait for an answer that none will come."""
