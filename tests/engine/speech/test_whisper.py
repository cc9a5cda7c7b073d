from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.transcript.faults import LANGUAGE, MODEL, Fault, FaultKind
from core.transcript.languages import LANGUAGES
from core.transcript.types import Task
from engine.app import _catalogue
from engine.backends.choose import Backend
from engine.openai.fields import parse_transcription, parse_translation
from engine.settings import EngineSettings
from engine.speech.transcriber import Capabilities
from engine.speech.whisper import ENGLISH_ONLY, MAX_FILE_BYTES, Abilities, read_abilities
from tests.engine.fakes import FakeTranscriber
from tests.engine.openai.forms import form
from tests.places import ROOT

NANO = ROOT / "tests" / "checkpoints" / "nano"
SPOKEN = ("en", "de", "zh")
TRANSCRIBES = Abilities(frozenset({*SPOKEN, "yue"}), frozenset({Task.TRANSCRIBE}))


def generation_config(*languages: str) -> dict[str, Any]:
    """Return nano's own, cut down to some languages and transcriptions."""
    whole: dict[str, Any] = json.loads((NANO / "hf" / "generation_config.json").read_text())
    tokens = {f"<|{language}|>" for language in languages}
    return whole | {
        "lang_to_id": {token: number for token, number in whole["lang_to_id"].items() if token in tokens},
        "task_to_id": {"transcribe": whole["task_to_id"]["transcribe"]},
    }


def without(tokens: list[Any], name: str = "") -> list[Any]:
    """Return a list of tokens, cut down to the same."""
    cut = {f"<|{other}|>" for other in ({*LANGUAGES} - {*SPOKEN}) | {"translate"}}
    return [token for token in tokens if (token[name] if name else token) not in cut]


def tokenizer() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((NANO / "ct2" / "tokenizer.json").read_text())
    return whole | {"added_tokens": without(whole["added_tokens"], "content")}


def vocabulary() -> list[Any]:
    return without(json.loads((NANO / "ct2" / "vocabulary.json").read_text()))


def checkpoint(directory: Path, **files: Any) -> Path:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize("kind", ["hf", "ct2"])
def test_a_whole_checkpoint_can_be_asked_all(kind: str) -> None:
    assert read_abilities(NANO / kind) == Abilities(frozenset(LANGUAGES), frozenset(Task))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("generation_config", generation_config(*SPOKEN)),
        ("tokenizer", tokenizer()),
        ("vocabulary", vocabulary()),
    ],
)
def test_a_checkpoint_is_asked_for_what_it_has_tokens_for(tmp_path: Path, name: str, content: Any) -> None:
    assert read_abilities(checkpoint(tmp_path, **{name: content})) == TRANSCRIBES


def test_cantonese_is_asked_for_where_chinese_takes_its_place(tmp_path: Path) -> None:
    for spoken, known in ((("en", "zh"), True), (("en", "yue"), True), (("en",), False)):
        found = read_abilities(checkpoint(tmp_path, generation_config=generation_config(*spoken)))
        assert ("yue" in found.languages) is known


def test_a_model_for_english_is_asked_to_transcribe_it_only(tmp_path: Path) -> None:
    files = {"generation_config": {"is_multilingual": False}, "tokenizer": tokenizer()}
    assert read_abilities(checkpoint(tmp_path, **files)) == ENGLISH_ONLY


@pytest.mark.parametrize("name", ["vocabulary", "tokenizer"])
def test_a_model_for_english_is_known_by_the_token_that_it_lacks(tmp_path: Path, name: str) -> None:
    whole = json.loads((NANO / "ct2" / f"{name}.json").read_text())
    assert read_abilities(checkpoint(tmp_path, **{name: whole})) == Abilities()
    (whole.remove if name == "vocabulary" else whole["model"]["vocab"].pop)("")
    assert read_abilities(checkpoint(tmp_path, **{name: whole})) == ENGLISH_ONLY


@pytest.mark.parametrize(
    "silent", [[], {}, {"lang_to_id": {}}, {"lang_to_id": [], "task_to_id": {}}, {"lang_to_id": {}, "task_to_id": {}}]
)
def test_a_file_that_tells_nothing_leaves_it_to_the_next(tmp_path: Path, silent: Any) -> None:
    path = checkpoint(tmp_path, generation_config=silent, tokenizer={"added_tokens": [1, {}]}, vocabulary=vocabulary())
    assert read_abilities(path) == TRANSCRIBES


def test_a_vocabulary_as_large_as_whispers_is_read(tmp_path: Path) -> None:
    whole = tokenizer() | {"model": {"vocab": {"": 0} | {f"w{number}": number for number in range(51_866)}}}
    assert read_abilities(checkpoint(tmp_path, tokenizer=whole)) == TRANSCRIBES


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 10_000, b"{}", b"null", b'["<|en|>"]', b"[[], {}]"])
def test_a_checkpoint_of_another_form_is_asked_all(tmp_path: Path, content: bytes) -> None:
    for name in ("generation_config", "tokenizer", "vocabulary"):
        (tmp_path / f"{name}.json").write_bytes(content)
    assert read_abilities(tmp_path) == Abilities()


def test_a_directory_without_such_files_is_asked_all(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    assert read_abilities(tmp_path) == Abilities()


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, vocabulary=vocabulary())
    with (path / "vocabulary.json").open("a") as file:
        file.write(" " * (MAX_FILE_BYTES - file.tell()))
    assert read_abilities(path) == TRANSCRIBES
    with (path / "vocabulary.json").open("a") as file:
        file.write(" ")
    assert read_abilities(path) == Abilities()


async def test_what_a_served_checkpoint_lacks_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint(tmp_path, generation_config=generation_config(*SPOKEN))
    settings = EngineSettings(model=(f"cut={tmp_path}", f"nano={NANO / 'hf'}"), insecure_evidence=True)
    catalogue = await _catalogue(settings, Backend(FakeTranscriber()))
    lacking = form(("model", "cut"), ("language", "French"))
    with pytest.raises(Fault) as caught:
        parse_transcription(lacking, catalogue)
    assert (caught.value.kind, caught.value.subject) == (FaultKind.UNSUPPORTED_VALUE, LANGUAGE)
    with pytest.raises(Fault) as caught:
        parse_translation(form(("model", "cut")), catalogue)
    assert (caught.value.kind, caught.value.subject) == (FaultKind.UNSUPPORTED_VALUE, MODEL)
    assert parse_transcription(form(("model", "nano"), ("language", "French")), catalogue).hearing.language == "fr"


@pytest.mark.parametrize("taken", [frozenset({"seed"}), frozenset()])
@pytest.mark.parametrize("switch", [True, False])
async def test_sampling_is_passed_on_where_operator_and_backend_take_it(switch: bool, taken: frozenset[str]) -> None:
    settings = EngineSettings(model=(f"nano={NANO / 'hf'}",), insecure_evidence=True, sampling_fields=switch)
    (model,) = (await _catalogue(settings, Backend(FakeTranscriber(capabilities=Capabilities(sampling=taken))))).models
    assert model.sampling == (taken if switch else frozenset())


@pytest.mark.parametrize(
    ("architecture", "languages"),
    [
        ("GraniteSpeechForConditionalGeneration", {"en", "fr", "de", "ja", "pt", "es"}),
        ("MoonshotKimiaForCausalLM", {"zh", "en", "ja", "ko", "de", "fr", "es", "it", "pt", "ru", "ar"}),
        ("Qwen3ASRForConditionalGeneration", set(LANGUAGES)),
        ("WhisperForConditionalGeneration", set(LANGUAGES)),
    ],
)
def test_another_family_has_the_languages_that_vllm_lets_through(
    tmp_path: Path, architecture: str, languages: set[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    assert read_abilities(tmp_path).languages == languages
