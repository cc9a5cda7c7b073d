"""Personal data goes out of the text, its segments and its words, and nothing else does."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.types import Segment, Task, TokenLogprob, Transcript, Word
from proxy.jobs import redaction
from proxy.jobs.model import JobOptions, JobResult, PartPlan, PersonalData
from proxy.jobs.ports import Stitcher
from proxy.jobs.redaction import Found, Redacting
from proxy.jobs.stitch import PartStitcher

EMAIL, PHONE = PersonalData.EMAIL_ADDRESS, PersonalData.PHONE_NUMBER
SAID = {
    PersonalData.CREDIT_CARD: "4111 1111 1111 1111",
    PersonalData.CRYPTO: "16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ",
    PersonalData.EMAIL_ADDRESS: "jane.doe@example.org",
    PersonalData.IBAN_CODE: "DE89 3704 0044 0532 0130 00",
    PersonalData.IP_ADDRESS: "192.168.2.1",
    PersonalData.PHONE_NUMBER: "+1 415 555 2671",
    PersonalData.URL: "https://example.org/path",
    PersonalData.US_SSN: "536-90-4399",
}


def segment(text: str, start_s: float = 0.0) -> Segment:
    words = tuple(Word(word, start_s + number, start_s + number + 0.5, 0.9) for number, word in enumerate(text.split()))
    return Segment(start_s, start_s + 10, text, tokens=(1, 2, 3), words=words)


def transcript(*texts: str) -> Transcript:
    segments = tuple(segment(text, 10.0 * number) for number, text in enumerate(texts))
    text = " ".join(text.strip() for text in texts)
    return Transcript(Task.TRANSCRIBE, "en", 10.0 * len(texts), text, segments, logprobs=(TokenLogprob("jane", -1.0),))


def stitched(heard: Transcript, *kinds: PersonalData, stitcher: Stitcher | None = None) -> JobResult:
    stitcher = stitcher or Redacting(PartStitcher())
    return stitcher.stitch([(PartPlan(0), heard)], JobOptions(redact=kinds))


@pytest.mark.parametrize("kind", PersonalData)
def test_each_kind_is_found_and_told(kind: PersonalData) -> None:
    made = stitched(transcript(f"So it is {SAID[kind]} , yes."), kind)
    told = f"[{kind.value.upper()}]"
    assert made.transcript.text == f"So it is {told} , yes."
    assert made.transcript.segments[0].text == made.transcript.text
    assert [word.text for word in made.transcript.segments[0].words] == ["So", "it", "is", told, ",", "yes."]
    assert made.redacted == {kind: 1}


def test_what_was_not_asked_for_stays() -> None:
    said = "Write to jane.doe@example.org or call +1 415 555 2671."
    assert stitched(transcript(said), PHONE).transcript.text == "Write to jane.doe@example.org or call [PHONE_NUMBER]."
    assert stitched(transcript(said)).transcript.text == said


def test_nothing_spells_it_once_more() -> None:
    made = stitched(transcript("Write to jane.doe@example.org now."), EMAIL)
    assert "jane" not in repr(made)
    assert (made.transcript.logprobs, made.transcript.segments[0].tokens) == ((), ())


def test_what_lies_in_two_segments_is_found_and_told_once() -> None:
    made = stitched(transcript("The card is 4111 1111", "1111 1111 and that is all."), PersonalData.CREDIT_CARD)
    assert [each.text for each in made.transcript.segments] == ["The card is [CREDIT_CARD]", " and that is all."]
    words = [[word.text for word in each.words] for each in made.transcript.segments]
    assert words == [["The", "card", "is", "[CREDIT_CARD]"], ["and", "that", "is", "all."]]
    assert made.redacted == {PersonalData.CREDIT_CARD: 1}


def test_a_word_lasts_as_long_as_what_it_stands_for() -> None:
    made = stitched(transcript("It is +1 415 555 2671 today"), PHONE)
    (word,) = [word for word in made.transcript.segments[0].words if word.text == "[PHONE_NUMBER]"]
    assert (word.start_s, word.end_s, word.probability) == (2.0, 5.5, None)


def test_words_that_are_not_those_of_the_text_are_not_kept() -> None:
    said = segment("Write to jane.doe@example.org now.")
    heard = replace(transcript(), segments=(replace(said, words=(Word("Jane.Doe@Example.org", 2.0, 3.0),)),))
    assert stitched(heard, EMAIL).transcript.segments[0].words == ()


def test_channels_are_without_it_too() -> None:
    class Both:
        def stitch(self, parts: Sequence[tuple[PartPlan, Transcript]], _: JobOptions) -> JobResult:
            return JobResult(parts[0][1], channels=(parts[0][1], transcript("No.")))

    made = stitched(transcript("jane.doe@example.org"), EMAIL, stitcher=Redacting(Both()))
    assert [channel.text for channel in made.channels] == ["[EMAIL_ADDRESS]", "No."]
    assert made.redacted == {EMAIL: 1}


def test_of_two_that_overlap_the_surest_is_told() -> None:
    found = [Found(5, 20, PHONE, 0.4), Found(0, 10, EMAIL, 1.0), Found(30, 31, PHONE)]
    assert redaction.in_turn(found) == [Found(0, 20, EMAIL, 1.0), Found(30, 31, PHONE)]


def test_nothing_is_asked_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(socket.socket, "connect", asked)
    redaction._recogniser.cache_clear()
    made = stitched(transcript(" ".join(SAID.values())), *PersonalData)
    assert EMAIL in made.redacted


@given(st.lists(st.text("ab @.", max_size=20), min_size=1, max_size=4), st.data())
def test_of_what_is_found_no_character_is_left_and_all_others_are(texts: list[str], data: st.DataObject) -> None:
    said = " ".join(texts)
    start = data.draw(st.integers(0, len(said)))
    end = data.draw(st.integers(start, len(said)))
    stitcher = Redacting(PartStitcher(), find=lambda *_: [Found(start, end, EMAIL)] if start < end else [])
    made = stitched(transcript(*texts), EMAIL, stitcher=stitcher).transcript
    left = " ".join(each.text for each in made.segments).replace("[EMAIL_ADDRESS]", "")
    kept = said[:start] + said[end:]
    assert left.replace(" ", "") == kept.replace(" ", "")
