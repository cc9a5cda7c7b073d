from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ValidationError

from core.media.types import MAX_FILE_BYTES
from core.program.settings import load_settings
from engine.settings import MAX_REQUEST_BYTES, EngineSettings
from engine.types import OpenAIName


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    return path


def settings_of(**given: Any) -> EngineSettings:
    return EngineSettings(**given)


def faults(**given: Any) -> str:
    with pytest.raises(typer.BadParameter) as refused:
        load_settings(EngineSettings, given)
    return str(refused.value)


@pytest.mark.parametrize("name", EngineSettings.model_fields)
def test_every_setting_has_a_description(name: str) -> None:
    description = EngineSettings.model_fields[name].description
    assert description
    assert description.endswith(".")


def test_the_least_that_is_needed(model: Path) -> None:
    settings = settings_of(model=(f"whisper={model}",), insecure_evidence=True)
    assert settings.models == (("whisper", model),)
    assert settings.aliases == ()


def test_a_path_may_hold_an_equals_sign(tmp_path: Path) -> None:
    path = tmp_path / "a=b"
    path.mkdir()
    assert settings_of(model=(f"whisper={path}",), insecure_evidence=True).models == (("whisper", path),)


def test_all_faults_come_in_one_message(model: Path) -> None:
    message = faults(
        listen="nowhere",
        model=[f"a={model}", f"a={model}", "b=does/not/exist"],
        alias=["x=a", "y=c", "a=a"],
        key_lifetime_s="1",
        drain_s="soon",
        log_level="chatty",
    )
    for fault in (
        "--listen: an address is HOST:PORT",
        "--model: the name a is given twice; b: no such directory",
        "--alias",
        "--policy: is needed",
        "--key-lifetime-s",
        "--drain-s",
        "--log-level",
    ):
        assert (fault in message) is (fault != "--alias")  # with the models at fault nothing is known of their names


def test_faults_of_the_file_of_keys_are_told_with_all_others(tmp_path: Path) -> None:
    assert "--api-keys: No such file or directory" in faults(api_keys=str(tmp_path / "nowhere"), listen="nowhere")
    file = tmp_path / "keys.toml"
    file.write_text('version = 1\n[[keys]]\nname = "a b"\nsha256 = "sk-sv-canary"\nexpires = 1\n')
    message = faults(api_keys=str(file), listen="nowhere")
    for fault in ("--listen", "--model", "--api-keys", "keys.0.name", "keys.0.sha256", "keys.0.expires"):
        assert fault in message
    assert "canary" not in message


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text("version = 1\n[insecure]\naccept = true\n")
    return path


def test_an_engine_that_attests_itself_needs_a_policy_of_its_own(model: Path, policy: Path) -> None:
    settings = settings_of(model=(f"a={model}",), policy=policy)
    assert (settings.policy, settings.insecure_evidence) == (policy, False)
    assert settings.tsm_path == Path("/sys/kernel/config/tsm/report")
    assert "--policy: is needed" in faults(model=[f"a={model}"])


def test_development_evidence_goes_with_a_policy_or_without(model: Path, policy: Path) -> None:
    for given in ({}, {"policy": policy}):
        assert settings_of(model=(f"a={model}",), insecure_evidence=True, **given).policy == given.get("policy")


def test_faults_of_the_policy_are_told_with_all_others(tmp_path: Path, policy: Path) -> None:
    assert "No such file or directory" in faults(policy=str(tmp_path / "nowhere"), listen="nowhere")
    policy.write_text("version = 1\ncanary = 1\n")
    message = faults(policy=str(policy), listen="nowhere")
    for fault in ("--listen", "--model", "--policy: policy: canary: unknown member", "names no evidence"):
        assert fault in message


def test_a_file_without_keys_can_be_used(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text("version = 1\n")
    assert settings_of(model=(f"whisper={model}",), insecure_evidence=True, api_keys=file).api_keys == file


def test_faults_of_aliases_are_told_with_all_others(model: Path) -> None:
    message = faults(model=[f"a={model}"], alias=["x=a", "x=a", "y=c", "a=a"], listen="nowhere")
    assert "--alias: the name a is given twice; the name x is given twice; y: c is not served" in message
    assert "--listen" in message


def test_nothing_given_names_what_is_needed() -> None:
    message = faults()
    assert "--model: is needed at least once" in message
    assert "--insecure-evidence" in message


@pytest.mark.parametrize(
    "pair", ["name", "=path", "name=", "na me=path", "näme=path", "a\nb=path", "-a=path", "a" * 129 + "=p"]
)
def test_a_name_that_could_not_be_shown_or_typed_is_refused(pair: str) -> None:
    assert "--model: must be NAME=VALUE" in faults(model=[pair], insecure_evidence=True)


def test_a_message_never_repeats_a_value() -> None:
    assert "canary" not in faults(listen="canary", device="cpu", key_overlap_s="canary", backend="canary")


def test_unknown_settings_are_refused(model: Path) -> None:
    with pytest.raises(ValidationError):
        settings_of(model=(f"a={model}",), insecure_evidence=True, verbosity=3)


def test_settings_are_frozen(model: Path) -> None:
    settings = settings_of(model=(f"a={model}",), insecure_evidence=True)
    with pytest.raises(ValidationError):
        settings.drain_s = 3.0  # type: ignore[misc]


def test_variables_and_the_file_are_read(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "engine.toml"
    file.write_text(f'model = ["from-file={model}"]\ninsecure_evidence = true\ndrain_s = 5\nmax_requests = 6\n')
    monkeypatch.setenv("SOTTOVOCE_DRAIN_S", "7")
    settings = load_settings(EngineSettings, {"config": str(file), "max_requests": "8"})
    assert settings.models == (("from-file", model),)
    assert (settings.drain_s, settings.max_requests) == (7.0, 8)


DANGEROUS = [name for name in EngineSettings.model_fields if {"insecure", "allow", "assume"} & set(name.split("_"))]


@pytest.mark.parametrize("name", DANGEROUS)
def test_every_dangerous_option_in_force_is_confessed(name: str, model: Path) -> None:
    given: dict[str, Any] = {"model": (f"a={model}",), "insecure_evidence": True}
    value = True if EngineSettings.model_fields[name].annotation is bool else "/somewhere"
    assert name in settings_of(**given | {name: value}).insecure_options
    assert name == "insecure_evidence" or name not in settings_of(**given).insecure_options


def test_the_limits_are_those_of_the_wire() -> None:
    assert MAX_FILE_BYTES == 26_214_400
    assert MAX_REQUEST_BYTES == MAX_FILE_BYTES + 1_048_576


def test_memory_for_uploads_holds_at_least_the_largest(model: Path) -> None:
    with pytest.raises(ValidationError):
        settings_of(model=(f"a={model}",), insecure_evidence=True, max_upload_bytes=MAX_REQUEST_BYTES - 1)


def test_openai_s_names_are_names_of_one_model(model: Path) -> None:
    settings = settings_of(model=(f"a={model}",), alias=("b=a",), alias_openai="a", insecure_evidence=True)
    names = {OpenAIName.WHISPER_1, OpenAIName.GPT_4O, OpenAIName.GPT_4O_MINI, OpenAIName.GPT}
    assert dict(settings.aliases) == {"b": "a"} | dict.fromkeys(names, "a")


def test_the_name_that_promises_speakers_is_there_where_they_are_told_apart(model: Path) -> None:
    given = {"model": (f"a={model}",), "alias_openai": "a", "insecure_evidence": True}
    assert OpenAIName.GPT_4O_DIARIZE not in settings_of(**given).openai_names
    assert OpenAIName.GPT_4O_DIARIZE in settings_of(**given, speakers="channels").openai_names


def test_openai_s_names_are_nobody_s_unless_asked_for(model: Path) -> None:
    assert settings_of(model=(f"a={model}",), insecure_evidence=True).openai_names == ()


def test_openai_s_names_cannot_be_given_twice_or_to_nobody(model: Path) -> None:
    message = faults(model=[f"a={model}"], alias=["whisper-1=a"], alias_openai="b")
    assert "--alias-openai: b is not served; the name whisper-1 is given twice" in message
    assert "the name gpt-transcribe is given twice" in faults(model=[f"gpt-transcribe={model}"], alias_openai="a")
