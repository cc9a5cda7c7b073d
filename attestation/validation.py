"""Typed values from untrusted documents: frozen dataclasses validated by pydantic, faults told without the input.

A dataclass opts in with `__pydantic_config__ = STRICT`: no coercion, and unknown members are refused.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, TypeVar

from pydantic import (
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

T = TypeVar("T")

STRICT = ConfigDict(strict=True, extra="forbid")


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


Base64 = Annotated[bytes, PlainValidator(decode_base64), PlainSerializer(encode_base64)]
Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\Z")]


def validate(adapter: TypeAdapter[T], value: Any) -> T:
    """`value` as the adapter's type. Raises ValueError listing every fault by place, and no input."""
    try:
        return adapter.validate_python(value)
    except ValidationError as exc:
        raise ValueError("; ".join(_fault(error) for error in exc.errors(include_input=False))) from None


def _fault(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "document"
    return f"{place}: {error['msg']}"
