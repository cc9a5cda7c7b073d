"""Frameworks for voice agents hear a recording through a live session, each in an environment of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import wave
from array import array
from itertools import chain
from pathlib import Path

import pytest

from tests.e2e.processes import RECORDING, SAID
from tests.requirements import need
from tests.waiting import GIVE_UP_S

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
# Nothing of their own may be fetched or sent.
OFFLINE = {"OPENAI_AGENTS_DISABLE_TRACING": "1", "HF_HUB_OFFLINE": "1", "NO_PROXY": "*"}


def at_24_khz(silence_s: float) -> bytes:
    """The recording of 16 kHz as these send it: between two samples comes one of about their mean. Then silence."""
    with wave.open(str(RECORDING), "rb") as file:
        samples = array("h", file.readframes(file.getnframes()))
    pairs = zip(samples[::2], samples[1::2], strict=False)
    triples = chain.from_iterable((first, (first + second) // 2, second) for first, second in pairs)
    return array("h", triples).tobytes() + bytes(round(silence_s * 24_000) * 2)


@pytest.mark.parametrize("name", ["agents", "livekit", "pipecat"])
@pytest.mark.behaviour(49)
async def test_a_recording_becomes_text(base_url: str, tmp_path: Path, name: str) -> None:
    python = Path(sys.prefix) / name / "bin" / "python"
    need(python.exists(), f"{name} in an environment of its own: `make clients`, with a registry")
    (tmp_path / "pcm").write_bytes(at_24_khz(silence_s=1.5))
    process = await asyncio.create_subprocess_exec(
        str(python),
        str(HERE / f"{name}_calls.py"),
        base_url,
        str(tmp_path / "pcm"),
        env=os.environ | OFFLINE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(GIVE_UP_S):
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert [text.strip() for text in json.loads(output.splitlines()[-1])] == [SAID]
