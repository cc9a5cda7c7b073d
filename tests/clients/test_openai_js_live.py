"""OpenAI's JavaScript SDK in a live session. It speaks TLS only, and so with a proxy that has a certificate."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.clients.test_openai_js import HERE
from tests.e2e.processes import RECORDING, SAID, engine, proxy, until_ready
from tests.proxy.certificates import write_certificate
from tests.requirements import need, need_program
from tests.waiting import GIVE_UP_S

pytestmark = pytest.mark.slow


@pytest.mark.behaviour(49, 50)
async def test_what_is_committed_becomes_text(tmp_path: Path) -> None:
    need_program("node")
    for name in ("openai", "ws"):
        need(
            (HERE / "node_modules" / name).is_dir(), f"the npm package {name}: `make clients`, with npm and a registry"
        )
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(cert, key, "localhost")
    async with (
        engine(tmp_path / "engine") as behind,
        proxy(tmp_path / "proxy", behind.url, "--tls-cert", str(cert), "--tls-key", str(key)) as front,
    ):
        await until_ready(front)
        events = await _events(f"{front.url.replace('http://', 'https://')}/v1", cert)
    assert events[0]["type"] == "session.created"
    assert events[-1]["type"] == "conversation.item.input_audio_transcription.completed"
    assert events[-1]["transcript"] == SAID


async def _events(base_url: str, cert: Path) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        "node",
        "live.js",
        base_url,
        str(RECORDING),
        cwd=HERE,
        env=os.environ | {"NODE_EXTRA_CA_CERTS": str(cert)},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(GIVE_UP_S):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return [json.loads(line) for line in output.splitlines()]
