"""How one form value is read: text in, a typed value out, None where the text is not allowed.

Readers return None instead of raising, since an exception of `float` or `json.loads` quotes the text it met. Each can
say what it allows, so that what a caller is told of a range is the range.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

from core.transcript.faults import Fault, FaultKind, Subject
from engine.openai.subjects import subject_of

T_co = TypeVar("T_co", covariant=True)
E = TypeVar("E", bound=StrEnum)

LEAST_NORMAL: Final = 2.0**-126
"""The smallest number that float32 holds with all its digits. What a model computes with is no finer, and divides by
what it is given; whatever is nearer to zero is zero, as it is to processors that flush it."""

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
class Reader(Generic[T_co]):
    """How a text is read, and what it must be for that.

    read: None for a text that is not allowed. rule: how a sentence "... must be ..." ends; empty if all are allowed.
    """

    read: Callable[[str], T_co | None]
    rule: str = ""


@dataclass(frozen=True, slots=True)
class One(Generic[T_co]):
    """A field that holds one value.

    error: what a value that the reader does not allow is answered with.
    unsupported: values that the API defines and we do not serve.
    unset: values, in lower case, that say the same as not sending the field.
    also: names that other servers have for the field.
    """

    name: str
    reader: Reader[T_co]
    error: FaultKind = FaultKind.INVALID
    unsupported: frozenset[str] = frozenset()
    unset: frozenset[str] = frozenset()
    also: tuple[str, ...] = ()

    @property
    def subject(self) -> Subject:
        return subject_of(self.name)

    @property
    def names(self) -> tuple[str, ...]:
        """All that the field may be called."""
        return (self.name, *self.also)

    def of(self, values: FormValues) -> T_co | None:
        """The value sent, None if none was. Raises Fault for one that is not allowed, or for two."""
        texts = [text for name in self.names for text in values.lists.get(name, ())]
        if len(texts) > 1:
            raise Fault(FaultKind.REPEATED, self.subject)
        return self.check(texts[0]) if texts and texts[0].lower() not in self.unset else None

    def check(self, text: str) -> T_co:
        """The value of `text`. Raises Fault for one that is not allowed."""
        if text in self.unsupported:
            raise Fault(FaultKind.UNSUPPORTED_VALUE, self.subject)
        value = self.reader.read(text)
        if value is None:
            raise Fault(self.error, self.subject)
        return value


@dataclass(frozen=True, slots=True)
class Many(Generic[T_co]):
    """A field that holds a list, each entry sent as a part of its own. unset: as of `One`, of each entry."""

    name: str
    reader: Reader[T_co]
    error: FaultKind = FaultKind.INVALID
    unset: frozenset[str] = frozenset()

    @property
    def subject(self) -> Subject:
        return subject_of(self.name)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def of(self, values: FormValues) -> tuple[T_co, ...]:
        """The values sent, in order, repetitions left out. Raises Fault for one that is not allowed."""
        entry = One(self.name, self.reader, self.error)
        texts = (text for text in values.lists.get(self.name, ()) if text.lower() not in self.unset)
        return tuple(dict.fromkeys(map(entry.check, texts)))


TEXT: Final = Reader(str)
"""Any text."""

BOOLEAN: Final = Reader(lambda text: _BOOLEANS.get(text.lower()), "`true` or `false`")
"""`true`, `1`, `on`, `yes` and their opposites, in any case."""


def choice(kind: type[E]) -> Reader[E]:
    """A reader of the values of `kind`, spelled exactly."""
    allowed = {member.value: member for member in kind}
    return Reader(allowed.get, listed(allowed, "or"))


def integer(low: int, high: int) -> Reader[int]:
    """A reader of decimal integers from `low` to `high`."""

    def read(text: str) -> int | None:
        number = int(text) if _INTEGER.fullmatch(text) else None
        return None if number is None or not low <= number <= high else number

    return Reader(read, f"an integer from {low} to {high}")


def number(low: float, high: float, *, least: float = 0.0) -> Reader[float]:
    """A reader of decimal numbers from `low` to `high`; ASCII only, so neither `nan` nor `1_0`.

    least: what a number above zero counts as that is smaller. What is read is 0, or normal in float32.
    """

    def read(text: str) -> float | None:
        number = float(text) if _NUMBER.fullmatch(text) else None
        if number is None or not low <= number <= high:
            return None
        if 0.0 < number < least:
            return least
        return number if abs(number) >= LEAST_NORMAL else 0.0

    return Reader(read, f"a number from {written(low)} to {written(high)}")


def written(number: float) -> str:
    """A bound as a person writes it: `0.00001`, not `1e-05`."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def listed(names: Iterable[str], last: str = "and") -> str:
    """Names of ours in a sentence: `a`, `b` and `c`."""
    *others, final = (f"`{name}`" for name in names)
    return f"{', '.join(others)} {last} {final}" if others else final
