"""Values are typed strictly, and faults are told without the input."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter

from core.program.validation import (
    MAX_FAULTS,
    STRICT,
    Base64,
    Hex,
    Label,
    OnlyTrue,
    Sha256Hex,
    VersionOne,
    decode_base64,
    encode_base64,
    validate,
)


class _Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class _Inner:
    __pydantic_config__ = STRICT
    number: int = 0


@dataclass(frozen=True, slots=True)
class _Sample:
    __pydantic_config__ = STRICT
    version: VersionOne = 1
    number: int = 0
    flag: bool = False
    sure: OnlyTrue = True
    label: Label = "x"
    labels: tuple[Label, ...] = ()
    digest: Sha256Hex = "0" * 64
    data: Base64 = b""
    colour: _Colour = _Colour.RED
    inner: _Inner = _Inner()


_SAMPLE = TypeAdapter(_Sample)


def test_one_fault_is_one_sentence() -> None:
    @dataclass(frozen=True, slots=True)
    class Listed:
        __pydantic_config__ = STRICT
        digests: Annotated[tuple[Sha256Hex, ...], Field(min_length=1)]
        inner: tuple[_Inner, ...] = ()

    adapter = TypeAdapter(Listed)
    for value, told in (
        ({"digests": ["AB"]}, "digests.0: must be 64 lower-case hexadecimal digits"),
        ({"digests": []}, "digests: must not be empty"),
        ({"digests": ["0" * 64], "inner": [{"number": "7"}]}, "inner.0.number: Input should be a valid integer"),
    ):
        with pytest.raises(ValueError, match=f"^{told}$"):
            validate(adapter, value)


@pytest.mark.parametrize(
    "text", ["", "0" * 15, "0" * 17, "0" * 15 + "g", "0" * 15 + "A", "0" * 15 + "\n", "\uff10" * 16]
)
def test_only_so_many_digits_are_hexadecimal(text: str) -> None:
    adapter = TypeAdapter(Annotated[str, Hex(16, 32)])
    assert validate(adapter, "0123456789abcdef" * 2) == "0123456789abcdef" * 2
    with pytest.raises(ValueError, match="must be 16 or 32 lower-case hexadecimal digits"):
        validate(adapter, text)


_FAULTS: dict[str, dict[str, Any]] = {
    "true for 1": {"version": True},
    "1.0 for 1": {"version": 1.0},
    "another version": {"version": 2},
    "text for a number": {"number": "7"},
    "a float for a number": {"number": 7.0},
    "a flag for a number": {"number": True},
    "text for a flag": {"flag": "true"},
    "a number for a flag": {"flag": 1},
    "false where only true will do": {"sure": False},
    "1 for true": {"sure": 1},
    "a number for text": {"label": 7},
    "an empty label": {"label": ""},
    "a label of several lines": {"label": "a\nb"},
    "a label that a terminal obeys": {"label": "\x1b[2J"},
    "a label that turns the line around": {"label": "a\u202eb"},
    "a label without end": {"label": "x" * 1025},
    "text for an array": {"labels": "ab"},
    "an object for an array": {"labels": {"a": 1}},
    "a number in an array of labels": {"labels": [1]},
    "a digest in capitals": {"digest": "A" * 64},
    "a digest with a line break": {"digest": "0" * 64 + "\n"},
    "a short digest": {"digest": "0" * 63},
    "a colour that is none": {"colour": "blue"},
    "null": {"number": None},
    "an unknown member": {"canary": 1},
    "an unknown member inside": {"inner": {"canary": 1}},
    "a wrong member inside": {"inner": {"number": "7"}},
    "a date": {"number": dt.date(2026, 1, 1)},
}


@pytest.mark.parametrize("value", _FAULTS.values(), ids=_FAULTS.keys())
def test_nothing_is_converted(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        validate(_SAMPLE, value)


def test_arrays_objects_and_words_become_tuples_dataclasses_and_members() -> None:
    value = {"labels": ["a", "b"], "inner": {"number": 3}, "colour": "red", "data": "aGk="}
    assert validate(_SAMPLE, value) == _Sample(labels=("a", "b"), inner=_Inner(3), data=b"hi")


@pytest.mark.parametrize("value", [None, [], 1, "text"])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="document"):
        validate(_SAMPLE, value)


def test_every_fault_is_told_by_its_place_and_none_by_its_value() -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        validate(_SAMPLE, {"number": "canary", "digest": "canary", "inner": {"number": "canary"}, "surplus": "canary"})
    message = str(refusal.value)
    assert [fault.partition(":")[0] for fault in message.split("; ")] == ["number", "digest", "inner.number", "surplus"]
    assert "canary" not in message


def test_a_member_whose_name_is_no_plain_word_is_not_named() -> None:
    with pytest.raises(ValueError, match="unprintable name") as refusal:
        validate(_SAMPLE, {"\x1b[2J": 1, "x" * 65: 1})
    assert "\x1b" not in str(refusal.value)
    assert "xx" not in str(refusal.value)


def test_a_document_of_faults_has_a_short_message() -> None:
    with pytest.raises(ValueError, match=f"and {1000 - MAX_FAULTS} more faults") as refusal:
        validate(_SAMPLE, {f"m{number}": 1 for number in range(1000)})
    assert len(str(refusal.value)) < 2_000


@given(st.binary(max_size=100))
def test_base64_is_read_back(data: bytes) -> None:
    assert decode_base64(encode_base64(data)) == data


@pytest.mark.parametrize("text", ["aGk", "aGl=", "aGk=\n", " aGk=", "aGk==", "a-_=", "aGk=aGk=", "ä", 7, None, b"aGk="])
def test_base64_in_another_form_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="base64"):
        decode_base64(text)
