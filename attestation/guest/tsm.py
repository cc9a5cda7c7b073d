"""How does the guest get a report from its processor? Linux's configfs-tsm, the same for AMD and Intel.

Linux `Documentation/ABI/testing/configfs-tsm-report`, kernel 6.7 and later. A request is a directory below the root::

    provider         "sev_guest" or "tdx_guest": who answers, and so in which form
    privlevel_floor  SNP only: the most privileged level (VMPL) that a report may be asked for from here
    privlevel        SNP only: the level asked for; 0 when nothing is written
    inblob           our 64 bytes
    outblob          the report, made when it is first read
    auxblob          SNP only: the host's table of certificates, perhaps empty
    generation       how often anybody has written to this request

`inblob` counts as written when it is closed, and whether the kernel took it is told by `generation` alone: of a write
that failed at the close nobody is told. So the count must be ours in the end, or the report may answer somebody else.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from attestation.errors import EvidenceError, FetchError
from attestation.evidence import KINDS
from attestation.guest.devices import AttachedDevices
from attestation.guest.driver import DriverThread
from attestation.guest.reports import MachineReport
from attestation.types import EvidenceKind, EvidenceSource, ReportData, TsmProvider

T = TypeVar("T")

DEFAULT_ROOT = Path("/sys/kernel/config/tsm/report")

MAX_BLOB_BYTES = 256 * 1024
"""A TDX quote takes some 5 KiB, a table of certificates 8 KiB; the kernel itself stops at 16 MiB."""

PROVIDERS = {rules.tsm.name: (rules.kind, rules.tsm) for rules in KINDS.values() if rules.tsm is not None}

DEADLINE_S = 25.0
"""For one report, so that it ends before a collection does. AMD's firmware may have its guests wait."""

BUSY = (errno.EBUSY, errno.EAGAIN, errno.EINTR)
"""What passes by itself: another report is under way, or AMD's firmware wants to be asked less often."""
PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Before each further attempt."""


class Tree(Protocol):
    """The directory of requests. Every method raises OSError and may block."""

    def make(self, request: str) -> None:
        """Begin a request of that name, which must be new."""

    def remove(self, request: str) -> None:
        """Drop a request and its files."""

    def read(self, request: str, attribute: str) -> bytes:
        """What a file of the request holds, longer than `MAX_BLOB_BYTES` if it holds more than that."""

    def write(self, request: str, attribute: str, data: bytes) -> None:
        """Write to a file of the request, in one piece, and close it."""


@dataclass(frozen=True, slots=True)
class ConfigfsTree:
    """The kernel's own. Implements `Tree`."""

    root: Path = DEFAULT_ROOT

    def make(self, request: str) -> None:
        (self.root / request).mkdir()

    def remove(self, request: str) -> None:
        (self.root / request).rmdir()  # configfs does so however many files it shows there

    def read(self, request: str, attribute: str) -> bytes:
        with (self.root / request / attribute).open("rb", buffering=0) as file:
            data = bytearray()
            while len(data) <= MAX_BLOB_BYTES and (piece := file.read(MAX_BLOB_BYTES)):
                data += piece
            return bytes(data)

    def write(self, request: str, attribute: str, data: bytes) -> None:
        # Neither created nor cut, as `open` would: a file that is not there is a request that is not there.
        descriptor = os.open(self.root / request / attribute, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(descriptor, data) != len(data):  # one write(2): the kernel would take a part for the whole
                raise OSError(errno.EIO, "a part was written")
        finally:
            os.close(descriptor)


class TsmReports:
    """Implements `attestation.guest.reports.Reports`."""

    source = EvidenceSource.CONFIGFS

    def __init__(self, tree: Tree, *, deadline_s: float = DEADLINE_S) -> None:
        self._tree = tree
        self._driver = DriverThread("configfs-tsm", deadline_s=deadline_s)

    async def find_kind(self) -> EvidenceKind:
        return await self._driver.call(partial(find_kind, self._tree))

    async def collect(self, report_data: ReportData) -> MachineReport:
        return await self._driver.call(partial(collect_report, self._tree, report_data))

    async def find_devices(self) -> AttachedDevices | None:
        return await AttachedDevices.find()


def find_kind(tree: Tree) -> EvidenceKind:
    """What kind of evidence this machine can give; blocks. Raises FetchError when it is none that we know."""
    kind, _ = _with_request(tree, lambda request: _provider(tree, request))
    return kind


def collect_report(
    tree: Tree, report_data: ReportData, *, sleep: Callable[[float], None] = time.sleep
) -> MachineReport:
    """Ask for a report; blocks.

    Raises FetchError when there is none to be had, EvidenceError when it may be the answer to another question.
    """
    return _with_request(tree, lambda request: _ask(tree, request, report_data, sleep))


def _with_request(tree: Tree, ask: Callable[[str], T]) -> T:
    request = f"sottovoce-{secrets.token_hex(16)}"  # nobody else's, so that nobody else need be waited for
    try:
        tree.make(request)
        try:
            return ask(request)
        finally:
            tree.remove(request)
    except FileNotFoundError as exc:
        raise FetchError(
            f"configfs-tsm: {exc.strerror}; it takes Linux 6.7, a guest that may ask its processor, which those of "
            "Azure may not, and in a container the guest's own /sys/kernel/config"
        ) from exc
    except OSError as exc:
        raise FetchError(f"configfs-tsm: {exc.strerror or type(exc).__name__}") from exc


def _ask(tree: Tree, request: str, report_data: ReportData, sleep: Callable[[float], None]) -> MachineReport:
    kind, provider = _provider(tree, request)
    writes = 1
    # A guest that does not run at VMPL 0 is not given reports that say so: it asks for the level it does run at.
    if provider.has_levels and (floor := _number(tree, request, "privlevel_floor")) > 0:
        tree.write(request, "privlevel", str(floor).encode())
        writes += 1
    tree.write(request, "inblob", report_data)
    report = _patiently(lambda: _blob(tree, request, "outblob"), sleep)
    table = _patiently(lambda: _blob(tree, request, "auxblob"), sleep) if provider.has_certificates else b""
    # Last, so that it speaks for all that was read.
    if (generation := _number(tree, request, "generation")) != writes:
        raise EvidenceError(f"configfs-tsm: {writes} writes were ours, and {generation} were counted")
    return MachineReport(kind, report, table)


def _provider(tree: Tree, request: str) -> tuple[EvidenceKind, TsmProvider]:
    provider = tree.read(request, "provider").decode("ascii", "replace").strip()
    if provider not in PROVIDERS:
        raise FetchError("configfs-tsm: a provider that we do not know; we know " + ", ".join(PROVIDERS))
    return PROVIDERS[provider]


def _number(tree: Tree, request: str, attribute: str) -> int:
    text = tree.read(request, attribute).strip()
    if not text.isdigit() or len(text) > 9:
        raise FetchError(f"configfs-tsm: {attribute} is no number")
    return int(text)


def _blob(tree: Tree, request: str, attribute: str) -> bytes:
    blob = tree.read(request, attribute)
    if len(blob) > MAX_BLOB_BYTES:
        raise FetchError(f"configfs-tsm: {attribute} is longer than {MAX_BLOB_BYTES} bytes")
    return blob


def _patiently(attempt: Callable[[], T], sleep: Callable[[float], None]) -> T:
    for pause_s in PAUSES_S:
        try:
            return attempt()
        except OSError as exc:
            if exc.errno not in BUSY:
                raise
        sleep(pause_s)
    return attempt()
