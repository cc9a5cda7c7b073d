"""What an app does with litellm, printed as one JSON object: a call's name and what came of it.

Runs in litellm's own environment, so it imports nothing of ours. Usage: litellm_calls.py BASE_URL RECORDING
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import litellm

BASE_URL, RECORDING = sys.argv[1], Path(sys.argv[2])
ROUTES = ("openai", "hosted_vllm")
FORMATS: dict[str, dict[str, Any]] = {
    "default": {},
    "json": {"response_format": "json"},
    "text": {"response_format": "text"},
    "srt": {"response_format": "srt", "language": "en"},
    "vtt": {"response_format": "vtt", "language": "en"},
    "segments": {"response_format": "verbose_json", "language": "en"},
    "words": {
        "response_format": "verbose_json",
        "language": "en",
        "timestamp_granularities": ["word", "segment"],
    },
    "alias": {"model": "whisper-1"},
    "unknown_model": {"model": "absent"},
}


def arguments(route: str, fields: dict[str, Any]) -> dict[str, Any]:
    fields = dict(fields)
    model = f"{route}/{fields.pop('model', 'nano')}"
    file = (RECORDING.name, RECORDING.read_bytes())
    return {"model": model, "file": file, "api_base": BASE_URL, "api_key": "sk-app", "max_retries": 0} | fields


def outcome(call: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = call(**given)
    except Exception as exc:  # noqa: BLE001 - reported by its name
        return {"raised": type(exc).__name__, "status": getattr(exc, "status_code", None)}
    return {"value": answer.model_dump()}


def from_async(**given: Any) -> Any:
    return asyncio.run(litellm.atranscription(**given))


def main() -> None:
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    outcomes = {}
    for route in ROUTES:
        for name, fields in FORMATS.items():
            outcomes[f"{route} {name}"] = outcome(litellm.transcription, arguments(route, fields))
        outcomes[f"{route} async"] = outcome(from_async, arguments(route, {}))
    sys.stdout.write("\n" + json.dumps(outcomes))


main()
