"""What the processes beside the engine see is the image's, whoever started the engine."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from core.errors import BackendError
from engine.backends import surroundings
from engine.backends.surroundings import NEW_S, PrivateDirectory, cuda_libraries, find_vllm, gpus, remove_leftovers


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


def test_of_the_environment_only_the_gpus_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "PYTHONPATH", "CUDA_HOME", "SECRET"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("NVIDIA_DRIVER_CAPABILITIES", raising=False)
    assert gpus() == {"CUDA_VISIBLE_DEVICES": "0,1"}


def test_cuda_comes_from_our_own_environment_and_the_images_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "CUDA", tmp_path / "cuda")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    assert cuda_libraries(tmp_path) == {}, "an empty variable would name the working directory"
    for part in ("nvidia/cublas/lib", "nvidia/cudnn/lib", "nvidia/none", "cuda/lib64"):
        (tmp_path / part).mkdir(parents=True)
    found = [str(tmp_path / part) for part in ("nvidia/cublas/lib", "nvidia/cudnn/lib", "cuda/lib64")]
    assert cuda_libraries(tmp_path) == {"LD_LIBRARY_PATH": ":".join(found)}


def test_a_private_directory_is_in_memory_or_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "MEMORY_DIRECTORY", tmp_path)
    made = PrivateDirectory("x")
    assert made.path.parent == tmp_path
    assert made.path.stat().st_mode & 0o777 == 0o700
    (made.path / "file").touch()
    made.remove()
    made.remove()
    assert not made.path.exists()
    monkeypatch.setattr(surroundings, "MEMORY_DIRECTORY", tmp_path / "none")
    with pytest.raises(BackendError, match="no directory in memory"):
        PrivateDirectory("x")


def test_what_a_killed_engine_left_in_memory_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "MEMORY_DIRECTORY", tmp_path)
    living = PrivateDirectory("weights")
    left, new = tmp_path / "sottovoce-engine-weights-left", tmp_path / "sottovoce-engine-weights-new"
    link, others = tmp_path / "sottovoce-engine-weights-link", tmp_path / "weights-of-others"
    for path in (left, new, others):
        path.mkdir()
        (path / "model.bin").touch()
    link.symlink_to(others)
    for path in (left, others, living.path):
        os.utime(path, (0, time.time() - NEW_S - 1))
    remove_leftovers()
    assert set(tmp_path.iterdir()) == {living.path, new, link, others}
    assert list(others.iterdir())
    living.remove()


def test_the_images_vllm_is_found_without_asking_the_search_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, image = tmp_path / "ours" / "vllm", tmp_path / "opt" / "vllm"
    monkeypatch.setattr(surroundings, "VLLM_PROGRAMS", (beside, image))
    monkeypatch.setenv("PATH", str(executable(tmp_path / "theirs" / "vllm").parent))
    with pytest.raises(BackendError, match="no such vllm"):
        find_vllm(None)
    assert find_vllm(executable(image)) == image
    assert find_vllm(None) == image
    assert find_vllm(executable(beside)) == beside
    assert find_vllm(None) == beside


@pytest.mark.parametrize("mode", [0o644, None])
def test_what_is_no_program_is_not_run(tmp_path: Path, mode: int | None) -> None:
    given = tmp_path / "vllm"
    if mode is None:
        given.mkdir()
    else:
        given.touch(mode=mode)
    with pytest.raises(BackendError, match="no such vllm"):
        find_vllm(given)
