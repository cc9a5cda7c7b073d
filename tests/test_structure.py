"""The house rules that a reader relies on: who may import whom, and which file is each outside library's door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("attestation", "engine", "proxy")

FORBIDDEN = {"attestation": {"engine", "proxy"}, "engine": {"proxy"}, "proxy": {"engine"}}

DOORS = {
    "av": {"engine/speech/media.py"},
    "ctypes": {"attestation/nvml.py", "engine/speech/sandbox.py"},
    "cryptography": {
        "attestation/channel/hpke.py",
        "attestation/gpu/certificates.py",
        "attestation/gpu/chain.py",
        "attestation/gpu/nras.py",
        "attestation/gpu/ocsp.py",
        "attestation/gpu/rim.py",
        "attestation/roots.py",
        "attestation/snp/certificate.py",
        "attestation/snp/chain.py",
        "attestation/snp/vek.py",
        "attestation/sources.py",
        "attestation/tdx/certificates.py",
    },
    "dcap_qvl": {"attestation/tdx/chain.py"},
    "faster_whisper": {"engine/backends/alignment.py", "engine/backends/faster_whisper_worker.py"},
    "lxml": {"attestation/gpu/rim.py"},
    "nacl": {"attestation/signature.py", "proxy/spool.py"},
    "numpy": {"engine/backends/alignment.py", "engine/backends/faster_whisper_worker.py", "engine/speech/vad.py"},
    "onnxruntime": {"engine/speech/vad.py"},
    "prometheus_client": {"engine/telemetry.py", "proxy/telemetry.py"},
    "platformdirs": {"attestation/state.py"},
    "pynvml": {"attestation/nvml.py"},
    "python_multipart": {"engine/openai/multipart.py"},
    "sigstore": {"attestation/provenance.py"},
    "torch": {"engine/backends/vllm_logits.py", "engine/backends/vllm_rules.py"},
    "transformers": {"engine/backends/vllm_model.py"},
    "vllm": {"engine/backends/vllm_logits.py", "engine/backends/vllm_model.py", "engine/backends/vllm_plugin.py"},
}

ENGINE_ONLY = (
    "av",
    "ctranslate2",
    "faster_whisper",
    "numpy",
    "onnxruntime",
    "pynvml",
    "python_multipart",
    "torch",
    "vllm",
)


def modules() -> Iterator[tuple[str, set[str]]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), set(_imported(ast.parse(path.read_text())))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


MODULES = dict(modules())


@pytest.mark.parametrize("name", MODULES)
def test_a_package_imports_only_what_stands_below_it(name: str) -> None:
    assert set() == MODULES[name] & FORBIDDEN[name.partition("/")[0]]


@pytest.mark.parametrize("library", DOORS)
def test_an_outside_library_has_its_named_doors(library: str) -> None:
    assert DOORS[library] == {name for name, imported in MODULES.items() if library in imported}


@pytest.mark.parametrize("module", ["proxy.app", "proxy.cli", "attestation.cli"])
def test_the_users_side_loads_nothing_that_only_the_engine_needs(module: str) -> None:
    program = f"import {module}, sys; print(*sorted(set(sys.modules) & set({ENGINE_ONLY!r})))"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT).stdout
    assert output.strip() == b""


def test_the_process_that_holds_keys_loads_no_codec_and_no_model_code() -> None:
    program = "import engine.app, sys; print(*sorted(set(sys.modules) & {'av', 'ctranslate2', 'onnxruntime', 'numpy'}))"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT).stdout
    assert output.strip() == b""
