"""How is an app told that its live session ends in a failure? By an `error` event and a close code, as OpenAI does it.

==== ===========================================================================================
3000 `invalid_request_error.invalid_api_key`
4000 `TYPE.CODE` of anything else that is no fault of ours; OpenAI's SDK does not try again
1013 no room, or nobody to hear it now
1011 a failure of ours
1001 the session has lasted, or been silent, for as long as any may
==== ===========================================================================================
"""

from __future__ import annotations

import json
from typing import Any

from core.transcript.faults import Fault
from engine.gateway.live import End, Failure, SessionExpiredError
from engine.openai.errors import ROWS, ErrorCode, code_of, envelope


def failure_of(error: Fault | SessionExpiredError, event_id: str) -> Failure:
    """What an app is told of `error`. event_id: of the event."""
    if isinstance(error, SessionExpiredError):
        told = {"type": "invalid_request_error", "code": "session_expired", "message": str(error), "param": None}
        return Failure(200, _event(told, event_id), End(1001, str(error)))
    code = code_of(error)
    row = ROWS[code]
    return Failure(
        row.status, _event(envelope(error)["error"], event_id), End(_close_code(code, row.status), f"{row.type}.{code}")
    )


def _close_code(code: ErrorCode, status: int) -> int:
    if code is ErrorCode.INVALID_API_KEY:
        return 3000
    if status == 503:
        return 1013
    return 1011 if status >= 500 else 4000


def _event(error: dict[str, Any], event_id: str) -> bytes:
    return json.dumps({"type": "error", "event_id": event_id, "error": {**error, "event_id": None}}).encode()
