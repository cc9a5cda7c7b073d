"""Typed values from untrusted documents: frozen dataclasses validated by pydantic, faults told without the input.

A dataclass opts in with `__pydantic_config__ = STRICT`: no coercion, and unknown members are refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")

STRICT = ConfigDict(strict=True, extra="forbid")

MAX_FAULTS = 20
"""Faults that are told one by one: a hostile document may hold millions."""

_TELLABLE = re.compile(r"[A-Za-z0-9_-]{1,64}")


def decode_base64(value: object) -> bytes:
    """Canonical standard base64 (RFC 4648 section 4): padding required, nothing else in the alphabet."""
    if not isinstance(value, str):
        raise ValueError("must be a base64 string")  # noqa: TRY004 - pydantic turns ValueError into a fault
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
    if encode_base64(decoded) != value:
        raise ValueError("not canonical base64")
    return decoded


def encode_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be printable")
    return value


def _true(value: bool) -> bool:
    if not value:
        raise ValueError("may only be true")
    return value


class Hex:
    """Metadata of a text that is so many lower-case hexadecimal digits, of one length or another."""

    def __init__(self, *lengths: int) -> None:
        self.lengths = lengths
        self.form = f"{' or '.join(map(str, lengths))} lower-case hexadecimal digits"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: str) -> str:
        if len(value) not in self.lengths or set(value) - set("0123456789abcdef"):
            raise ValueError(f"must be {self.form}")
        return value


Base64 = Annotated[bytes, PlainValidator(decode_base64), PlainSerializer(encode_base64)]
Sha256Hex = Annotated[str, Hex(64)]
MAX_UNIX_S = 253_402_300_799
"""The last second of the year 9999, and of what a datetime can hold."""
UnixSeconds = Annotated[int, Field(ge=0, le=MAX_UNIX_S)]
VersionOne = Annotated[int, Field(ge=1, le=1)]
"""Not `Literal[1]`, which would take 1.0 and true for 1."""
OnlyTrue = Annotated[bool, AfterValidator(_true)]
PRINTABLE = AfterValidator(_printable)
"""For text that ends up on a terminal or in a log: no control characters, line breaks or changes of direction."""
Label = Annotated[str, StringConstraints(min_length=1, max_length=1024), PRINTABLE]


def once(fault: str, of: Callable[[Any], object] = lambda item: item) -> AfterValidator:
    """Refuse a list in which two items are alike. of: by what they are compared."""

    def check(items: Sequence[T]) -> Sequence[T]:
        if len({of(item) for item in items}) != len(items):
            raise ValueError(fault)
        return items

    return AfterValidator(check)


def validate(adapter: TypeAdapter[T], value: Any) -> T:
    """`value`, parsed JSON or TOML, as the adapter's type. Raises ValueError listing the faults by place, and no input.

    It goes through pydantic's JSON mode, where strict means what it should: an object becomes a dataclass, an array a
    tuple and a word an enum member, and nothing else is converted.
    """
    try:
        return adapter.validate_json(json.dumps(value))
    except ValidationError as exc:
        raise ValueError("; ".join(_faults(exc))) from None
    except TypeError:
        raise ValueError("dates and times have no place here") from None  # TOML has them, JSON does not


def _faults(error: ValidationError) -> Sequence[str]:
    faults = error.errors(include_input=False, include_url=False)[:MAX_FAULTS]
    within = {fault["loc"][:-1] for fault in faults}
    # Of a list whose items are at fault it is also said that too few are left, which is no fault of its own.
    told = [_fault(fault) for fault in faults if fault["type"] != "too_short" or fault["loc"] not in within]
    more = error.error_count() - len(faults)
    return [*told, f"and {more} more faults"] if more else told


def _fault(fault: Any) -> str:
    place = ".".join(_part(part) for part in fault["loc"]) or "document"
    if fault["type"] == "unexpected_keyword_argument":
        return f"{place}: unknown member"
    if fault["type"] == "too_short" and fault["ctx"]["min_length"] == 1:
        return f"{place}: must not be empty"
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}"


def _part(part: str | int) -> str:
    """One step of a place. The name of an unknown member is input too: told only where it is a plain word."""
    text = str(part)
    return text if _TELLABLE.fullmatch(text) else "(unprintable name)"
