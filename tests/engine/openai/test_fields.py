"""Every row of the field tables, every rule between fields, and no value in an error."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.messages import MAX_JSON_BYTES, Kind, encode, options_to_fields
from engine.errors import ErrorCode, RequestError
from engine.openai import chunking, fields
from engine.openai.errors import to_response
from engine.openai.fields import parse_transcription, parse_translation
from engine.openai.models import ModelCatalogue, ServedModel
from engine.openai.multipart import Form
from engine.openai.values import integer, number
from engine.types import (
    MAX_PREFIX_PADDING_MS,
    MAX_SILENCE_DURATION_MS,
    DecodingOptions,
    Granularity,
    ResponseFormat,
    Task,
    TranscriptionRequest,
    VoiceActivity,
)
from tests.engine.openai.forms import CATALOGUE, PLAIN, ask, form

SEGMENT, WORD = Granularity.SEGMENT, Granularity.WORD
CANARY = "Vlxqz7"


def parsed(*pairs: tuple[str, str]) -> TranscriptionRequest:
    return parse_transcription(form(*pairs), CATALOGUE).request


def translated(**values: str) -> TranscriptionRequest:
    return parse_translation(form(*values.items()), CATALOGUE).request


def refused(
    *pairs: tuple[str, str], models: ModelCatalogue = CATALOGUE, translate: bool = False
) -> tuple[ErrorCode, str | None]:
    parse = parse_translation if translate else parse_transcription
    with pytest.raises(RequestError) as caught:
        parse(form(*pairs), models)
    return caught.value.code, caught.value.param


def test_a_file_alone_gets_openais_defaults() -> None:
    assert parse_transcription(form(), CATALOGUE) == fields.ParsedRequest(
        TranscriptionRequest(model="openai/whisper-large-v3"), 0
    )
    request = ask()
    assert request.response_format is ResponseFormat.JSON
    assert request.temperature == 0.0
    assert request.granularities == {SEGMENT}
    assert request.voice_activity == VoiceActivity()
    assert not request.stream


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
        with pytest.raises(RequestError) as caught:
            parse(Form((), audio), CATALOGUE)
        assert (caught.value.code, caught.value.param) == (code, "file")


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
        ("max_completion_tokens", "1", "max_completion_tokens", 1),
        ("max_completion_tokens", "100000", "max_completion_tokens", 448),
        ("hotwords", "Zoë, Kyiv", "prompt", "Glossary: Zoë, Kyiv."),
        ("keywords[]", "Zoë", "prompt", "Glossary: Zoë."),
        ("languages", "german", "languages", ("de",)),
        ("languages[]", "fr-CA", "languages", ("fr",)),
        ("stream_include_usage", "true", "stream_include_usage", True),
        ("vad_filter", "true", "voice_activity", VoiceActivity()),
        ("vad_filter", "false", "voice_activity", None),
        ("to_language", "fr", "language", None),
        ("watermarking", "true", "unknown", None),
        ("without_timestamps", "false", "unknown", None),
        *[("response_format", kind.value, "response_format", kind) for kind in ResponseFormat],
    ],
)
def test_a_field_is_read(name: str, sent: str, attribute: str, value: object) -> None:
    result = parse_transcription(form((name, sent)), CATALOGUE)
    assert result.unknown_fields == 0
    if attribute != "unknown":
        assert getattr(result.request, attribute) == value


@pytest.mark.parametrize(
    ("name", "sent", "code"),
    [
        ("model", "whisper-2", ErrorCode.MODEL_NOT_FOUND),
        ("language", "hh", ErrorCode.INVALID_LANGUAGE),
        ("language", "auto", ErrorCode.INVALID_LANGUAGE),
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
        *[(name, "1", ErrorCode.UNSUPPORTED_PARAMETER) for name in fields._REFUSED],
    ],
)
@pytest.mark.parametrize("translate", [False, True])
def test_a_value_that_is_not_allowed_is_refused_by_the_name_of_its_field(
    name: str, sent: str, code: ErrorCode, translate: bool
) -> None:
    assert refused((name, sent), translate=translate) == (code, name)


REFUSED = {
    *("known_speaker_names", "known_speaker_references", "use_beam_search", "n", "length_penalty"),
    *("include_stop_str_in_output", "vllm_xargs"),
}


def test_the_refused_fields_are_these() -> None:
    assert set(fields._REFUSED) == REFUSED


@pytest.mark.parametrize("spelling", ["known_speaker_names[]", "known_speaker_references[0]", "vllm_xargs[top]"])
def test_a_refused_field_is_refused_in_every_spelling(spelling: str) -> None:
    assert refused((spelling, "x")) == (ErrorCode.UNSUPPORTED_PARAMETER, spelling.partition("[")[0])


SCALARS = ["model", "language", "prompt", "response_format", "temperature", "stream", "hotwords", "seed", "vad_filter"]


@pytest.mark.parametrize("name", SCALARS)
def test_a_single_valued_field_sent_twice_is_refused(name: str) -> None:
    assert refused((name, "1"), (name, "1")) == (ErrorCode.INVALID_VALUE, name)


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
    request = parsed(("response_format", "verbose_json"), *((name, value) for value in sent))
    assert request.granularities == granularities


@pytest.mark.parametrize("kind", [None, "json", "text", "srt", "vtt"])
def test_words_need_a_verbose_answer_and_segments_do_not(kind: str | None) -> None:
    chosen = [("response_format", kind)] if kind else []
    assert parsed(*chosen, ("timestamp_granularities[]", "segment")).granularities == {SEGMENT}
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
def test_only_json_and_text_can_be_streamed(kind: ResponseFormat) -> None:
    pairs = (("stream", "true"), ("response_format", kind.value))
    if kind in (ResponseFormat.JSON, ResponseFormat.TEXT):
        assert parsed(*pairs).stream
    else:
        assert refused(*pairs) == (ErrorCode.UNSUPPORTED_VALUE, "stream")


@pytest.mark.parametrize("name", ["stream_include_usage", "stream_continuous_usage_stats"])
@pytest.mark.parametrize("value", ["true", "false"])
def test_vllms_own_stream_fields_ask_for_its_shape_by_being_there(name: str, value: str) -> None:
    request = parsed(("stream", "true"), (name, value))
    assert request.vllm_stream_shape
    assert request.stream_include_usage is (name == "stream_include_usage" and value == "true")
    assert not ask(stream="true").vllm_stream_shape


# --- what the model can do


def test_logprobs_need_a_model_that_has_them_and_the_json_format() -> None:
    assert refused(("include[]", "logprobs"), models=PLAIN) == (ErrorCode.UNSUPPORTED_PARAMETER, "include")
    for others in ((("response_format", "verbose_json"),), (("stream", "true"), ("stream_include_usage", "true"))):
        assert refused(("include[]", "logprobs"), *others) == (ErrorCode.UNSUPPORTED_VALUE, "include")


@pytest.mark.parametrize("name", ["stream_include_usage", "stream_continuous_usage_stats"])
def test_whoever_streams_logprobs_in_vllms_shape_is_told_what_is_wrong(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        ask(**{"include[]": "logprobs", "response_format": "json", "stream": "true", name: "true"})
    assert f"`{name}`" in json.loads(to_response(caught.value).body)["error"]["message"]


def test_word_times_need_a_model_that_has_them() -> None:
    untimed = ModelCatalogue((replace(PLAIN.models[0], word_timestamps=False),))
    pairs = (("timestamp_granularities[]", "word"), ("response_format", "verbose_json"))
    assert refused(*pairs, models=untimed) == (ErrorCode.UNSUPPORTED_PARAMETER, "timestamp_granularities")
    parse_transcription(form(("response_format", "verbose_json")), untimed)


SAMPLING = {
    "seed": (["0", "-1", str(2**63 - 1)], [str(2**63), "1.0", "x"]),
    "top_p": (["1", "0.001"], ["0", "1.1", "-1"]),
    "top_k": (["-1", "0", "50"], ["-2", "1.5"]),
    "min_p": (["0", "1"], ["-0.1", "1.1"]),
    "frequency_penalty": (["-2", "2"], ["-2.1", "2.1", "nan"]),
    "presence_penalty": (["-2", "2"], ["-2.1", "2.1"]),
    "repetition_penalty": (["0.1", "2"], ["0", "2.1"]),
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


def test_a_seed_keeps_every_bit() -> None:
    assert ask(seed=str(2**53 + 1)).sampling["seed"] == 2**53 + 1


def test_a_model_is_not_asked_for_a_language_or_task_it_does_not_know() -> None:
    english = ModelCatalogue((ServedModel("en", 0, languages=frozenset({"en"}), tasks=frozenset({Task.TRANSCRIBE})),))
    assert parse_transcription(form(("language", "en")), english).request.language == "en"
    assert refused(("language", "de"), models=english) == (ErrorCode.INVALID_LANGUAGE, "language")
    assert refused(("languages[]", "en"), ("languages[]", "de"), models=english)[1] == "languages"
    assert refused(models=english, translate=True) == (ErrorCode.UNSUPPORTED_VALUE, "model")


# --- translations


def test_a_translation_takes_the_same_fields() -> None:
    request = translated(model="whisper-1", prompt="a", temperature="0.5", response_format="vtt", language="fr")
    assert request == TranscriptionRequest(
        model="openai/whisper-large-v3",
        task=Task.TRANSLATE,
        prompt="a",
        temperature=0.5,
        response_format=ResponseFormat.VTT,
        language="fr",
    )
    assert translated(stream="true").stream


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
    assert translated(response_format="verbose_json", timestamp_granularities="segment").granularities == {SEGMENT}


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
    assert result == fields.ParsedRequest(ask(), 7)


# --- nothing is echoed


ALL_NAMES = sorted(fields._KNOWN | set(fields._REFUSED) | chunking.MEMBERS | {chunking.NAME, "chunking_strategy[type]"})


@pytest.mark.parametrize("name", ALL_NAMES)
@pytest.mark.parametrize("value", [CANARY, f'{{"type":"{CANARY}"}}', f"0.{CANARY}", f"<|{CANARY}|>"])
def test_no_error_shows_what_was_sent(name: str, value: str) -> None:
    error = error_of((name, value), (CANARY, CANARY))
    if error is None:
        return
    trace = "".join(traceback.format_exception(error))
    assert CANARY not in f"{error!r} {error.param} {to_response(error).body.decode()} {trace}"
    assert error.__context__ is None
    assert json.loads(to_response(error).body)["error"]["param"] == error.param


def error_of(*pairs: tuple[str, str]) -> RequestError | None:
    try:
        parse_translation(form(*pairs), CATALOGUE)
    except RequestError as error:
        return error
    return None


@given(st.text())
def test_number_readers_agree_with_python_where_they_accept(text: str) -> None:
    for read in (number(-1e9, 1e9), integer(-(10**9), 10**9)):
        value = read(text)
        assert value is None or value == float(text)
