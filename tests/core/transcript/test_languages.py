"""All of Whisper's languages, by every name that callers use."""

from __future__ import annotations

import pytest

from core.transcript.languages import LANGUAGES, SPACELESS, Language, code_of, name_of

# The file of tokens of whisper-large-v3, sorted.
WHISPER_CODES = """
af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it
ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so
sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh
"""


def test_the_hundred_languages_of_large_v3_are_known() -> None:
    assert len(LANGUAGES) == 100
    assert sorted(LANGUAGES) == WHISPER_CODES.split()


def test_the_order_is_that_of_the_tokens() -> None:
    assert list(LANGUAGES)[:5] == ["en", "zh", "de", "es", "ru"]
    assert list(LANGUAGES)[-1] == "yue"


def test_no_name_stands_for_two_languages() -> None:
    names = [name for row in LANGUAGES.values() for name in {row.code, row.name, *row.aliases}]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_a_language_is_found_by_code_name_and_aliases_in_any_case(language: Language) -> None:
    for name in (language.code, language.name, *language.aliases):
        assert code_of(name) == code_of(name.upper()) == code_of(f" {name.title()} ") == language.code
    assert any(len(alias) == 3 for alias in (language.code, *language.aliases)), "an ISO 639-3 code"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *(("en-US", "en"), ("zh-TW", "zh"), ("zh-Hant-TW", "zh"), ("pt_BR", "pt"), ("yue-HK", "yue"), ("deu-AT", "de")),
        *(("eng", "en"), ("cmn", "zh"), ("iw", "he"), ("nb", "no"), ("jv", "jw"), ("fil", "tl"), ("haw", "haw")),
        *(("Mandarin", "zh"), ("burmese", "my"), ("haitian creole", "ht"), ("castilian", "es")),
    ],
)
def test_regions_are_dropped_and_other_names_understood(text: str, code: str) -> None:
    assert code_of(text) == code


@pytest.mark.parametrize(
    "text", ["", " ", "xx", "xx-US", "auto", "en-", "-US", "en--US", "english-US", "<|en|>", "en US"]
)
def test_what_is_no_language_is_not_guessed_at(text: str) -> None:
    assert code_of(text) is None


def test_every_language_that_is_written_without_spaces_is_one_of_them() -> None:
    assert LANGUAGES.keys() >= SPACELESS


def test_names_are_printed_as_openai_prints_them() -> None:
    assert [name_of(code) for code in ("en", "no", "my", "nn", "yue")] == [
        *("english", "norwegian", "myanmar", "nynorsk", "cantonese")
    ]
    assert name_of("zz") == "zz"
