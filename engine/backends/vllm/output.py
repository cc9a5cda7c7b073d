"""What does a server that ends say of the cause? All that it prints is read, and told in our words only."""

from __future__ import annotations

from asyncio.subprocess import Process

import structlog

from engine.backends.vllm.inside.entry_points import REFUSAL
from engine.backends.vllm.inside.prompt import UNTIMED

CAUSES = {
    b"out of memory": "vLLM ran out of memory",
    b"No available memory for the cache blocks": "vLLM has no memory left for clips",
    b"less than desired GPU memory utilization": "the GPU's memory is in use by another process",
    b"generation_config.json": "the checkpoint's generation_config.json cannot be read",
    b"No module named": "vLLM's environment lacks a module",
    b"No space left on device": "there is no room in memory for a server's files",
    b"unrecognized arguments": "this version of vLLM does not know one of our flags",
    UNTIMED.encode(): UNTIMED,
    REFUSAL.encode(): "vLLM would load plugins of others, or not find ours",
    b"are not supported for now": "vLLM does not support this checkpoint",
}
"""What vLLM's output may say about why it ended, and how we say it: the output itself may quote a request."""

_log = structlog.get_logger(__name__)


async def read_causes(process: Process) -> None:
    """Read all that a process prints; say at most once, and in our words, what is wrong with it."""
    output = process.stdout
    longest, tail, said = max(map(len, CAUSES)), b"", False
    while output is not None and (piece := await output.read(1 << 16)):
        text = tail + piece
        tail = text[-longest:]
        cause = next((cause for sign, cause in CAUSES.items() if sign in text), None)
        if cause is not None and not said:
            said = True
            _log.error("process_ends", cause=cause)
