"""Where are a model's files between their digest and every load? In memory, where whoever owns the disk has no hand.

The directory that a model comes from belongs to the operator, who may change it at any moment: once its digest was
taken, or before a server that died is started again. So the files are copied first and digested then, and whatever
loads them, however often, loads the copy:

- `FileWeights`, for workers of ours: a descriptor for each file, sealed against every change (memfd_create(2)). Not
  even a worker that was taken over can change what its successor loads.
- `DirectoryWeights`, for vLLM, which asks for a directory: one in memory that only we can enter. It cannot be sealed;
  so it is digested again before every start of a server.

Weights that are trusted are used where they lie: a build of the image that has them on a read-only device with verified
contents (dm-verity) saves the copy. Nothing of that can be seen from here, so that the option for it says `assume`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path

from core.errors import BackendError
from core.program.run import unwrapped
from engine.backends.digest import content_digest, digest_of, files_of, open_file, weights_digest
from engine.backends.surroundings import PrivateDirectory, remove_leftovers

PIECE_BYTES = 1 << 30
"""What the kernel is told to copy at a time; it stops at 2 GiB by itself."""


class Weights:
    """The files of one model. source: where they come from. trusted: nobody can change them there."""

    def __init__(self, source: Path, *, trusted: bool = False) -> None:
        self._source = source
        self._trusted = trusted
        self._digest: str | None = None

    @property
    def digest(self) -> str:
        """The digest of what is loaded, for the statement. Raises BackendError unless the files are held."""
        if self._digest is None:
            raise BackendError("a model's files are not held")
        return self._digest

    async def hold(self) -> None:
        """Take the files and their digest. Raises BackendError."""
        # A thread cannot be stopped, and must not go on once somebody has released what it takes.
        taking = asyncio.get_running_loop().run_in_executor(None, self._take)
        try:
            self._digest = await asyncio.shield(taking)
        except asyncio.CancelledError:
            await asyncio.wait([taking])
            raise
        except OSError as exc:
            raise BackendError(f"the model in {self._source} cannot be held in memory: {exc}") from exc

    def release(self) -> None:
        """Let go of the files; safe to call twice, and at any stage."""
        self._digest = None

    def _take(self) -> str:
        raise NotImplementedError


class FileWeights(Weights):
    """Files as descriptors that can be read and, unless they are trusted, not be changed.

    files: for each name in the model's directory its descriptor; nothing while they are not held.
    """

    def __init__(self, source: Path, *, trusted: bool = False) -> None:
        super().__init__(source, trusted=trusted)
        self.files: dict[str, int] = {}

    def release(self) -> None:
        super().release()
        while self.files:
            os.close(self.files.popitem()[1])

    def _take(self) -> str:
        digests = {}
        for name, path in files_of(self._source).items():
            with open_file(path) as source:
                descriptor = os.dup(source.fileno()) if self._trusted else _sealed_copy(source)
            self.files[name] = descriptor
            with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as held:
                digests[name] = content_digest(held)
        return digest_of(digests)


class DirectoryWeights(Weights):
    """Files in a directory that only we can enter."""

    def __init__(self, source: Path, *, trusted: bool = False) -> None:
        super().__init__(source, trusted=trusted)
        self._private: PrivateDirectory | None = None

    @property
    def directory(self) -> Path:
        """Where they are. Raises BackendError unless they are held."""
        if self._trusted:
            return self._source.absolute()  # servers are started elsewhere
        if self._private is None:
            raise BackendError("a model's files are not held")
        return self._private.path

    async def check(self) -> None:
        """Raises BackendError where the files are no longer those whose digest was taken."""
        try:
            now = await asyncio.to_thread(weights_digest, self.directory)
        except OSError as exc:
            raise BackendError("a model's files cannot be read any more") from exc
        if now != self.digest:
            raise BackendError("a model's files are not those that were attested")

    def release(self) -> None:
        super().release()
        private, self._private = self._private, None
        if private is not None:
            private.remove()

    def _take(self) -> str:
        if not self._trusted:
            self._private = PrivateDirectory("weights")
            for name, path in files_of(self._source).items():
                target = self.directory / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open_file(path) as source, target.open("xb", buffering=0) as copy:
                    _copy(source, copy.fileno())
        return weights_digest(self.directory)


def _sealed_copy(source: FileIO) -> int:
    descriptor = os.memfd_create("weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _copy(source, descriptor)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _copy(source: FileIO, target: int) -> None:
    while os.sendfile(target, source.fileno(), None, PIECE_BYTES):
        pass


@asynccontextmanager
async def held(weights: Iterable[Weights]) -> AsyncIterator[None]:
    """Hold the files of some models while the context is open. Raises BackendError."""
    distinct = set(weights)

    async def hold() -> None:
        async with asyncio.TaskGroup() as group:
            for one in distinct:
                group.create_task(one.hold())

    try:
        await asyncio.to_thread(remove_leftovers)
        await unwrapped(hold())
        yield
    finally:
        for one in distinct:
            await asyncio.to_thread(one.release)
