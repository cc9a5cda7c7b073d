from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from structlog.testing import LogCapture

from engine.access import key_file
from engine.access.api_keys import ApiKey, ApiKeys, digest, encode_keys
from engine.access.key_file import KeyFile, edit_keys, read_keys
from engine.errors import KeyFileError

CANARY = "sk-sv-canary"


def key(name: str) -> ApiKey:
    return ApiKey(name, digest(CANARY + name))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_bytes(encode_keys(ApiKeys(keys=(key("a"),))))
    return path


def names(keys: ApiKeys | None) -> list[str] | None:
    return [key.name for key in keys.keys] if keys else None


# --- reading


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_what_is_no_file_cannot_be_used(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFileError) as refused:
        KeyFile(tmp_path / name)
    assert str(tmp_path) not in str(refused.value)


def test_a_file_is_read_again_only_when_it_changes(path: Path, log: LogCapture) -> None:
    file = KeyFile(path)
    assert file.changed() is None
    edit_keys(path, lambda keys: keys.adding(key("b")))
    assert names(file.changed()) == ["a", "b"]
    assert file.changed() is None
    assert [entry["event"] for entry in log.entries] == ["api_keys_reloaded"]
    assert log.entries[0]["keys"] == 2


def test_a_file_that_is_written_in_place_has_changed_too(path: Path) -> None:
    file = KeyFile(path)
    path.write_bytes(path.read_bytes() + b"\n")
    assert names(file.changed()) == ["a"]


def test_a_link_that_points_elsewhere_has_changed(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    file = KeyFile(link)
    other = tmp_path / "other"
    other.write_bytes(encode_keys(ApiKeys()))
    (tmp_path / "new").symlink_to(other)
    (tmp_path / "new").replace(link)
    assert file.changed() == ApiKeys()


@pytest.mark.parametrize("broken", [b"", f"version = 1\n{CANARY} = 1\n[[keys]]\n".encode(), b"\xff", None])
def test_a_broken_file_keeps_the_old_keys_and_is_told_of_once(
    path: Path, log: LogCapture, broken: bytes | None
) -> None:
    file = KeyFile(path)
    whole = path.read_bytes()
    path.unlink()
    if broken is not None:
        path.write_bytes(broken)
    assert [file.changed() for _ in range(3)] == [None] * 3
    assert names(file.keys) == ["a"]
    (entry,) = log.entries
    assert (entry["event"], entry["log_level"]) == ("api_keys_not_reloaded", "error")
    assert "canary" not in repr(log.entries)
    path.write_bytes(whole)
    assert names(file.changed()) == ["a"]


def test_each_broken_version_is_told_of(path: Path, log: LogCapture) -> None:
    file = KeyFile(path)
    for broken in (b"version = 2", b"version = 3.0"):
        path.write_bytes(broken)
        assert file.changed() is None
    assert len(log.entries) == 2


def test_what_changes_while_it_is_read_is_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_too_early(path: Path) -> ApiKeys:
        keys = read_keys(path)
        path.write_bytes(encode_keys(ApiKeys()))
        return keys

    monkeypatch.setattr(key_file, "read_keys", read_too_early)
    file = KeyFile(path)
    monkeypatch.undo()
    assert file.changed() == ApiKeys()


# --- writing


def test_a_file_is_for_its_owner_alone(path: Path) -> None:
    path.chmod(0o644)
    edit_keys(path, lambda keys: keys)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_a_new_file_is_made_only_where_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    with pytest.raises(KeyFileError, match="No such file"):
        edit_keys(path, lambda keys: keys)
    edit_keys(path, lambda keys: keys.adding(key("a")), create=True)
    assert names(read_keys(path)) == ["a"]


def test_a_reader_sees_the_old_file_or_the_new_one(path: Path) -> None:
    with path.open("rb") as old:
        edit_keys(path, lambda keys: keys.without("a"))
        assert b'"a"' in old.read()


def test_nothing_is_left_of_a_change_that_fails(path: Path) -> None:
    before = path.read_bytes()

    def fail(keys: ApiKeys) -> ApiKeys:
        raise KeyFileError("no")

    with pytest.raises(KeyFileError, match="no"):
        edit_keys(path, fail)
    assert path.read_bytes() == before


def test_nothing_is_left_of_a_write_that_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        edit_keys(path, lambda keys: keys.adding(key("b")))
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} == {"keys.toml", "keys.toml.lock"}


def test_a_file_that_could_not_be_read_again_is_not_written(path: Path) -> None:
    before = path.read_bytes()
    many = ApiKeys(keys=tuple(key(f"k{number}") for number in range(12_000)))
    with pytest.raises(KeyFileError, match="longer than"):
        edit_keys(path, lambda keys: many)
    assert path.read_bytes() == before


def test_a_broken_file_is_not_written_over(path: Path) -> None:
    path.write_bytes(b"version = 2")
    with pytest.raises(KeyFileError):
        edit_keys(path, lambda keys: keys, create=True)
    assert path.read_bytes() == b"version = 2"


def test_of_a_link_the_file_is_replaced(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    edit_keys(link, lambda keys: keys.adding(key("b")))
    assert link.is_symlink()
    assert names(read_keys(path)) == ["a", "b"]


def test_two_who_edit_at_once_lose_nothing(path: Path) -> None:
    both_in = threading.Barrier(2)

    def edit(name: str) -> None:
        both_in.wait()
        for number in range(10):
            edit_keys(path, lambda keys, new=f"{name}{number}": keys.adding(key(new)))  # type: ignore[misc]

    editors = [threading.Thread(target=edit, args=(name,)) for name in ("x", "y")]
    for editor in editors:
        editor.start()
    for editor in editors:
        editor.join()
    assert len(read_keys(path).keys) == 21
