"""Which URLs does Privocio's API have, beside OpenAI's?"""

from __future__ import annotations

from typing import Final

TRANSCRIPTIONS: Final = "/v1/transcriptions"
STREAM: Final = "/v1/transcriptions/stream"
ME: Final = "/v1/me"
USAGE: Final = "/v1/usage"
API_KEYS: Final = "/v1/api-keys"
HEALTH: Final = "/healthz"
