"""Summaries and topics that are taken out of what was said."""

from __future__ import annotations

import pytest

from proxy.jobs.extracts import MAX_SENTENCES, MAX_TOPICS, extract, summary_of, topics_of
from proxy.jobs.model import SummaryMethod

TALK = (
    "Hello and welcome. The future of artificial intelligence is bright. It rains. "
    "Artificial intelligence changes the future of our work. Thank you."
)


def test_a_summary_is_a_sentence_that_was_said() -> None:
    summary = summary_of(TALK, "en")
    assert summary is not None
    assert summary in TALK
    assert "intelligence" in summary


def test_topics_are_phrases_that_were_said() -> None:
    topics = topics_of(TALK, "en")
    assert 1 <= len(topics) <= MAX_TOPICS
    assert all(topic.lower() in TALK.lower() for topic in topics)
    assert "artificial intelligence" in [topic.lower() for topic in topics]


def test_a_long_talk_has_a_few_sentences_in_their_order() -> None:
    sentences = [f"Sentence number {number} is about intelligence." for number in range(400)]
    found = (summary_of(" ".join(sentences), "en") or "").split(". ")
    assert len(found) == MAX_SENTENCES
    places = [sentences.index(sentence.rstrip(".") + ".") for sentence in found]
    assert places == sorted(places)


@pytest.mark.parametrize("text", ["", "  "])
def test_silence_has_neither(text: str) -> None:
    assert (summary_of(text, "en"), topics_of(text, "en")) == (None, ())


@pytest.mark.parametrize(("text", "language"), [("你好世界。今天下雨。", "zh"), ("Habari ya leo. Sana.", "sw")])
def test_languages_without_lists_of_words_have_both_too(text: str, language: str) -> None:
    assert (summary_of(text, language) or "-") in text
    assert isinstance(topics_of(text, language), tuple)


def test_a_long_talk_is_read_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.jobs.extracts.MAX_CHARS", len("Hello and welcome."))
    assert extract(TALK, "en").text == "Hello and welcome."


def test_it_is_told_how_it_was_made() -> None:
    made = extract(TALK, "en")
    assert (made.method, made.model) == (SummaryMethod.EXTRACTIVE, None)
    assert made.topics
