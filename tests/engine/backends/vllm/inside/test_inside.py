"""The plugin's rules and prompts, checked by `inside_vllm.py` in vLLM's own environment."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.engine.backends.vllm.real_vllm import CHECKPOINT, LIMIT_S, find_vllm

SCRIPT = Path(__file__).with_name("inside_vllm.py")
CHECKS = re.findall(r"^def (check_\w+)", SCRIPT.read_text(), re.MULTILINE)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong with each check, all run by one process."""
    python = find_vllm().with_name("python")
    home = str(tmp_path_factory.mktemp("home"))
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "HOME": home}
    command = [str(python), "-P", "-s", "-B", str(SCRIPT), str(CHECKPOINT)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=LIMIT_S, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr.decode()
    failures: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return failures


@pytest.mark.parametrize("check", CHECKS)
def test_inside_vllm(results: dict[str, str], check: str) -> None:
    assert results[check] == ""
