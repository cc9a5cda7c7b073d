"""What must be remembered is replaced whole, is its owner's alone, and tells when it cannot be kept."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from attestation import state
from attestation.state import StateError


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
