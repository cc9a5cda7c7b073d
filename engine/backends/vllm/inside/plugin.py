"""What does our distribution change in a stock vLLM that it is installed beside?

vLLM finds these entry points by itself and runs `register` in each of its processes (`pyproject.toml`):

    vllm.general_plugins     Whisper's decoder prompt and languages, `model`; and this file's care
    vllm.logits_processors   Whisper's decoding rules, `logits`

Nothing of the engine's is loaded there but these few modules. What `register` raises ends the process: vLLM only
forgives a plugin that cannot be imported.
"""

from __future__ import annotations

import contextlib
import multiprocessing

from vllm import ModelRegistry

from core.media.sandbox import die_with_parent
from core.program.memory import keep_memory_private
from engine.backends.vllm.inside.entry_points import refuse_foreign_plugins

ARCHITECTURE = "WhisperForConditionalGeneration"


def register() -> None:
    """Put our Whisper in the place of vLLM's own; vLLM may call this any number of times.

    Raises RuntimeError where vLLM would load anybody else's code: in each process this runs before vLLM looks for
    logits processors, and in the first before the command line is read.
    """
    refuse_foreign_plugins()
    _harden()
    # By name, not by class: this runs before vLLM has chosen its device, and importing a model would choose one.
    ModelRegistry.register_model(ARCHITECTURE, "engine.backends.vllm.inside.model:SottovoceWhisper")


def _harden() -> None:
    """Keep what is heard out of core dumps, and let no engine process outlive its API server."""
    keep_memory_private()
    parent = multiprocessing.parent_process()
    with contextlib.suppress(OSError):  # not Linux, where vLLM is for development only
        if parent is not None and parent.pid is not None:
            die_with_parent(parent.pid)
