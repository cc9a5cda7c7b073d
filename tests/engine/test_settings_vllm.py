"""What becomes of the settings for vLLM; attaching to one only where it makes sense, and always confessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engine.app import _catalogue
from engine.backends.choose import Backend, choose_backend
from engine.backends.weights import DirectoryWeights, FileWeights, Weights, held
from engine.settings import BackendKind, EngineSettings
from engine.speech.transcriber import Component
from engine.types import Detail
from tests.engine.fakes import FakeAnalyser, FakeTranscriber


def settings(model: Path, *, models: int = 1, backend: str = "vllm", **options: Any) -> EngineSettings:
    given = {
        "model": tuple(f"m{number}={model}" for number in range(models)),
        "backend": backend,
        "insecure_evidence": True,
        **options,
    }
    return EngineSettings.model_validate(given)


def test_a_vllm_of_our_own_is_not_attached(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    assert chosen.backend is BackendKind.VLLM
    assert not chosen.attaches


@pytest.mark.parametrize("way", [{"vllm_uds": "/run/vllm.sock"}, {"vllm_url": "http://127.0.0.1:8000"}])
def test_a_vllm_that_runs_already_is_attached(tmp_path: Path, way: dict[str, Any]) -> None:
    assert settings(tmp_path, **way).attaches


MISTAKES: dict[str, dict[str, Any]] = {
    "both ways at once": {"vllm_uds": "/run/vllm.sock", "vllm_url": "http://127.0.0.1:8000"},
    "two models": {"vllm_url": "http://127.0.0.1:8000", "models": 2},
    "another backend": {"vllm_uds": "/run/vllm.sock", "backend": "faster-whisper"},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_attaching_where_it_makes_no_sense_is_refused(tmp_path: Path, mistake: str) -> None:
    with pytest.raises(ValidationError, match="vllm"):
        settings(tmp_path, **MISTAKES[mistake])


@pytest.mark.parametrize(
    ("chosen", "device"), [({}, "cpu"), ({"device": "cuda"}, "cuda"), ({"align_device": "cuda"}, "cuda")]
)
def test_a_vllm_of_our_own_comes_with_an_aligner(tmp_path: Path, chosen: dict[str, Any], device: str) -> None:
    backend = choose_backend(settings(tmp_path, **chosen))
    assert backend.details == frozenset(Detail)
    assert backend.components[1] == Component("aligner", (f"device={device}",))


def test_a_vllm_that_is_attached_to_has_none(tmp_path: Path) -> None:
    backend = choose_backend(settings(tmp_path, vllm_url="http://127.0.0.1:8000"))
    assert backend.details == frozenset()


@pytest.mark.parametrize("backend", list(BackendKind))
async def test_models_are_copied_unless_they_are_assumed_immutable(tmp_path: Path, backend: BackendKind) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    for assumed in (False, True):
        chosen = settings(tmp_path, models=2, backend=backend, assume_weights_immutable=assumed)
        weights = choose_backend(chosen).weights
        assert set(weights) == {"m0", "m1"}
        assert weights["m0"] is weights["m1"], "one copy serves under both names"
        async with held(weights.values()):
            assert is_copied(weights["m0"], tmp_path) != assumed


def is_copied(weights: Weights, source: Path) -> bool:
    if isinstance(weights, DirectoryWeights):
        return weights.directory != source
    assert isinstance(weights, FileWeights)
    return not (source / "model.bin").samefile(f"/proc/self/fd/{weights.files['model.bin']}")


TUNING: dict[str, tuple[Any, str]] = {
    "vllm_gpu_memory_utilization": (0.4, "--gpu-memory-utilization=0.4"),
    "vllm_max_num_seqs": (7, "--max-num-seqs=7"),
    "vllm_max_num_batched_tokens": (3_000, "--max-num-batched-tokens=3000"),
    "vllm_audio_workers": (3, "VLLM_MAX_AUDIO_PREPROCESS_WORKERS=3"),
}


@pytest.mark.parametrize("name", TUNING)
def test_what_is_chosen_for_vllm_is_confessed_and_the_rest_stays_as_it_is(tmp_path: Path, name: str) -> None:
    value, argument = TUNING[name]
    usual = set(choose_backend(settings(tmp_path, device="cuda")).transcriber.component.arguments)
    chosen = set(choose_backend(settings(tmp_path, device="cuda", **{name: value})).transcriber.component.arguments)
    assert chosen - usual == {argument}
    assert len(usual - chosen) == 1


@pytest.mark.parametrize("name", TUNING)
@pytest.mark.parametrize(
    "where", [{"backend": "faster-whisper"}, {"vllm_uds": "/run/vllm.sock"}, {"vllm_url": "http://127.0.0.1:8000"}]
)
def test_only_a_vllm_of_our_own_can_be_tuned(tmp_path: Path, name: str, where: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"{name}\n.*(tuned|tuning)"):
        settings(tmp_path, device="cuda", **where, **{name: TUNING[name][0]})


@pytest.mark.parametrize(
    ("beyond", "reason"),
    [
        ({"vllm_gpu_memory_utilization": 0.0}, "greater than 0"),
        ({"vllm_gpu_memory_utilization": 1.01}, "less than or equal to 1"),
        ({"vllm_gpu_memory_utilization": 0.51, "models": 2}, "together"),
        ({"vllm_gpu_memory_utilization": 0.5, "device": "cpu"}, "needs --device cuda"),
        ({"vllm_max_num_seqs": 0}, "greater than 0"),
        ({"vllm_max_num_batched_tokens": 1_499}, "greater than or equal to 1500"),
        ({"vllm_audio_workers": 0}, "greater than 0"),
    ],
    ids=str,
)
def test_a_figure_that_vllm_cannot_work_with_is_refused(tmp_path: Path, beyond: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        settings(tmp_path, **{"device": "cuda"} | beyond)


@pytest.mark.parametrize(("models", "share"), [(1, "0.9"), (2, "0.45"), (3, "0.3"), (4, "0.22")])
def test_several_models_share_the_gpu(tmp_path: Path, models: int, share: str) -> None:
    transcriber = choose_backend(settings(tmp_path, device="cuda", models=models))
    assert f"--gpu-memory-utilization={share}" in transcriber.transcriber.component.arguments


@pytest.mark.parametrize("details", [frozenset(), frozenset({Detail.WORDS}), frozenset(Detail)], ids=len)
async def test_the_catalogue_says_what_the_backend_can(tmp_path: Path, details: frozenset[Detail]) -> None:
    backend = Backend(FakeTranscriber(), (FakeAnalyser(adds=details),))
    (model,) = (await _catalogue(settings(tmp_path), backend)).models
    assert model.details == details
