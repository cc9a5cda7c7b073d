"""What can the operator of an engine choose? One frozen value, from flags, variables or a file."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from attestation.errors import PolicyError
from attestation.guest.options import GuestOptions
from attestation.policy import read_policy
from core.media.types import MAX_FILE_BYTES
from core.program.http.listener import Address
from core.program.push import PushOptions
from engine.access.key_file import read_keys
from engine.errors import KeyFileError
from engine.speech.whisper import ENCODER_TOKENS
from engine.types import OpenAIName

MAX_REQUEST_BYTES = MAX_FILE_BYTES + 1024 * 1024
"""A whole inner request: the file, and a mebibyte for every other part."""

T = TypeVar("T", int, float)


class SpeakersKind(StrEnum):
    CHANNELS = "channels"
    SHERPA_ONNX = "sherpa-onnx"
    PYANNOTE = "pyannote"
    BASIC = "basic"


class BackendKind(StrEnum):
    FASTER_WHISPER = "faster-whisper"
    VLLM = "vllm"


class ModelFamily(StrEnum):
    WHISPER = "whisper"
    TEXT_ONLY = "text-only"


def _address(text: str) -> str:
    Address.parse(text)
    return text


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")


def _pair(text: str) -> str:
    name, _, value = text.partition("=")
    if not _NAME.fullmatch(name) or not value:
        raise ValueError("must be NAME=VALUE, the name of letters, digits and any of ._:/@-")
    return text


def _split(pairs: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, _, value in (pair.partition("=") for pair in pairs))


def _named(pair: str) -> tuple[str, Path]:
    ((name, path),) = _split((pair,))
    return name, Path(path)


def _twice(names: list[str]) -> list[str]:
    return [f"the name {name} is given twice" for name in sorted(set(names)) if names.count(name) > 1]


ListenAddress = Annotated[str, AfterValidator(_address)]
Pair = Annotated[str, AfterValidator(_pair)]


class EngineSettings(GuestOptions, PushOptions):
    """Settings of `sottovoce-engine serve`.

    Every rule belongs to a field, those between two fields to the later one, so that all faults come in one message.
    """

    listen: ListenAddress = Field("127.0.0.1:8800", description="HOST:PORT for sealed requests.")
    status_listen: ListenAddress = Field("127.0.0.1:8801", description="HOST:PORT for health and metrics.")
    model: tuple[Pair, ...] = Field(
        (), validate_default=True, description="NAME=PATH of a model directory; may be repeated."
    )
    alias: tuple[Pair, ...] = Field((), description="ALIAS=NAME, another name for a model; may be repeated.")
    alias_openai: str | None = Field(
        None,
        description="NAME of a model that also answers to the names of OpenAI's models, as each of those did.",
    )
    backend: BackendKind = Field(BackendKind.FASTER_WHISPER, description="What runs the models.")
    device: str = Field("cpu", description="Where the models run: cpu, cuda, or with faster-whisper auto.")
    compute_type: str = Field("default", description="CTranslate2 compute type of faster-whisper.")
    parallel_clips: int = Field(1, gt=0, description="Clips that faster-whisper works on at a time.")
    sampling_fields: bool = Field(False, description="Pass seed, top_p and the like on to a backend that takes them.")
    align_device: str | None = Field(
        None,
        description="Where word times are found for vLLM's texts, by CTranslate2: cpu or cuda; by default `device`.",
    )
    speakers: SpeakersKind | None = Field(
        None,
        description="What tells speakers apart: channels, sherpa-onnx (the default with a model), pyannote or basic.",
    )
    speaker_model: Path | None = Field(
        None, validate_default=True, description="Directory of the models that tell speakers apart."
    )
    vllm_family: ModelFamily = Field(
        ModelFamily.WHISPER,
        description="What vLLM's models are: whisper, or text-only, any other that its transcription API serves.",
    )
    vllm_uds: Path | None = Field(
        None,
        description="Unix socket of a vLLM that runs already, with our plugin; confessed, and by default refused.",
    )
    vllm_url: str | None = Field(
        None,
        validate_default=True,
        description="Loopback URL of a vLLM that runs already, with our plugin; confessed, and by default refused.",
    )
    vllm_gpu_memory_utilization: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of a GPU's memory for each model's vLLM; by default 0.9, less an instruct model's on the "
        "same GPU, divided by the number of models.",
    )
    vllm_max_num_seqs: int | None = Field(
        None, gt=0, description="Clips that vLLM decodes at a time, of each model; by default 256."
    )
    vllm_max_num_batched_tokens: int | None = Field(
        None,
        ge=ENCODER_TOKENS,  # a clip's sound is heard in one step or not at all
        description="Tokens that vLLM works on in one step, of which a clip's sound is 1500; by default 32768.",
    )
    vllm_audio_workers: int | None = Field(
        None, gt=0, description="Threads in which a vLLM makes clips' spectrograms; by default 8."
    )
    instruct_model: Pair | None = Field(
        None,
        description="NAME=PATH of an instruct model, by which vLLM writes summaries and topics; without it none are.",
    )
    instruct_device: str | None = Field(
        None, validate_default=True, description="Where the instruct model runs: cpu or cuda; by default `device`."
    )
    instruct_context: int = Field(
        16_384, ge=8_192, description="Tokens that the instruct model reads and writes at a time."
    )
    instruct_max_num_seqs: int = Field(8, gt=0, description="Texts that the instruct model writes at a time.")
    instruct_gpu_memory_utilization: float = Field(
        0.3, gt=0, lt=1, description="Share of a GPU's memory for the instruct model."
    )
    instruct_cpu_cache_gib: int = Field(
        2, gt=0, description="Memory on a CPU, beside its weights, for what the instruct model reads and writes."
    )
    insecure_evidence: bool = Field(
        False,
        description="DEVELOPMENT ONLY: attest with evidence that proves nothing. Only an insecure policy accepts it.",
    )
    policy: Path | None = Field(
        None,
        validate_default=True,
        description="TOML file of what this engine must prove to itself before it serves; needed outside development.",
    )
    collateral_dir: Path | None = Field(
        None, description="Where collateral outlives the engine. Default: in memory, and asked for at every start."
    )
    offline_collateral: bool = Field(
        False, description="Ask no vendor: collateral comes from the machine and `collateral_dir` only."
    )
    allow_vllm_program: Path | None = Field(
        None,
        description="DANGER: run this vllm in place of the image's (beside the engine, or /opt/vllm/bin/vllm).",
    )
    allow_pyannote_python: Path | None = Field(
        None,
        description="DANGER: run pyannote.audio in this Python in place of the image's (/opt/pyannote/bin/python).",
    )
    assume_weights_immutable: bool = Field(
        False,
        description="DANGER: load models from where they lie, without a copy; for a device that dm-verity protects.",
    )
    allow_unsandboxed_decoder: bool = Field(
        False, description="DANGER: decode uploads even where the kernel offers no system call filter."
    )
    api_keys: Path | None = Field(
        None, description="TOML file of the API keys that are asked for; reloaded when it changes."
    )
    log_requests: bool = Field(
        False, description="One log line per request (its key's name, never content); confessed in the statement."
    )
    max_audio_seconds: int = Field(14_400, gt=0, description="Longest recording that is transcribed.")
    key_lifetime_s: int = Field(
        21_600, ge=60, le=86_400, description="Seconds until a new key replaces the current one."
    )
    key_overlap_s: int = Field(
        900, ge=1, le=3_600, description="Seconds for which a replaced key still opens requests."
    )
    max_requests: int = Field(256, gt=0, description="Requests admitted at a time.")
    max_requests_per_key: int = Field(
        32, gt=0, description="Requests at a time of an API key whose entry does not say; others wait a moment."
    )
    max_live_sessions: int = Field(
        64, ge=0, description="Live sessions open at a time; with 0 none are served, and no keys for them are attested."
    )
    max_live_sessions_per_key: int = Field(
        8, gt=0, description="Live sessions at a time of an API key whose entry does not say."
    )
    max_connections: int = Field(
        4_096, gt=0, description="Connections kept at a time; one that asks for nothing gives way to the next."
    )
    max_upload_bytes: int = Field(
        64 * MAX_REQUEST_BYTES, ge=MAX_REQUEST_BYTES, description="Memory that all uploads together may take."
    )
    request_timeout_s: float = Field(3_600.0, gt=0, description="Longest time from a whole request to its answer.")
    event_window_ms: int = Field(
        50,
        ge=0,
        le=100,
        description="How long an event of a stream waits for others, so that few words show singly.",
    )
    drain_s: float = Field(3_600.0, ge=0, description="How long requests in flight may still run after SIGTERM.")

    @field_validator("model")
    @classmethod
    def _models_exist(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        models = _split(pairs)
        faults = _twice([name for name, _ in models])
        faults += [f"{name}: no such directory" for name, path in models if not Path(path).is_dir()]
        if not models:
            faults.append("is needed at least once")
        if faults:
            raise ValueError("; ".join(faults))
        return pairs

    @field_validator("alias")
    @classmethod
    def _aliases_name_models(cls, pairs: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        aliases = _split(pairs)
        names = [alias for alias, _ in aliases]
        faults = []
        if "model" in info.data:  # otherwise nothing is known of the models but that they are at fault
            served = [name for name, _ in _split(info.data["model"])]
            names += served
            faults = [f"{alias}: {name} is not served" for alias, name in aliases if name not in served]
        if faults := _twice(names) + faults:
            raise ValueError("; ".join(faults))
        return pairs

    @field_validator("alias_openai")
    @classmethod
    def _openai_names_a_model(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is None or "model" not in info.data:
            return name
        served = [model for model, _ in _split(info.data["model"])]
        taken = {*served, *(alias for alias, _ in _split(info.data.get("alias", ())))}
        faults = [] if name in served else [f"{name} is not served"]
        if faults := faults + _twice([*taken, *OpenAIName]):
            raise ValueError("; ".join(faults))
        return name

    @field_validator("speaker_model")
    @classmethod
    def _speakers_have_a_model(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        kind = info.data.get("speakers")
        if path is not None and kind is SpeakersKind.CHANNELS:
            raise ValueError("channels need no model")
        if path is None and kind not in (None, SpeakersKind.CHANNELS):
            raise ValueError(f"{kind} needs a directory of models")
        if path is not None and not path.is_dir():
            raise ValueError("no such directory")
        return path

    @field_validator("vllm_family")
    @classmethod
    def _only_vllm_serves_others(cls, family: ModelFamily, info: ValidationInfo) -> ModelFamily:
        if family is not ModelFamily.WHISPER and info.data.get("backend") is not BackendKind.VLLM:
            raise ValueError(f"{family} needs --backend vllm")
        return family

    @field_validator("vllm_url")
    @classmethod
    def _attaching_makes_sense(cls, url: str | None, info: ValidationInfo) -> str | None:
        given = [way for way in (url, info.data.get("vllm_uds")) if way is not None]
        if len(given) > 1:
            raise ValueError("a vLLM is attached to by --vllm-uds or by --vllm-url")
        if given and info.data.get("backend") is not BackendKind.VLLM:
            raise ValueError("attaching to a vLLM needs --backend vllm")
        if given and len(info.data.get("model", ())) != 1:
            raise ValueError("attaching to a vLLM needs exactly one --model")
        return url

    @field_validator(
        "vllm_gpu_memory_utilization", "vllm_max_num_seqs", "vllm_max_num_batched_tokens", "vllm_audio_workers"
    )
    @classmethod
    def _vllm_is_ours_to_tune(cls, value: T | None, info: ValidationInfo) -> T | None:
        if value is not None and info.data.get("backend") is not BackendKind.VLLM:
            raise ValueError("tuning vLLM needs --backend vllm")
        if value is not None and (info.data.get("vllm_uds") or info.data.get("vllm_url")):
            raise ValueError("a vLLM that runs already cannot be tuned")
        return value

    @field_validator("vllm_gpu_memory_utilization")
    @classmethod
    def _the_gpu_has_room(cls, share: float | None, info: ValidationInfo) -> float | None:
        if share is not None and info.data.get("device") == "cpu":
            raise ValueError("a share of a GPU needs --device cuda")
        if share is not None and share * len(info.data.get("model", ())) > 1:
            raise ValueError("the shares of all models together must be at most 1")
        return share

    @field_validator("instruct_model")
    @classmethod
    def _instruct_model_has_a_name_of_its_own(cls, pair: str | None, info: ValidationInfo) -> str | None:
        if pair is None:
            return None
        name, path = _named(pair)
        taken = _split((*info.data.get("model", ()), *info.data.get("alias", ())))
        faults = _twice([name, *{each for each, _ in taken}])
        faults += [] if path.is_dir() else [f"{name}: no such directory"]
        if faults:
            raise ValueError("; ".join(faults))
        return pair

    @field_validator("instruct_device")
    @classmethod
    def _vllm_runs_the_instruct_model(cls, device: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("instruct_model") is None:
            return device
        chosen = device or info.data.get("device")
        if chosen not in ("cpu", "cuda"):
            raise ValueError("the instruct model runs on cpu or on cuda")
        return chosen

    @field_validator("instruct_gpu_memory_utilization")
    @classmethod
    def _the_gpu_has_room_for_both(cls, share: float, info: ValidationInfo) -> float:
        hearing = (info.data.get("vllm_gpu_memory_utilization") or 0) * len(info.data.get("model", ()))
        if info.data.get("instruct_model") and info.data.get("instruct_device") == "cuda" and hearing + share > 1:
            raise ValueError("the shares of all models together must be at most 1")
        return share

    @field_validator("policy")
    @classmethod
    def _policy_can_be_used(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        try:
            if path is not None:
                read_policy(path)
            elif not info.data.get("insecure_evidence"):
                raise ValueError(
                    "is needed, for what is not judged is not served; only --insecure-evidence goes without"
                )
        except PolicyError as exc:
            raise ValueError(str(exc)) from exc
        return path

    @field_validator("api_keys")
    @classmethod
    def _keys_can_be_used(cls, path: Path | None) -> Path | None:
        try:
            if path is not None:
                read_keys(path)
        except KeyFileError as exc:
            raise ValueError(str(exc)) from exc
        return path

    @property
    def told_apart_by(self) -> SpeakersKind | None:
        """What tells speakers apart; where models are given and nothing is said of them, sherpa-onnx."""
        return self.speakers or (SpeakersKind.SHERPA_ONNX if self.speaker_model else None)

    @property
    def models(self) -> tuple[tuple[str, Path], ...]:
        """(name, directory) of each model."""
        return tuple((name, Path(path)) for name, path in _split(self.model))

    @property
    def instruct(self) -> tuple[str, Path] | None:
        """(name, directory) of the instruct model; None where there is none."""
        return None if self.instruct_model is None else _named(self.instruct_model)

    @property
    def aliases(self) -> tuple[tuple[str, str], ...]:
        """(alias, name) of each alias, those of OpenAI's models among them."""
        openai = [(name.value, self.alias_openai) for name in self.openai_names if self.alias_openai]
        return (*_split(self.alias), *openai)

    @property
    def openai_names(self) -> tuple[OpenAIName, ...]:
        """The names of OpenAI's models that one of ours answers to: the one that promises speakers where they are told
        apart."""
        withheld = set() if self.told_apart_by else {OpenAIName.GPT_4O_DIARIZE}
        return tuple(name for name in OpenAIName if name not in withheld) if self.alias_openai else ()

    @property
    def insecure_options(self) -> tuple[str, ...]:
        """Every option in force whose name says `insecure`, `allow` or `assume`; the statement confesses them."""
        dangers = {"insecure", "allow", "assume"}
        return tuple(name for name in type(self).model_fields if dangers & set(name.split("_")) and getattr(self, name))

    @property
    def attaches(self) -> bool:
        """Whether the model server runs already."""
        return self.vllm_uds is not None or self.vllm_url is not None
