"""An instruct model is chosen by the operator, shares a GPU with those that hear, and is confessed with its weights."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from attestation.policy import parse_policy
from attestation.statement import SUMMARIES, LoadedModel, Statement, parse_statement
from attestation.verification import _configuration, _models
from core.channel.keyconfig import GatewayKey
from core.errors import BackendError
from engine.backends.choose import Backend, choose_backend
from engine.backends.digest import weights_digest
from engine.backends.vllm.instruct import VllmInstruct
from engine.backends.weights import held
from engine.identity.claims import claims_of
from engine.openai.models import ModelCatalogue, ServedModel
from engine.settings import EngineSettings
from tests.engine.fakes import FakeTranscriber
from tests.engine.summaries.fake_model import FakeInstruct
from tests.engine.test_settings import faults


@pytest.fixture
def instruct(tmp_path: Path) -> Path:
    (tmp_path / "instruct").mkdir()
    (tmp_path / "instruct" / "model.safetensors").write_bytes(b"weights of words")
    return tmp_path / "instruct"


def given(directory: Path, **chosen: Any) -> dict[str, Any]:
    model = directory / "model"
    model.mkdir(exist_ok=True)
    (model / "model.bin").write_bytes(b"weights")
    return {"model": (f"whisper={model}",), "insecure_evidence": True} | chosen


def settings(directory: Path, **chosen: Any) -> EngineSettings:
    return EngineSettings(**given(directory, **chosen))


def flags(backend: Backend) -> tuple[str, ...]:
    assert isinstance(backend.writer, VllmInstruct)
    return backend.writer.component.arguments


def test_nothing_writes_summaries_unless_a_model_is_given(tmp_path: Path) -> None:
    backend = choose_backend(settings(tmp_path))
    assert (backend.writer, backend.writer_weights) == (None, None)


@pytest.mark.parametrize("backend", ["faster-whisper", "vllm"])
def test_any_backend_that_hears_goes_with_one(tmp_path: Path, instruct: Path, backend: str) -> None:
    chosen = choose_backend(settings(tmp_path, backend=backend, instruct_model=f"qwen={instruct}"))
    assert chosen.writer
    assert (chosen.writer.name, chosen.writer.context) == ("qwen", 16_384)
    assert chosen.components[-1].name == SUMMARIES
    assert chosen.writer_weights in chosen.all_weights


def test_what_is_said_of_it_is_what_its_server_is_told(tmp_path: Path, instruct: Path) -> None:
    chosen = {"instruct_context": 9_000, "instruct_max_num_seqs": 3, "instruct_cpu_cache_gib": 5}
    told = flags(choose_backend(settings(tmp_path, instruct_model=f"qwen={instruct}", **chosen)))
    expected = {"--max-model-len=9000", "--max-num-batched-tokens=9000", "--max-num-seqs=3", "VLLM_CPU_KVCACHE_SPACE=5"}
    assert expected <= set(told)
    on_gpu = {"instruct_device": "cuda", "instruct_gpu_memory_utilization": 0.4}
    told = flags(choose_backend(settings(tmp_path, instruct_model=f"qwen={instruct}", **on_gpu)))
    assert "--gpu-memory-utilization=0.4" in told
    assert "--enforce-eager" not in told


@pytest.mark.parametrize(
    ("chosen", "share"),
    [
        ({}, 0.6),
        ({"instruct_gpu_memory_utilization": 0.5}, 0.4),
        ({"instruct_device": "cpu"}, 0.9),
        ({"vllm_gpu_memory_utilization": 0.7}, 0.7),
    ],
)
def test_those_that_hear_get_what_it_leaves_of_a_gpu(
    tmp_path: Path, instruct: Path, chosen: dict[str, Any], share: float
) -> None:
    common = {"backend": "vllm", "device": "cuda", "instruct_model": f"qwen={instruct}"}
    backend = choose_backend(settings(tmp_path, **common | chosen))
    assert f"--gpu-memory-utilization={share}" in backend.transcriber.component.arguments


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"instruct_model": "qwen=nowhere"}, "--instruct-model: qwen: no such directory"),
        ({"instruct_model": "qwen"}, "--instruct-model: must be NAME=VALUE"),
        ({"instruct_model": "whisper=."}, "the name whisper is given twice"),
        ({"instruct_model": "other=.", "alias": ("other=whisper",)}, "the name other is given twice"),
        (
            {"instruct_model": "qwen=.", "device": "auto"},
            "--instruct-device: the instruct model runs on cpu or on cuda",
        ),
        ({"instruct_model": "qwen=.", "instruct_device": "tpu"}, "runs on cpu or on cuda"),
        ({"instruct_model": "qwen=.", "instruct_context": 4096}, "--instruct-context"),
        (
            {
                "instruct_model": "qwen=.",
                "backend": "vllm",
                "device": "cuda",
                "vllm_gpu_memory_utilization": 0.8,
                "instruct_gpu_memory_utilization": 0.3,
            },
            "together must be at most 1",
        ),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(tmp_path: Path, chosen: dict[str, Any], told: str) -> None:
    assert told in faults(**given(tmp_path, **chosen))


@asynccontextmanager
async def statement_of(chosen: EngineSettings) -> AsyncIterator[Statement]:
    backend = choose_backend(chosen)
    async with held(backend.all_weights):
        claims = claims_of(
            chosen,
            ModelCatalogue((ServedModel("whisper", 0),), "qwen"),
            backend,
            backend.weights,
            None,
            instance="here",
            evidence_from="insecure",
            writer_weights=backend.writer_weights,
        )
        yield parse_statement(claims([GatewayKey.generate(()).config], [], 2**31))


async def test_the_statement_names_its_process_and_what_it_loaded(tmp_path: Path, instruct: Path) -> None:
    async with statement_of(settings(tmp_path, instruct_model=f"qwen={instruct}")) as statement:
        component = statement.config.components[-1]
        assert (component.name, component.models) == (SUMMARIES, (LoadedModel("qwen", weights_digest(instruct)),))
        assert statement.config.components[0].models[0].id == "whisper"
        assert statement.instruct_model == "qwen"
        assert [model.id for model in statement.models] == ["whisper"], "it hears nothing"
    async with statement_of(settings(tmp_path)) as without:
        assert without.instruct_model is None


POLICY = """version = 1
[insecure]
accept = true
[statement]
allow_options = ["insecure_evidence"]
{statement}
[[models]]
id = "whisper"
weights_sha256 = ["{whisper}"]
{models}
"""


@pytest.mark.parametrize(
    ("statement", "models", "failing"),
    [
        ("", '[[models]]\nid = "qwen"\nweights_sha256 = ["{qwen}"]', set()),
        ("", "", {"models"}),
        ("", f'[[models]]\nid = "qwen"\nweights_sha256 = ["{"0" * 64}"]', {"models"}),
        (
            "arguments = {{ faster-whisper = {heard} }}",
            '[[models]]\nid = "qwen"\nweights_sha256 = ["{qwen}"]',
            {"arguments"},
        ),
    ],
)
async def test_a_policy_says_which_is_accepted_if_any(
    tmp_path: Path, instruct: Path, statement: str, models: str, failing: set[str]
) -> None:
    async with statement_of(settings(tmp_path, instruct_model=f"qwen={instruct}")) as claimed:
        heard = str(list(claimed.config.components[0].arguments)).replace("'", '"')
        digests = {"qwen": weights_digest(instruct), "heard": heard}
        text = POLICY.format(
            statement=statement.format(**digests),
            models=models.format(**digests),
            whisper=weights_digest(tmp_path / "model"),
        )
    policy = parse_policy(text.encode())
    checks = [*_configuration(claimed.config, policy), *_models(claimed, policy.models)]
    assert {check.name for check in checks if check.failed} == failing


async def test_it_starts_last_and_ends_with_the_backend() -> None:
    writer = FakeInstruct()
    backend = Backend(FakeTranscriber(), writer=writer)
    async with backend.running():
        assert writer.ready
        writer.ready = False
        assert backend.ready, "recordings are heard all the same"
    assert not writer.ready


async def test_an_engine_does_not_start_without_the_model_that_it_was_given() -> None:
    class Broken(FakeInstruct):
        async def start(self) -> None:
            raise BackendError("cannot load")

    transcriber = FakeTranscriber()
    with pytest.raises(BackendError, match="cannot load"):
        async with Backend(transcriber, writer=Broken()).running():
            pass
    assert not transcriber.ready
