from __future__ import annotations

import errno
import resource
import threading
from pathlib import Path

import pytest

from attestation.errors import EvidenceError, FetchError
from attestation.guest.reports import MachineReport
from attestation.guest.tsm import MAX_BLOB_BYTES, PAUSES_S, ConfigfsTree, collect_report, find_kind
from attestation.types import EvidenceKind, ReportData
from tests.attestation.guest.fake_tsm import FakeKernel

DATA = ReportData(bytes(range(64)))
OTHER_DATA = bytes(64)
TABLE = b"certificates"


def report_of(inblob: bytes, privlevel: int) -> bytes:
    return b"%d:" % privlevel + inblob


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    return FakeKernel(tmp_path, report_of, table=TABLE)


@pytest.fixture
def pauses() -> list[float]:
    return []


def collected(kernel: FakeKernel, pauses: list[float] | None = None) -> MachineReport:
    return collect_report(kernel, DATA, sleep=([] if pauses is None else pauses).append)


# --- a request


def test_an_snp_report_comes_with_the_hosts_certificates(kernel: FakeKernel) -> None:
    assert collected(kernel) == MachineReport(EvidenceKind.SNP, b"0:" + DATA, TABLE)


def test_a_tdx_quote_comes_alone(kernel: FakeKernel) -> None:
    kernel.provider = "tdx_guest"
    seen: list[str] = []
    kernel.before_read = lambda _, attribute: seen.append(attribute)
    assert collected(kernel) == MachineReport(EvidenceKind.TDX, b"0:" + DATA, b"")
    assert set(seen) == {"provider", "outblob", "generation"}  # the other files are not there for TDX


def test_a_guest_at_a_lower_privilege_level_asks_for_its_own(kernel: FakeKernel) -> None:
    kernel.floor = 2
    assert collected(kernel).report == b"2:" + DATA


@pytest.mark.parametrize(("provider", "kind"), [("sev_guest", EvidenceKind.SNP), ("tdx_guest", EvidenceKind.TDX)])
def test_the_provider_says_what_kind_of_evidence_there_is(
    kernel: FakeKernel, provider: str, kind: EvidenceKind
) -> None:
    kernel.provider = provider
    assert find_kind(kernel) is kind
    assert kernel.left == []


@pytest.mark.parametrize("provider", ["", "arm_cca_guest", "sev_guest2", "SEV_GUEST", "sev\x00guest", "\xe9"])
def test_another_provider_is_refused(kernel: FakeKernel, provider: str) -> None:
    kernel.provider = provider
    for ask in (find_kind, lambda kernel: collect_report(kernel, DATA)):
        with pytest.raises(FetchError, match="provider that we do not know"):
            ask(kernel)
    assert kernel.left == []


def test_every_request_has_a_directory_of_its_own_and_leaves_none(kernel: FakeKernel) -> None:
    for _ in range(3):
        collected(kernel)
    assert len(set(kernel.named)) == 3
    assert kernel.left == []


def test_a_machine_without_the_interface_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        FetchError, match=r"configfs-tsm: No such file or directory; it takes Linux 6.7.* Azure .* /sys/kernel/config"
    ):
        find_kind(ConfigfsTree(tmp_path / "report"))


# --- who else is there


@pytest.mark.parametrize("before", ["outblob", "auxblob", "generation"])
def test_a_write_by_somebody_else_is_noticed_whenever_it_comes(kernel: FakeKernel, before: str) -> None:
    def interfere(request: str, attribute: str) -> None:
        if attribute == before:
            kernel.write(request, "inblob", OTHER_DATA)

    kernel.before_read = interfere
    with pytest.raises(EvidenceError, match="1 writes were ours, and 2 were counted"):
        collected(kernel)
    assert kernel.left == []


def test_a_write_that_the_kernel_dropped_gives_no_report(kernel: FakeKernel) -> None:
    kernel.lose_writes = True
    with pytest.raises(FetchError, match="Invalid argument"):
        collected(kernel)
    assert kernel.left == []


def test_a_dropped_write_after_another_one_is_noticed_by_the_count(kernel: FakeKernel) -> None:
    def answer_an_older_question(request: str, attribute: str) -> None:
        if attribute == "outblob":
            kernel._requests[request].inblob = OTHER_DATA

    kernel.lose_writes = True
    kernel.before_read = answer_an_older_question
    with pytest.raises(EvidenceError, match="0 were counted"):
        collected(kernel)


# --- a driver that is busy, broken or mad


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EAGAIN, errno.EINTR])
def test_a_busy_driver_is_asked_again_later_and_later(kernel: FakeKernel, pauses: list[float], code: int) -> None:
    kernel.errors = [code] * len(PAUSES_S)
    assert collected(kernel, pauses).report == b"0:" + DATA
    assert pauses == list(PAUSES_S) == sorted(PAUSES_S)


def test_a_driver_that_stays_busy_is_given_up(kernel: FakeKernel, pauses: list[float]) -> None:
    kernel.errors = [errno.EBUSY] * (len(PAUSES_S) + 1)
    with pytest.raises(FetchError, match="busy"):
        collected(kernel, pauses)
    assert kernel.errors == []
    assert kernel.left == []


def test_a_driver_that_fails_is_not_asked_again(kernel: FakeKernel, pauses: list[float]) -> None:
    kernel.errors = [errno.EIO, errno.EIO]
    with pytest.raises(FetchError, match="Input/output error"):
        collected(kernel, pauses)
    assert (pauses, kernel.errors) == ([], [errno.EIO])


@pytest.mark.parametrize("attribute", ["generation", "privlevel_floor"])
@pytest.mark.parametrize("text", [b"", b"-1", b"one", b"1 1", b"0x1", b"1" * 10, "\u0661".encode()])
def test_a_number_that_is_none_is_refused(kernel: FakeKernel, attribute: str, text: bytes) -> None:
    kernel.contents[attribute] = text
    with pytest.raises(FetchError, match=f"{attribute} is no number"):
        collected(kernel)


@pytest.mark.parametrize("attribute", ["outblob", "auxblob"])
def test_a_blob_without_end_is_refused(kernel: FakeKernel, attribute: str) -> None:
    kernel.contents[attribute] = bytes(MAX_BLOB_BYTES)
    collected(kernel)
    kernel.contents[attribute] = bytes(MAX_BLOB_BYTES + 1)
    with pytest.raises(FetchError, match=f"{attribute} is longer than"):
        collected(kernel)


# --- the files themselves


@pytest.fixture
def tree(tmp_path: Path) -> ConfigfsTree:
    tree = ConfigfsTree(tmp_path)
    tree.make("request")
    (tmp_path / "request" / "inblob").touch()
    return tree


def writes_of_this_thread() -> int:
    path = Path(f"/proc/self/task/{threading.get_native_id()}/io")
    return int(dict(line.split(": ") for line in path.read_text().splitlines())["syscw"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs a kernel that counts system calls")
def test_the_inblob_is_written_by_one_system_call(tree: ConfigfsTree) -> None:
    before = writes_of_this_thread()
    tree.write("request", "inblob", DATA)
    assert writes_of_this_thread() - before == 1
    assert (tree.root / "request" / "inblob").read_bytes() == DATA


def test_a_part_that_was_written_is_a_failure_and_not_continued(tree: ConfigfsTree) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32, hard))
    try:
        with pytest.raises(OSError, match="a part was written"):
            tree.write("request", "inblob", DATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tree.root / "request" / "inblob").read_bytes() == DATA[:32]


def test_a_file_that_the_kernel_does_not_show_is_not_made(tree: ConfigfsTree) -> None:
    with pytest.raises(FileNotFoundError):
        tree.write("request", "privlevel", b"1")
    assert not (tree.root / "request" / "privlevel").exists()


def test_a_request_that_is_there_already_is_not_used(tree: ConfigfsTree) -> None:
    with pytest.raises(FileExistsError):
        tree.make("request")


def test_reading_stops_soon_after_what_anybody_wants(tree: ConfigfsTree) -> None:
    (tree.root / "request" / "inblob").write_bytes(bytes(4 * MAX_BLOB_BYTES))
    assert MAX_BLOB_BYTES < len(tree.read("request", "inblob")) <= 2 * MAX_BLOB_BYTES
