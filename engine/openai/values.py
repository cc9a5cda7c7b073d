"""How one form value is read: text in, a typed value out, None where the text is not allowed.

Readers return None instead of raising, since an exception of `float` or `json.loads` quotes the text it met.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

from engine.errors import ErrorCode, RequestError

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
Reader = Callable[[str], T | None]

# `x`, `x[]` and `x[0]` are an entry of the list x (OpenAI's SDK, curl users, PHP); `x[key]` is a member of x.
_NAME: Final = re.compile(r"([A-Za-z_]+)(?:\[(\w*)\])?")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?")
# The words that FastAPI, and so vLLM and speaches, take for a boolean.
_BOOLEANS: Final = {
    **dict.fromkeys(("true", "1", "on", "yes", "t", "y"), True),
    **dict.fromkeys(("false", "0", "off", "no", "f", "n"), False),
}


@dataclass(frozen=True, slots=True)
class FormValues:
    """The fields of a form by name. Empty values are left out: browsers and SDKs send them for "not set".

    lists: name to the values sent under `name`, `name[]` or `name[0]`, in order.
    members: name and key to the values sent under `name[key]`.
    """

    lists: Mapping[str, tuple[str, ...]]
    members: Mapping[tuple[str, str], tuple[str, ...]]

    @classmethod
    def of(cls, fields: Iterable[tuple[str, str]]) -> FormValues:
        lists: dict[str, tuple[str, ...]] = {}
        members: dict[tuple[str, str], tuple[str, ...]] = {}
        for sent, value in fields:
            if not value:
                continue
            name, key = _split(sent)
            if key:
                members[name, key] = (*members.get((name, key), ()), value)
            else:
                lists[name] = (*lists.get(name, ()), value)
        return cls(lists, members)

    def has(self, name: str) -> bool:
        """Whether anything was sent for `name`, in whatever spelling."""
        return name in self.lists or any(parent == name for parent, _ in self.members)


def _split(sent: str) -> tuple[str, str]:
    match = _NAME.fullmatch(sent)
    if match is None:
        return sent, ""
    key = match[2] or ""
    return match[1], "" if key.isdigit() else key


@dataclass(frozen=True, slots=True)
class One(Generic[T]):
    """A field that holds one value.

    error: what a value that `read` does not allow is answered with.
    unsupported: values that the API defines and we do not serve.
    """

    name: str
    read: Reader[T]
    error: ErrorCode = ErrorCode.INVALID_VALUE
    unsupported: frozenset[str] = frozenset()

    def of(self, values: FormValues) -> T | None:
        """The value sent, None if none was. Raises RequestError for one that is not allowed, or for two."""
        texts = values.lists.get(self.name, ())
        if len(texts) > 1:
            raise RequestError(ErrorCode.INVALID_VALUE, self.name)
        return self.check(texts[0]) if texts else None

    def check(self, text: str) -> T:
        """The value of `text`. Raises RequestError for one that is not allowed."""
        if text in self.unsupported:
            raise RequestError(ErrorCode.UNSUPPORTED_VALUE, self.name)
        value = self.read(text)
        if value is None:
            raise RequestError(self.error, self.name)
        return value


@dataclass(frozen=True, slots=True)
class Many(Generic[T]):
    """A field that holds a list, each entry sent as a part of its own."""

    name: str
    read: Reader[T]
    error: ErrorCode = ErrorCode.INVALID_VALUE

    def of(self, values: FormValues) -> tuple[T, ...]:
        """The values sent, in order, repetitions left out. Raises RequestError for one that is not allowed."""
        entry = One(self.name, self.read, self.error)
        return tuple(dict.fromkeys(map(entry.check, values.lists.get(self.name, ()))))


def text(value: str) -> str:
    """Any text."""
    return value


def boolean(value: str) -> bool | None:
    """`true`, `1`, `on`, `yes` and their opposites, in any case."""
    return _BOOLEANS.get(value.lower())


def choice(kind: type[E]) -> Reader[E]:
    """A reader of the values of `kind`, spelled exactly."""
    return {member.value: member for member in kind}.get


def integer(low: int, high: int) -> Reader[int]:
    """A reader of decimal integers from `low` to `high`."""

    def read(value: str) -> int | None:
        if not _INTEGER.fullmatch(value):
            return None
        number = int(value)
        return number if low <= number <= high else None

    return read


def number(low: float, high: float, *, above_low: bool = False) -> Reader[float]:
    """A reader of decimal numbers from `low` (or above it) to `high`; ASCII only, so neither `nan` nor `1_0`."""

    def read(value: str) -> float | None:
        if not _NUMBER.fullmatch(value):
            return None
        number = float(value)
        return number if low <= number <= high and not (above_low and number == low) else None

    return read
