"""Is that an address from which something can be fetched, or to which something can be sent? By its form alone.

Where it leads is looked at when it is used, and not here.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

MAX_URL_CHARS: Final = 2048

_PRINTABLE: Final = re.compile(r"[\x21-\x7e\u00a1-\U0010ffff]+")


def is_link(text: str) -> bool:
    """http or https with a host, at most 2048 characters, without blanks and control characters."""
    if len(text) > MAX_URL_CHARS or not _PRINTABLE.fullmatch(text):
        return False
    try:
        parts = urlsplit(text)
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and has_port
