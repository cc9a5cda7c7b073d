"""What an agent of LiveKit does with OpenAI's realtime recognition: the final texts of a recording, as JSON.

Usage: livekit_calls.py BASE_URL PCM_FILE, of 16-bit mono at 24 kHz.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from livekit import rtc
from livekit.agents import stt
from livekit.agents.utils import http_context
from livekit.plugins import openai

RATE_HZ = 24_000


async def main(base_url: str, pcm_file: str) -> None:
    pcm = Path(pcm_file).read_bytes()
    texts = []
    async with http_context.open():
        recognition = openai.STT(model="nano", language="en", base_url=base_url, api_key="sk-app", use_realtime=True)
        stream = recognition.stream()
        for start in range(0, len(pcm), 4_800):
            piece = pcm[start : start + 4_800]
            stream.push_frame(rtc.AudioFrame(piece, RATE_HZ, 1, len(piece) // 2))
        async for event in stream:
            if event.type == stt.SpeechEventType.FINAL_TRANSCRIPT:
                texts.append(event.alternatives[0].text)
                break
        await stream.aclose()
        await recognition.aclose()
    sys.stdout.write(json.dumps(texts) + "\n")


asyncio.run(main(*sys.argv[1:]))
