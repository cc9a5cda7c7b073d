"""How are moments written? ISO 8601 in UTC, to the second, with a Z; any form of ISO 8601 is read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def iso(at_ms: int) -> str:
    """`2025-01-15T10:30:00Z`."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_iso(text: str) -> int:
    """Milliseconds since 1970; without an offset it is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
