"""What tells speakers apart is chosen by the operator, and confessed with what it loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from attestation.statement import Component, LoadedModel, parse_statement
from core.channel.keyconfig import GatewayKey
from core.errors import BackendError
from engine.backends.choose import Backend, choose_backend
from engine.backends.digest import weights_digest
from engine.backends.speakers.channels import ChannelDiarizer
from engine.backends.weights import DirectoryWeights, FileWeights, held
from engine.identity.claims import claims_of
from engine.openai.models import ModelCatalogue, ServedModel
from engine.settings import EngineSettings, SpeakersKind
from engine.speech.speakers import ToldBy
from engine.speech.transcriber import Component as Hearing
from tests.engine.fakes import FakeTranscriber
from tests.engine.speech.fake_diarizer import FakeDiarizer


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices" / "encoder.onnx").write_bytes(b"weights of voices")
    return tmp_path / "voices"


def settings(directory: Path, **chosen: Any) -> EngineSettings:
    model = directory / "model"
    model.mkdir(exist_ok=True)
    (model / "model.bin").write_bytes(b"weights")
    given: dict[str, Any] = {"model": (f"whisper={model}",), "insecure_evidence": True}
    return EngineSettings(**given | chosen)


def test_nobody_tells_speakers_apart_unless_somebody_is_chosen(tmp_path: Path) -> None:
    backend = choose_backend(settings(tmp_path))
    assert (backend.diarizer, backend.speaker_weights) == (None, None)
    assert [one.name for one in backend.components] == ["faster-whisper"]


def test_channels_need_no_process(tmp_path: Path) -> None:
    backend = choose_backend(settings(tmp_path, speakers="channels"))
    assert isinstance(backend.diarizer, ChannelDiarizer)
    assert [one.name for one in backend.components] == ["faster-whisper"]


def test_with_a_model_and_nothing_said_it_is_sherpa_onnx_and_never_the_basic_one(tmp_path: Path, voices: Path) -> None:
    assert settings(tmp_path, speaker_model=voices).told_apart_by is SpeakersKind.SHERPA_ONNX


@pytest.mark.parametrize(
    ("kind", "name", "weights"),
    [
        ("sherpa-onnx", "speakers-sherpa-onnx", FileWeights),
        ("basic", "speakers-basic", FileWeights),
        ("pyannote", "speakers-pyannote", DirectoryWeights),
    ],
)
def test_each_kind_is_a_process_with_weights(tmp_path: Path, voices: Path, kind: str, name: str, weights: type) -> None:
    backend = choose_backend(settings(tmp_path, speakers=kind, speaker_model=voices))
    assert backend.components[1].name == name
    assert isinstance(backend.speaker_weights, weights)
    assert backend.speaker_weights in backend.all_weights
    assert backend.diarizer
    assert backend.diarizer.told_by is ToldBy.VOICES
    assert not backend.ready


MISTAKES: dict[str, dict[str, Any]] = {
    "a model for channels": {"speakers": "channels", "speaker_model": "."},
    "no model": {"speakers": "sherpa-onnx"},
    "no such directory": {"speaker_model": "/nowhere"},
    "no such kind": {"speakers": "by hand"},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_choice_that_makes_no_sense_is_refused(tmp_path: Path, mistake: str) -> None:
    with pytest.raises(ValidationError, match="speaker"):
        settings(tmp_path, **MISTAKES[mistake])


def test_another_python_is_confessed(tmp_path: Path, voices: Path) -> None:
    chosen = settings(tmp_path, speakers="pyannote", speaker_model=voices, allow_pyannote_python=Path("/bin/python"))
    assert "allow_pyannote_python" in chosen.insecure_options


async def test_the_statement_names_the_process_and_only_what_it_loaded(tmp_path: Path, voices: Path) -> None:
    chosen = settings(tmp_path, speakers="basic", speaker_model=voices)
    backend = Backend(FakeTranscriber(), diarizer=FakeDiarizer(component=Hearing("speakers-basic")))
    held_back = choose_backend(chosen)
    async with held(held_back.all_weights):
        claims = claims_of(
            chosen,
            ModelCatalogue((ServedModel("whisper", 0),)),
            backend,
            held_back.weights,
            None,
            instance="here",
            evidence_from="insecure",
            speaker_weights=held_back.speaker_weights,
        )
    statement = parse_statement(claims([GatewayKey.generate(()).config], [], 2**31))
    recogniser, speakers = statement.config.components
    assert recogniser.models == (LoadedModel("whisper", weights_digest(tmp_path / "model")),)
    assert speakers == Component("speakers-basic", (), False, (), (LoadedModel("speakers", weights_digest(voices)),))


async def test_a_diarizer_starts_and_ends_with_the_backend() -> None:
    diarizer = FakeDiarizer(ready=False)
    backend = Backend(FakeTranscriber(), diarizer=diarizer)
    async with backend.running():
        ready = [backend.ready]
        diarizer.ready = False
        ready.append(backend.ready)
    assert ready == [True, False]


async def test_without_its_diarizer_nothing_is_served() -> None:
    class Broken(FakeDiarizer):
        async def start(self) -> None:
            raise BackendError("no models")

    transcriber = FakeTranscriber()
    with pytest.raises(BackendError, match="no models"):
        async with Backend(transcriber, diarizer=Broken()).running():
            pass
    assert not transcriber.ready
