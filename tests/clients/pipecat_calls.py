"""What a pipeline of Pipecat does with OpenAI's realtime recognition: the final texts of a recording, as JSON.

Usage: pipecat_calls.py BASE_URL PCM_FILE, of 16-bit mono at 24 kHz.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from pipecat.frames.frames import InputAudioRawFrame, TranscriptionFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.stt import OpenAIRealtimeSTTService

RATE_HZ = 24_000


class Texts(FrameProcessor):  # type: ignore[misc]
    """Keeps what is final, and ends the pipeline with the first."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.task: Any = None

    async def process_frame(self, frame: Any, direction: Any) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.texts.append(frame.text)
            await self.task.cancel()
        await self.push_frame(frame, direction)


async def main(base_url: str, pcm_file: str) -> None:
    url = f"{base_url.replace('http', 'ws', 1)}/realtime"
    recognition = OpenAIRealtimeSTTService(
        api_key="sk-app", base_url=url, turn_detection=None, settings=OpenAIRealtimeSTTService.Settings(model="nano")
    )
    texts = Texts()
    texts.task = PipelineTask(Pipeline([recognition, texts]), params=PipelineParams(audio_in_sample_rate=RATE_HZ))
    pcm = Path(pcm_file).read_bytes()
    await texts.task.queue_frames(
        InputAudioRawFrame(audio=pcm[start : start + 4_800], sample_rate=RATE_HZ, num_channels=1)
        for start in range(0, len(pcm), 4_800)
    )
    await PipelineRunner(handle_sigint=False).run(texts.task)
    sys.stdout.write(json.dumps(texts.texts) + "\n")


asyncio.run(main(*sys.argv[1:]))
