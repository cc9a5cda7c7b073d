"""A summary is asked for in JSON of ours, and told so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.transcript.faults import LANGUAGE, MODEL, TRANSCRIPT, Fault, FaultKind, Subject
from engine.summaries.requests import MAX_BODY_BYTES, TOPICS, WORDS, check_content_type, parse, render
from engine.summaries.types import Summary, Turn, Wish


def parsed(**body: Any) -> Wish:
    return parse(json.dumps(body).encode(), "instruct")


def test_a_text_is_enough() -> None:
    assert parsed(text=" Hello. ") == Wish((Turn("Hello."),))


def test_all_that_can_be_said() -> None:
    segments = [{"text": "a", "speaker": "A"}, {"text": " b ", "speaker": "A"}, {"text": " "}, {"text": "c"}]
    wish = parsed(segments=segments, model="instruct", language="de-CH", max_words=30, max_topics=0)
    assert wish == Wish((Turn("a b", "A"), Turn("c")), "de", 30, 0)


def test_turns_are_joined_while_one_speaks() -> None:
    segments = [{"text": text, "speaker": who} for text, who in (("a", "A"), ("b", "B"), ("c", "B"), ("d", "A"))]
    assert parsed(segments=segments).turns == (Turn("a", "A"), Turn("b c", "B"), Turn("d", "A"))


@pytest.mark.parametrize(
    ("body", "kind", "subject"),
    [
        ({}, FaultKind.MALFORMED, TRANSCRIPT),
        ({"text": "a", "segments": []}, FaultKind.MALFORMED, TRANSCRIPT),
        ({"text": 1}, FaultKind.MALFORMED, TRANSCRIPT),
        ({"text": "a", "instructions": "obey"}, FaultKind.MALFORMED, TRANSCRIPT),
        ({"segments": [{"text": "a", "speaker": "x" * 257}]}, FaultKind.MALFORMED, TRANSCRIPT),
        ({"segments": [{"text": "a", "start": 1}]}, FaultKind.MALFORMED, TRANSCRIPT),
        ({"text": "a", "max_words": "9"}, FaultKind.MALFORMED, TRANSCRIPT),
        ({"text": " \n"}, FaultKind.MISSING, TRANSCRIPT),
        ({"segments": []}, FaultKind.MISSING, TRANSCRIPT),
        ({"text": "a", "model": "other"}, FaultKind.UNKNOWN, MODEL),
        ({"text": "a", "language": "klingon"}, FaultKind.INVALID, LANGUAGE),
        ({"text": "a", "max_words": 301}, FaultKind.INVALID, WORDS),
        ({"text": "a", "max_words": -1}, FaultKind.INVALID, WORDS),
        ({"text": "a", "max_topics": 21}, FaultKind.INVALID, TOPICS),
        ({"text": "a", "max_words": 0, "max_topics": 0}, FaultKind.INVALID, TOPICS),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(body: Any, kind: FaultKind, subject: Subject) -> None:
    with pytest.raises(Fault) as refused:
        parsed(**body)
    assert (refused.value.kind, refused.value.subject) == (kind, subject)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"text":"a","text":"b"}', b"{" + b" " * MAX_BODY_BYTES])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Fault) as refused:
        parse(body, "instruct")
    assert refused.value.kind is FaultKind.MALFORMED


def test_ten_hours_of_segments_are_read() -> None:
    segments = [{"text": "one, two, three, and so on", "speaker": f"Speaker {number % 2}"} for number in range(30_000)]
    assert len(parsed(segments=segments).turns) == 30_000


@pytest.mark.parametrize("content_type", [None, "text/plain", "multipart/form-data; boundary=x"])
def test_only_json_is_read(content_type: str | None) -> None:
    check_content_type("Application/JSON; charset=utf-8", None)
    for given, encoding in ((content_type, None), ("application/json", "gzip")):
        with pytest.raises(Fault) as refused:
            check_content_type(given, encoding)
        assert (refused.value.kind, refused.value.subject) == (FaultKind.MEDIA_TYPE, TRANSCRIPT)


def test_a_summary_is_told_with_the_models_name() -> None:
    assert json.loads(render(Summary("A.", ("b",), 9, 3), "instruct")) == {
        "object": "summary",
        "model": "instruct",
        "summary": "A.",
        "topics": ["b"],
        "usage": {"input_tokens": 9, "output_tokens": 3},
    }
    assert json.loads(render(Summary(None, (), 9, 3), "m"))["summary"] is None
