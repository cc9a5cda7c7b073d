"""A transcript of any length becomes a summary, in a bounded number of calls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.errors import BackendError
from core.transcript.faults import TRANSCRIPT, Fault, FaultKind
from engine.summaries.model import Prompt
from engine.summaries.prompts import Stage, answer_tokens
from engine.summaries.summariser import MAX_PARTS, PARALLEL_PARTS, Summariser
from engine.summaries.types import Summary, Turn, Wish
from engine.telemetry import PREFIX, Telemetry
from tests.engine.summaries.fake_model import ANSWER, FakeInstruct
from tests.waiting import until

SHORT = Wish((Turn("Good morning.", "Speaker 1"), Turn("Good morning!", "Speaker 2")), "en")
SMALL = 2_500
"""A context that leaves some hundred words for a transcript."""


def long(words: int, **wanted: Any) -> Wish:
    """Turns of ten numbered words each."""
    said = [str(number) for number in range(words)]
    return Wish(tuple(Turn(" ".join(said[at : at + 10])) for at in range(0, words, 10)), "en", **wanted)


def is_of_parts(prompt: Prompt) -> bool:
    return prompt.data.startswith(f"<{Stage.PARTS}>")


async def test_what_fits_into_the_context_is_read_at_once() -> None:
    model = FakeInstruct()
    made = await Summariser(model).summarise(SHORT)
    (asked,) = model.asked
    assert asked.data == "<transcript>\nSpeaker 1: Good morning.\nSpeaker 2: Good morning!\n</transcript>"
    assert model.given == [answer_tokens(SHORT)]
    assert made == Summary("They greet.", ("greetings",), await model.count(asked), 7)


async def test_of_a_longer_one_each_part_is_summarised_and_then_the_parts() -> None:
    model = FakeInstruct(context=SMALL)
    made = await Summariser(model).summarise(long(3_000))
    *parts, last = model.asked
    read = " ".join(prompt.data for prompt in parts).split()
    assert [word for word in read if word.isdigit()] == [str(number) for number in range(3_000)], "all of it, once"
    assert len(parts) > 2
    assert is_of_parts(last)
    assert last.data.count("They greet. Topics: greetings") == len(parts)
    for prompt, tokens in zip(model.asked, model.given, strict=True):
        assert await model.count(prompt) + tokens <= SMALL
    assert made.text == "They greet."
    assert made.output_tokens == 7 * len(model.asked)


async def test_summaries_of_parts_that_are_too_many_are_summarised_in_rounds() -> None:
    wordy = {"summary": " ".join(["x"] * 99), "topics": ["t"]}
    model = FakeInstruct(lambda _: wordy, context=SMALL)
    await Summariser(model).summarise(long(10_000))
    rounds = [is_of_parts(prompt) for prompt in model.asked]
    assert rounds == sorted(rounds)
    assert sum(rounds) > 1
    assert len(rounds) < 2 * rounds.count(False), "each round has fewer than the one before"


async def test_parts_are_read_a_few_at_a_time() -> None:
    model = FakeInstruct(context=SMALL)
    await Summariser(model).summarise(long(10_000))
    assert model.most_live == PARALLEL_PARTS


async def test_a_transcript_of_too_many_parts_is_refused_before_any_is_read() -> None:
    model = FakeInstruct(context=SMALL)
    with pytest.raises(Fault) as refused:
        await Summariser(model).summarise(long(MAX_PARTS * SMALL))
    assert (refused.value.kind, refused.value.subject) == (FaultKind.TOO_LARGE, TRANSCRIPT)
    assert not model.asked


async def test_a_turn_longer_than_the_context_is_cut() -> None:
    model = FakeInstruct(context=SMALL)
    words = " ".join(str(number) for number in range(3_000))
    await Summariser(model).summarise(Wish((Turn(words, "Speaker 1"),), "en"))
    parts = [prompt for prompt in model.asked if not is_of_parts(prompt)]
    assert len(parts) > 1
    assert all(prompt.data.splitlines()[1].startswith("Speaker 1: ") for prompt in parts)


async def test_a_context_without_room_is_an_error_and_no_endless_work() -> None:
    for context in (1_000, answer_tokens(SHORT) + 10):
        with pytest.raises(BackendError, match="no room"):
            await Summariser(FakeInstruct(context=context)).summarise(SHORT)


async def test_topics_alone_and_a_summary_alone_can_be_had() -> None:
    for words, topics, expected in ((0, 8, {"topics": ["a"]}), (150, 0, {"summary": "A."})):
        model = FakeInstruct(lambda _, expected=expected: expected)  # type: ignore[misc]
        made = await Summariser(model).summarise(Wish(SHORT.turns, "en", words, topics))
        assert (made.text, made.topics) == (expected.get("summary"), tuple(expected.get("topics", ())))
        assert model.schemas[0]["required"] == list(expected)


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON, but the canary",
        {},
        {"summary": "x"},
        {"topics": ["x"]},
        {"summary": 1, "topics": ["x"]},
        {"summary": "x" * 1201, "topics": ["x"]},
        {"summary": "x", "topics": ["x" * 61]},
        {"summary": "x", "topics": 3},
        {"summary": "\n \u200b", "topics": ["x"]},
        [],
    ],
    ids=str,
)
async def test_an_answer_that_does_not_keep_to_the_schema_is_none(answer: Any) -> None:
    with pytest.raises(BackendError) as caught:
        await Summariser(FakeInstruct(lambda _: answer)).summarise(SHORT)
    assert "canary" not in f"{caught.value}{caught.value.__cause__}"


async def test_an_answer_is_one_line_and_names_a_topic_once() -> None:
    answer = {"summary": " They\n greet.\x00 ", "topics": ["Greetings", "", "greetings ", "The day"]}
    made = await Summariser(FakeInstruct(lambda _: answer)).summarise(SHORT)
    assert (made.text, made.topics) == ("They greet.", ("Greetings", "The day"))


@pytest.mark.parametrize("summary", ["Speaker 3 is late.", "Both, and speaker_7, agree.", "Speaker C laughs."])
async def test_a_summary_that_makes_up_a_speaker_is_not_given_out(summary: str) -> None:
    telemetry = Telemetry("fake")
    model = FakeInstruct(lambda _: {"summary": summary, "topics": ["x"]})
    with pytest.raises(BackendError, match="made up a speaker"):
        await Summariser(model, telemetry.summaries).summarise(SHORT)
    assert telemetry.windowed.registry.get_sample_value(f"{PREFIX}_summary_failures_total") == 1


@pytest.mark.parametrize(
    ("turn", "summary"),
    [
        (Turn("hm", "Speaker 12"), "Speaker 12 hums."),
        (Turn("hm", "C"), "Speaker C hums."),
        (Turn("The speaker 3 is broken."), "A speaker, number speaker 3, is broken."),
        (Turn("hm", "Jane"), "The speakers hum; the speaker is a person, and the speaker I know."),
    ],
)
async def test_a_summary_may_name_whom_the_transcript_names(turn: Turn, summary: str) -> None:
    model = FakeInstruct(lambda _: {"summary": summary, "topics": ["x"]})
    assert (await Summariser(model).summarise(Wish((turn,), "en"))).text == summary


async def test_what_the_model_read_and_wrote_is_counted() -> None:
    telemetry = Telemetry("fake")
    made = await Summariser(FakeInstruct(context=SMALL), telemetry.summaries).summarise(long(1_000))
    value = telemetry.windowed.registry.get_sample_value
    assert value(f"{PREFIX}_instruct_tokens_total", {"direction": "input"}) == made.input_tokens
    assert value(f"{PREFIX}_instruct_tokens_total", {"direction": "output"}) == made.output_tokens
    assert value(f"{PREFIX}_instruct_texts_total") == made.output_tokens / 7
    assert value(f"{PREFIX}_summary_failures_total") == 0


async def test_one_part_that_fails_ends_the_work_on_the_others() -> None:
    failing = iter([BackendError("gone")])
    model = FakeInstruct(lambda _: next(failing, ANSWER), context=SMALL)
    with pytest.raises(BackendError, match="gone"):
        await Summariser(model).summarise(long(10_000))
    assert model.live == 0
    assert not any(map(is_of_parts, model.asked))


async def test_a_caller_who_leaves_stops_the_model() -> None:
    model = FakeInstruct(context=SMALL, gate=asyncio.Event())
    task = asyncio.create_task(Summariser(model).summarise(long(10_000)))  # noqa: TID251  cancelled below
    await until(lambda: model.live == PARALLEL_PARTS)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (model.live, model.cancelled) == (0, PARALLEL_PARTS)
