"""Which URLs does Scriptivox's API have, and how often may each key ask?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PER_ADDRESS: Final = 300


@dataclass(frozen=True, slots=True)
class Route:
    """A method at a path. per_minute: of each key."""

    method: str
    path: str
    per_minute: int

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


UPLOAD: Final = Route("POST", "/v1/upload", 60)
TRANSCRIBE: Final = Route("POST", "/v1/transcribe", 60)
GET_JOB: Final = Route("GET", "/v1/transcribe/{id}", 200)
DELETE_JOB: Final = Route("DELETE", "/v1/transcribe/{id}", 30)
CANCEL: Final = Route("POST", "/v1/transcribe/{id}/cancel", 30)
LIST: Final = Route("GET", "/v1/transcriptions", 60)
BALANCE: Final = Route("GET", "/v1/balance", 100)
PUT_FILE: Final = Route("PUT", "/uploads/{id}", PER_ADDRESS)

ROUTES: Final = (UPLOAD, TRANSCRIBE, GET_JOB, DELETE_JOB, CANCEL, LIST, BALANCE, PUT_FILE)
