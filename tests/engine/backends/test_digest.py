from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from engine.backends.digest import weights_digest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    (path / "deep").mkdir(parents=True)
    (path / "model.bin").write_bytes(b"weights")
    (path / "deep" / "config.json").write_bytes(b"{}")
    return path


def test_the_digest_is_the_one_of_the_module(model: Path) -> None:
    files = {"deep/config.json": b"{}", "model.bin": b"weights"}
    expected = hashlib.sha256(
        b"".join(name.encode() + b"\x00" + hashlib.sha256(content).digest() for name, content in files.items())
    )
    assert weights_digest(model) == expected.hexdigest()


def test_it_is_the_same_wherever_the_directory_lies(model: Path, tmp_path: Path) -> None:
    before = weights_digest(model)
    shutil.copytree(model, tmp_path / "elsewhere" / "copy")
    assert weights_digest(tmp_path / "elsewhere" / "copy") == before


@pytest.mark.parametrize("change", ["content", "name", "more", "less", "place"])
def test_every_change_shows(model: Path, change: str) -> None:
    before = weights_digest(model)
    match change:
        case "content":
            (model / "model.bin").write_bytes(b"Weights")
        case "name":
            (model / "model.bin").rename(model / "model.bim")
        case "more":
            (model / ".hidden").write_bytes(b"")
        case "less":
            (model / "deep" / "config.json").unlink()
        case _:
            (model / "deep" / "config.json").rename(model / "config.json")
    assert weights_digest(model) != before


def test_a_link_to_a_file_counts_as_the_file(model: Path, tmp_path: Path) -> None:
    before = weights_digest(model)
    (model / "model.bin").rename(tmp_path / "blob")
    (model / "model.bin").symlink_to(tmp_path / "blob")
    assert weights_digest(model) == before


@pytest.mark.parametrize("kind", ["link to a directory", "dangling link", "pipe"])
def test_what_a_loader_could_read_and_the_digest_not_is_refused(model: Path, tmp_path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(model / "odd")
    else:
        (model / "odd").symlink_to(tmp_path if kind == "link to a directory" else tmp_path / "nothing")
    with pytest.raises(OSError, match="odd is not a file"):
        weights_digest(model)


def test_a_directory_without_files_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError):
        weights_digest(tmp_path)
