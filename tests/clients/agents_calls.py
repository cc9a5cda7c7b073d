"""What an app does with the speech recognition of OpenAI's Agents SDK: the turns of a recording, as JSON.

Usage: agents_calls.py BASE_URL PCM_FILE, of 16-bit mono at 24 kHz.
"""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
from agents.voice import OpenAISTTModel, StreamedAudioInput, STTModelSettings
from openai import AsyncOpenAI


async def main(base_url: str, pcm_file: str) -> None:
    pcm = np.fromfile(pcm_file, dtype="<i2")
    source = StreamedAudioInput()
    async with AsyncOpenAI(base_url=base_url, api_key="sk-app") as client:
        session = await OpenAISTTModel("nano", client).create_session(source, STTModelSettings(), False, False)
        for start in range(0, len(pcm), 2_400):
            await source.add_audio(pcm[start : start + 2_400])
        turns = []
        async for turn in session.transcribe_turns():
            turns.append(turn)
            break
        await session.close()
    sys.stdout.write(json.dumps(turns) + "\n")


asyncio.run(main(*sys.argv[1:]))
