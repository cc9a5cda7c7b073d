"""`docs/openai.md` says of fields, files and errors what the code does."""

from __future__ import annotations

import re

import pytest

from core.media.types import MAX_FILE_BYTES
from core.transcript.faults import AUDIO, Fault, FaultKind
from engine.api import KEEPALIVE_S
from engine.backends.faster_whisper.transcriber import FasterWhisperTranscriber
from engine.backends.vllm.transcriber import AttachedVllm, VllmTranscriber
from engine.openai import chunking, fields, unserved
from engine.openai.errors import ROWS, ErrorCode, code_of, to_response
from engine.openai.fields import parse_transcription
from engine.openai.form_headers import CHARSETS
from engine.openai.multipart import Form, Limits
from engine.openai.raw_audio import raw_samples
from engine.openai.rendering import ResponseFormat
from engine.openai.sentences import SENTENCES
from engine.speech.fallback import LADDER
from engine.speech.whisper import PROMPT_TOKENS
from engine.types import MAX_PREFIX_PADDING_MS, MAX_SILENCE_DURATION_MS, VoiceActivity
from tests.core.media.test_decode import FILES, FILMS
from tests.engine.openai.forms import CATALOGUE, PLAIN, body, fault, form, part, read
from tests.places import ROOT

DOCUMENT = (ROOT / "docs" / "openai.md").read_text()


def rows(title: str, pattern: str) -> list[tuple[str, ...]]:
    section = DOCUMENT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return re.findall(pattern, section, re.MULTILINE)


FIELDS = rows("Fields", r"^\| `([^`]+)` \| (\w[\w.-]*) \| (\w[\w ]*) \| (.*)\|$")
HERE = {name: here for name, _, here, _ in FIELDS}
SAID = {name: said for name, _, _, said in FIELDS}


def named(here: str) -> set[str]:
    return {name for name, other in HERE.items() if other == here}


# --- fields


def test_every_field_that_the_code_knows_has_its_line_and_no_other_has() -> None:
    sampling = {row.name for row in fields.SAMPLING}
    chunks = {chunking.NAME, *(f"{chunking.NAME}[{key}]" for key in chunking.MEMBERS)}
    assert len(HERE) == len(FIELDS)
    served = {name for row in fields.ROWS for name in row.names}
    assert named("served") == (served - sampling - named("by operator")) | chunks | {"file"}
    assert named("by model") == sampling
    assert named("by operator") == {row.name for row in unserved.REFUSED_WITHOUT_SPEAKERS}
    assert named("ignored") == unserved.IGNORED
    assert named("refused") | named("refused unless off") == {row.name for row in unserved.REFUSED}
    assert named("refused unless off") == {row.name for row in unserved.REFUSED if row.unless_off}


@pytest.mark.parametrize("name", sorted(named("refused") | named("refused unless off")))
def test_a_field_that_is_called_refused_is(name: str) -> None:
    assert refusal(name, "1") is ErrorCode.UNSUPPORTED_PARAMETER


@pytest.mark.parametrize("name", sorted(named("refused unless off")))
def test_a_field_that_is_called_refused_unless_off_is_taken_when_it_is(name: str) -> None:
    assert parse_transcription(form((name, "false")), CATALOGUE) == parse_transcription(form(), CATALOGUE)


@pytest.mark.parametrize("name", sorted(named("ignored")))
def test_a_field_that_is_called_ignored_is(name: str) -> None:
    assert parse_transcription(form((name, "1")), CATALOGUE) == parse_transcription(form(), CATALOGUE)


@pytest.mark.parametrize("name", sorted(named("by model")))
def test_a_field_that_is_the_models_to_take_is(name: str) -> None:
    assert name in parse_transcription(form((name, "1")), CATALOGUE).hearing.sampling
    with pytest.raises(Fault, match="unsupported"):
        parse_transcription(form((name, "1")), PLAIN)


def refusal(name: str, value: str) -> ErrorCode:
    with pytest.raises(Fault) as caught:
        parse_transcription(form((name, value)), CATALOGUE)
    return code_of(caught.value)


def test_the_figures_of_the_fields_are_the_codes() -> None:
    usual = VoiceActivity()
    assert f"the last {PROMPT_TOKENS} tokens are read," in SAID["prompt"]
    assert f"the last {fields.MAX_PROMPT_CHARS} characters." in SAID["prompt"]
    assert f"{MAX_FILE_BYTES // 2**20} MiB" in SAID["file"]
    assert re.findall(r"`(\w+)`", SAID["response_format"])[: len(ResponseFormat)] == [
        kind.value for kind in ResponseFormat
    ]
    assert f"Above 0, less than {fields.LEAST_TEMPERATURE:g} counts as that" in SAID["temperature"]
    for row in fields.SAMPLING:
        if row.reader.rule.startswith("a number"):
            assert row.reader.rule.partition(" ")[2].partition(" ")[2] in SAID[row.name].lower()
    ladder = [f"{temperature:g}" for temperature in LADDER]
    assert f"At {ladder[0]}," in SAID["temperature"]
    assert f"{', '.join(ladder[1:-1])} and {ladder[-1]};" in SAID["temperature"]
    assert f"{usual.threshold:g} by default" in SAID["chunking_strategy[threshold]"]
    silence = f"{usual.silence_duration_ms} by default, 0 to {MAX_SILENCE_DURATION_MS}."
    assert silence in SAID["chunking_strategy[silence_duration_ms]"]
    padding = f"{usual.prefix_padding_ms} by default, 0 to {MAX_PREFIX_PADDING_MS}."
    assert padding in SAID["chunking_strategy[prefix_padding_ms]"]


def test_what_the_document_says_of_forms_is_the_codes() -> None:
    assert f"a preamble of up to {Limits().preamble_bytes} bytes" in DOCUMENT
    named_charsets = DOCUMENT.partition("names another charset than ")[2].partition(")")[0].lower()
    assert {name for name in CHARSETS if name in named_charsets} == CHARSETS.keys() - {"utf-16le", "utf-16be"}


def test_the_sampling_fields_of_each_backend_are_the_codes() -> None:
    assert VllmTranscriber.sampling == named("by model")
    others = FasterWhisperTranscriber({}).capabilities.sampling
    assert f"those of faster-whisper\n`{'`, `'.join(others)}`," in DOCUMENT
    assert AttachedVllm("nano", url="http://127.0.0.1:8000").capabilities.sampling == frozenset()


def test_a_quiet_stream_has_a_comment_as_often_as_the_document_says() -> None:
    assert f"nothing to send for {KEEPALIVE_S:g} s," in DOCUMENT


# --- files

FORMATS = DOCUMENT.partition("\nContainers: ")[2].partition(" A recording")[0]


def test_every_format_that_is_named_is_tried_and_every_one_tried_is_named() -> None:
    containers, _, films = FORMATS.partition("Of a film (")
    tried, filmed = ({name.partition(",")[0] for name in names} for names in (FILES, FILMS))
    words = set(re.findall(r"\b[a-z0-9]{2,4}\b", containers)) - {"and", "as", "at", "also"}
    assert words == tried
    assert set(re.findall(r"[a-z0-9]+", films.partition(" and ")[0])) == filmed - tried
    assert "and the above" in films


def test_the_formats_that_the_refusal_names_are_tried() -> None:
    named_by_openai = re.findall(r"'(\w+)'", SENTENCES[FaultKind.UNREADABLE, AUDIO])
    assert len(named_by_openai) == 10
    assert set(named_by_openai) <= {name.partition(",")[0] for name in FILES}


RAW = rows("Files", r"^\| (`audio.*`.*) \| (\w+)-endian \| (\d+) to (\d+); (.*) \| 1 or 2; 1 by default \|$")


@pytest.mark.parametrize(("types", "order", "low", "high", "rest"), RAW)
def test_raw_samples_are_taken_as_the_table_says(types: str, order: str, low: str, high: str, rest: str) -> None:
    for kind in re.findall(r"`(.*?)`", types):
        for rate in (low, high):
            samples = raw_samples(_raw(f"{kind}; rate={rate}; channels=2"))
            assert samples is not None
            assert (samples.rate_hz, samples.channels, samples.big_endian) == (int(rate), 2, order == "big")
        for outside in (int(low) - 1, int(high) + 1):
            with pytest.raises(Fault, match="malformed"):
                raw_samples(_raw(f"{kind}; rate={outside}"))
        if rest == "required":
            with pytest.raises(Fault, match="malformed"):
                raw_samples(_raw(kind))
        else:
            usual = raw_samples(_raw(kind))
            assert usual is not None
            assert f"{usual.rate_hz} by default" == rest


def test_the_table_of_raw_samples_has_both_its_lines() -> None:
    assert [order for _, order, *_ in RAW] == ["little", "big"]


def _raw(content_type: str) -> Form:
    return read(body(part('name="file"; filename="a"', bytes(8), f"Content-Type: {content_type}")))


# --- errors


def test_every_error_has_its_line() -> None:
    documented = rows("Errors", r"^\| `(\w+)` \| (\d{3}) \| `(\w+)` \| (.*) \|$")
    assert documented == [
        (code.value, str(ROWS[code].status), ROWS[code].type, _retry(code)) for code in sorted(ErrorCode)
    ]


def _retry(code: ErrorCode) -> str:
    return "after a pause" if "retry-after" in to_response(fault(code)).headers else "no"
