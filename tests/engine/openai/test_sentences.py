"""Every kind and subject that can occur has a sentence of its own, which names the field, the range and the cure."""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Callable, Iterator
from string import Formatter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.faults import API_KEY, AUDIO, LANGUAGE, MODEL, Fault, FaultKind, Subject, option
from core.transcript.types import Task
from engine.openai import fields, multipart, unserved
from engine.openai.errors import to_response
from engine.openai.fields import parse_transcription, parse_translation
from engine.openai.models import ModelCatalogue, ServedModel
from engine.openai.multipart import MultipartReader
from engine.openai.sentences import GENERAL, SENTENCES, sentence_of
from engine.openai.subjects import param_of, subject_of
from engine.openai.values import Many, One
from engine.speech.speakers import REFERENCES
from tests.engine.openai.forms import CATALOGUE, CONTENT_TYPE, PLAIN, VOICES, body, field, file, form, part, read
from tests.places import ROOT

Pair = tuple[FaultKind, Subject]

ENGLISH = ModelCatalogue((ServedModel("tiny.en", 0, languages=frozenset({"en"}), tasks=frozenset({Task.TRANSCRIBE})),))


def message(fault: Fault) -> str:
    text = json.loads(to_response(fault).body)["error"]["message"]
    assert isinstance(text, str)
    return text


def told(*pairs: tuple[str, str], models: ModelCatalogue = CATALOGUE, translate: bool = False) -> str:
    """What the sender of these fields is told."""
    with pytest.raises(Fault) as caught:
        (parse_translation if translate else parse_transcription)(form(*pairs), models)
    assert caught.value.subject is not None
    assert (caught.value.kind, caught.value.subject) in SENTENCES
    return message(caught.value)


def figures(sentence: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(sentence) if name is not None]


# --- every fault has its sentence

# Where the kind or the subject of a fault is not written where it is raised. Those of the rows are tried below.
ELSEWHERE = {
    "self.error, self.subject",
    "FaultKind.REPEATED, self.subject",
    "FaultKind.UNSUPPORTED_VALUE, self.subject",
    "FaultKind.UNSUPPORTED, row.subject",
    "FaultKind.UNSUPPORTED, option(row.name)",
    "rule.kind, subject_of(rule.field)",
    "_REFUSALS[verdict], AUDIO",
    "exc.kind, exc.subject and REFERENCES",
    "why, None",
}


def raised() -> Iterator[tuple[str, str, str]]:
    """Where `core` and `engine` make a fault, and its kind and subject as they are written there."""
    for package in ("core", "engine"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Fault", "LimitFault"):
                    kind, subject = (*node.args, ast.Constant(None))[:2]
                    either = (subject.body, subject.orelse) if isinstance(subject, ast.IfExp) else (subject,)
                    yield from ((module, ast.unparse(kind), ast.unparse(one)) for one in either)


def occurring() -> Iterator[tuple[FaultKind, Subject | None]]:
    """The kinds and subjects that are written where they are raised."""
    for module, kind, subject in raised():
        if f"{kind}, {subject}" not in ELSEWHERE:
            names = vars(importlib.import_module(module))
            yield eval(kind, names), eval(subject, names)


def of_rows() -> Iterator[Pair]:
    for row in fields.ROWS:
        if row.reader.rule:
            yield row.error, row.subject
        if isinstance(row, One):
            yield FaultKind.REPEATED, row.subject
            if row.unsupported:
                yield FaultKind.UNSUPPORTED_VALUE, row.subject
    yield from ((FaultKind.UNSUPPORTED, row.subject) for row in fields.SAMPLING)
    yield from ((FaultKind.UNSUPPORTED, option(row.name)) for row in unserved.REFUSED)
    yield from ((FaultKind.UNSUPPORTED, option(row.name)) for row in unserved.REFUSED_WITHOUT_SPEAKERS)
    yield from ((rule.kind, subject_of(rule.field)) for rule in fields._RULES)
    yield from ((kind, AUDIO) for kind in (FaultKind.UNREADABLE, FaultKind.TOO_SHORT))  # the decoder's refusals
    yield FaultKind.UNREADABLE, REFERENCES  # likewise


def test_the_faults_that_are_raised_are_found() -> None:
    written = {f"{kind}, {subject}" for _, kind, subject in raised()}
    assert written > ELSEWHERE
    assert {(FaultKind.TOO_LARGE, AUDIO), (FaultKind.OVERLOADED, None), (FaultKind.MISSING, MODEL)} < set(occurring())


def test_every_kind_and_subject_that_can_occur_has_a_sentence_and_every_sentence_can_occur() -> None:
    pairs = {(kind, subject) for kind, subject in occurring() if subject is not None} | set(of_rows())
    assert pairs == SENTENCES.keys()


def test_every_kind_has_a_sentence_that_needs_no_subject_and_no_figure() -> None:
    assert GENERAL.keys() == set(FaultKind)
    assert not any(figures(sentence) for sentence in GENERAL.values())


def test_what_nobody_foresaw_is_told_by_its_kind() -> None:
    assert sentence_of(Fault(FaultKind.MEDIA_TYPE, LANGUAGE)) == GENERAL[FaultKind.MEDIA_TYPE]
    assert sentence_of(Fault(FaultKind.TOO_LONG, AUDIO)) == GENERAL[FaultKind.TOO_LONG]
    assert sentence_of(Fault(FaultKind.TOO_LONG, AUDIO, numbers={"limit_s": 9})) == (
        "The audio is longer than the limit of 9 seconds."
    )


@pytest.mark.parametrize(("pair", "sentence"), SENTENCES.items(), ids=lambda value: str(value)[:60])
def test_a_sentence_about_a_field_names_it(pair: Pair, sentence: str) -> None:
    kind, subject = pair
    assert sentence.endswith((".", "bytes read)", "'webm']")), "OpenAI's two have no full stop"
    if (subject.is_option or subject == LANGUAGE) and "-" not in subject.name:
        assert f"`{param_of(Fault(kind, subject))}" in sentence


# --- the sentences themselves


@pytest.mark.parametrize("row", [row for row in fields.ROWS if row.reader.rule], ids=lambda row: row.name)
def test_a_value_that_is_not_allowed_is_answered_with_what_is(row: One[object] | Many[object]) -> None:
    sentence = told((row.name, "\N{SNOWMAN}"), models=VOICES, translate=True)
    assert row.reader.rule in sentence or row is fields.GRANULARITIES


@given(st.sampled_from([row for row in fields.ROWS if not row.reader.rule]), st.text(min_size=1))
def test_a_row_without_a_rule_takes_every_text(row: One[object] | Many[object], text: str) -> None:
    assert row.reader.read(text) is not None


@pytest.mark.parametrize("row", [row for row in fields.ROWS if isinstance(row, One)], ids=lambda row: row.name)
def test_a_field_sent_twice_is_told_so(row: One[object]) -> None:
    for second in row.names:
        sentence = told((row.name, "x"), (second, "x"), models=VOICES, translate=True)
        assert sentence.endswith("was sent more than once. Send it once.")
        assert all(f"`{name}`" in sentence for name in row.names)


@pytest.mark.parametrize("row", fields.SAMPLING, ids=lambda row: row.name)
def test_a_sampling_field_that_is_not_taken_is_told_how_it_could_be(row: One[float]) -> None:
    assert "`--sampling-fields`" in told((row.name, "1"), models=PLAIN)


@pytest.mark.parametrize("row", [*unserved.REFUSED, *unserved.REFUSED_WITHOUT_SPEAKERS], ids=lambda row: row.name)
def test_a_refused_field_is_told_why(row: unserved.Refused) -> None:
    assert told((row.name, "1")) == row.sentence
    assert row.sentence.endswith(f"Leave `{row.name}` out.")


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([("temperature", "2")], "`temperature` must be a number from 0 to 1."),
        ([("top_p", "0")], "`top_p` must be a number from 0.00001 to 1."),
        ([("repetition_penalty", "1e-300")], "`repetition_penalty` must be a number from 0.01 to 2."),
        ([("frequency_penalty", "3")], "`frequency_penalty` must be a number from -2 to 2."),
        ([("top_k", "-2")], "`top_k` must be an integer from -1 to 2147483647."),
        ([("stream", "x")], "`stream` must be `true` or `false`."),
        (
            [("response_format", "xml")],
            "`response_format` must be `json`, `text`, `srt`, `verbose_json`, `vtt` or `diarized_json`.",
        ),
        (
            [("language", "hh")],
            (
                "`language` must be an ISO 639-1 or 639-3 code such as `en`, a tag such as `en-US`, an English name, "
                "or `auto`."
            ),
        ),
        (
            [("model", "x")],
            "The model does not exist or you do not have access to it. `GET /v1/models` lists the models.",
        ),
        (
            [("chunking_strategy", "x")],
            (
                "`chunking_strategy` must be `auto`, or an object of type `server_vad` whose `threshold` is a number "
                "from 0 to 1, `silence_duration_ms` an integer from 0 to 2000 and `prefix_padding_ms` an integer from "
                "0 to 1000."
            ),
        ),
        (
            [("chunking_strategy", "auto"), ("chunking_strategy", "auto")],
            "`chunking_strategy` or one of its members was sent more than once. Send it once.",
        ),
        (
            [("prompt", "a"), ("initial_prompt", "b")],
            "`prompt` (or `initial_prompt`) was sent more than once. Send it once.",
        ),
        (
            [("diarize", "true")],
            "This engine does not tell speakers apart. Leave `diarize` out.",
        ),
    ],
)
def test_a_sentence_word_for_word(pairs: list[tuple[str, str]], sentence: str) -> None:
    assert told(*pairs) == sentence


@pytest.mark.parametrize("name", ["language", "languages"])
def test_a_language_that_the_model_does_not_know_is_no_misspelling(name: str) -> None:
    assert told((name, "de"), models=ENGLISH) == (
        f"This model does not know the language that `{name}` names. "
        "`GET /v1/models` tells the languages of each model."
    )
    assert json.loads(ENGLISH.list_body())["data"][0]["languages"] == ["en"]


def test_no_key_is_not_a_wrong_key() -> None:
    missing, wrong = Fault(FaultKind.MISSING, API_KEY), Fault(FaultKind.UNAUTHENTICATED)
    assert message(missing) == "You didn't provide an API key. Send it in the header `Authorization: Bearer YOUR_KEY`."
    assert message(wrong) == "Incorrect API key provided: it is not known here, or has expired."
    for fault in (missing, wrong):
        response = to_response(fault)
        assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")
        assert json.loads(response.body)["error"] | {"message": ""} == {
            "message": "",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
        }


# --- the form


def of_body(*pieces: bytes, content_type: str = CONTENT_TYPE, **limits: int) -> str:
    """What the sender of this body is told."""
    with pytest.raises(Fault) as caught:
        read(b"".join(pieces), MultipartReader(content_type, limits=multipart.Limits(**limits)))
    fault = caught.value
    assert fault.subject is None or (fault.kind, fault.subject) in SENTENCES
    return message(fault)


def test_the_limit_of_a_file_is_the_one_that_is_told_whatever_is_too_large() -> None:
    sentence = "Maximum content size limit (26214400) exceeded ({} bytes read)"
    for limit_bytes in (26_214_400, 27_262_976):
        numbers = {"limit_bytes": limit_bytes, "read_bytes": 30_000_000}
        assert message(Fault(FaultKind.TOO_LARGE, AUDIO, numbers=numbers)) == sentence.format(30_000_000)
    assert of_body(body(file(bytes(26_214_401)))) == sentence.format(26_214_401)
    epilogue = bytes(27_262_977 - len(body(file())))
    assert of_body(body(file()), epilogue) == sentence.format(27_262_977)


LIMITS: list[tuple[Callable[[], str], str]] = [
    (lambda: of_body(body(file(), field("a", "b")), parts=1), "The form has more than 1 parts."),
    (lambda: of_body(body(field("a", "bc")), field_bytes=1), "A field of the form is larger than 1 bytes."),
    (
        lambda: of_body(body(field("a", "bc")), fields_bytes=1),
        "The fields of the form are together larger than 1 bytes.",
    ),
    (
        lambda: of_body(body(field("ab", "c")), name_bytes=1),
        "The name of a field is missing, longer than 1 bytes, or not in UTF-8.",
    ),
    (
        lambda: of_body(body(file()), part_headers=1),
        (
            "Each header of a part must be one line `Name: value` of at most 8192 bytes, without control characters, "
            "and stand once; a part may have 1."
        ),
    ),
    (
        lambda: of_body(b"x" * 20, preamble_bytes=9),
        "Within the first 9 bytes of the form no line is `--` and the boundary that the Content-Type names.",
    ),
]


@pytest.mark.parametrize(("ask", "sentence"), LIMITS)
def test_a_limit_of_the_form_is_told(ask: Callable[[], str], sentence: str) -> None:
    assert ask() == sentence


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no line is `--` and the boundary"),
        (body(file())[:-4], "cut short: its last line must be"),
        (body(file()).replace(b"\r\n", b"\n"), "must end in CR LF"),
        (body(field("a", "b") + field("c", "d").replace(b"\r\n", b"\tx\r\n", 1)), "Nothing but blanks may follow"),
        (body(part('name="a"', b"", "Bad Name: x")), "one line `Name: value`"),
        (body(part('name="a"; "x"', b"")), "Content-Disposition: form-data; name="),
        (body(part('name="file"; filename="a"; filename="b"', b"")), "not clear where a file name ends"),
        (body(part('filename="a"', b"")), "The name of a field is missing"),
        (body(part('name="a"', b"\xff")), "not in UTF-8"),
        (body(part('name="a"', b"", "Content-Type: text/plain; charset=koi8-r")), "`iso-8859-1`"),
        (body(part('name="a"', b"", "Content-Transfer-Encoding: base64")), "Content-Transfer-Encoding"),
        (body(part('name="audio"; filename="a"', b"")), "Send the audio in the field `file`"),
        (body(field("file", "a.mp3")), "`-F file=@PATH`"),
        (body(file(), file()), "`file` must be sent exactly once"),
    ],
)
def test_what_is_wrong_with_a_form_is_told(data: bytes, words: str) -> None:
    assert words in of_body(data)


def test_a_content_type_without_a_boundary_is_told_where_it_comes_from() -> None:
    assert "if the header is left to them" in of_body(content_type="multipart/form-data")
