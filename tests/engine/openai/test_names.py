"""What each name of OpenAI's promises; the shapes themselves are in `tests/engine/corpus`."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from core.transcript.faults import Fault
from engine.openai.fields import parse_transcription
from engine.openai.models import ModelCatalogue
from engine.openai.names import MANNERS, OURS
from engine.openai.rendering import Rendering, ResponseFormat
from engine.types import Detail, OpenAIName
from tests.engine.openai.forms import CATALOGUE, WHISPER, form
from tests.places import ROOT

NAMED = ModelCatalogue((replace(WHISPER, aliases=tuple(OpenAIName), openai_names=frozenset(OpenAIName)),))


def test_every_name_has_a_manner() -> None:
    assert set(MANNERS) == set(OpenAIName)
    assert OURS not in MANNERS.values()


@pytest.mark.parametrize("name", [WHISPER.id, None])
def test_by_its_own_name_a_model_narrows_nothing(name: str | None) -> None:
    fields = [("response_format", "text"), *([("model", name)] if name else [])]
    asked = parse_transcription(form(*fields), NAMED).rendering
    assert asked == Rendering(ResponseFormat.TEXT)


def test_a_plain_alias_that_is_openai_s_name_narrows_nothing() -> None:
    asked = parse_transcription(form(("model", "whisper-1"), ("stream", "true")), CATALOGUE).rendering
    assert asked.stream
    assert asked.languages


@pytest.mark.parametrize("name", [name for name in OpenAIName if name is not OpenAIName.WHISPER_1])
def test_a_name_has_no_subtitles_that_its_model_had_not(name: OpenAIName) -> None:
    with pytest.raises(Fault):
        parse_transcription(form(("model", name), ("response_format", "srt")), NAMED)


def test_the_document_says_of_each_name_what_holds() -> None:
    text = (ROOT / "docs" / "openai.md").read_text().partition("## Names")[2].partition("\n## ")[0]
    told = {
        name: [cell.strip() for cell in rest.split("|")[:4]]
        for name, rest in re.findall(r"^\| `(\S+)` \|(.*)$", text, re.MULTILINE)
    }
    assert list(told) == list(OpenAIName)
    for name, (formats, usage, languages, logprobs) in told.items():
        manner = MANNERS[OpenAIName(name)]
        named = set(re.findall(r"`(\w+)`", formats))
        asked = {str(each) for each in ResponseFormat}
        assert {str(each) for each in manner.formats} == (asked - named if formats.startswith("all but") else named)
        assert usage == ("tokens" if manner.usage_in_tokens else "seconds")
        assert languages == ("yes" if manner.tells_languages else "no")
        assert logprobs == ("yes" if Detail.LOGPROBS in manner.details else "refused")
