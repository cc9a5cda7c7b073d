"""The house rules that a reader relies on: who may import whom, and which file is each outside library's door."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.places import ROOT

PACKAGES = ("attestation", "core", "engine", "proxy", "sottovoce")

DOORS = {
    "av": {"core/media/ear.py", "core/media/encoding.py", "core/media/media.py", "core/media/sound.py"},
    "ctypes": {"attestation/guest/nvml.py", "core/media/sandbox.py", "core/program/memory.py"},
    "cryptography": {
        "engine/access/client_secrets.py",
        "core/channel/hpke.py",
        "core/channel/kdf.py",
        "core/channel/kem.py",
        "attestation/gpu/certificates.py",
        "attestation/gpu/chain.py",
        "attestation/gpu/nras.py",
        "attestation/gpu/ocsp.py",
        "attestation/gpu/rim.py",
        "attestation/gpu/vendor.py",
        "attestation/collateral/roots.py",
        "attestation/receipt.py",
        "attestation/snp/certificate.py",
        "attestation/snp/chain.py",
        "attestation/snp/vek.py",
        "attestation/tdx/certificates.py",
        "proxy/jobs/sealing.py",
        "proxy/jobs/vault.py",
    },
    "aiosqlite": set(),
    "asyncpg": {"proxy/jobs/store/listening.py"},
    "obstore": {"proxy/jobs/blobs.py"},
    "dcap_qvl": {"attestation/tdx/chain.py"},
    "faster_whisper": {"engine/backends/faster_whisper/alignment.py", "engine/backends/faster_whisper/worker.py"},
    "dns": {"proxy/engines/directory.py"},
    "httpx": set(),
    "httpx2": {"proxy/client/transport.py"},
    "limits": {"proxy/dialects/rates.py"},
    "lxml": {"attestation/gpu/rim.py"},
    "nacl": {"attestation/release/signature.py", "proxy/sealed/spool.py"},
    "numpy": {
        "engine/backends/faster_whisper/encodings.py",
        "engine/backends/faster_whisper/alignment.py",
        "engine/backends/faster_whisper/worker.py",
        "engine/backends/speakers/basic.py",
        "engine/backends/speakers/clustering.py",
        "engine/backends/speakers/model.py",
        "engine/backends/speakers/pyannote.py",
        "engine/backends/speakers/sherpa.py",
        "engine/backends/speakers/worker.py",
        "core/media/sound.py",
        "core/media/vad.py",
    },
    "onnxruntime": {"core/media/vad.py", "engine/backends/speakers/basic.py"},
    "opentelemetry": {"core/program/otlp.py"},
    "prometheus_client": {"core/program/metrics.py", "core/program/otlp.py", "engine/telemetry.py"},
    "platformdirs": {"core/program/files.py"},
    "pynvml": {"attestation/guest/nvml.py"},
    "python_multipart": {"engine/openai/multipart.py"},
    "pyannote": {"engine/backends/speakers/pyannote.py"},
    "sherpa_onnx": {"engine/backends/speakers/sherpa.py"},
    "sevsnpmeasure": {"attestation/reference/launch_digest.py"},
    "sigstore": {"attestation/release/provenance.py"},
    "sumy": {"proxy/jobs/extracts.py"},
    "torch": {
        "engine/backends/speakers/pyannote.py",
        "engine/backends/vllm/inside/logits.py",
        "engine/backends/vllm/inside/rules.py",
    },
    "transformers": {"engine/backends/vllm/inside/model.py"},
    "vllm": {
        "engine/backends/vllm/inside/logits.py",
        "engine/backends/vllm/inside/model.py",
        "engine/backends/vllm/inside/plugin.py",
    },
    "yake": {"proxy/jobs/extracts.py"},
    "yaml": {"attestation/reference/pods.py"},
}

ENGINE_ONLY = (
    "av",
    "ctranslate2",
    "faster_whisper",
    "numpy",
    "onnxruntime",
    "pyannote",
    "pynvml",
    "python_multipart",
    "sherpa_onnx",
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


def test_every_import_keeps_to_the_order_of_packages_and_rooms() -> None:
    assert "0 broken" in _linted(ROOT)


BREACHES = {
    "core/errors.py": "from attestation.errors import AttestationError",
    "attestation/verification.py": "from proxy.errors import ProxyError",
    "attestation/snp/abi.py": "from attestation.policy import Policy",
    "proxy/errors.py": "from proxy.app import RunningProxy",
    "proxy/sealed/spool.py": "from proxy.local.guard import Guard",
    "proxy/client/carriage.py": "from proxy.local.guard import Rules",
    "sottovoce/__init__.py": "from engine.errors import EngineError",
    "engine/speech/clips.py": "from engine.openai.models import ServedModel",
    "engine/backends/vllm/inside/rules.py": "from core.channel.kem import PrivateKey",
    "core/media/worker.py": "from core.channel.kem import PrivateKey",
}


@pytest.mark.parametrize("file", BREACHES)
def test_an_import_out_of_order_is_found(file: str, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = tmp_path / file
    planted.write_text(f"{planted.read_text()}\n\n{BREACHES[file]}\n")
    assert "0 broken" not in _linted(tmp_path)


def _linted(tree: Path) -> str:
    program = str(Path(sys.executable).with_name("lint-imports"))
    environment = {"PYTHONPATH": str(tree), "PATH": os.defpath}
    linted = subprocess.run([program, "--no-cache"], check=False, capture_output=True, cwd=tree, env=environment)
    return linted.stdout.decode()


@pytest.mark.parametrize("library", DOORS)
def test_an_outside_library_has_its_named_doors(library: str) -> None:
    assert DOORS[library] == {name for name, imported in MODULES.items() if library in imported}


def loaded(module: str, libraries: Iterable[str]) -> bytes:
    """Those of `libraries` that a program has loaded once it imported `module`."""
    program = f"import {module}, sys; print(*sorted(set(sys.modules) & set({tuple(libraries)!r})))"
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT).stdout.strip()


@pytest.mark.parametrize("module", ["proxy.app", "proxy.cli", "attestation.cli.main", "sottovoce.transport"])
def test_the_users_side_loads_nothing_that_only_the_engine_needs(module: str) -> None:
    assert loaded(module, ENGINE_ONLY) == b""


@pytest.mark.parametrize("module", ["proxy.app", "proxy.cli", "attestation.cli.main", "engine.app", "sottovoce"])
def test_only_who_imports_the_transport_loads_its_library(module: str) -> None:
    assert loaded(module, ["httpx", "httpx2"]) == b""


@pytest.mark.parametrize("module", ["proxy.app", "proxy.cli", "engine.app", "sottovoce.transport"])
def test_only_who_pushes_loads_the_collectors_messages(module: str) -> None:
    assert loaded(module, ["google.protobuf", "core.program.otlp"]) == b""


@pytest.mark.parametrize("module", ["proxy.app", "proxy.cli", "sottovoce.transport"])
def test_only_who_takes_jobs_loads_what_keeps_them(module: str) -> None:
    kept = ["aiosqlite", "asyncpg", "limits", "obstore", "proxy.jobs.service", "sqlalchemy"]
    assert loaded(module, kept) == b""


def test_the_transport_asks_for_one_library_of_the_two() -> None:
    assert loaded("sottovoce.transport", ["httpx", "httpx2"]) == b"httpx2"


def test_what_applications_import_only_points_elsewhere() -> None:
    for path in (ROOT / "sottovoce").glob("*.py"):
        kinds = {type(node) for node in ast.parse(path.read_text()).body}
        assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign}, path.name


def test_the_process_that_holds_keys_loads_no_codec_and_no_model_code() -> None:
    program = "import engine.app, sys; print(*sorted(set(sys.modules) & {'av', 'ctranslate2', 'onnxruntime', 'numpy'}))"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT).stdout
    assert output.strip() == b""
