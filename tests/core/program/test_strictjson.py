"""JSON that two parsers could read differently is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.program import strictjson

SECRET = "canary-4711"

REFUSED = {
    "a member named twice": b'{"canary-4711": 1, "canary-4711": 2}',
    "a member named twice, once by escapes": b'{"a": 1, "\\u0061": 2}',
    "a member named twice, deep inside": b'[[{"a": {"b": 1, "b": 1}}]]',
    "NaN": b"NaN",
    "infinity": b"[Infinity]",
    "minus infinity": b"[-Infinity]",
    "a number that overflows to infinity": b"1e400",
    "a number that overflows to minus infinity": b"-1e400",
    "an integer that a double cannot hold": b"9007199254740992",
    "a negative integer that a double cannot hold": b"-9007199254740992",
    "an integer of thousands of digits": b"9" * 5_000,
    "half of a surrogate pair": b'"\\ud800"',
    "half of a surrogate pair in a name": b'{"\\udfff": 1}',
    "bytes that are not UTF-8": b'"\xff"',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "nesting that exhausts a stack": b"[" * 100_000,
    "nesting deeper than any document of ours": b"[" * 34 + b"]" * 34,
    "bytes after the end": b"{} {}",
    "nothing": b"",
    "a trailing comma": b"[1,]",
    "a comment": b"{} // canary-4711",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_ambiguous_is_refused_without_being_quoted(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        strictjson.loads(data, max_bytes=1_000_000)
    assert SECRET not in str(refusal.value)
    assert len(str(refusal.value)) < 100


def test_the_limit_is_exact() -> None:
    assert strictjson.loads(b"[1]", max_bytes=3) == [1]
    with pytest.raises(ValueError, match="longer than 2 bytes"):
        strictjson.loads(b"[1]", max_bytes=2)


@pytest.mark.parametrize("number", [0, -1, 2**53 - 1, -(2**53) + 1, 1.5, -1e300])
def test_every_number_that_all_parsers_agree_on_is_read(number: float) -> None:
    assert strictjson.loads(json.dumps(number).encode(), max_bytes=100) == number


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(_VALUES, st.booleans())
def test_what_is_unambiguous_is_read_as_it_was_written(value: object, ascii_only: bool) -> None:
    assert strictjson.loads(json.dumps(value, ensure_ascii=ascii_only).encode(), max_bytes=1_000_000) == value


def test_more_values_than_any_document_has_are_refused_before_they_are_read() -> None:
    fits = b"[" + b"{}," * strictjson.MAX_COMMAS + b"{}]"
    assert len(strictjson.loads(fits, max_bytes=len(fits))) == strictjson.MAX_COMMAS + 1
    with pytest.raises(ValueError, match="too many values"):
        strictjson.loads(b"[{}," + fits[1:], max_bytes=2 * len(fits))
