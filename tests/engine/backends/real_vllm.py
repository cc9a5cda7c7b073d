"""Where is a real vLLM to test with? Named by `SOTTOVOCE_VLLM_PROGRAM`, or made by `make vllm`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CHECKPOINT = ROOT / "tests/checkpoints/nano/hf"
LIMIT_S = 1200
"""For a test that starts vLLM, which takes a minute or two on an idle machine and far longer on a busy one."""


def find_vllm() -> Path:
    """The `vllm` program; skips the test where there is none."""
    program = Path(os.environ.get("SOTTOVOCE_VLLM_PROGRAM") or ROOT / ".venv-vllm/bin/vllm")
    for path, reason in ((program, "no vLLM here: `make vllm` installs it"), (CHECKPOINT, "no small checkpoint here")):
        if not path.exists():
            pytest.skip(reason)
    return program
