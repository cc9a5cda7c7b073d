"""What must be remembered is replaced whole, is its owner's alone, and tells when it cannot be kept."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from pathlib import Path

import pytest

from core.errors import StateError
from core.program import files as state


def test_the_directory_is_this_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert state.state_directory() == tmp_path / "sottovoce"


def test_a_locked_file_and_its_directory_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    with state.locked(path):
        pass
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with state.locked(path), path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_is_appended_is_there_and_nothing_before_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for piece in (b"one\n", b"two\n"):
        with state.locked(path) as handle:
            state.append(handle, piece, directory=tmp_path)
    with state.locked(path) as handle:
        assert state.read_all(handle, max_bytes=100) == b"one\ntwo\n"
        assert state.read_all(handle, max_bytes=3) == b"one\n"


def test_a_replaced_file_is_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    state.replace(path, b"old")
    state.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="directory"):
        state.replace(tmp_path / "file", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_place_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="file/below: File exists"), state.locked(tmp_path / "file" / "below"):
        pass


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(StateError), state.locked(tmp_path / "link"):
        pass
    assert not (tmp_path / "target").exists()


def test_a_full_disk_is_told() -> None:
    handle = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space left"):
            state.append(handle, b"data", directory=Path("/"))
    finally:
        os.close(handle)


def test_a_write_that_ends_early_is_told() -> None:
    """A pipe that nobody reads takes what it can hold, as a disk does that runs full."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with pytest.raises(OSError, match="No space left"):
            state.append(writing, bytes(10_000_000), directory=Path("/"))
    finally:
        os.close(reading)
        os.close(writing)


# Files that others change.


class Numbers:
    """A file with a number in it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "number"
        self.path.write_text("1")
        self.told: list[str] = []
        self.loads = 0
        self.watched = state.Watched((self.path,), self.load, faults=(ValueError, OSError), tell=self.tell)

    def load(self, before: int | None) -> int:
        self.loads += 1
        number = int(self.path.read_text())
        return before if before is not None and before == number else number

    def tell(self, exc: Exception) -> None:
        self.told.append(type(exc).__name__)


@pytest.fixture
def numbers(tmp_path: Path) -> Numbers:
    return Numbers(tmp_path)


def test_a_file_that_did_not_change_is_not_read_again(numbers: Numbers) -> None:
    assert numbers.watched.changed() is None
    assert (numbers.watched.value, numbers.loads) == (1, 1)


def test_a_file_that_changed_is_read_once(numbers: Numbers) -> None:
    numbers.path.write_text("2000")
    assert numbers.watched.changed() == 2000
    assert numbers.watched.changed() is None
    assert (numbers.watched.value, numbers.loads) == (2000, 2)


def test_a_file_that_is_written_in_place_by_a_clock_that_stood_still_has_changed_too(numbers: Numbers) -> None:
    status = numbers.path.stat()
    while numbers.path.stat().st_ctime_ns == status.st_ctime_ns:  # the kernel's clock ticks a few times a second
        numbers.path.write_text("2")
        os.utime(numbers.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert numbers.path.stat().st_mtime_ns == status.st_mtime_ns
    assert numbers.watched.changed() == 2


def test_the_same_in_a_file_that_was_written_anew_is_no_change(numbers: Numbers) -> None:
    os.utime(numbers.path, ns=(1, 1))
    assert numbers.watched.changed() is None
    assert numbers.watched.changed() is None
    assert numbers.loads == 2


def test_what_cannot_be_used_is_told_once_and_tried_again(numbers: Numbers) -> None:
    numbers.path.write_text("many")
    for _ in range(3):
        assert numbers.watched.changed() is None
    assert (numbers.told, numbers.loads) == (["ValueError"], 4)
    numbers.path.unlink()
    assert numbers.watched.changed() is None
    assert numbers.told == ["ValueError", "FileNotFoundError"]
    numbers.path.write_text("20")
    assert numbers.watched.changed() == 20


def test_a_fault_that_was_not_named_is_not_hidden(numbers: Numbers) -> None:
    strict = state.Watched((numbers.path,), numbers.load, faults=(OSError,), tell=numbers.tell)
    numbers.path.write_text("many")
    with pytest.raises(ValueError, match="many"):
        strict.changed()
    assert numbers.told == []


async def test_files_are_looked_at_for_ever(numbers: Numbers) -> None:
    acts: list[int] = []
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        numbers.path.write_text("2" * len(naps))
        if len(naps) == 4:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await state.watch(numbers.watched.changed, acts.append, nap)
    assert acts == [2, 22, 222]
    assert set(naps) == {state.WATCH_PERIOD_S}
