"""What are things called? Ids that sort as they were made, and say nothing else."""

from __future__ import annotations

import secrets
import uuid


def new_id(now_ms: int) -> str:
    """A UUID of version 7 (RFC 9562, section 5.7), in its usual spelling."""
    bits = (now_ms & (1 << 48) - 1) << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=bits))
