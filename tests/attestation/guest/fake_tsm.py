"""The kernel's side of configfs-tsm on real files, as `drivers/virt/coco/guest/report.c` does it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attestation.guest.tsm import ConfigfsTree

READABLE = ("provider", "generation", "outblob", "auxblob", "privlevel_floor")
WRITABLE = ("inblob", "privlevel")


@dataclass
class _Request:
    """`struct tsm_report_state`. The blobs are made when one is read and the request was written to since."""

    inblob: bytes = b""
    privlevel: int = 0
    written: int = 0
    made: int = -1


class FakeKernel:
    """Implements `attestation.guest.tsm.Tree` on a directory, through `ConfigfsTree`.

    sign: makes a report of the inblob and the privilege level. table: the auxblob. errors: raised by the next reports.
    before_read: called with request and attribute, to play another program. lose_writes: what the kernel does with an
        inblob that it cannot take at the close.
    """

    def __init__(
        self,
        root: Path,
        sign: Callable[[bytes, int], bytes],
        *,
        provider: str = "sev_guest",
        table: bytes = b"",
        floor: int = 0,
    ) -> None:
        self._files = ConfigfsTree(root)
        self._sign = sign
        self._requests: dict[str, _Request] = {}
        self.provider = provider
        self.table = table
        self.floor = floor
        self.errors: list[int] = []
        self.before_read: Callable[[str, str], None] = lambda _request, _attribute: None
        self.lose_writes = False
        self.named: list[str] = []
        self.contents: dict[str, bytes] = {}

    @property
    def left(self) -> list[str]:
        """The requests that nobody has removed."""
        return [path.name for path in self._files.root.iterdir()]

    def make(self, request: str) -> None:
        self._files.make(request)
        self._requests[request] = _Request()
        self.named.append(request)
        for attribute in (*READABLE, *WRITABLE):
            self._path(request, attribute).touch()

    def remove(self, request: str) -> None:
        for path in (self._files.root / request).iterdir():
            path.unlink()  # configfs shows these files, and does not count them
        self._files.remove(request)
        del self._requests[request]

    def write(self, request: str, attribute: str, data: bytes) -> None:
        state = self._requests[request]
        self._files.write(request, attribute, data)
        if attribute == "privlevel":
            if int(data) < self.floor:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            state.privlevel = int(data)
        elif self.lose_writes:
            return
        else:
            state.inblob = self._path(request, attribute).read_bytes()
        state.written += 1

    def read(self, request: str, attribute: str) -> bytes:
        self.before_read(request, attribute)
        state = self._requests[request]
        if attribute in ("outblob", "auxblob"):
            self._make_report(request, state)
        shown = {"provider": self.provider, "generation": state.written, "privlevel_floor": self.floor}
        if attribute in shown:
            self._path(request, attribute).write_text(f"{shown[attribute]}\n")
        if attribute in self.contents:
            self._path(request, attribute).write_bytes(self.contents[attribute])
        return self._files.read(request, attribute)

    def _make_report(self, request: str, state: _Request) -> None:
        if not state.inblob:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if state.made == state.written:
            return
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, os.strerror(code))
        self._path(request, "outblob").write_bytes(self._sign(state.inblob, state.privlevel))
        self._path(request, "auxblob").write_bytes(self.table)
        state.made = state.written

    def _path(self, request: str, attribute: str) -> Path:
        return self._files.root / request / attribute
