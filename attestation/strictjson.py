"""JSON in which every reader sees the same thing (RFC 8259 section 4 leaves duplicate names to the reader).

Security decisions hang on these documents, so whatever two parsers could read differently is refused: duplicate
names, NaN and infinities, bytes that are not UTF-8, and nesting deep enough to exhaust a stack.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn


def loads(data: bytes, *, max_bytes: int) -> Any:
    """Parse `data`. Raises ValueError, whose message never quotes the input."""
    if len(data) > max_bytes:
        raise ValueError(f"longer than {max_bytes} bytes")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique_members, parse_constant=_refuse_constant)
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError("not JSON in UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("NaN and infinities are not JSON")
