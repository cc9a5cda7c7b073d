"""What was digested is what is loaded, whatever becomes of the place it came from."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import BackendError
from engine.backends import surroundings
from engine.backends import weights as weights_module
from engine.backends.digest import files_of, open_file, weights_digest
from engine.backends.weights import DirectoryWeights, FileWeights, Weights, held

Kind = Callable[..., Weights]
KINDS = pytest.mark.parametrize("kind", [FileWeights, DirectoryWeights])


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copied directories go."""
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(surroundings, "MEMORY_DIRECTORY", tmp_path / "memory")
    return tmp_path / "memory"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of a cache: its largest file is a link."""
    path = tmp_path / "model"
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "config.json").write_bytes(b"{}")
    (tmp_path / "blob").write_bytes(b"weights")
    (path / "model.bin").symlink_to(tmp_path / "blob")
    return path


HONEST = {"deep/config.json": b"{}", "model.bin": b"weights"}


def contents(weights: Weights) -> dict[str, bytes]:
    """What a loader reads."""
    if isinstance(weights, FileWeights):
        return {name: Path(f"/proc/self/fd/{file}").read_bytes() for name, file in weights.files.items()}
    assert isinstance(weights, DirectoryWeights)
    return {name: path.read_bytes() for name, path in files_of(weights.directory).items()}


def replace_directory(model: Path) -> None:
    shutil.rmtree(model)
    model.mkdir()
    (model / "model.bin").write_bytes(b"planted")


def replace_file(model: Path) -> None:
    (model / "model.bin").unlink()
    (model / "model.bin").write_bytes(b"planted")


def overwrite_file(model: Path) -> None:
    (model / "model.bin").write_bytes(b"planted")  # through the link


def swap_link(model: Path) -> None:
    (model.parent / "planted").write_bytes(b"planted")
    (model / "model.bin").unlink()
    (model / "model.bin").symlink_to(model.parent / "planted")


CHANGES = {change.__name__: change for change in (replace_directory, replace_file, overwrite_file, swap_link)}


@KINDS
@pytest.mark.parametrize("change", CHANGES)
async def test_what_is_loaded_is_what_was_digested(memory: Path, model: Path, kind: Kind, change: str) -> None:
    digest, weights = weights_digest(model), kind(model)
    async with held([weights]):
        CHANGES[change](model)
        assert weights.digest == digest != weights_digest(model)
        assert contents(weights) == HONEST


@pytest.mark.parametrize("change", ["replace_directory", "replace_file", "swap_link"])
async def test_files_that_are_trusted_are_opened_once(model: Path, change: str) -> None:
    weights = FileWeights(model, trusted=True)
    async with held([weights]):
        CHANGES[change](model)
        assert contents(weights) == HONEST


async def test_a_directory_that_is_trusted_is_not_copied(
    memory: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    weights = DirectoryWeights(Path("model"), trusted=True)
    async with held([weights]):
        assert weights.directory == model, "from wherever a server is started"
        assert weights.digest == weights_digest(model)
        assert not list(memory.iterdir())
        swap_link(model)
        with pytest.raises(BackendError, match="attested"):
            await weights.check()
    assert model.exists()


def write(path: str) -> None:
    with open(path, "r+b") as file:  # noqa: PTH123  what a worker would do
        file.write(b"planted")


@pytest.mark.parametrize(
    "attempt",
    [write, lambda path: os.truncate(path, 0), lambda path: os.truncate(path, 100)],
    ids=["write", "shrink", "grow"],
)
async def test_not_even_a_process_of_ours_can_change_a_sealed_file(model: Path, attempt: Callable[[str], None]) -> None:
    weights = FileWeights(model)
    async with held([weights]):
        with pytest.raises(PermissionError):
            attempt(f"/proc/self/fd/{weights.files['model.bin']}")
        assert contents(weights) == HONEST


async def test_a_copied_directory_can_be_entered_by_nobody_else_and_goes(memory: Path, model: Path) -> None:
    weights = DirectoryWeights(model)
    async with held([weights]):
        assert list(memory.iterdir()) == [weights.directory]
        assert weights.directory.stat().st_mode & 0o777 == 0o700
        await weights.check()
    assert not list(memory.iterdir())


@pytest.mark.parametrize("change", ["other", "more", "less", "gone"])
async def test_a_copied_directory_that_was_changed_is_noticed(memory: Path, model: Path, change: str) -> None:
    weights = DirectoryWeights(model)
    async with held([weights]):
        match change:
            case "other":
                (weights.directory / "model.bin").write_bytes(b"planted")
            case "more":
                (weights.directory / "more").touch()
            case "less":
                (weights.directory / "model.bin").unlink()
            case _:
                shutil.rmtree(weights.directory)
        with pytest.raises(BackendError):
            await weights.check()


@KINDS
async def test_what_is_not_held_has_no_digest(memory: Path, model: Path, kind: Kind) -> None:
    weights = kind(model)
    async with held([weights]):
        pass
    with pytest.raises(BackendError, match="not held"):
        _ = weights.digest


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  only how many


@KINDS
async def test_nothing_is_left_of_what_was_held(memory: Path, model: Path, kind: Kind) -> None:
    weights = kind(model)
    async with held([weights]):  # whatever is opened once and stays
        pass
    before = descriptors()
    async with held([weights]):
        assert descriptors() > before
    weights.release()
    assert descriptors() == before
    assert not list(memory.iterdir())


@KINDS
@pytest.mark.parametrize("fault", ["gone", "a pipe", "no room"])
async def test_a_model_that_cannot_be_held_is_a_backend_error_and_leaves_nothing(
    memory: Path, model: Path, kind: Kind, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    match fault:
        case "gone":
            (model.parent / "blob").unlink()
        case "a pipe":
            os.mkfifo(model / "odd")
        case _:

            def full(*_: object) -> int:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(os, "sendfile", full)
    weights = kind(model)
    await asyncio.to_thread(descriptors)  # the loop's first thread opens something
    before = descriptors()
    with pytest.raises(BackendError, match=f"the model in {model} cannot be held in memory: "):
        async with held([weights]):
            pass
    assert descriptors() == before
    assert not list(memory.iterdir())


@KINDS
async def test_holding_that_is_cancelled_leaves_nothing(
    memory: Path, model: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, at_work, go_on = kind(model), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    copy = weights_module._copy

    def slow(*arguments: object) -> None:
        loop.call_soon_threadsafe(at_work.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        copy(*arguments)  # type: ignore[arg-type]

    async def hold() -> None:
        async with held([weights]):
            pass

    await asyncio.to_thread(descriptors)
    before = descriptors()
    monkeypatch.setattr(weights_module, "_copy", slow)
    async with asyncio.TaskGroup() as group:
        holding = group.create_task(hold())
        await at_work.wait()
        holding.cancel()
        await asyncio.sleep(0)
        assert not holding.done(), "the thread is waited for"
        go_on.set()
    assert holding.cancelled()
    assert descriptors() == before
    assert not list(memory.iterdir())


def test_a_file_that_became_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe is not a file"):
        open_file(tmp_path / "pipe")
