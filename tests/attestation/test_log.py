"""The log shows every change to it that it can show, is added to by many, and holds nothing of a request."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.log import MAX_LOG_BYTES, NO_RECORD, AcceptedIdentity, IdentityLog, read_log, verify_log
from attestation.release.rollback import MARKS_FILE
from attestation.types import EvidenceKind
from core.errors import StateError
from tests.attestation.samples import NONCE, NOW, STATEMENT
from tests.full_disk import small_disk
from tests.places import ROOT

ENGINE = "https://engine.example"
IDENTITY = AcceptedIdentity.of(
    ENGINE,
    STATEMENT,
    kind=EvidenceKind.SNP,
    claims={"measurement": "ab" * 48, "product": "Milan"},
    policy_digest="ef" * 32,
)
OTHER = replace(IDENTITY, claims={"measurement": "cd" * 48, "product": "Milan"})
ELSEWHERE = replace(IDENTITY, engine="http://127.0.0.1:8800", evidence=EvidenceKind.INSECURE, claims={})


def _written(directory: Path, *identities: AcceptedIdentity) -> Path:
    path = directory / "log.jsonl"
    for number, identity in enumerate(identities):
        IdentityLog(path).record(identity, NOW + timedelta(seconds=number))
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Four records."""
    return _written(tmp_path_factory.mktemp("log"), IDENTITY, ELSEWHERE, OTHER, IDENTITY).read_bytes()


def _lines(log: bytes) -> list[bytes]:
    return log.splitlines(keepends=True)


def _sealed(body: bytes) -> bytes:
    """A line as who owns the file can write it, from everything before its last comma."""
    return body + b',"sha256":"' + hashlib.sha256(b"sottovoce log v1\x00" + body).hexdigest().encode() + b'"}\n'


# What is recorded, and when.


def test_an_identity_is_recorded_when_it_changes_and_for_each_engine_by_itself(tmp_path: Path) -> None:
    log = IdentityLog(tmp_path / "log")
    offered = [IDENTITY, IDENTITY, ELSEWHERE, IDENTITY, OTHER, OTHER, ELSEWHERE, IDENTITY]
    assert [log.record(identity, NOW) for identity in offered] == [
        True, False, True, False, True, False, False, True,
    ]  # fmt: skip
    assert [record.identity for record in read_log(tmp_path / "log").records] == [IDENTITY, ELSEWHERE, OTHER, IDENTITY]


def test_another_process_sees_what_was_recorded(tmp_path: Path) -> None:
    assert IdentityLog(tmp_path / "log").record(IDENTITY, NOW)
    assert not IdentityLog(tmp_path / "log").record(IDENTITY, NOW)


@pytest.mark.parametrize(
    "other",
    [
        replace(IDENTITY, evidence=EvidenceKind.TDX),
        replace(IDENTITY, claims={}),
        replace(IDENTITY, config=replace(IDENTITY.config, log_level="error")),
        replace(IDENTITY, models=()),
        replace(IDENTITY, policy_sha256="00" * 32),
    ],
    ids=["evidence", "claims", "config", "models", "policy"],
)
def test_whatever_differs_is_another_identity(other: AcceptedIdentity, tmp_path: Path) -> None:
    assert len(read_log(_written(tmp_path, IDENTITY, other)).records) == 2


def test_a_record_is_one_line_as_it_is_documented(log: bytes) -> None:
    first, second, *_ = _lines(log)
    body = first[: first.rindex(b",")]
    sealed = hashlib.sha256(b"sottovoce log v1\x00" + body).hexdigest()
    assert first == _sealed(body)
    record = json.loads(first)
    assert list(record) == ["version", "sequence", "recorded_at", "previous", "torn", "identity", "sha256"]
    assert (record["sequence"], record["recorded_at"], record["previous"]) == (0, int(NOW.timestamp()), "0" * 64)
    assert (record["torn"], record["sha256"]) == (None, sealed)
    assert list(record["identity"]) == ["engine", "evidence", "claims", "config", "models", "policy_sha256"]
    assert record["identity"]["claims"] == IDENTITY.claims
    assert json.loads(second)["previous"] == sealed


def test_no_key_and_no_nonce_is_recorded(log: bytes) -> None:
    assert STATEMENT.receipt_key is not None
    secrets = [NONCE.hex(), STATEMENT.instance, STATEMENT.receipt_key.hex(), str(STATEMENT.not_after)]
    secrets += [
        form for key in STATEMENT.ohttp_keys for form in (key.digest.hex(), key.path_digest, key.public_key.hex())
    ]
    assert [secret for secret in secrets if secret.encode() in log] == []


# The chain.


def test_an_empty_log_holds() -> None:
    assert verify_log(b"").head == NO_RECORD
    assert verify_log(b"").torn is None


def test_a_log_that_nobody_touched_holds(log: bytes) -> None:
    summary = verify_log(log)
    assert len(summary.records) == 4
    assert summary.torn is None
    assert summary.head == json.loads(_lines(log)[-1])["sha256"]


def test_every_changed_byte_is_seen_and_named(log: bytes) -> None:
    """In the last line, and in what makes it one, no later record shows it: there it is a line that is none."""
    starts = [sum(map(len, _lines(log)[:number])) for number in range(4)]
    for at in range(len(log)):
        changed = bytearray(log)
        changed[at] ^= 1
        record = sum(start <= at for start in starts) - 1
        if at >= starts[3] - 1:
            assert verify_log(bytes(changed)).torn is not None, at
        else:
            with pytest.raises(EvidenceError, match=f"log: record {record} is broken"):
                verify_log(bytes(changed))


def test_every_cut_is_seen_but_at_the_end_of_a_record(log: bytes) -> None:
    ends = {0, *(sum(map(len, _lines(log)[:number])) for number in range(1, 5))}
    for length in range(len(log)):
        summary = verify_log(log[:length])
        whole = length in ends or length + 1 in ends - {0}  # without its line feed a record is still whole
        assert (summary.torn is None) is whole, length


def _replaced(lines: list[bytes]) -> list[bytes]:
    body = lines[1][: lines[1].rindex(b",")].replace(b'"evidence":"insecure"', b'"evidence":"tdx"')
    return [lines[0], _sealed(body), *lines[2:]]


_TAMPERED: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "the first removed": (lambda lines: lines[1:], "record 0 is broken: record 1 stands in its place"),
    "one in the middle removed": (lambda lines: [lines[0], *lines[2:]], "record 1 is broken: record 2 stands"),
    "two exchanged": (lambda lines: [lines[0], lines[2], lines[1], lines[3]], "record 1 is broken: record 2 stands"),
    "one repeated": (lambda lines: [*lines, lines[3]], "record 4 is broken: record 3 stands in its place"),
    "one replaced by another that is sealed": (_replaced, "record 2 is broken: it does not follow"),
    "a line put in between": (lambda lines: [*lines[:2], b"{}\n", *lines[2:]], "record 2 is broken: it cannot be read"),
    "an empty line put in between": (lambda lines: [*lines[:2], b"\n", *lines[2:]], "record 2 is broken: it cannot"),
    "something before the first": (lambda lines: [b"\n", *lines], "record 0 is broken: it cannot be read"),
    "two lines joined": (lambda lines: [lines[0][:-1], *lines[1:]], "record 0 is broken: it cannot be read"),
    "a record without its line feed, and one more": (
        lambda lines: [*lines[:3], lines[3][:-1], lines[3]], "nothing",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tamper", "fault"), _TAMPERED.values(), ids=_TAMPERED.keys())
def test_a_changed_order_of_records_is_seen(
    tamper: Callable[[list[bytes]], list[bytes]], fault: str, log: bytes
) -> None:
    tampered = b"".join(tamper(_lines(log)))
    if fault == "nothing":
        assert verify_log(tampered).torn is not None
        return
    with pytest.raises(EvidenceError, match=fault):
        verify_log(tampered)


def test_a_record_of_unknown_members_is_none() -> None:
    assert verify_log(_sealed(b'{"version":1,"sequence":0')).torn is not None


def test_a_chain_written_anew_holds_and_lacks_the_head_that_was_noted(log: bytes, tmp_path: Path) -> None:
    """What a chain cannot show by itself; noting a head elsewhere shows it."""
    noted = verify_log(log).head
    forged = verify_log(_written(tmp_path, OTHER, IDENTITY, ELSEWHERE, OTHER, IDENTITY).read_bytes())
    cut = verify_log(b"".join(_lines(log)[:3]))
    assert noted not in forged.hashes
    assert noted not in cut.hashes


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    assert verify_log(data).records == ()


def test_a_log_beyond_its_limit_is_refused() -> None:
    with pytest.raises(EvidenceError, match="longer than"):
        verify_log(b"\n" * (MAX_LOG_BYTES + 1))


# Crashes.


def test_what_a_crash_left_is_kept_and_owned_by_the_next_record(log: bytes, tmp_path: Path) -> None:
    *before, last = _lines(log)
    path = tmp_path / "log"
    for length in (1, 40, len(last) // 2, len(last) - 2):
        path.write_bytes(b"".join(before) + last[:length])
        assert IdentityLog(path).record(IDENTITY, NOW)
        repaired = path.read_bytes()
        assert repaired.startswith(b"".join(before) + last[:length] + b"\n")
        summary = verify_log(repaired)
        assert (len(summary.records), summary.torn) == (4, None)
        assert summary.records[-1].torn == hashlib.sha256(last[:length]).hexdigest()


def test_a_record_that_lacks_only_its_line_feed_is_completed(log: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(log[:-1])
    assert not IdentityLog(path).record(IDENTITY, NOW)
    assert IdentityLog(path).record(OTHER, NOW)
    summary = read_log(path)
    assert [record.torn for record in summary.records] == [None] * 5


@pytest.mark.parametrize("again", [b"", b"{", b'{"version":1'], ids=["at once", "soon", "later"])
def test_a_crash_while_a_crash_is_repaired_is_repaired(again: bytes, log: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(log + b"torn\n" + again)
    assert IdentityLog(path).record(OTHER, NOW)
    assert (len(read_log(path).records), read_log(path).torn) == (5, None)


def test_what_a_crash_left_cannot_be_changed_later(log: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(log + b"torn")
    IdentityLog(path).record(OTHER, NOW)
    repaired = path.read_bytes()
    for other in (repaired.replace(b"torn\n", b"Torn\n"), repaired.replace(b"torn\n", b"")):
        with pytest.raises(EvidenceError, match="record 4 is broken"):
            verify_log(other)


# What cannot be written.


def test_a_broken_log_is_not_added_to(log: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log"
    broken = b"".join(_lines(log)[1:])
    path.write_bytes(broken)
    with pytest.raises(EvidenceError, match="record 0 is broken"):
        IdentityLog(path).record(OTHER, NOW)
    assert path.read_bytes() == broken


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="file/log: File exists"):
        IdentityLog(tmp_path / "file" / "log").record(IDENTITY, NOW)


def test_a_full_log_is_told_and_stays_as_it_is(log: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestation.log.MAX_LOG_BYTES", len(log) + 100)
    path = tmp_path / "log"
    path.write_bytes(log)
    with pytest.raises(StateError, match="full; move it away"):
        IdentityLog(path).record(OTHER, NOW)
    assert path.read_bytes() == log


def test_a_disk_without_room_is_told_and_the_log_goes_on_when_there_is_some(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256 * 1024) as disk:
        path = _written(disk.path, IDENTITY)
        disk.fill()
        said = [IDENTITY]
        for identity in cycle((OTHER, IDENTITY)):  # the last page of the file has room for a few
            try:
                IdentityLog(path).record(identity, NOW)
            except StateError as exc:
                told = str(exc)
                break
            said.append(identity)
        assert "No space left on device" in told
        assert [record.identity for record in read_log(path).records] == said
        disk.make_room()
        assert IdentityLog(path).record(ELSEWHERE, NOW)
        assert [record.identity for record in read_log(path).records] == [*said, ELSEWHERE]


@pytest.mark.parametrize(
    "identity",
    [
        replace(IDENTITY, claims={"measurement": "line\nbreak"}),
        replace(IDENTITY, claims={"measurement": "x" * 20_000}),
        replace(IDENTITY, claims={str(number): "x" * 16_000 for number in range(20)}),
        replace(IDENTITY, engine="http://\udcff"),
        replace(IDENTITY, policy_sha256="none"),
    ],
    ids=["a line break", "a long claim", "a long record", "no text", "no digest"],
)
def test_an_identity_that_could_not_be_read_back_is_not_written(identity: AcceptedIdentity, tmp_path: Path) -> None:
    path = _written(tmp_path, IDENTITY)
    before = path.read_bytes()
    with pytest.raises(EvidenceError, match="this identity cannot be recorded"):
        IdentityLog(path).record(identity, NOW)
    assert path.read_bytes() == before


# Several processes at once.

WRITERS, TURNS = 3, 15
_PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from attestation.log import IdentityLog
from attestation.release.rollback import Mark, accept_newer
from tests.attestation.test_log import IDENTITY, NOW, TURNS

directory, me = Path(sys.argv[1]), sys.argv[2]
print(flush=True)
sys.stdin.readline()
for turn in range(1, TURNS + 1):
    IdentityLog(directory / "log").record(replace(IDENTITY, claims={"writer": me, "turn": str(turn)}), NOW)
    accept_newer(directory, Mark(turn, "00" * 32), by=(me * 64,), pinned=(me * 64,))
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that several processes wrote to, each as fast as it could, from the same moment."""
    directory = tmp_path_factory.mktemp("shared")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(directory), str(number)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for number in range(WRITERS)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()  # everybody is ready
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0] * WRITERS
    return directory


def test_records_of_several_processes_are_one_chain(shared: Path) -> None:
    summary = read_log(shared / "log")
    turns = [(record.identity.claims["writer"], int(record.identity.claims["turn"])) for record in summary.records]
    assert summary.torn is None
    assert sorted(turns) == [(str(writer), turn) for writer in range(WRITERS) for turn in range(1, TURNS + 1)]


def test_no_mark_of_several_processes_is_lost(shared: Path) -> None:
    marks = json.loads((shared / MARKS_FILE).read_bytes())["marks"]
    assert {signer: mark["version"] for signer, mark in marks.items()} == {
        str(writer) * 64: TURNS for writer in range(WRITERS)
    }


def test_the_time_of_a_record_is_the_callers(tmp_path: Path) -> None:
    path = _written(tmp_path, IDENTITY)
    assert datetime.fromtimestamp(read_log(path).records[0].recorded_at, NOW.tzinfo) == NOW
