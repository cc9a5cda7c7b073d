"""Every row of the field tables, every rule between fields, and no value in an error."""

from __future__ import annotations

import json
import re
import struct
import traceback
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.faults import Fault
from core.transcript.types import Task
from engine.backends.faster_whisper.messages import MAX_JSON_BYTES, Kind, encode, options_to_fields
from engine.openai import chunking, fields, unserved
from engine.openai.errors import ErrorCode, code_of, to_response
from engine.openai.fields import parse_transcription, parse_translation
from engine.openai.models import ModelCatalogue, ServedModel
from engine.openai.multipart import Form
from engine.openai.rendering import Granularity, Rendering, ResponseFormat
from engine.openai.subjects import param_of
from engine.openai.values import One, integer, number
from engine.types import (
    MAX_PREFIX_PADDING_MS,
    MAX_SILENCE_DURATION_MS,
    DecodingOptions,
    Detail,
    Hearing,
    VoiceActivity,
)
from tests.engine.openai.forms import CATALOGUE, PLAIN, VOICES, ask, form

SEGMENT, WORD = Granularity.SEGMENT, Granularity.WORD
DIARIZED = ResponseFormat.DIARIZED_JSON
CANARY = "Vlxqz7"
REFUSED = {
    *("use_beam_search", "n", "length_penalty", "include_stop_str_in_output", "vllm_xargs", "tinydiarize"),
    *("url", "audio_url", "file_url", "callback", "callback_url", "offset_t", "offset_n", "duration", "max_len"),
    *("redact", "profanity_filter", "vad_parameters", "vad_threshold", "vad_min_silence_duration_ms"),
    *("vad_speech_pad_ms", "vad_min_speech_duration_ms", "vad_max_speech_duration_s"),
}
REFUSED_WITHOUT_SPEAKERS = {
    *("known_speaker_names", "known_speaker_references"),
    *("diarize", "diarization", "speaker_labels", "num_speakers", "min_speakers", "max_speakers"),
}
"""Written out once more, so that none is lost unnoticed."""


def parsed(*pairs: tuple[str, str]) -> Hearing:
    return parse_transcription(form(*pairs), CATALOGUE).hearing


def rendering(*pairs: tuple[str, str]) -> Rendering:
    return parse_transcription(form(*pairs), CATALOGUE).rendering


def translated(**values: str) -> Hearing:
    return parse_translation(form(*values.items()), CATALOGUE).hearing


def refused(
    *pairs: tuple[str, str], models: ModelCatalogue = CATALOGUE, translate: bool = False
) -> tuple[ErrorCode, str | None]:
    parse = parse_translation if translate else parse_transcription
    with pytest.raises(Fault) as caught:
        parse(form(*pairs), models)
    return code_of(caught.value), param_of(caught.value)


def test_a_file_alone_gets_openais_defaults() -> None:
    assert parse_transcription(form(), CATALOGUE) == fields.ParsedRequest(
        Hearing(model="openai/whisper-large-v3"), Rendering(), 0
    )
    assert ask().temperature == 0.0
    assert ask().voice_activity == VoiceActivity()
    assert rendering() == Rendering(ResponseFormat.JSON, frozenset({SEGMENT}), stream=False)


def test_empty_values_count_as_not_sent() -> None:
    names = [
        "model",
        "language",
        "prompt",
        "response_format",
        "temperature",
        "stream",
        "chunking_strategy",
        "n",
        "top_k",
    ]
    assert parsed(*((name, "") for name in names)) == ask()


@pytest.mark.parametrize("parse", [parse_transcription, parse_translation])
def test_a_missing_or_empty_file_is_refused(parse: Callable[[Form, ModelCatalogue], fields.ParsedRequest]) -> None:
    for audio, code in ((None, ErrorCode.MISSING_REQUIRED_PARAMETER), (bytearray(), ErrorCode.AUDIO_TOO_SHORT)):
        with pytest.raises(Fault) as caught:
            parse(Form((), audio), CATALOGUE)
        assert (code_of(caught.value), param_of(caught.value)) == (code, "file")


# --- single fields


@pytest.mark.parametrize(
    ("name", "sent", "attribute", "value"),
    [
        ("model", "whisper-1", "model", "openai/whisper-large-v3"),
        ("language", "en-US", "language", "en"),
        ("language", "Cantonese", "language", "yue"),
        ("language", "ben", "language", "bn"),
        ("prompt", "Said Zoë:", "prompt", "Said Zoë:"),
        ("temperature", "0", "temperature", 0.0),
        ("temperature", "1", "temperature", 1.0),
        ("temperature", ".25", "temperature", 0.25),
        ("temperature", "2e-1", "temperature", 0.2),
        ("stream", "true", "stream", True),
        ("stream", "True", "stream", True),
        ("stream", "1", "stream", True),
        ("stream", "off", "stream", False),
        ("include", "logprobs", "logprobs", True),
        ("include[]", "logprobs", "logprobs", True),
        ("max_completion_tokens", "1", "max_tokens", 1),
        ("max_completion_tokens", "100000", "max_tokens", 448),
        ("hotwords", "Zoë, Kyiv", "prompt", "Glossary: Zoë, Kyiv."),
        ("keywords[]", "Zoë", "prompt", "Glossary: Zoë."),
        ("languages", "german", "languages", ("de",)),
        ("languages[]", "fr-CA", "languages", ("fr",)),
        ("stream_include_usage", "true", "stream_include_usage", True),
        ("vad_filter", "true", "voice_activity", VoiceActivity()),
        ("vad_filter", "false", "voice_activity", None),
        ("to_language", "fr", "language", None),
        ("vad", "false", "voice_activity", None),
        ("initial_prompt", "Said", "prompt", "Said"),
        ("task", "transcribe", "task", Task.TRANSCRIBE),
        ("task", "translate", "task", Task.TRANSLATE),
        ("translate", "true", "task", Task.TRANSLATE),
        ("translate", "false", "task", Task.TRANSCRIBE),
        ("language", "auto", "language", None),
        ("language", "AUTO", "language", None),
        ("languages[]", "auto", "languages", ()),
        ("detect_language", "true", "language", None),
        ("word_timestamps", "false", "details", frozenset()),
        *[(name, "true", "unknown", None) for name in sorted(unserved.IGNORED)],
        *[("response_format", kind.value, "response_format", kind) for kind in ResponseFormat if kind is not DIARIZED],
    ],
)
def test_a_field_is_read(name: str, sent: str, attribute: str, value: object) -> None:
    result = parse_transcription(form((name, sent)), CATALOGUE)
    assert result.unknown_fields == 0
    if attribute != "unknown":
        holder = result.hearing if hasattr(result.hearing, attribute) else result.rendering
        assert getattr(holder, attribute) == value


@pytest.mark.parametrize(
    ("name", "sent", "code"),
    [
        ("model", "whisper-2", ErrorCode.MODEL_NOT_FOUND),
        ("language", "hh", ErrorCode.INVALID_LANGUAGE),
        ("languages", "hh", ErrorCode.INVALID_LANGUAGE),
        ("response_format", "diarized_json", ErrorCode.UNSUPPORTED_VALUE),
        *[("response_format", text, ErrorCode.INVALID_VALUE) for text in ("JSON", "xml", "json ")],
        *[
            ("temperature", text, ErrorCode.INVALID_VALUE)
            for text in ("1.01", "-0.1", "nan", "inf", "1_0", "\u0660", "x", " 0")
        ],
        *[("stream", text, ErrorCode.INVALID_VALUE) for text in ("2", "maybe", " true")],
        *[("timestamp_granularities", text, ErrorCode.INVALID_VALUE) for text in ("words", "word,segment", "Word")],
        ("include", "tokens", ErrorCode.INVALID_VALUE),
        *[("max_completion_tokens", text, ErrorCode.INVALID_VALUE) for text in ("0", "-1", "1.5", "x", "9" * 30)],
        ("stream_include_usage", "x", ErrorCode.INVALID_VALUE),
        ("stream_continuous_usage_stats", "x", ErrorCode.INVALID_VALUE),
        ("vad_filter", "x", ErrorCode.INVALID_VALUE),
        ("task", "diarize", ErrorCode.INVALID_VALUE),
        ("translate", "de", ErrorCode.INVALID_VALUE),
        ("detect_language", "x", ErrorCode.INVALID_VALUE),
        ("word_timestamps", "x", ErrorCode.INVALID_VALUE),
        *[(name, "1", ErrorCode.UNSUPPORTED_PARAMETER) for name in sorted(REFUSED | REFUSED_WITHOUT_SPEAKERS)],
    ],
)
@pytest.mark.parametrize("translate", [False, True])
def test_a_value_that_is_not_allowed_is_refused_by_the_name_of_its_field(
    name: str, sent: str, code: ErrorCode, translate: bool
) -> None:
    assert refused((name, sent), translate=translate) == (code, name)


def test_the_refused_fields_are_these() -> None:
    assert {row.name for row in unserved.REFUSED} == REFUSED
    assert {row.name for row in unserved.REFUSED_WITHOUT_SPEAKERS} == REFUSED_WITHOUT_SPEAKERS


@pytest.mark.parametrize("row", [*unserved.REFUSED, *unserved.REFUSED_WITHOUT_SPEAKERS], ids=lambda row: row.name)
@pytest.mark.parametrize("sent", ["false", "False", "0", "off", "no"])
def test_a_refused_field_that_is_switched_off_asks_for_nothing(row: unserved.Refused, sent: str) -> None:
    if row.unless_off:
        assert parse_transcription(form((row.name, sent)), CATALOGUE) == parse_transcription(form(), CATALOGUE)
        assert refused((row.name, sent), (row.name, "2")) == (ErrorCode.UNSUPPORTED_PARAMETER, row.name)
    else:
        assert refused((row.name, sent)) == (ErrorCode.UNSUPPORTED_PARAMETER, row.name)


def test_who_sends_an_address_in_place_of_a_file_is_told_about_the_address() -> None:
    with pytest.raises(Fault) as caught:
        parse_transcription(Form((("url", "https://example.com/a.mp3"),)), CATALOGUE)
    assert param_of(caught.value) == "url"


@pytest.mark.parametrize(
    "spelling", ["known_speaker_names[]", "known_speaker_references[0]", "vllm_xargs[top]", "redact[]"]
)
def test_a_refused_field_is_refused_in_every_spelling(spelling: str) -> None:
    assert refused((spelling, "x")) == (ErrorCode.UNSUPPORTED_PARAMETER, spelling.partition("[")[0])


SCALARS = ["model", "language", "prompt", "response_format", "temperature", "stream", "hotwords", "seed", "vad_filter"]


@pytest.mark.parametrize("name", SCALARS)
def test_a_single_valued_field_sent_twice_is_refused(name: str) -> None:
    assert refused((name, "1"), (name, "1")) == (ErrorCode.INVALID_VALUE, name)


@pytest.mark.parametrize(("name", "other"), [("prompt", "initial_prompt"), ("vad_filter", "vad")])
def test_two_names_of_one_field_are_it_sent_twice(name: str, other: str) -> None:
    assert refused((name, "true"), (other, "true")) == (ErrorCode.INVALID_VALUE, name)


# --- the other servers' spellings


def test_a_language_that_is_to_be_detected_is_not_told() -> None:
    assert parsed(("detect_language", "true"), ("language", "de")).language is None
    assert parsed(("detect_language", "false"), ("language", "de")).language == "de"
    assert refused(("detect_language", "true"), ("language", "hh")) == (ErrorCode.INVALID_LANGUAGE, "language")


def test_candidates_beside_auto_are_candidates() -> None:
    assert parsed(("languages[]", "auto"), ("languages[]", "de")).languages == ("de",)


@pytest.mark.parametrize("pair", [("task", "translate"), ("translate", "true")])
def test_a_transcription_that_asks_for_a_translation_is_one(pair: tuple[str, str]) -> None:
    assert parsed(pair, ("language", "fr")) == translated(language="fr")
    assert refused(pair, models=PLAIN) == (ErrorCode.UNSUPPORTED_VALUE, "model")
    assert refused(pair, ("to_language", "fr")) == (ErrorCode.UNSUPPORTED_VALUE, "to_language")


@pytest.mark.parametrize("pair", [("task", "translate"), ("translate", "true"), ("translate", "false")])
def test_a_translation_may_say_that_it_is_one(pair: tuple[str, str]) -> None:
    assert translated(**dict([pair])).task is Task.TRANSLATE


def test_a_task_that_contradicts_what_is_asked_for_besides_is_refused() -> None:
    expected = (ErrorCode.UNSUPPORTED_VALUE, "task")
    assert refused(("task", "transcribe"), translate=True) == expected
    assert refused(("task", "transcribe"), ("translate", "true")) == expected


@pytest.mark.parametrize("sent", [(), (("timestamp_granularities", "segment"),)])
def test_word_timestamps_are_words_beside_the_segments(sent: tuple[tuple[str, str], ...]) -> None:
    pairs = (("response_format", "verbose_json"), ("word_timestamps", "true"), *sent)
    assert rendering(*pairs).granularities == {SEGMENT, WORD}
    assert parsed(*pairs).details == {Detail.WORDS}
    assert refused(("word_timestamps", "true")) == (ErrorCode.INVALID_VALUE, "timestamp_granularities")


# --- lists


def test_lists_are_read_in_every_spelling_and_without_repetitions() -> None:
    pairs = (("languages[]", "en"), ("languages", "de"), ("languages[0]", "eng"), ("languages[1]", "fr"))
    assert parsed(*pairs).languages == ("en", "de", "fr")


@pytest.mark.parametrize(
    ("sent", "granularities"),
    [((), {SEGMENT}), (("segment",), {SEGMENT}), (("word",), {WORD}), (("word", "segment"), {WORD, SEGMENT})],
)
@pytest.mark.parametrize("name", ["timestamp_granularities", "timestamp_granularities[]"])
def test_granularities_of_a_verbose_answer(name: str, sent: tuple[str, ...], granularities: set[Granularity]) -> None:
    asked = rendering(("response_format", "verbose_json"), *((name, value) for value in sent))
    assert asked.granularities == granularities


@pytest.mark.parametrize("kind", [None, "json", "text", "srt", "vtt"])
def test_words_need_a_verbose_answer_and_segments_do_not(kind: str | None) -> None:
    chosen = [("response_format", kind)] if kind else []
    assert rendering(*chosen, ("timestamp_granularities[]", "segment")).granularities == {SEGMENT}
    expected = (ErrorCode.INVALID_VALUE, "timestamp_granularities")
    assert refused(*chosen, ("timestamp_granularities[]", "word")) == expected


# --- the prompt


def test_keywords_and_hotwords_become_one_glossary_before_the_prompt() -> None:
    request = parsed(
        *[("prompt", "And then"), ("keywords[]", "New\n York "), ("keywords", "Zoë"), ("hotwords", "Zoë,, Kyiv ,")]
    )
    assert request.prompt == "Glossary: New York, Zoë, Kyiv. And then"


@pytest.mark.parametrize(
    ("sent", "prompt"),
    [
        ("<|startoftranscript|><|en|>Hello", "Hello"),
        ("a<|0.00|>b", "a b"),
        ("<|<|x|>endoftext|>", "<| endoftext|>"),
        ("<<|x|>|endoftext|>", "< |endoftext|>"),
        ("a <| b |> c", "a <| b |> c"),
        ("1 < 2 | 3 > 2", "1 < 2 | 3 > 2"),
        ("<|x|>", None),
        ("  ", None),
    ],
)
def test_special_tokens_are_taken_out_of_a_prompt(sent: str, prompt: str | None) -> None:
    assert ask(prompt=sent).prompt == prompt


@given(st.text(alphabet="<|>ab", max_size=30), st.lists(st.text(alphabet="<|>ab,", max_size=8), max_size=3))
def test_no_prompt_holds_a_special_token_in_the_end(prompt: str, words: list[str]) -> None:
    result = parsed(("prompt", prompt), *(("keywords[]", word) for word in words), ("hotwords", ",".join(words))).prompt
    assert not fields._SPECIAL_TOKEN.search(result or "")


def test_special_tokens_in_glossary_words_are_taken_out() -> None:
    assert parsed(("keywords[]", "<|nospeech|>"), ("hotwords", "<|en|>,a")).prompt == "Glossary: a."
    assert parsed(("keywords[]", "<|nospeech|>")).prompt is None


KEPT = fields.MAX_PROMPT_CHARS


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_of_a_long_prompt_the_end_is_kept(spare: int) -> None:
    request = parsed(("keywords[]", "Zoë"), ("prompt", "b" * (KEPT - len("Glossary: Zoë. ") - spare)))
    assert request.prompt is not None
    assert request.prompt.startswith("lossary" if spare < 0 else "Glossary: Zoë. b")
    assert len(request.prompt) == KEPT - max(spare, 0)


def test_a_glossary_gives_way_to_the_prompt_and_its_last_words_stay_longest() -> None:
    words = [("keywords[]", f"word{number}") for number in range(200)]
    assert ask(prompt="b" * KEPT).prompt == parsed(*words, ("prompt", "b" * KEPT)).prompt
    request = parsed(*words, ("prompt", "b" * (KEPT - len("word198, word199. "))))
    assert (request.prompt or "").startswith("word198, word199. b")


def test_control_characters_of_a_prompt_are_spaces() -> None:
    controls = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0))))
    kept = "\t\n\x0b\x0c\r\x85"
    spaced = "".join(one if one in kept else " " for one in controls)
    assert ask(prompt=f"a{controls}b").prompt == f"a{spaced}b"
    assert parsed(("keywords[]", f"New{controls}York"), ("hotwords", "\x01,\x02a")).prompt == "Glossary: New York, a."
    assert parsed(("keywords[]", "\x01" * 1000)).prompt is None


@pytest.mark.parametrize("character", ["\x01", "\U0001f600", '"'])
def test_the_longest_prompt_fits_into_a_message(character: str) -> None:
    lists = [("keywords[]", character * 1000 + str(number)) for number in range(250)]
    options = DecodingOptions("en", prompt=parsed(*lists, ("prompt", character * 65_000)).prompt)
    assert len(encode(Kind.TRANSCRIBE, options_to_fields(options))) < MAX_JSON_BYTES / 16


# --- chunking


VAD = VoiceActivity(threshold=0.4, silence_duration_ms=500, prefix_padding_ms=0)
VAD_JSON = '{"type": "server_vad", "threshold": 4e-1, "silence_duration_ms": 500, "prefix_padding_ms": 0, "x": []}'


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("chunking_strategy", "auto")], VoiceActivity()),
        ([("chunking_strategy", "null")], VoiceActivity()),
        ([("chunking_strategy", '{"type":"server_vad"}')], VoiceActivity()),
        (
            [
                ("chunking_strategy[type]", "server_vad"),
                ("chunking_strategy[threshold]", "0.4"),
                ("chunking_strategy[silence_duration_ms]", "500"),
                ("chunking_strategy[prefix_padding_ms]", "0"),
            ],
            VAD,
        ),
        ([("chunking_strategy", '{"type":"server_vad","threshold":null}')], VoiceActivity()),
        ([("chunking_strategy[type]", "server_vad")], VoiceActivity()),
        ([("chunking_strategy", VAD_JSON)], VAD),
        ([("vad_filter", "false"), ("chunking_strategy", "auto")], VoiceActivity()),
        ([("vad_filter", "false"), ("chunking_strategy", "null")], None),
    ],
)
def test_a_chunking_strategy_is_read_in_its_three_spellings(
    pairs: list[tuple[str, str]], expected: VoiceActivity | None
) -> None:
    assert parsed(*pairs).voice_activity == expected


@pytest.mark.parametrize(
    "pairs",
    [
        *[
            [("chunking_strategy", text)]
            for text in ("", "x", "Auto", "none", "[]", "1", "{", "{}", "true", '"auto"')
            if text
        ],
        [("chunking_strategy", '{"type":"semantic_vad"}')],
        [("chunking_strategy", '{"threshold":0.5}')],
        [("chunking_strategy", '{"type":"server_vad","threshold":1.5}')],
        [("chunking_strategy", '{"type":"server_vad","threshold":NaN}')],
        [("chunking_strategy", '{"type":"server_vad","threshold":true}')],
        [("chunking_strategy", '{"type":"server_vad","silence_duration_ms":1.5}')],
        [("chunking_strategy", '{"type":"server_vad","silence_duration_ms":-1}')],
        [("chunking_strategy", "[" * 1000)],
        [("chunking_strategy", "[" * 60_000)],
        [("chunking_strategy", '{"type":"server_vad"}' + " " * 1024)],
        [("chunking_strategy[threshold]", "0.5")],
        [("chunking_strategy[type]", "auto")],
        [("chunking_strategy[type]", "server_vad"), ("chunking_strategy[type]", "server_vad")],
        [("chunking_strategy[type]", "server_vad"), ("chunking_strategy", "auto")],
        [("chunking_strategy", "auto"), ("chunking_strategy[]", "auto")],
    ],
)
def test_a_chunking_strategy_that_is_not_allowed_is_refused(pairs: list[tuple[str, str]]) -> None:
    assert refused(*pairs) == (ErrorCode.INVALID_VALUE, "chunking_strategy")


@pytest.mark.parametrize(
    ("member", "most"),
    [("silence_duration_ms", MAX_SILENCE_DURATION_MS), ("prefix_padding_ms", MAX_PREFIX_PADDING_MS)],
)
def test_a_length_of_the_strategy_is_taken_up_to_its_limit_and_refused_beyond(member: str, most: int) -> None:
    kind = ("chunking_strategy[type]", "server_vad")
    taken = parsed(kind, (f"chunking_strategy[{member}]", str(most))).voice_activity
    assert getattr(taken, member) == most
    assert refused(kind, (f"chunking_strategy[{member}]", str(most + 1))) == (
        ErrorCode.INVALID_VALUE,
        "chunking_strategy",
    )


# --- streams


@pytest.mark.parametrize("kind", ResponseFormat)
def test_only_json_text_and_diarized_json_can_be_streamed(kind: ResponseFormat) -> None:
    pairs = (("stream", "true"), ("response_format", kind.value))
    if kind in (ResponseFormat.JSON, ResponseFormat.TEXT, DIARIZED):
        assert parse_transcription(form(*pairs), VOICES).rendering.stream
    else:
        assert refused(*pairs) == (ErrorCode.UNSUPPORTED_VALUE, "stream")


@pytest.mark.parametrize("name", ["stream_include_usage", "stream_continuous_usage_stats"])
@pytest.mark.parametrize("value", ["true", "false"])
def test_vllms_own_stream_fields_ask_for_its_shape_by_being_there(name: str, value: str) -> None:
    asked = rendering(("stream", "true"), (name, value))
    assert asked.vllm_stream_shape
    assert asked.stream_include_usage is (name == "stream_include_usage" and value == "true")
    assert not rendering(("stream", "true")).vllm_stream_shape


# --- what the model can do


def test_logprobs_need_a_model_that_has_them_and_the_json_format() -> None:
    assert refused(("include[]", "logprobs"), models=PLAIN) == (ErrorCode.UNSUPPORTED_PARAMETER, "include")
    for others in ((("response_format", "verbose_json"),), (("stream", "true"), ("stream_include_usage", "true"))):
        assert refused(("include[]", "logprobs"), *others) == (ErrorCode.UNSUPPORTED_VALUE, "include")


@pytest.mark.parametrize("name", ["stream_include_usage", "stream_continuous_usage_stats"])
def test_whoever_streams_logprobs_in_vllms_shape_is_told_what_is_wrong(name: str) -> None:
    with pytest.raises(Fault) as caught:
        ask(**{"include[]": "logprobs", "response_format": "json", "stream": "true", name: "true"})
    assert f"`{name}`" in json.loads(to_response(caught.value).body)["error"]["message"]


def test_word_times_need_a_model_that_has_them() -> None:
    untimed = ModelCatalogue((replace(PLAIN.models[0], details=frozenset()),))
    pairs = (("timestamp_granularities[]", "word"), ("response_format", "verbose_json"))
    assert refused(*pairs, models=untimed) == (ErrorCode.UNSUPPORTED_PARAMETER, "timestamp_granularities")
    parse_transcription(form(("response_format", "verbose_json")), untimed)


SAMPLING = {
    "seed": (["0", "-1", str(2**63 - 1)], [str(2**63), "1.0", "x"]),
    "top_p": (["1", "0.00001"], ["0", "0.000009", "1e-45", "1.1", "-1"]),
    "top_k": (["-1", "0", "50"], ["-2", "1.5"]),
    "min_p": (["0", "1"], ["-0.1", "1.1"]),
    "frequency_penalty": (["-2", "2"], ["-2.1", "2.1", "nan"]),
    "presence_penalty": (["-2", "2"], ["-2.1", "2.1"]),
    "repetition_penalty": (["0.01", "2"], ["0", "0.009", "1e-300", "2.1"]),
}


@pytest.mark.parametrize("row", fields.SAMPLING, ids=lambda row: row.name)
def test_a_sampling_parameter_is_checked_and_passed_on_where_the_model_takes_it(row: object) -> None:
    name = getattr(row, "name", "")
    good, bad = SAMPLING[name]
    for text in good:
        assert ask(**{name: text}).sampling == {name: json.loads(text)}
        assert refused((name, text), models=PLAIN) == (ErrorCode.UNSUPPORTED_PARAMETER, name)
    for text in bad:
        assert refused((name, text)) == (ErrorCode.INVALID_VALUE, name)


NUMBERS = [row for row in fields.ROWS if row.reader.rule.startswith(("a number", "an integer"))]


def test_every_row_of_numbers_is_meant_by_that() -> None:
    assert {row.name for row in NUMBERS} == {
        *("temperature", "max_completion_tokens", "min_speakers", "max_speakers", "num_speakers"),
        *SAMPLING,
    }


@given(
    st.sampled_from(NUMBERS),
    st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.integers().map(str)
    | st.floats(0.0, 1.0).map(repr)
    | st.integers(-999, 40).map(lambda exponent: f"1e{exponent}"),
)
def test_no_number_is_read_that_float32_cannot_hold(row: One[object], text: str) -> None:
    value = row.reader.read(text)
    if value is not None:
        assert isinstance(value, float | int)
        [held] = struct.unpack("<f", struct.pack("<f", value))
        assert held == 0.0 if value == 0 else abs(held) >= 2.0**-126
        assert abs(value) <= max(abs(float(bound)) for bound in re.findall(r"-?[\d.]+", row.reader.rule))


@pytest.mark.parametrize(
    ("sent", "read"),
    [("1e-45", 0.01), ("0.001", 0.01), ("0.01", 0.01), ("0.011", 0.011), ("0", 0.0), ("-0", 0.0), ("0e-45", 0.0)],
)
def test_a_temperature_that_would_overflow_counts_as_the_least_that_does_not(sent: str, read: float) -> None:
    assert ask(temperature=sent).temperature == read


def test_what_is_nearer_to_zero_than_float32_tells_is_zero() -> None:
    assert ask(min_p="1e-45", frequency_penalty="-1e-45").sampling == {"min_p": 0.0, "frequency_penalty": 0.0}
    assert ask(**{"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "1e-45"}).voice_activity == (
        VoiceActivity(threshold=0.0)
    )


def test_a_seed_keeps_every_bit() -> None:
    assert ask(seed=str(2**53 + 1)).sampling["seed"] == 2**53 + 1


def test_a_model_is_not_asked_for_a_language_or_task_it_does_not_know() -> None:
    english = ModelCatalogue((ServedModel("en", 0, languages=frozenset({"en"}), tasks=frozenset({Task.TRANSCRIBE})),))
    assert parse_transcription(form(("language", "en")), english).hearing.language == "en"
    for field in ("language", "languages"):
        assert refused((field, "de"), models=english) == (ErrorCode.INVALID_LANGUAGE, field)
    assert refused(models=english, translate=True) == (ErrorCode.UNSUPPORTED_VALUE, "model")


# --- translations


def test_a_translation_takes_the_same_fields() -> None:
    request = translated(model="whisper-1", prompt="a", temperature="0.5", response_format="vtt", language="fr")
    assert request == Hearing(
        model="openai/whisper-large-v3",
        task=Task.TRANSLATE,
        prompt="a",
        temperature=0.5,
        language="fr",
    )
    form_of_answer = parse_translation(form(("response_format", "vtt")), CATALOGUE).rendering
    assert form_of_answer.response_format is ResponseFormat.VTT
    assert parse_translation(form(("stream", "true")), CATALOGUE).rendering.stream


@pytest.mark.parametrize("target", ["en", "EN-us", "english", "eng", ""])
def test_a_translation_into_english_may_say_so(target: str) -> None:
    assert translated(to_language=target).task is Task.TRANSLATE


@pytest.mark.parametrize("target", ["fr", "x"])
def test_a_translation_into_another_language_is_refused(target: str) -> None:
    assert refused(("to_language", target), translate=True) == (ErrorCode.UNSUPPORTED_VALUE, "to_language")


def test_a_translation_has_segments_and_no_words() -> None:
    verbose = ("response_format", "verbose_json")
    assert refused(verbose, ("timestamp_granularities[]", "word"), translate=True) == (
        *(ErrorCode.UNSUPPORTED_VALUE, "timestamp_granularities"),
    )
    segments = form(verbose, ("timestamp_granularities", "segment"))
    assert parse_translation(segments, CATALOGUE).rendering.granularities == {SEGMENT}


# --- unknown fields


def test_unknown_fields_are_ignored_and_counted_by_name() -> None:
    pairs = [
        ("user", "a"),
        ("user", "b"),
        ("x[y]", "1"),
        ("x[z]", "1"),
        ("language[x]", "en"),
        ("a b", "c"),
        ("m-n[]", "d"),
    ]
    pairs += [("chunking_strategy[type]", "server_vad"), ("chunking_strategy[idle]", "1"), ("file_name", "")]
    result = parse_transcription(form(*pairs), CATALOGUE)
    assert result == fields.ParsedRequest(ask(), Rendering(), 7)


# --- nothing is echoed


ALL_NAMES = sorted(fields._KNOWN | chunking.MEMBERS | {chunking.NAME, "chunking_strategy[type]"})


@pytest.mark.parametrize("name", ALL_NAMES)
@pytest.mark.parametrize("value", [CANARY, f'{{"type":"{CANARY}"}}', f"0.{CANARY}", f"<|{CANARY}|>"])
def test_no_error_shows_what_was_sent(name: str, value: str) -> None:
    error = error_of((name, value), (CANARY, CANARY))
    if error is None:
        return
    trace = "".join(traceback.format_exception(error))
    assert CANARY not in f"{error!r} {param_of(error)} {to_response(error).body.decode()} {trace}"
    assert error.__context__ is None
    assert json.loads(to_response(error).body)["error"]["param"] == param_of(error)


def error_of(*pairs: tuple[str, str]) -> Fault | None:
    try:
        parse_translation(form(*pairs), CATALOGUE)
    except Fault as error:
        return error
    return None


@given(st.text())
def test_number_readers_agree_with_python_where_they_accept(text: str) -> None:
    for reader in (number(-1e9, 1e9), integer(-(10**9), 10**9)):
        value = reader.read(text)
        assert value is None or value == float(text)
