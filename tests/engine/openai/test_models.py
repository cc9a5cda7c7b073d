"""The catalogue, and the two model routes in OpenAI's JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from openai.types import Model

from core.transcript.faults import Fault
from engine.openai.errors import ErrorCode, code_of
from engine.openai.models import ModelCatalogue, ServedModel
from engine.openai.subjects import param_of
from tests.engine.openai.forms import CATALOGUE, CHANNELS, PLAIN, VOICES, WHISPER

TWO = ModelCatalogue((WHISPER, *PLAIN.models))


@pytest.mark.parametrize("name", ["openai/whisper-large-v3", "whisper-large-v3", "whisper-1"])
def test_a_model_is_found_by_its_id_and_its_aliases(name: str) -> None:
    assert CATALOGUE.find(name).id == "openai/whisper-large-v3"


@pytest.mark.parametrize("name", ["", "whisper", "WHISPER-1", "whisper-1 ", "whisper-large-v3/"])
def test_an_unknown_model_is_not_found(name: str) -> None:
    with pytest.raises(Fault) as caught:
        CATALOGUE.find(name)
    assert (code_of(caught.value), param_of(caught.value)) == (ErrorCode.MODEL_NOT_FOUND, "model")


def test_a_single_model_is_meant_when_none_is_named() -> None:
    assert CATALOGUE.find(None).id == "openai/whisper-large-v3"


def test_a_model_must_be_named_among_several() -> None:
    with pytest.raises(Fault) as caught:
        TWO.find(None)
    assert (code_of(caught.value), param_of(caught.value)) == (ErrorCode.MISSING_REQUIRED_PARAMETER, "model")


def test_the_list_holds_every_id_and_every_alias() -> None:
    body = json.loads(TWO.list_body())
    assert body["object"] == "list"
    assert [entry["id"] for entry in body["data"]] == [*WHISPER.names, "plain"]
    for entry in body["data"]:
        model = Model.model_validate_json(json.dumps(entry), strict=True)
        assert model.owned_by == "sottovoce"


def test_a_model_is_retrieved_in_openais_shape() -> None:
    two = ModelCatalogue((replace(WHISPER, languages=frozenset({"en", "de"})),))
    assert two.retrieve_body("whisper-1") == (
        b'{"id":"whisper-1","object":"model","created":1700000000,"owned_by":"sottovoce",'
        b'"root":"openai/whisper-large-v3","tasks":["transcribe","translate"],"languages":["de","en"],'
        b'"details":["logprobs","words"],"speakers":null,"summaries":null}'
    )
    assert json.loads(CATALOGUE.retrieve_body("openai/whisper-large-v3"))["id"] == "openai/whisper-large-v3"
    assert json.loads(PLAIN.retrieve_body("plain"))["tasks"] == ["transcribe"]
    assert json.loads(VOICES.retrieve_body("whisper-1"))["speakers"] == "voices"
    assert json.loads(CHANNELS.retrieve_body("whisper-1"))["speakers"] == "channels"


def test_retrieving_an_unknown_model_is_refused() -> None:
    with pytest.raises(Fault) as caught:
        CATALOGUE.retrieve_body("nobody/nothing")
    assert code_of(caught.value) is ErrorCode.MODEL_NOT_FOUND


@pytest.mark.parametrize(
    "models", [(), (WHISPER, WHISPER), (WHISPER, ServedModel("whisper-1", 0)), (ServedModel("a", 0, aliases=("a",)),)]
)
def test_a_catalogue_that_is_empty_or_ambiguous_cannot_be_built(models: tuple[ServedModel, ...]) -> None:
    with pytest.raises(ValueError, match="every name once"):
        ModelCatalogue(models)
