"""What requests ask for, and every way in which they are refused; nothing of a value is repeated."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.languages import NAMES, is_heard
from proxy.dialects.media_types import MEDIA_TYPES
from proxy.dialects.scriptivox.errors import ScriptivoxError
from proxy.dialects.scriptivox.requests import (
    UploadRequest,
    parse_idempotency_key,
    parse_list,
    parse_transcribe,
    parse_upload,
)
from proxy.jobs.model import Capabilities, JobOptions, JobStatus, ListQuery, UploadId

ALL = Capabilities(words=True, diarize=True)
URL = "https://example.com/podcast.mp3"
TOKENLESS = [
    "ast",
    "kea",
    "ceb",
    "ny",
    "ff",
    "ig",
    "ga",
    "kam",
    "ky",
    "lg",
    "luo",
    "nso",
    "or",
    "om",
    "ckb",
    "umb",
    "wo",
    "xh",
    "zu",
]


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def options(can: Capabilities = ALL, /, **fields: Any) -> JobOptions:
    return parse_transcribe(body(url=URL, **fields), can).options


def refusal(do: Any) -> ScriptivoxError:
    with pytest.raises(ScriptivoxError) as caught:
        do()
    return caught.value


# ---------------------------------------------------------------- uploads


@pytest.mark.parametrize(("extension", "media_type"), MEDIA_TYPES.items())
def test_each_of_the_25_extensions_has_its_media_type(extension: str, media_type: str) -> None:
    assert parse_upload(body(filename=f"meeting.{extension}")) == UploadRequest(f"meeting.{extension}", media_type)
    assert parse_upload(body(filename=f"A.B.{extension.upper()}")).content_type == media_type


def test_there_are_10_audio_and_15_video_extensions() -> None:
    kinds = [media_type.partition("/")[0] for media_type in MEDIA_TYPES.values()]
    assert (kinds.count("audio"), kinds.count("video")) == (10, 15)


@pytest.mark.parametrize(
    "filename",
    [
        None,
        7,
        "",
        "é.mp3",
        "会议.mp3",
        "🎵.mp3",
        *(f"a{mark}b.mp3" for mark in "/\\<>\"'`\x00\n\x7f"),
        "noextension",
        ".mp3",
        "trailing.",
        "a" * 252 + ".mp3",
    ],
)
def test_a_filename_that_is_not_allowed_is_refused(filename: object) -> None:
    error = refusal(lambda: parse_upload(body(filename=filename)))
    assert (error.status, error.code) == (400, "INVALID_FILENAME")
    assert "filename" in error.message


def test_a_filename_may_have_255_characters() -> None:
    parse_upload(body(filename="a" * 251 + ".mp3"))


def test_a_missing_filename_is_refused() -> None:
    assert refusal(lambda: parse_upload(b"{}")).code == "INVALID_FILENAME"


@pytest.mark.parametrize("extension", ["txt", "pdf", "mp33", "exe"])
def test_an_unsupported_extension_is_another_error(extension: str) -> None:
    error = refusal(lambda: parse_upload(body(filename=f"notes.{extension}")))
    assert (error.status, error.code) == (400, "INVALID_MEDIA_FORMAT")


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"null", b"\xff", b'{"url": 1, "url": 2}', b"{" * 99])
def test_a_body_that_is_no_object_is_refused(data: bytes) -> None:
    for parse in (parse_upload, lambda data: parse_transcribe(data, ALL)):
        assert refusal(lambda parse=parse: parse(data)).code == "INVALID_REQUEST"


def test_an_unknown_field_is_named() -> None:
    assert "dirize" in refusal(lambda: parse_transcribe(body(url=URL, dirize=True), ALL)).message
    assert "name" in refusal(lambda: parse_upload(body(filename="a.mp3", name="b"))).message


def test_the_name_of_an_unknown_field_is_not_repeated_for_pages() -> None:
    message = refusal(lambda: parse_upload(body(**{"x\n" * 5_000: 1}))).message
    assert len(message) < 100
    assert "\n" not in message


def test_a_field_without_a_name_is_unknown_too() -> None:
    assert refusal(lambda: parse_upload(body(**{"filename": "a.mp3", "": 1}))).code == "INVALID_REQUEST"


# ---------------------------------------------------------------- jobs


def test_the_defaults_are_those_of_the_document() -> None:
    assert options() == JobOptions(words=True, min_audio_ms=1000)


@pytest.mark.parametrize("url", ["http://a.example/x", "https://user:pass@a.example:8443/x?y#z", "https://[::1]/a.mp3"])
def test_http_and_https_links_are_taken(url: str) -> None:
    assert parse_transcribe(body(url=url), ALL).url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a.example/x",
        "file:///etc/passwd",
        "example.com/x.mp3",
        "https://",
        "https://a b.example",
        "https://a.example/\n",
        "https://a.example:99999/x",
        "https://[::1/x",
        "https://a.example/" + "x" * 2048,
        7,
        ["https://a.example"],
    ],
)
def test_other_links_are_refused_for_recordings_and_for_webhooks(url: object) -> None:
    assert "url" in refusal(lambda: parse_transcribe(body(url=url), ALL)).message
    assert "webhook_url" in refusal(lambda: options(webhook_url=url)).message


def test_a_link_may_have_2048_characters() -> None:
    url = "https://a.example/"
    parse_transcribe(body(url=url + "x" * (2048 - len(url))), ALL)


def test_a_webhook_may_be_http() -> None:
    assert options(webhook_url="http://hooks.example/x").webhook_url == "http://hooks.example/x"


def test_an_upload_is_taken_in_place_of_a_link() -> None:
    asked = parse_transcribe(body(upload_id="u"), ALL)
    assert (asked.upload, asked.url) == (UploadId("u"), None)


@pytest.mark.parametrize(
    "fields", [{}, {"url": URL, "upload_id": "u"}, {"url": None, "upload_id": None}, {"upload_id": 7}]
)
def test_neither_both_or_another_type_is_refused(fields: dict[str, Any]) -> None:
    assert refusal(lambda: parse_transcribe(body(**fields), ALL)).code == "INVALID_REQUEST"


@pytest.mark.parametrize("code", NAMES)
def test_each_language_is_taken(code: str) -> None:
    asked = options(language=code.upper())
    assert asked.language == (code if is_heard(code) else None)
    assert asked.extra == ({} if is_heard(code) else {"language": code})


def test_there_are_119_languages_of_which_19_are_heard_as_what_is_detected() -> None:
    assert len(NAMES) == 119
    assert sorted(code for code in NAMES if not is_heard(code)) == sorted(TOKENLESS)


def test_null_asks_for_detection() -> None:
    assert options(language=None).language is None


@pytest.mark.parametrize("language", ["", "en-US", "english", "xx", 7, False])
def test_other_languages_are_refused(language: object) -> None:
    assert "language" in refusal(lambda: options(language=language)).message


@pytest.mark.parametrize(
    ("name", "value"), [("diarize", "true"), ("diarize", 1), ("diarize", None), ("align", "false"), ("align", 0)]
)
def test_flags_are_booleans(name: str, value: object) -> None:
    assert name in refusal(lambda: options(ALL, **{name: value})).message


def test_speakers_bring_the_words_along() -> None:
    assert options(diarize=True, align=False) == JobOptions(words=True, diarize=True, min_audio_ms=1000)
    assert options(align=False) == JobOptions(words=False, min_audio_ms=1000)


@pytest.mark.parametrize("count", [1, 50])
def test_speakers_may_be_counted(count: int) -> None:
    assert options(diarize=True, speaker_count=count).speaker_count == count


@pytest.mark.parametrize("count", [0, 51, -1, True, "2", 2.0])
def test_another_count_is_refused(count: object) -> None:
    assert "speaker_count" in refusal(lambda: options(diarize=True, speaker_count=count)).message


@pytest.mark.parametrize("fields", [{}, {"diarize": False}])
def test_a_count_needs_speakers(fields: dict[str, bool]) -> None:
    assert "diarize" in refusal(lambda: options(ALL, speaker_count=2, **fields)).message


def test_speakers_are_refused_where_nobody_tells_them_apart() -> None:
    error = refusal(lambda: options(Capabilities(diarize=False), diarize=True))
    assert error.code == "INVALID_REQUEST"
    assert "does not tell speakers apart" in error.message


# ---------------------------------------------------------------- lists


def test_a_list_has_its_defaults() -> None:
    assert parse_list({}) == ListQuery(limit=50, ascending=False)


def test_all_parameters_of_a_list_are_read() -> None:
    query = {"status": "failed", "from": "2025-01-15T10:30:00Z", "to": "2025-01-15T12:30:00.5+01:00", "limit": "200"}
    assert parse_list({**query, "order": "asc", "cursor": "c"}) == ListQuery(
        JobStatus.FAILED, 1_736_937_000_000, 1_736_940_600_500, ascending=True, limit=200, cursor="c"
    )


@pytest.mark.parametrize("status", ["created", "downloading", "pending", "processing", "completed", "failed"])
def test_a_list_is_filtered_by_each_status(status: str) -> None:
    assert parse_list({"status": status}).status == status


def test_a_moment_without_an_offset_is_utc() -> None:
    assert parse_list({"from": "2025-01-15"}).from_ms == 1_736_899_200_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "done"),
        ("status", ""),
        ("from", "yesterday"),
        ("to", "2025-13-01"),
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "ten"),
        ("limit", "٣"),
        ("order", "newest"),
    ],
)
def test_other_parameters_are_refused_by_name(name: str, value: str) -> None:
    error = refusal(lambda: parse_list({name: value}))
    assert error.code == "INVALID_REQUEST"
    assert re.match(name, error.message)


# ---------------------------------------------------------------- idempotency


def test_a_key_is_printable_ascii() -> None:
    assert parse_idempotency_key(None) is None
    assert parse_idempotency_key("~ " * 127 + "x") == "~ " * 127 + "x"


@pytest.mark.parametrize("key", ["", "x" * 256, "é", "a\tb"])
def test_another_key_is_refused(key: str) -> None:
    assert "Idempotency-Key" in refusal(lambda: parse_idempotency_key(key)).message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["url", "upload_id", "language", "diarize", "speaker_count", "align", "webhook_url", "filename", "other"]
)


@given(fields=st.dictionaries(FIELDS, JSON | st.sampled_from([URL, "en", "a.mp3", True]), max_size=5))
def test_whatever_comes_is_taken_or_refused_and_nothing_else(fields: dict[str, Any]) -> None:
    data = json.dumps(fields).encode()
    for parse in (parse_upload, lambda data: parse_transcribe(data, ALL)):
        with suppress(ScriptivoxError):
            parse(data)


@given(
    query=st.dictionaries(st.sampled_from(["status", "from", "to", "limit", "order", "cursor"]), st.text(max_size=30))
)
def test_whatever_is_asked_of_a_list_is_taken_or_refused(query: dict[str, str]) -> None:
    with suppress(ScriptivoxError):
        parse_list(query)
