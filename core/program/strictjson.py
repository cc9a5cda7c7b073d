"""JSON in which every reader sees the same thing (RFC 8259 section 4 leaves duplicate names to the reader).

Security decisions hang on these documents, so whatever two parsers could read differently is refused, as I-JSON
(RFC 7493 section 2) asks: duplicate names, NaN, infinities and numbers that overflow to them, integers that a double
cannot hold, lone surrogates, bytes that are not UTF-8, and nesting that could exhaust a stack.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

MAX_INTEGER = 2**53 - 1
MAX_DEPTH = 32
MAX_COMMAS = 20_000
"""Values are separated by commas, so this bounds their number. A document has hundreds, Intel's collateral thousands;
a megabyte of empty objects would take seconds and gigabytes to be told what each of them lacks."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def loads(data: bytes, *, max_bytes: int, max_commas: int = MAX_COMMAS) -> Any:
    """Parse `data`. Raises ValueError, whose message never quotes the input."""
    if len(data) > max_bytes:
        raise ValueError(f"longer than {max_bytes} bytes")
    if data.count(b",") > max_commas:
        raise ValueError("too many values")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_members,
            parse_int=_exact_integer,
            parse_float=_finite_number,
            parse_constant=_refuse_constant,
        )
        _inspect(value)
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError("not JSON in UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


def _exact_integer(digits: str) -> int:
    # The length is looked at first: Python refuses thousands of digits in words of its own.
    if len(digits) > 17 or abs(number := int(digits)) > MAX_INTEGER:
        raise ValueError("an integer is beyond 2^53 - 1")
    return number


def _finite_number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("NaN and infinities are not JSON")


def _inspect(value: Any, *, depth: int = 0) -> None:
    """Refuse deep nesting, and surrogates: UTF-8 holds none, so they can only come from escapes."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise ValueError("a string holds half of a surrogate pair")
    elif isinstance(value, dict):
        for name, member in value.items():
            _inspect(name, depth=depth)
            _inspect(member, depth=depth + 1)
    elif isinstance(value, list):
        for item in value:
            _inspect(item, depth=depth + 1)
