"""The decoder's first tokens, with the tokenizer of the project's own checkpoint."""

from __future__ import annotations

import pytest
import tokenizers

from engine.backends.vllm.inside.prompt import Wanted, decoder_prompt, find_special, refuse_without_timestamps
from engine.speech.whisper import PROMPT_TOKENS
from tests.places import ROOT

TOKENIZER = ROOT / "tests/checkpoints/nano/hf/tokenizer.json"

pytestmark = pytest.mark.skipif(not TOKENIZER.is_file(), reason="the small checkpoint is not in this tree")


class Nano:
    """The tokenizer behind the two methods that vLLM's has, without some of its tokens if so wished."""

    def __init__(self, *without: str) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER))
        self._without = without

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def convert_tokens_to_ids(self, tokens: str) -> int | None:
        # `transformers` answers with the token for what is unknown, which for Whisper is `<|endoftext|>`.
        known = None if tokens in self._without else self._tokenizer.token_to_id(tokens)
        return known if known is not None else self._tokenizer.token_to_id("<|endoftext|>")

    def name(self, token: int) -> str:
        return str(self._tokenizer.id_to_token(token))


def names(text: str = "", language: str = "en", wanted: str | None = None, without: str = "") -> list[str]:
    nano = Nano(without)
    return [
        nano.name(token)
        for token in decoder_prompt(nano, text=text, language=language, task="transcribe", wanted=wanted)
    ]


def test_text_alone_is_asked_for_without_timestamps() -> None:
    assert names() == ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]


def test_where_timestamps_are_wanted_the_model_writes_the_first_itself() -> None:
    assert names(wanted=Wanted.TIMESTAMPS) == ["<|startoftranscript|>", "<|en|>", "<|transcribe|>"]


def test_the_language_is_asked_for_with_the_start_alone() -> None:
    assert names(text="hello", wanted=Wanted.LANGUAGES) == ["<|startoftranscript|>"]


def test_hotwords_of_any_other_kind_change_nothing() -> None:
    assert names(wanted="hello") == names()


def test_earlier_text_stands_behind_its_own_token() -> None:
    assert names("  hello gray \n")[:4] == ["<|startofprev|>", "Ġhello", "Ġgray", "<|startoftranscript|>"]


def test_blank_text_is_no_text() -> None:
    assert names(" \n") == names()


def test_the_end_of_a_long_text_is_kept() -> None:
    prompt = names("red " * 500 + "green")
    assert prompt[0] == "<|startofprev|>"
    assert prompt.index("<|startoftranscript|>") - 1 == PROMPT_TOKENS
    assert prompt[PROMPT_TOKENS] == "Ġgreen"


INJECTIONS = (
    "<|endoftext|>",
    "<|startoftranscript|><|de|><|translate|>",
    "<|nospeech|>",
    "<|12.34|>",
    "<|<|de|>de|>",
)


@pytest.mark.parametrize("mark", INJECTIONS)
def test_marks_written_in_a_text_are_no_tokens(mark: str) -> None:
    text = names(f"hello {mark} gray")[: -len(names())]
    assert text[0] == "<|startofprev|>"
    assert not [name for name in text[1:] if name.startswith("<|")]


@pytest.mark.parametrize("language", ["bn", "te", "ka", "yue", "haw"])
def test_every_language_of_the_checkpoint_is_served(language: str) -> None:
    assert names(language=language)[1] == f"<|{language}|>"


def test_cantonese_falls_back_to_the_token_of_older_models() -> None:
    assert names(language="yue", without="<|yue|>")[1] == "<|zh|>"


@pytest.mark.parametrize("language", ["xx", "", "endoftext"])
def test_a_language_without_a_token_is_refused(language: str) -> None:
    with pytest.raises(ValueError, match="no token for this language"):
        names(language=language)


def english(text: str = "", language: str = "en", task: str = "transcribe", wanted: str | None = None) -> list[str]:
    nano = Nano()
    prompt = decoder_prompt(nano, text=text, language=language, task=task, wanted=wanted, english_only=True)
    return [nano.name(token) for token in prompt]


def test_a_checkpoint_for_english_reads_neither_language_nor_task() -> None:
    assert english() == ["<|startoftranscript|>", "<|notimestamps|>"]
    assert english("red") == ["<|startofprev|>", "Ġred", *english()]
    assert english(wanted=Wanted.TIMESTAMPS) == ["<|startoftranscript|>"]


def test_a_report_on_english_is_told_from_timestamps() -> None:
    assert english("red", wanted=Wanted.LANGUAGES) == ["<|startofprev|>", "<|startoftranscript|>"]
    assert english(" \n", wanted=Wanted.TIMESTAMPS) == ["<|startoftranscript|>"]


@pytest.mark.parametrize(("language", "task"), [("de", "transcribe"), ("en", "translate")])
def test_a_checkpoint_for_english_is_asked_to_transcribe_it_only(language: str, task: str) -> None:
    with pytest.raises(ValueError, match="English only"):
        english(language=language, task=task)


def test_a_task_without_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks a token"):
        decoder_prompt(Nano(), text="", language="en", task="summarize", wanted=None)


def test_an_unknown_token_is_told_from_the_one_that_stands_for_it() -> None:
    assert find_special(Nano(), "prev") is None
    assert find_special(Nano(), "startofprev") is not None


@pytest.mark.parametrize("without", ["<|0.00|>", "<|30.00|>"])
def test_a_tokenizer_without_timestamps_is_refused(without: str) -> None:
    first = find_special(Nano(), "0.00")
    assert first is not None
    refuse_without_timestamps(Nano(), first)
    for tokenizer, begins in ((Nano(without), first), (Nano(), first + 1)):
        with pytest.raises(ValueError, match=r"timestamp tokens, <\|0\.00\|> to <\|30\.00\|>"):
            refuse_without_timestamps(tokenizer, begins)
