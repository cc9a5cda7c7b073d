"""What forms and JSON ask for, and every way in which they are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects.audiototext.errors import AudioToTextError
from proxy.dialects.audiototext.requests import parse_flag, parse_options, parse_url_request
from proxy.dialects.languages import NAMES, is_heard
from proxy.jobs.model import Capabilities, JobOptions

ALL = Capabilities(words=True, diarize=True, summary=True)


def options(can: Capabilities = ALL, /, **fields: Any) -> JobOptions:
    return parse_options(fields, can)


def refusal(can: Capabilities = ALL, /, **fields: Any) -> AudioToTextError:
    with pytest.raises(AudioToTextError) as caught:
        parse_options(fields, can)
    assert (caught.value.status, caught.value.code) == (400, "bad_request")
    return caught.value


def test_the_defaults_are_those_of_the_document() -> None:
    assert options() == JobOptions(segments=True, words=False, diarize=False, summary=False)


def test_all_fields_of_a_form_are_read() -> None:
    asked = options(
        model="whisper-turbo",
        language="en",
        diarization="true",
        timestamps="false",
        word_timestamps="on",
        summary="1",
        vocabulary="Kubernetes, gRPC",
        webhook_url="https://yourapp.example/done",
    )
    assert asked == JobOptions(
        model="whisper-large-v3-turbo",
        language="en",
        vocabulary=("Kubernetes", "gRPC"),
        words=True,
        diarize=True,
        summary=True,
        webhook_url="https://yourapp.example/done",
        extra={"untimed": "true"},
    )


@pytest.mark.parametrize(("model", "served"), [("whisper-large-v3", "whisper-large-v3"), ("", None), (None, None)])
def test_a_model_is_named_as_an_engine_names_it(model: str | None, served: str | None) -> None:
    assert options(model=model).model == served


@pytest.mark.parametrize("model", ["whisper-1", "Whisper-Turbo", 7])
def test_another_model_is_refused(model: object) -> None:
    assert "model" in refusal(model=model).message


@pytest.mark.parametrize("code", NAMES)
def test_each_language_is_taken(code: str) -> None:
    asked = options(language=code)
    assert (asked.language, asked.extra) == ((code, {}) if is_heard(code) else (None, {"language": code}))


@pytest.mark.parametrize("language", ["", None])
def test_an_empty_language_is_detected(language: str | None) -> None:
    assert options(language=language).language is None


@pytest.mark.parametrize("language", ["english", "xx", "en-US", 7])
def test_another_language_is_refused(language: object) -> None:
    assert "language" in refusal(language=language).message


@pytest.mark.parametrize("value", ["true", "TRUE", " 1 ", "on", "yes", True])
def test_a_flag_is_set(value: object) -> None:
    assert parse_flag({"summary": value}, "summary", default=False)


@pytest.mark.parametrize("value", ["false", "0", "off", "No", "", False])
def test_a_flag_is_not_set(value: object) -> None:
    assert not parse_flag({"timestamps": value}, "timestamps", default=True)


@pytest.mark.parametrize("name", ["diarization", "timestamps", "word_timestamps", "summary"])
@pytest.mark.parametrize("value", ["maybe", 2, None, []])
def test_what_is_no_flag_is_refused(name: str, value: object) -> None:
    assert name in refusal(**{name: value}).message


@pytest.mark.parametrize("value", ['["a", "b c"]', "a, b c,", ["a", " b c "]])
def test_a_vocabulary_is_an_array_or_has_commas(value: object) -> None:
    assert options(vocabulary=value).vocabulary == ("a", "b c")


@pytest.mark.parametrize("value", ["[1]", "[", '["a"', 7, {"a": 1}, ["a"] * 101, ["a" * 101]])
def test_another_vocabulary_is_refused(value: object) -> None:
    assert "vocabulary" in refusal(vocabulary=value).message


@pytest.mark.parametrize("url", ["ftp://a.example", "nothing", 7])
def test_a_webhook_that_is_no_link_is_refused(url: object) -> None:
    assert "webhook_url" in refusal(webhook_url=url).message


@pytest.mark.parametrize("name", ["diarization", "word_timestamps", "summary"])
def test_what_the_engine_cannot_do_is_refused(name: str) -> None:
    assert name in refusal(Capabilities(words=False, diarize=False), **{name: "true"}).message


def test_unknown_fields_are_left_alone() -> None:
    assert options(colour="green") == JobOptions()


def test_json_has_the_same_options_beside_its_link() -> None:
    body = json.dumps({"url": "https://www.youtube.com/watch?v=dQw4w9WgXcQ", "diarization": True, "summary": True})
    url, asked = parse_url_request(body.encode(), ALL)
    assert url == "https://www.youtube.com/watch?v=dQw4w9WgXcQ"
    assert asked == JobOptions(diarize=True, summary=True)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"{}", b'{"url": ""}', b'{"url": 7}', b'{"url": "file:///x"}'])
def test_json_without_a_link_is_refused(body: bytes) -> None:
    with pytest.raises(AudioToTextError) as caught:
        parse_url_request(body, ALL)
    assert caught.value.status == 400
